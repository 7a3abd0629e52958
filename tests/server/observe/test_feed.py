import json

from server.events import Event
from server.nodes.timelines import Nodes
from server.observe.feed import MOST_KEYS, Changes, Feed

IP, OTHER = "10.9.0.11", "10.9.0.12"
MAC = "52:54:00:00:00:01"


def identify(ip: str) -> tuple[str | None, str | None]:
    return (MAC, "node-1") if ip == IP else (None, None)


class Farm:
    def __init__(self, limit: int = 2000) -> None:
        self.nodes = Nodes(identify)
        self.feed = Feed(limit)

    def see(self, number: int, ip: str = IP, phase: str = "join") -> None:
        event = Event(float(number), ip, "beacon", phase, {"status": "ok", "n": number})
        self.feed.record(event, self.nodes.record(event))

    def numbers(self, **wanted: object) -> list[int]:
        return [json.loads(one.data)["detail"]["n"] for one in self.feed.last(**wanted)]  # type: ignore[arg-type]


def test_an_entry_names_its_node() -> None:
    farm = Farm()
    farm.see(1)
    (entry,) = farm.feed.last()
    assert json.loads(entry.data) == {
        "id": 1,
        "time": 1.0,
        "node": MAC,
        "ip": IP,
        "source": "beacon",
        "phase": "join",
        "what": "join",
        "detail": {"status": "ok", "n": 1},
    }
    assert entry.message() == b"id: 1\ndata: " + entry.data + b"\n\n"


def test_the_phase_is_that_of_the_file_and_null_where_there_is_none() -> None:
    farm = Farm()
    for path in ("/ltsp/amd64/vmlinuz", "/elsewhere"):
        event = Event(1.0, IP, "tftp", "transfer", {"path": path})
        farm.feed.record(event, farm.nodes.record(event))
    farm.feed.record(Event(1.0, "", "workers", "worker", {"status": "error"}), None)
    entries = [json.loads(entry.data) for entry in farm.feed.last()]
    assert [entry["phase"] for entry in entries] == ["kernel", None, None]
    assert [entry["node"] for entry in entries] == [MAC, MAC, ""]


def test_the_ring_is_bounded_and_read_by_number_node_and_amount() -> None:
    farm = Farm(limit=4)
    for number in range(1, 7):
        farm.see(number, IP if number % 2 else OTHER)
    assert farm.numbers() == [3, 4, 5, 6]
    assert farm.numbers(since=4) == [5, 6]
    assert farm.numbers(since=6) == []
    assert farm.numbers(since=700) == [3, 4, 5, 6], "a number of a server before this one"
    assert farm.numbers(node=MAC) == [3, 5]
    assert farm.numbers(node=OTHER, limit=1) == [6]
    assert len(farm.feed) == 4


def test_followers_get_what_comes_until_they_leave() -> None:
    farm = Farm()
    farm.see(1)
    everything: list[bytes] = []
    mine: list[bytes] = []
    leave = farm.feed.follow(everything.append)
    farm.feed.follow(mine.append, MAC)
    farm.see(2)
    farm.see(3, OTHER)
    leave()
    leave()
    farm.see(4)
    assert [one.partition(b"\n")[0] for one in everything] == [b"id: 2", b"id: 3"]
    assert [one.partition(b"\n")[0] for one in mine] == [b"id: 2", b"id: 4"]


def test_a_follower_may_leave_while_it_is_pushed_to() -> None:
    farm = Farm()
    seen: list[bytes] = []

    def push(data: bytes) -> None:
        seen.append(data)
        leave()

    leave = farm.feed.follow(push)
    farm.feed.follow(seen.append)
    farm.see(1)
    farm.see(2)
    assert len(seen) == 3


def test_an_event_is_bounded() -> None:
    farm = Farm()
    detail = {f"key{number}": "x" * 5000 for number in range(50)}
    farm.feed.record(Event(1.0, "", "s" * 99, "p" * 99, detail), None)
    (entry,) = farm.feed.last()
    assert len(entry.data) < 6000


def test_changes_are_told_once_a_turn() -> None:
    changes = Changes()
    everything: list[bytes] = []
    one: list[bytes] = []
    changes.note("a")
    changes.flush()
    leave = changes.follow(everything.append)
    changes.follow(one.append, "b")
    for key in ("a", "a", "c"):
        changes.note(key)
    changes.flush()
    changes.flush()
    assert everything == [b'data: {"nodes":["a","c"]}\n\n']
    assert one == []
    for number in range(MOST_KEYS + 5):
        changes.note(str(number))
    changes.flush()
    assert everything[1:] == one == [b'data: {"many":true}\n\n']
    leave()
    changes.note("b")
    changes.flush()
    assert one[1:] == [b'data: {"nodes":["b"]}\n\n']
    assert len(everything) == 2
