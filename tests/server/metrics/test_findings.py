from collections import Counter

import pytest

from server.diagnosis import FarmFacts, diagnose
from server.events import Event
from server.metrics import findings as module
from server.metrics.findings import AGAIN_SECONDS, SEVERITIES, Findings
from server.nodes.timelines import Nodes


class Farm:
    """Nodes, and findings that watch them. asked: how often the diagnosis was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int = 1000) -> None:
        self.asked = 0
        self.findings = Findings(FarmFacts)
        self.nodes = Nodes(limit=limit)
        self.nodes.watch(self.findings.change)

        def count(*arguments: object) -> object:
            self.asked += 1
            return diagnose(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "diagnose", count)

    def beacon(
        self, time: float, node: int, phase: str, status: str = "ok", text: str = ""
    ) -> None:
        detail = {"status": status, "boot": "a", "detail": text}
        ip = f"10.9.{node >> 8}.{node & 255}"
        self.nodes.record(Event(time, ip, "beacon", phase, detail))

    def by_hand(self, now: float) -> Counter[str]:
        found = (diagnose(node, now, FarmFacts()) for node in self.nodes.nodes())
        return Counter(finding.rule for finding in found if finding is not None)


def test_what_comes_holds_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Farm(monkeypatch)
    farm.beacon(0.0, 1, "initramfs", "start")
    farm.beacon(5.0, 2, "ready")
    farm.findings.advance(6.0)
    assert +farm.findings.present == {}
    late = 5000.0
    farm.findings.advance(late)  # nothing came: that alone tells
    assert +farm.findings.present == {"initramfs-stalled": 1} == farm.by_hand(late)
    farm.beacon(late + 1, 1, "join", "error", "something odd")
    farm.findings.advance(late + 2)
    assert +farm.findings.present == farm.by_hand(late + 2)
    assert sum(farm.findings.present.values()) == 1
    farm.beacon(late + 3, 1, "ready")
    farm.findings.advance(late + 4)
    assert +farm.findings.present == {}
    assert sum(farm.findings.found.values()) == 2
    assert set(farm.findings.found) <= set(SEVERITIES)


def test_the_same_again_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Farm(monkeypatch)
    for again in range(5):
        farm.beacon(float(again), 1, "network", "error", "no address")
        farm.findings.advance(float(again))
    assert list(farm.findings.found.values()) == [1]


def test_a_node_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Farm(monkeypatch, limit=1)
    farm.beacon(0.0, 1, "network", "error", "no address")
    farm.findings.advance(1.0)
    assert sum(farm.findings.present.values()) == 1
    farm.beacon(2.0, 2, "ready")
    assert sum(farm.findings.present.values()) == 0
    farm.findings.advance(100.0)
    assert sum(farm.findings.present.values()) == 0


def test_a_turn_is_bounded_and_all_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Farm(monkeypatch)
    for node in range(450):
        farm.beacon(0.0, node, "initramfs", "start")
    farm.findings.advance(1.0)
    assert farm.asked == 200
    farm.findings.advance(2.0)
    farm.findings.advance(3.0)
    farm.findings.advance(4.0)
    assert farm.asked == 450, "nobody twice within the time"
    for second in range(3):
        farm.findings.advance(4.0 + AGAIN_SECONDS + 900.0 + second)
    assert farm.findings.present == {"initramfs-stalled": 450}


def test_nodes_at_rest_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Farm(monkeypatch)
    for node in range(50):
        farm.beacon(0.0, node, "ready")
    farm.findings.advance(1.0)
    farm.findings.advance(1000.0)
    assert farm.asked == 50
