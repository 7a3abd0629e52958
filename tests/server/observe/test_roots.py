"""Whose root is attached: by what the NBD service has open at each turn."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from server.app import App
from server.assemble.parts import make_parts
from server.doctor.nbdclient import NbdExport
from server.events import Event
from server.farm.config import Config, Transport
from server.farm.inventory import Inventory, Machine
from server.nodes.timelines import Nodes
from server.observe.roots import Roots
from server.services.hotloop import HotLoop
from tests.server.farm import publish
from tests.server.metrics.scrape import scrape

MACS = {f"10.9.0.{number}": f"52:54:00:00:00:0{number}" for number in range(1, 4)}
DIGEST = "a" * 64


class Farm:
    """Three nodes, and who of them has a connection."""

    def __init__(self) -> None:
        self.nodes = Nodes(lambda ip: (MACS.get(ip), None))
        self.open: Mapping[str, Sequence[str]] | None = {}
        self.roots = Roots(self.nodes, lambda: self.open)
        for ip in MACS:
            self.nodes.record(Event(1000.0, ip, "beacon", "ready", {"status": "ok", "boot": "a"}))

    def turn(self, now: float, *addresses: str) -> set[str]:
        self.open = {DIGEST: addresses}
        return {node.key for node in self.roots.turn(now)}


def test_what_is_gone_for_90_seconds_is_looked_at_again_and_once_more_when_it_is_back() -> None:
    farm = Farm()
    one, two, three = MACS.values()
    assert farm.roots.attached_at(one) is None, "nobody has looked"
    assert farm.turn(2000.0, "10.9.0.1", "10.9.0.2", "10.9.0.2") == set()
    assert farm.turn(2005.0, "10.9.0.1") == set()
    assert farm.roots.attached_at(one) == 2005.0
    assert farm.roots.attached_at(two) == 2000.0
    assert farm.roots.attached_at(three) == 2000.0, "nodes have their time to come back"
    assert farm.turn(2090.0, "10.9.0.1") == set()
    assert farm.turn(2091.0, "10.9.0.1") == {two, three}
    assert farm.turn(2095.0, "10.9.0.1") == set()
    assert farm.turn(2100.0, "10.9.0.1", "10.9.0.3") == {three}


def test_who_serves_no_nbd_knows_nothing() -> None:
    farm = Farm()
    farm.open = None
    assert farm.roots.turn(2000.0) == []
    assert farm.roots.attached_at("x") is None


def test_addresses_of_nobody_take_no_room() -> None:
    farm = Farm()
    for turn in range(50):
        farm.turn(2000.0 + turn, *(f"10.{turn}.0.{number}" for number in range(250)))
    assert len(farm.roots._seen) < 1000


@pytest.fixture
def app(tmp_path: Path) -> App:
    publish(tmp_path / "store")
    config = Config(
        store=tmp_path / "store",
        services=("nbd", "http"),
        listen="127.0.0.1",
        nbd=Transport(0),
        http=Transport(0),
        inventory=Inventory((Machine(MACS["10.9.0.1"], "127.0.0.1", "node-1"),)),
    )
    return App(make_parts(config, HotLoop()))


def test_a_ready_machine_that_hangs_up_is_not_ready_for_ever(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real NBD client, the list, the metrics; only the clock is ours."""
    parts, mac = app.parts, MACS["10.9.0.1"]
    clock = [time.time()]
    monkeypatch.setattr(time, "time", lambda: clock[0])

    def rule() -> str | None:
        node = parts.nodes.get(mac)
        assert node is not None
        finding = parts.upkeep.overview.look(node, clock[0]).finding
        return finding.rule if finding is not None else None

    def wait(attached: int) -> None:
        async def until() -> None:
            while sum(map(len, parts.running.attached().values())) != attached:
                await asyncio.sleep(0.01)

        parts.loop.run_until_complete(until())

    def attach() -> NbdExport:
        port = parts.running.ports()["nbd"][0]
        work = parts.loop.run_in_executor(None, NbdExport, "127.0.0.1", port, "/opt/ltsp/amd64")
        return parts.loop.run_until_complete(work)

    def later(seconds: float) -> None:
        clock[0] += seconds
        parts.upkeep.look_at_roots()
        parts.upkeep._count_findings()

    app.bind()
    for service in parts.running.services.values():
        service.start()
    parts.upkeep.begin()
    client = attach()
    wait(1)
    for phase in ("preinit", "systemd", "ready"):
        beacon = {"status": "ok", "boot": "a"}
        parts.door.record(Event(clock[0], "127.0.0.1", "beacon", phase, beacon))
    later(1000)
    assert rule() is None, "attached, and silent otherwise"
    client.close()
    wait(0)
    later(5)
    assert rule() is None
    later(100)
    assert rule() == "root-lost"
    count = scrape(parts.upkeep.metrics).get
    labels = {"rule": "root-lost", "severity": "error"}
    assert count("bootfarm_nodes_with_finding", **labels) == 1
    client = attach()
    wait(1)
    later(5)
    assert rule() is None
    assert scrape(parts.upkeep.metrics).get("bootfarm_nodes_with_finding", **labels) == 0
    client.close()
    wait(0)
    for service in parts.running.services.values():
        parts.loop.run_until_complete(service.stop())
    parts.sources.close()
    parts.loop.close()
