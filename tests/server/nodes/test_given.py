"""What a node booted with, kept as prints."""

from pathlib import Path

from server.events import Event
from server.nodes.given import (
    GIVEN,
    MOST,
    TABLE_MAX,
    VALUE_MAX,
    VALUES_FILE,
    GivenValues,
    Printer,
    list_changes,
    load_key,
)
from server.nodes.timelines import Nodes
from server.observe.secrecy import Secrecy

MAC, IP = "52:54:00:00:00:01", "10.9.0.1"


def test_what_has_changed_is_named() -> None:
    printer = Printer(b"k" * 32)
    before = printer.print_values({"A": "1", "B": "2", "C": "3"})
    now = printer.print_values({"A": "1", "B": "4", "D": "5"})
    assert list_changes(before, now) == ["B", "C (gone)", "D (new)"]
    assert list_changes(before, before) == []


PRINTER = Printer(b"k" * 32)


def print_of(name: str, value: str) -> str:
    return PRINTER.print_values({name: value}).partition("=")[2]


def keep(table: GivenValues, **values: str) -> None:
    table.keep(PRINTER.print_values(values), values)


def test_what_values_were_is_kept_masked(tmp_path: Path) -> None:
    secrets = {"join": "not-for-your-eyes"}
    table = GivenValues(Secrecy(lambda: secrets).mask_value, tmp_path)
    keep(table, ROOT_PASSWORD="abc", RCFILE_01="say not-for-your-eyes", HOSTNAME="\udcffx")
    assert table.find("ROOT_PASSWORD", print_of("ROOT_PASSWORD", "abc")) == "(secret)"
    assert table.find("NOTE", print_of("NOTE", "abc")) is None, "under that name it is another"
    assert table.find("RCFILE_01", print_of("RCFILE_01", "say not-for-your-eyes")) == "say (secret)"
    assert table.find("HOSTNAME", print_of("HOSTNAME", "\udcffx")) == "\ufffdx"
    keep(table, NOTE="say later", LONG="x" * 5000)
    long = table.find("LONG", print_of("LONG", "x" * 5000))
    assert long == "x" * VALUE_MAX + "…"
    secrets = {**secrets, "other": "say later"}
    assert table.find("NOTE", print_of("NOTE", "say later")) == "(secret)", "as of now"
    table.save()
    assert (tmp_path / VALUES_FILE).stat().st_mode & 0o777 == 0o600
    assert "eyes" not in (tmp_path / VALUES_FILE).read_text()
    again = GivenValues(lambda name, value: value, tmp_path)
    assert again.find("RCFILE_01", print_of("RCFILE_01", "say not-for-your-eyes")) == "say (secret)"


def test_so_many_bytes_are_kept_and_the_oldest_go(tmp_path: Path) -> None:
    table = GivenValues(lambda name, value: value, tmp_path)
    keep(table, FIRST="a", SECOND="b")
    for number in range(2 * TABLE_MAX // VALUE_MAX):
        keep(table, A=f"{number:0400}")
        keep(table, FIRST="a")
    assert table.find("FIRST", print_of("FIRST", "a")) == "a", "it is given again and again"
    assert table.find("SECOND", print_of("SECOND", "b")) is None
    table.save()
    assert (tmp_path / VALUES_FILE).stat().st_size < 1.2 * TABLE_MAX


def test_nothing_is_written_where_secrets_are_filled_in(tmp_path: Path) -> None:
    secrets = True
    table = GivenValues(lambda name, value: value, tmp_path, lambda: secrets)
    keep(table, NOTE="c2VjcmV0")
    table.save()
    secrets = False
    keep(table, NOTE="other")
    table.save()
    assert table.find("NOTE", print_of("NOTE", "c2VjcmV0")) == "c2VjcmV0"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_table_costs_old_values_only(tmp_path: Path) -> None:
    for text in (b"", b"[]", b'{"values": 1}', b'{"values": {"A=1": 7}}', b"\xff", b"[" * 100_000):
        (tmp_path / VALUES_FILE).write_bytes(text)
        table = GivenValues(lambda name, value: value, tmp_path)
        assert table.find("A", "1") is None
        keep(table, A="x")
        table.save()
        assert b"x" in (tmp_path / VALUES_FILE).read_bytes()
    (tmp_path / VALUES_FILE).unlink()
    (tmp_path / VALUES_FILE).mkdir()
    assert GivenValues(lambda name, value: value, tmp_path).find("A", "1") is None


def test_prints_of_a_key_that_was_lost_are_not_compared() -> None:
    one, other = Printer(b"a" * 32), Printer(b"b" * 32)
    values = {"A": "1", "B": "2"}
    before = f"{one.mark} {one.print_values(values)}"
    assert list_changes(before, f"{other.mark} {other.print_values(values)}") == []
    changed = f"{one.mark} {one.print_values({'A': '1', 'B': '3'})}"
    assert list_changes(before, changed) == ["B"]
    assert list_changes(one.print_values(values), changed) == ["B"], "of a server before this one"


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
    assert not nodes.note_given(IP, "A=1"), "of nobody"
    beacon(nodes, "initramfs", "a")
    nodes.note_given(IP, "A=1")
    nodes.note_given(IP, "A=2")
    beacon(nodes, "ready", "a")
    assert not nodes.note_given(IP, "A=3")
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


def test_a_note_on_a_machine_that_will_come(tmp_path: Path) -> None:
    nodes = Nodes(lambda ip: (MAC, None))
    assert nodes.annotate(MAC, "board is ordered", True, awaited=True)
    assert len(nodes) == 0
    assert MAC not in nodes
    nodes.save(tmp_path)
    kept = Nodes(lambda ip: (MAC, None))
    assert kept.load(tmp_path) == 0
    awaited = kept.awaited(MAC)
    assert awaited is not None
    assert (awaited.note, awaited.maintenance) == ("board is ordered", True)
    beacon(kept, "initramfs", "a")
    node = kept.get(MAC)
    assert node is not None
    assert (node.note, node.maintenance) == ("board is ordered", True)
    assert kept.awaited(MAC) is None
    assert kept.annotate(MAC, "", False)
    kept.save(tmp_path)
    last = Nodes()
    assert last.load(tmp_path) == 1
    assert last.awaited(MAC) is None


def test_a_note_that_is_taken_back_is_gone_from_disk(tmp_path: Path) -> None:
    nodes = Nodes()
    for forget in (False, True):
        nodes.annotate(MAC, "x", None, awaited=True)
        nodes.save(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        assert nodes.forget(MAC) if forget else nodes.annotate(MAC, "", False, awaited=True)
        nodes.save(tmp_path)
        assert list(tmp_path.iterdir()) == []
    assert not nodes.forget(MAC)


def test_who_floods_the_list_pushes_out_no_note() -> None:
    macs = {IP: MAC}
    nodes = Nodes(lambda ip: (macs.get(ip), None), limit=3)
    beacon(nodes, "ready", "a")
    nodes.annotate(MAC, "off since May", True)
    for number in range(2, 9):
        macs[f"10.9.0.{number}"] = f"52:54:00:00:00:0{number}"
        nodes.record(Event(2.0, f"10.9.0.{number}", "beacon", "ready", {"boot": "x"}))
    assert nodes.get(MAC) is None
    awaited = nodes.awaited(MAC)
    assert awaited is not None
    assert awaited.note == "off since May"
    for number in range(2, 20):
        nodes.annotate(f"52:54:00:00:01:{number:02x}", "x", None, awaited=True)
    assert nodes.awaited(MAC) is None, "they are bounded, too"
    assert sum(nodes.awaited(f"52:54:00:00:01:{n:02x}") is not None for n in range(2, 20)) == 3
