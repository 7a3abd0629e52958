from dataclasses import dataclass

from server.diagnosis import Finding, Severity
from server.events import Event
from server.nodes import Node, Nodes
from server.overview import ROLL, TURN, Overview


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
        self.overview.note(node.key)

    def listed(self, state: str = "", wanted: str = "") -> list[str]:
        rows = self.overview.rows(0.0, state=state, wanted=wanted)
        assert rows.total == len(rows.rows)
        return [row.node.key for row in rows.rows]


def test_silence_alone_changes_a_state() -> None:
    farm = Farm()
    farm.see("10.9.0.1")
    assert farm.overview.turn(0.0) == ["10.9.0.1"]
    for _ in range(3):
        assert farm.overview.turn(50.0) == []
    assert farm.overview.counts()["booting"] == 1
    turns = [farm.overview.turn(101.0) for _ in range(3)]
    assert [key for keys in turns for key in keys] == ["10.9.0.1"]
    assert farm.overview.counts() == {"look": 1, "booting": 0, "ready": 0, "off": 0}


def test_a_note_is_no_reason_to_look() -> None:
    nodes = Nodes()
    overview = Overview(nodes, lambda node, now: find("note"))
    nodes.record(Event(0.0, "10.9.0.1", "beacon", "ready", {}))
    overview.note("10.9.0.1")
    overview.turn(0.0)
    assert overview.counts()["ready"] == 1
    assert overview.rows(0.0).rows[0].finding is not None


def test_a_turn_is_bounded_and_all_have_theirs() -> None:
    farm = Farm()
    many = 2 * TURN + 3 * ROLL
    for number in range(many):
        farm.see(f"10.{number // 250}.0.{number % 250}")
    while farm.overview.counts()["booting"] < many:
        farm.asked.clear()
        farm.overview.turn(0.0)
        assert 0 < len(farm.asked) <= TURN + ROLL
    for _ in range(2 * many // ROLL + 2):
        farm.overview.turn(1000.0)
    assert farm.overview.counts()["look"] == many


def test_in_each_state_the_last_heard_of_comes_first() -> None:
    farm = Farm()
    for number in (1, 2, 3):
        farm.see(f"10.9.0.{number}", float(number))
        farm.overview.turn(0.0)
    farm.see("10.9.0.1", 4.0)
    farm.overview.turn(4.0)
    assert farm.listed("booting") == ["10.9.0.1", "10.9.0.3", "10.9.0.2"]
    assert farm.listed() == farm.listed("booting")


def test_nodes_that_are_forgotten_leave_the_counts() -> None:
    farm = Farm(limit=3)
    for number in range(6):
        farm.see(f"10.9.0.{number}", float(number))
        for _ in range(3):
            farm.overview.turn(0.0)
    assert farm.overview.counts()["booting"] == 3
    assert farm.listed("booting") == ["10.9.0.5", "10.9.0.4", "10.9.0.3"]


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
    assert farm.listed(wanted="sn-77") == ["10.9.0.2"]
    listed = Overview(farm.nodes, farm.diagnose, lambda mac: "of the inventory")
    assert [row.serial for row in listed.rows(0.0).rows] == ["SN-77", ""]
