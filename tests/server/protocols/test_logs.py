"""Datagrams as programs send them: util-linux logger, rsyslog, systemd, the kernel's netconsole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.logs import LINES_MAX, TEXT_MAX, LogLine, parse_netconsole, parse_syslog

SD = '[timeQuality tzKnown="1" isSynced="0"][x@1 a="b \\"] c"]'


@pytest.mark.parametrize(
    ("data", "line"),
    [
        # logger --rfc3164, rsyslog's default
        ("<13>Nov 21 08:00:00 node-1 root: hello", LogLine("root: hello", 5)),
        ("<86>Nov  1 08:00:00 node-1 sshd[7]: ok", LogLine("sshd[7]: ok", 6)),
        ("<3>Nov 21 08:00:00 kernel: [    1.5] oops", LogLine("kernel: [    1.5] oops", 3)),
        # busybox syslogd -R leaves the host out; rsyslog with ISO dates
        ("<30>Nov 21 08:00:00 dropbear[3]: x", LogLine("dropbear[3]: x", 6)),
        ("<30>2026-11-21T08:00:00.1+00:00 node-1 cron[3]: x", LogLine("cron[3]: x", 6)),
        # logger --rfc5424
        (
            f"<13>1 2026-11-21T08:00:00.1+00:00 node-1 root - - {SD} hello",
            LogLine("root: hello", 5),
        ),
        ("<34>1 2026-11-21T08:00:00Z h su 12 ID47 - \ufeffdenied", LogLine("su[12]: denied", 2)),
        ("<34>1 - - - - - - bare", LogLine("bare", 2)),
        # and what is none of these
        ("no header at all", LogLine("no header at all")),
        ("<999>x", LogLine("x", 7)),
        ("<13>", None),
        ("<1", LogLine("<1")),
        ("", None),
    ],
)
def test_syslog(data: str, line: LogLine | None) -> None:
    assert parse_syslog(data.encode()) == ([line] if line else [])


def test_a_syslog_datagram_of_several_lines() -> None:
    lines = parse_syslog(b"<11>Nov 21 08:00:00 h app: one\n  two\n\n")
    assert lines == [LogLine("app: one", 3), LogLine("  two", 3)]


def test_netconsole_plain() -> None:
    lines = parse_netconsole(b"[   12.345678] usb 1-1: new device\n<3>[   12.4] bad\n")
    assert lines == [LogLine("[   12.345678] usb 1-1: new device"), LogLine("[   12.4] bad", 3)]


@pytest.mark.parametrize(
    "head", ["6,444,501151268,-", "6.4.0,6,444,501151268,-", "6,444,501151268,c,caller=T1"]
)
def test_netconsole_extended(head: str) -> None:
    data = f"{head};netconsole: network logging started\n SUBSYSTEM=net\n DEVICE=+eth0\n"
    assert parse_netconsole(data.encode()) == [
        LogLine("[  501.151268] netconsole: network logging started", 6)
    ]


def test_netconsole_in_fragments() -> None:
    first, second = (
        parse_netconsole(f"6,416,1758426,-,ncfrag={part}/33;{text}".encode())
        for part, text in ((0, "the first chunk, "), (16, "the 2nd chunk."))
    )
    assert first == [LogLine("[    1.758426] the first chunk, ", 6, (416, 0))]
    assert second == [LogLine("the 2nd chunk.", 6, (416, 16))]


def test_control_characters_and_lengths_are_bounded() -> None:
    (line,) = parse_syslog(b"<13>a\x1b[2Jb\x00c" + b"x" * 5000)
    assert line.text.startswith("a [2Jb cx")
    assert len(line.text) == TEXT_MAX
    assert len(parse_netconsole(b"x\n" * 1000)) == LINES_MAX


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("Kernel panic - not syncing: VFS: Unable to mount root fs", True),
        ("BUG: unable to handle page fault", True),
        ("Call Trace:", True),
        ("debugfs: BUGS are fine", False),
        ("usb 1-1: new device", False),
    ],
)
def test_what_a_person_should_see_first(text: str, bad: bool) -> None:
    assert LogLine(text).is_bad == bad
    assert LogLine(text, 3).is_bad


@given(st.binary(max_size=300))
def test_whatever_comes_gives_printable_lines(data: bytes) -> None:
    for parse in (parse_syslog, parse_netconsole):
        for line in parse(data):
            assert 0 < len(line.text) <= TEXT_MAX
            assert 0 <= line.severity <= 7
            assert "\n" not in line.text
            assert "\x1b" not in line.text


@given(st.text(alphabet='<>0123456789,;-=ncfrag/[] "\\:1JanuaryT\n', max_size=200))
def test_near_misses_are_read_in_bounded_time(text: str) -> None:
    for prefix in ("<13>1 ", "<13>1 - - - - - ", "6,1,2,-"):
        parse_syslog((prefix + text * 40).encode())
        parse_netconsole((prefix + text * 40).encode())
