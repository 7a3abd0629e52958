from pathlib import Path

from rack.console import Console, plain_text


def test_escape_sequences_and_carriage_returns_go() -> None:
    raw = b"\x1b[2J\x1b[01;32mStarted\x1b[0m \x1b]0;title\x07ssh\r\n\x1b=login: \xff\0"
    assert plain_text(raw) == "Started ssh\nlogin: �"


def test_begin_hides_the_boot_before(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    console = Console(log)
    assert console.text() == ""
    log.write_text("first boot login:\n")
    console.begin()
    with log.open("a") as more:
        more.write("second\n\nboot\n")
    assert console.text() == "second\n\nboot\n"
    assert console.text(since=0).startswith("first")
    assert console.tail(1) == "boot"
    assert console.tail() == "second\nboot"
