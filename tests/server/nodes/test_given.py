"""What a node booted with, kept as prints."""

from pathlib import Path

from server.events import Event
from server.nodes.given import GIVEN, MOST, Printer, list_changes, load_key
from server.nodes.timelines import Nodes

MAC, IP = "52:54:00:00:00:01", "10.9.0.1"


def test_what_has_changed_is_named() -> None:
    printer = Printer(b"k" * 32)
    before = printer.print_values({"A": "1", "B": "2", "C": "3"})
    now = printer.print_values({"A": "1", "B": "4", "D": "5"})
    assert list_changes(before, now) == ["B", "C (gone)", "D (new)"]
    assert list_changes(before, before) == []


def test_no_value_can_be_told_without_the_key() -> None:
    one = Printer(b"a" * 32).print_values({"TOKEN": "secret"})
    assert "secret" not in one
    assert one != Printer(b"b" * 32).print_values({"TOKEN": "secret"})
    many = Printer(b"a" * 32).print_values({f"A_{n}": "x" for n in range(10 * MOST)})
    assert len(many.split()) == MOST


def test_the_key_is_the_servers_own_and_stays(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert load_key(tmp_path) == key
    file.write_bytes(b"short")
    assert load_key(tmp_path) != key
    assert load_key(None) != load_key(None)
    assert len(load_key(tmp_path / "nosuch")) == 32


def beacon(nodes: Nodes, phase: str, boot: str) -> None:
    nodes.record(Event(1.0, IP, "beacon", phase, {"status": "ok", "boot": boot}))


def test_it_is_noted_until_the_system_runs(tmp_path: Path) -> None:
    nodes = Nodes(lambda ip: (MAC, None))
    nodes.note_given(IP, "A=1")  # of nobody
    beacon(nodes, "initramfs", "a")
    nodes.note_given(IP, "A=1")
    nodes.note_given(IP, "A=2")
    beacon(nodes, "ready", "a")
    nodes.note_given(IP, "A=3")
    node = nodes.get(MAC)
    assert node is not None
    assert node.boot is not None
    assert node.boot.facts[GIVEN] == "A=2"
    nodes.save(tmp_path)
    kept = Nodes()
    kept.load(tmp_path)
    again = kept.get(MAC)
    assert again is not None
    assert again.boot is not None
    assert again.boot.facts[GIVEN] == "A=2"
    beacon(nodes, "initramfs", "b")
    assert GIVEN not in node.boot.facts


def test_a_note_outlives_a_restart(tmp_path: Path) -> None:
    nodes = Nodes(lambda ip: (MAC, None))
    assert not nodes.annotate(MAC, "x", None)
    beacon(nodes, "ready", "a")
    assert nodes.annotate(MAC, "fan\x07 ordered ", True)
    nodes.save(tmp_path)
    kept = Nodes()
    kept.load(tmp_path)
    node = kept.get(MAC)
    assert node is not None
    assert (node.note, node.maintenance) == ("fan ordered", True)
