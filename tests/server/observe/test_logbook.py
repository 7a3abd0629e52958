import json
from pathlib import Path

from server.observe.logbook import OVERHEAD, LogBook, pack_boots
from server.protocols.logs import LogLine

KEY = "52:54:00:00:00:01"


def add(book: LogBook, boot: int, *texts: str, key: str = KEY, time: float = 1.0) -> None:
    book.add(key, boot, "netconsole", [LogLine(text) for text in texts], time)


def texts(book: LogBook, key: str = KEY) -> dict[int, list[str]]:
    return {log.boot: [entry.text for entry in log.entries] for log in book.boots(key)}


def test_lines_stand_with_the_boot_that_they_came_in() -> None:
    book = LogBook()
    add(book, 1, "booting", "Kernel panic - not syncing")
    add(book, 2, "booting again")
    assert texts(book) == {1: ["booting", "Kernel panic - not syncing"], 2: ["booting again"]}
    assert book.boots("nobody") == []
    (first, _) = pack_boots(book.boots(KEY))
    line = {"time": 1.0, "source": "netconsole", "severity": 6, "text": "booting"}
    assert first["lines"][0] == line


def test_a_nodes_tail_is_bounded_in_bytes() -> None:
    book = LogBook(limit=10 * (OVERHEAD + 10))
    add(book, 1, *(f"line {number:5}" for number in range(100)))
    assert texts(book)[1] == [f"line {number:5}" for number in range(90, 100)]
    add(book, 1, "x" * 100_000)
    assert len(texts(book)[1]) == 1, "one line is always kept"


def test_files_are_the_servers_alone(tmp_path: Path) -> None:
    book = LogBook(tmp_path)
    add(book, 1, "a", key="10.9.0.1")
    book.save()
    assert [file.stat().st_mode & 0o777 for file in tmp_path.iterdir()] == [0o600]


def test_nodes_are_bounded_and_the_silent_ones_go(tmp_path: Path) -> None:
    book = LogBook(tmp_path, nodes=2)
    add(book, 1, "a", key="10.9.0.1")
    add(book, 1, "b", key="10.9.0.2")
    book.save()
    add(book, 1, "a", key="10.9.0.1")
    add(book, 1, "c", key="10.9.0.3")
    book.save()
    assert len(book) == 2
    assert texts(book, "10.9.0.2") == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10.9.0.1.log", "10.9.0.3.log"]


def test_a_panic_is_read_after_the_servers_restart(tmp_path: Path) -> None:
    book = LogBook(tmp_path / "logs")
    add(book, 3, "Kernel panic - not syncing: \u00e4", time=12.5)
    add(book, 0, "of a stranger", key="10.9.0.7")
    assert book.save() == 0
    again = LogBook(tmp_path / "logs")
    assert again.load() == 2
    assert texts(again) == {3: ["Kernel panic - not syncing: \u00e4"]}
    assert again.boots(KEY)[0].entries[0].time == 12.5
    assert texts(again, "10.9.0.7") == {0: ["of a stranger"]}
    add(again, 4, "fine now")
    again.save()
    third = LogBook(tmp_path / "logs")
    third.load()
    assert list(texts(third)) == [3, 4]


def test_files_are_bounded_too(tmp_path: Path) -> None:
    book = LogBook(tmp_path, limit=5000)
    for number in range(500):
        add(book, 1, f"line {number}" + "." * 50)
        book.save()
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 12_000
    again = LogBook(tmp_path, limit=5000)
    again.load()
    assert texts(again) == texts(book)


def test_damaged_files_cost_their_lines_only(tmp_path: Path) -> None:
    good = json.dumps([1.0, 2, "syslog", 6, "good"])
    bad = ["[1,2", "{}", '[1,"x",3,4,5]', "[" * 100_000]
    bad += [f'[{time},2,"syslog",6,"bad"]' for time in ("NaN", "Infinity", "1e300", "-1")]
    bad += ['[1,Infinity,"syslog",6,"bad"]', '[1,2,"syslog",1e999,"bad"]']
    lines = "\n".join([*bad, good, *bad])
    (tmp_path / "10.9.0.1.log").write_text(f"{lines}\n{good[:20]}")
    (tmp_path / "10.9.0.2.log").mkdir()
    book = LogBook(tmp_path)
    book.load()
    assert texts(book, "10.9.0.1") == {2: ["good"]}


def test_a_save_is_bounded() -> None:
    book = LogBook(Path("/nowhere/at/all"))
    assert book.save() == 0, "nothing to write, nothing to fail"


def test_some_at_a_time(tmp_path: Path) -> None:
    book = LogBook(tmp_path)
    for number in range(5):
        add(book, 1, "x", key=f"10.9.0.{number}")
    assert book.save(2) == 3
    assert book.save(2) == 1
    assert book.save(2) == 0
    assert len(list(tmp_path.iterdir())) == 5


def test_messages_in_parts_are_joined(tmp_path: Path) -> None:
    book = LogBook(tmp_path)
    parts = [LogLine("[1.0] one, ", 6, (416, 0)), LogLine("two, ", 6, (416, 11))]
    book.add(KEY, 1, "netconsole", parts, 1.0)
    book.add(KEY, 1, "netconsole", [LogLine("three", 6, (416, 16))], 1.0)
    book.add(KEY, 1, "netconsole", [LogLine("of another", 6, (417, 5))], 1.0)
    assert texts(book) == {1: ["[1.0] one, two, three", "of another"]}
    book.save()
    again = LogBook(tmp_path)
    again.load()
    assert texts(again) == texts(book)


def test_a_node_whose_mac_becomes_known_keeps_its_lines(tmp_path: Path) -> None:
    book = LogBook(tmp_path)
    add(book, 1, "early", key="10.9.0.1")
    book.save()
    book.move("10.9.0.1", KEY)
    add(book, 1, "late")
    book.save()
    assert texts(book) == {1: ["early", "late"]}
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY.replace(':', '-')}.log"]
