import datetime
import io
import json
import logging
import sys

import pytest

from server.logline import FORMATS, LineFormatter, start_log


def make_record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("x", logging.WARNING, "f", 1, message, args, None)


def test_words_from_the_wire_make_no_entries_and_reach_no_terminal() -> None:
    formatter = LineFormatter("%(levelname)s %(message)s")
    text = formatter.format(make_record("path=%s", "x\n2026 ERROR FORGED\r\x1b[31m\x85\u2028\x07"))
    assert text == r"WARNING path=x\n2026 ERROR FORGED\r\x1b[31m\x85\u2028\x07"


def test_ordinary_words_stay_as_they_are() -> None:
    formatter = LineFormatter("%(message)s")
    assert formatter.format(make_record("Prüfung %s", r"C:\boot")) == r"Prüfung C:\boot"


def test_no_line_of_a_traceback_looks_like_an_entry() -> None:
    record = make_record("failed")
    try:
        raise ValueError("a\n2026 ERROR FORGED\x1b")
    except ValueError:
        record.exc_info = sys.exc_info()
    first, *others = LineFormatter("%(message)s").format(record).split("\n")
    assert first == "failed"
    assert all(line.startswith("  ") and line.isprintable() for line in others)


def make_failure(message: str) -> logging.LogRecord:
    record = make_record(message)
    try:
        raise ValueError("a\n<0>FORGED")
    except ValueError:
        record.exc_info = sys.exc_info()
    return record


def test_times_have_a_zone() -> None:
    record = make_record("words")
    record.created = 1_800_000_000.25
    time, level, words = FORMATS["text"]().format(record).split(" ")
    assert (level, words) == ("WARNING", "words")
    moment = datetime.datetime.fromisoformat(time)
    assert moment.tzinfo is not None
    assert moment.timestamp() == record.created


def test_json_has_one_object_a_line() -> None:
    formatter = FORMATS["json"]()
    record = make_record("path=%s", "x\n\x1b[31m\u2028")
    record.about = {"node": "52:54:00:00:00:01", "bytes": 7}
    text = formatter.format(record)
    assert text.isprintable()
    entry = json.loads(text)
    assert datetime.datetime.fromisoformat(entry.pop("time")).tzinfo is not None
    assert entry == {
        "level": "warning",
        "logger": "x",
        "message": "path=x\n\x1b[31m\u2028",
        "about": {"node": "52:54:00:00:00:01", "bytes": 7},
    }
    failed = formatter.format(make_failure("failed"))
    assert "\n" not in failed
    assert json.loads(failed)["traceback"].endswith("ValueError: a\n<0>FORGED")


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
    ],
)
def test_priorities_for_the_journal(level: int, priority: int) -> None:
    record = make_record("words\n<0>forged")
    record.levelno = level
    assert FORMATS["journald"]().format(record) == f"<{priority}>words\\n<0>forged"


def test_each_line_of_a_traceback_has_the_priority() -> None:
    lines = FORMATS["journald"]().format(make_failure("failed")).split("\n")
    assert len(lines) > 3
    assert all(line.startswith("<4>  ") for line in lines[1:])


def test_a_log_has_its_level_and_its_format() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    root.handlers[:] = []
    try:
        start_log("journald", "warning", stream)
        logging.getLogger("some").info("left out")
        logging.getLogger("some").error("told")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert stream.getvalue() == "<3>told\n"
