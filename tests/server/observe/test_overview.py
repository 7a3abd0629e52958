import random
from dataclasses import dataclass
from pathlib import Path

from imagebuild.store.images import Image, Store
from server.diagnosis import Finding, Severity
from server.events import Event
from server.farm.inventory import Inventory, parse_inventory
from server.nodes.node import Node
from server.nodes.timelines import Nodes
from server.observe.marks import Counts, read_filter
from server.observe.overview import ROLL, TURN, Overview, Rows
from tests.server.farm import publish


def find(severity: Severity) -> Finding:
    return Finding("a-rule", "join", severity, "something is wrong", "", "", ("check it",), 0.0)


@dataclass
class Farm:
    """Nodes that count as stalled 100 s after they were last heard of."""

    limit: int = 5000

    def __post_init__(self) -> None:
        self.nodes = Nodes(limit=self.limit)
        self.asked: list[str] = []
        self.overview = Overview(self.nodes, self.diagnose)

    def diagnose(self, node: Node, now: float) -> Finding | None:
        self.asked.append(node.key)
        quiet = now - node.last_seen > 100
        return find("stalled") if quiet else None

    def see(self, ip: str, time: float = 0.0, phase: str = "join") -> None:
        node = self.nodes.record(Event(time, ip, "beacon", phase, {}))
        assert node is not None

    def listed(self, sort: str = "", **query: str) -> list[str]:
        rows = self.overview.rows(0.0, wanted=read_filter(query), sort=sort)
        assert rows.total == len(rows.rows)
        return [row.node.key for row in rows.rows]


def test_silence_alone_changes_a_state() -> None:
    farm = Farm()
    farm.see("10.9.0.1")
    for _ in range(3):
        assert farm.overview.turn(50.0) == []
    assert farm.overview.counts()["booting"] == 1
    turns = [farm.overview.turn(101.0) for _ in range(3)]
    assert [key for keys in turns for key in keys] == ["10.9.0.1"]
    counts = {"look": 1, "booting": 0, "unseen": 0, "ready": 0, "off": 0, "played": 0}
    assert farm.overview.counts() == counts


def test_a_note_is_no_reason_to_look() -> None:
    nodes = Nodes()
    overview = Overview(nodes, lambda node, now: find("note"))
    nodes.record(Event(0.0, "10.9.0.1", "beacon", "ready", {}))
    overview.turn(0.0)
    assert overview.counts()["ready"] == 1
    assert overview.rows(0.0).rows[0].finding is not None


def test_a_turn_is_bounded_and_all_have_theirs() -> None:
    farm = Farm()
    many = 2 * TURN + 3 * ROLL
    for number in range(many):
        farm.see(f"10.{number // 250}.0.{number % 250}")
    while len(set(farm.asked)) < many:
        before = len(farm.asked)
        farm.overview.turn(0.0)
        assert 0 < len(farm.asked) - before <= TURN + ROLL
    for _ in range(2 * many // ROLL + 2):
        farm.overview.turn(1000.0)
    assert farm.overview.counts()["look"] == many


def test_trouble_comes_first_and_each_has_its_place() -> None:
    farm = Farm()
    for number in (10, 9, 1):
        farm.see(f"10.9.0.{number}", 90.0)
    farm.see("10.9.0.7", -50.0)
    farm.see("10.9.0.3", 90.0, "shutdown")
    farm.see("10.9.0.2", 90.0, "ready")
    farm.overview.turn(90.0)
    by_trouble = [f"10.9.0.{number}" for number in (7, 1, 9, 10, 2, 3)]
    assert farm.listed() == by_trouble
    farm.see("10.9.0.9", 91.0)
    farm.overview.turn(91.0)
    assert farm.listed() == by_trouble, "nobody moves by being heard of"
    assert farm.listed("seen")[0] == "10.9.0.9"
    assert farm.listed("name") == [f"10.9.0.{number}" for number in (1, 2, 3, 7, 9, 10)]
    assert farm.listed("phase")[-2:] == ["10.9.0.2", "10.9.0.3"]
    assert farm.listed(state="look,off") == ["10.9.0.7", "10.9.0.3"]
    assert farm.listed(phase="ready") == ["10.9.0.2"]


def test_nodes_that_are_forgotten_leave_the_counts() -> None:
    farm = Farm(limit=3)
    for number in range(6):
        farm.see(f"10.9.0.{number}", float(number))
        for _ in range(3):
            farm.overview.turn(0.0)
    assert farm.overview.counts()["booting"] == 3
    assert farm.listed(state="booting") == ["10.9.0.3", "10.9.0.4", "10.9.0.5"]


def test_what_was_loaded_is_looked_at() -> None:
    nodes = Nodes()
    nodes.record(Event(0.0, "10.9.0.1", "beacon", "ready", {}))
    overview = Overview(nodes)
    overview.turn(0.0)
    assert overview.counts()["ready"] == 1


def test_a_machine_is_found_by_the_serial_number_that_it_tells() -> None:
    farm = Farm()
    farm.see("10.9.0.1")
    event = Event(1.0, "10.9.0.2", "beacon", "initramfs", {"serial": "SN-77"})
    assert farm.nodes.record(event) is not None
    assert farm.listed(q="sn-77") == ["10.9.0.2"]


RACK = parse_inventory(
    [
        {
            "mac": f"52:54:00:00:00:{number:02x}",
            "ip": f"10.9.0.{number}",
            "hostname": f"r{1 + number // 4}-n{number}",
            "serial": f"SN-{number}",
            "labels": {"rack": f"r{1 + number // 4}", "unit": number},
        }
        for number in range(1, 8)
    ],
    "inventory",
)


class Rack:
    """A farm with an inventory, whose nodes say what is the matter with them."""

    def __init__(self) -> None:
        self.inventory = RACK
        self.images: tuple[Image, ...] = ()
        known = {machine.ip: (machine.mac, machine.hostname) for machine in RACK.machines}
        self.nodes = Nodes(lambda ip: known.get(ip, (None, None)))
        self.overview = Overview(
            self.nodes, self.diagnose, inventory=lambda: self.inventory, images=lambda: self.images
        )

    def diagnose(self, node: Node, now: float) -> Finding | None:
        boot = node.boot
        words = boot.phases["join"].detail if boot and "join" in boot.phases else ""
        if not words:
            return None
        return Finding("join-failed", "join", "error", words, "", "", ("look there",), 0.0)

    def see(self, number: int, phase: str, words: str = "", digest: str = "") -> None:
        detail = {"detail": words, "digest": digest, "image": "amd64"}
        self.nodes.record(Event(10.0, f"10.9.0.{number}", "beacon", phase, detail))
        self.overview.turn(10.0)

    def ask(self, sort: str = "", **query: str) -> Rows:
        words = {key.replace("__", "."): value for key, value in query.items()}
        return self.overview.rows(10.0, wanted=read_filter(words), sort=sort)

    def names(self, sort: str = "", **query: str) -> list[str | None]:
        return [row.node.hostname for row in self.ask(sort, **query).rows]


def test_a_machine_that_was_never_seen_is_in_the_list() -> None:
    rack = Rack()
    assert rack.names() == [f"r{1 + n // 4}-n{n}" for n in range(1, 8)]
    assert {row.state for row in rack.ask().rows} == {"unseen"}
    rack.see(3, "ready")
    assert rack.overview.counts()["unseen"] == 6
    assert rack.names(state="ready") == ["r1-n3"]
    assert rack.names(state="unseen", label__rack="r1") == ["r1-n1", "r1-n2"]
    assert rack.nodes.forget("52:54:00:00:00:03")
    assert rack.overview.counts()["unseen"] == 7
    rack.inventory = Inventory(RACK.machines[:2])
    rack.overview.turn(11.0)
    assert rack.overview.counts()["unseen"] == len(rack.overview) == 2
    for name in ("r1-n2", "R1-N2", "SN-2", "525400000002", "5254.0000.0002", "10.9.0.2"):
        found = rack.overview.find(name)
        assert found is not None, name
        assert found.mac == "52:54:00:00:00:02"
    assert rack.overview.find("r1-n3") is None


def test_counts_are_those_within_the_other_filters() -> None:
    rack = Rack()
    for number in (1, 2):
        rack.see(number, "join", "token expired")
    rack.see(3, "ready")
    for number in (4, 5):
        rack.see(number, "ready")
    found = rack.ask(state="ready", label__rack="r1")
    assert [row.node.hostname for row in found.rows] == ["r1-n3"]
    assert found.counts.states == {"look": 2, "ready": 1}, "of rack r1"
    assert found.counts.labels["rack", "r2"] == 2, "of those that are ready"
    assert found.counts.labels["unit", "3"] == 1
    assert found.counts.phases == {"ready": 1}
    assert rack.ask(q="unit=4").counts.states == {"ready": 1}
    whole = rack.ask()
    assert whole.counts.states == {"look": 2, "ready": 3, "unseen": 2}
    assert sum(whole.counts.phases.values()) == 5
    assert rack.names(sort="label.unit", label__rack="r2", state="ready,unseen") == [
        *("r2-n4", "r2-n5", "r2-n6", "r2-n7")
    ]


def test_one_cause_is_one_group() -> None:
    rack = Rack()
    rack.see(1, "join", "r1-n1 was silent for 3 min, 10.9.0.1 sent 2 MiB; the API is 10.9.0.100")
    rack.see(
        2, "join", "r1-n2 was silent for 2 h 5 min, 10.9.0.2 sent 14.5 KiB; the API is 10.9.0.100"
    )
    rack.see(3, "join", "token expired")
    one, other = rack.overview.groups()
    assert one.cause.words == "it was silent for …, it sent …; the API is 10.9.0.100"
    assert (one.count, one.names) == (2, ("r1-n1", "r1-n2"))
    assert (other.count, other.cause.words) == (1, "token expired")
    assert rack.names(cause=one.cause.id) == ["r1-n1", "r1-n2"]
    assert len(rack.names(cause="join-failed")) == 3
    assert rack.overview.groups(read_filter({"q": "r1-n3"})) == [other]
    rack.see(3, "ready", "")
    rack.nodes.record(Event(11.0, "10.9.0.3", "beacon", "join", {"detail": ""}))
    rack.overview.turn(12.0)
    assert rack.overview.groups() == [one]


def test_an_older_image_is_told(tmp_path: Path) -> None:
    rack = Rack()
    old = publish(tmp_path, kernel="1")
    canary = publish(tmp_path, kernel="2")
    Store(tmp_path).tag("amd64", canary.digest, "canary")
    now = publish(tmp_path, kernel="3")
    rack.images = tuple(Store(tmp_path).images())
    for number, image in ((1, old), (2, canary), (3, now)):
        rack.see(number, "ready", digest=image.digest)
    rack.see(4, "ready", digest="f" * 64)
    told = {row.node.hostname: (row.image.tag, row.image.is_old) for row in rack.ask().rows}
    assert told["r1-n1"] == ("", True)
    assert told["r1-n2"] == ("canary", False)
    assert told["r1-n3"] == ("current", False)
    assert told["r2-n4"] == ("", True), "not in the store any more"
    assert rack.names(image="old") == ["r1-n1", "r2-n4"]
    assert rack.names(image="amd64:canary") == ["r1-n2"]
    assert rack.names(image=now.digest[:12]) == rack.names(image=":current") == ["r1-n3"]
    assert len(rack.names(image="amd64")) == 4
    assert rack.names(q=old.digest[:12]) == ["r1-n1"]


def test_what_is_played_is_no_machine() -> None:
    rack = Rack()
    rack.nodes.record(Event(1.0, "127.64.0.5", "tftp", "transfer", {"path": "/ltsp/x/vmlinuz"}))
    rack.overview.turn(1.0)
    assert rack.overview.counts()["played"] == 1
    assert len(rack.ask().rows) == len(RACK.machines)
    assert [row.node.ip for row in rack.ask(state="played").rows] == ["127.64.0.5"]
    rack.nodes.record(Event(2.0, "127.64.0.5", "beacon", "join", {"detail": "token expired"}))
    rack.overview.turn(2.0)
    assert rack.overview.groups() == []
    assert rack.ask(state="played").rows[0].finding is None


def test_the_counts_hold_whatever_happens() -> None:
    """They are kept up in steps; counted anew they must be the same."""
    rack, dice = Rack(), random.Random(16)
    for _ in range(400):
        number = dice.randrange(1, 12)
        if dice.random() < 0.1:
            rack.nodes.forget(f"52:54:00:00:00:{number:02x}")
        words = dice.choice(("", "token expired", "silent for 5 s"))
        rack.see(number, dice.choice(("join", "ready", "shutdown")), words)
        kept = rack.ask().counts
        anew = Counts()
        for mark in rack.overview._marks.values():
            anew.add(mark)
        for one, other in zip(vars(kept).values(), vars(anew).values(), strict=True):
            assert +one == +other
        for state, members in rack.overview._members.items():
            assert members == sorted(members)
            assert len(members) == kept.states[state]


def test_how_the_farm_boots() -> None:
    rack = Rack()
    for number, took in ((1, 40.0), (2, 60.0), (3, 50.0)):
        ip = f"10.9.0.{number}"
        rack.nodes.record(Event(100.0, ip, "beacon", "initramfs", {"boot": "b"}))
        rack.overview.turn(100.0)
        rack.nodes.record(Event(110.0, ip, "beacon", "root", {"boot": "b"}))
        rack.nodes.record(Event(90.0 + took, ip, "beacon", "join", {"boot": "b"}))
        rack.nodes.record(Event(100.0 + took, ip, "beacon", "ready", {"boot": "b"}))
        rack.overview.turn(100.0 + took)
    rack.see(4, "root")
    progress = rack.overview.progress(160.0)
    assert (progress.booting, progress.ready, progress.median) == (1, 3, 50.0)
    assert progress.busiest == "root"
    assert (progress.slowest, progress.slowest_median, progress.a_minute) == ("root", 30.0, 3)
    assert rack.overview.progress(205.0).a_minute == 2
    assert rack.overview.progress(5000.0).ready == 0
