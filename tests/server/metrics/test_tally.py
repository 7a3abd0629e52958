from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.events import Event
from server.metrics.tally import AT_REST, GONE_SECONDS, STALLED_SECONDS, Tally, is_whole
from server.nodes.effects import STATUSES
from server.nodes.node import Boot, Phase
from server.nodes.phases import PHASES
from server.nodes.timelines import Nodes

DIGEST = "ab" * 32
KERNEL = f"/ltsp/amd64/@{DIGEST}/vmlinuz"


class Farm:
    """Nodes with a tally that watches them."""

    def __init__(self, limit: int = 100) -> None:
        self.booted: list[Boot] = []
        self.tally = Tally(self.booted.append)
        self.nodes = Nodes(limit=limit)
        self.nodes.watch(self.tally.change)

    def beacon(
        self, time: float, node: int, phase: str, status: str = "ok", boot: str = "a"
    ) -> None:
        event = Event(time, f"10.9.0.{node}", "beacon", phase, {"status": status, "boot": boot})
        self.nodes.record(event)

    def fetch(self, time: float, node: int, path: str) -> None:
        detail: dict[str, str | int] = {"path": path, "bytes": 10, "status": "ok"}
        self.nodes.record(Event(time, f"10.9.0.{node}", "tftp", "transfer", detail))


def test_a_boot_from_its_first_file_to_ready() -> None:
    farm = Farm()
    farm.fetch(0.0, 1, "/ltsp/amd64/grub/i386-pc/core.0")
    assert farm.tally.nodes == {("loader", "ok"): 1}
    farm.fetch(1.0, 1, KERNEL)
    assert farm.tally.nodes == {("kernel", "ok"): 1}
    assert farm.tally.images == {("amd64", DIGEST): 1}
    farm.beacon(9.0, 1, "join", "error")
    assert farm.tally.nodes == {("join", "error"): 1}
    farm.beacon(30.0, 1, "ready")
    farm.beacon(31.0, 1, "ready")
    assert farm.tally.nodes == {("ready", "ok"): 1}
    assert farm.tally.boots == 1
    assert [boot.phases["ready"].first - boot.started for boot in farm.booted] == [30.0]


def test_each_boot_counts_once() -> None:
    farm = Farm()
    for start, boot in ((0.0, "a"), (100.0, "b"), (200.0, "c")):
        farm.beacon(start, 1, "initramfs", "start", boot)
        farm.beacon(start + 20, 1, "ready", "ok", boot)
    assert farm.tally.boots == 3
    assert len(farm.booted) == 3
    farm.beacon(300.0, 1, "initramfs", "start", "d")
    farm.beacon(310.0, 1, "ready", "error", "d")
    assert len(farm.booted) == 3


def test_what_was_seen_before_a_restart_is_not_observed_again() -> None:
    before = Farm()
    before.beacon(0.0, 1, "initramfs", "start")
    before.beacon(20.0, 1, "ready")
    before.beacon(0.0, 2, "initramfs", "start")
    booted: list[Boot] = []
    tally = Tally(booted.append)
    tally.seed(before.nodes.nodes())
    before.nodes.watch(tally.change)
    assert (booted, tally.boots) == ([], 0)
    assert tally.nodes == {("ready", "ok"): 1, ("initramfs", "start"): 1}
    before.beacon(25.0, 2, "ready")
    assert len(booted) == 1


def test_a_node_that_is_forgotten_or_gets_its_name_counts_once() -> None:
    macs: dict[str, str] = {}
    tally = Tally()
    nodes = Nodes(lambda ip: (macs.get(ip), None), limit=2)
    nodes.watch(tally.change)
    for number in (1, 2, 3):
        nodes.record(Event(1.0, f"10.9.0.{number}", "beacon", "initramfs", {"status": "ok"}))
    assert sum(tally.nodes.values()) == len(nodes) == 2
    macs["10.9.0.3"] = "52:54:00:00:00:03"
    nodes.record(Event(2.0, "10.9.0.3", "beacon", "network", {"status": "ok"}))
    assert tally.nodes == {("initramfs", "ok"): 1, ("network", "ok"): 1}


def test_who_stands_still() -> None:
    farm = Farm()
    farm.beacon(0.0, 1, "ltsconf", "start")
    farm.beacon(1.0, 2, "join", "error")
    farm.beacon(2.0, 3, "ready")
    farm.beacon(3.0, 4, "shutdown")
    farm.tally.advance(STALLED_SECONDS - 0.5)
    assert farm.tally.stalled == {}
    for again in range(1, 10):  # it tries and tries: that is no progress
        farm.beacon(60.0 * again, 2, "join", "error")
    farm.tally.advance(STALLED_SECONDS + 1.0)
    assert farm.tally.stalled == {"ltsconf": 1, "join": 1}
    farm.beacon(STALLED_SECONDS + 5, 1, "root")
    assert farm.tally.stalled == {"join": 1}
    farm.tally.advance(GONE_SECONDS + 1.0)
    assert farm.tally.stalled == {"root": 1}
    farm.beacon(GONE_SECONDS + 5, 1, "ready")
    farm.tally.advance(3 * GONE_SECONDS)
    assert farm.tally.stalled == {}


def test_nobody_waits_for_a_machine_in_maintenance() -> None:
    farm = Farm()
    farm.beacon(0.0, 1, "ltsconf", "start")
    farm.beacon(1.0, 2, "join", "error")
    (one,) = (node.key for node in farm.nodes.nodes() if node.ip.endswith(".1"))
    farm.tally.advance(STALLED_SECONDS + 1.0)
    assert farm.tally.stalled == {"ltsconf": 1, "join": 1}
    farm.nodes.annotate(one, None, maintenance=True)
    assert farm.tally.stalled == {"join": 1}
    farm.tally.advance(5 * STALLED_SECONDS)
    assert farm.tally.stalled == {"join": 1}
    assert sum(farm.tally.nodes.values()) == 2, "it is a node all the same"
    farm.beacon(5 * STALLED_SECONDS, 1, "ready", boot="b")
    assert farm.booted == [], "how long that took says nothing of the farm"
    farm.beacon(5 * STALLED_SECONDS, 1, "ltsconf", "start", boot="c")
    farm.nodes.annotate(one, None, maintenance=False)
    farm.tally.advance(6 * STALLED_SECONDS - 1.0)
    assert farm.tally.stalled == {"join": 1}, "it has its time"
    farm.tally.advance(6 * STALLED_SECONDS + 1.0)
    assert farm.tally.stalled == {"ltsconf": 1, "join": 1}


@pytest.mark.parametrize(("first", "whole"), [("dhcp", True), ("preinit", True), ("rcfile", False)])
def test_only_a_boot_that_was_seen_early_has_a_length(first: str, whole: bool) -> None:
    phase = Phase(0.0, 0.0, "ok")
    assert is_whole(Boot(0.0, phases={"ready": phase, first: phase})) is whole


Step = st.tuples(
    st.integers(1, 6),
    st.sampled_from(PHASES),
    st.sampled_from(STATUSES),
    st.sampled_from("ab"),
    st.floats(0, 2 * STALLED_SECONDS),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(Step, max_size=40))
def test_counts_are_those_that_a_walk_over_all_nodes_finds(
    steps: list[tuple[int, str, str, str, float]],
) -> None:
    farm = Farm(limit=4)
    now = 0.0
    for node, phase, status, boot, pause in steps:
        now += pause
        farm.beacon(now, node, phase, status, boot)
        farm.tally.advance(now)
    nodes = farm.nodes.nodes()
    found: Counter[tuple[str, str]] = Counter()
    stalled: Counter[str] = Counter()
    for seen in nodes:
        assert seen.boot is not None
        last = seen.boot.last_phase()
        if last is None:
            found["", ""] += 1
            continue
        found[last, seen.boot.phases[last].status] += 1
        age = now - seen.boot.phases[last].first
        if last not in AT_REST and STALLED_SECONDS <= age < GONE_SECONDS:
            stalled[last] += 1
    assert farm.tally.nodes == found
    assert farm.tally.stalled == stalled
