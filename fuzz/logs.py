"""Syslog and netconsole: any datagram is some lines, bounded and fit to be shown."""

from typing import Final

from fuzz.words import Words
from server.protocols.logs import (
    LINES_MAX,
    TEXT_MAX,
    LogLine,
    find_panic,
    parse_netconsole,
    parse_syslog,
)

_DATAGRAMS: Final = (
    b"<13>Nov 21 08:00:00 node-1 root: hello",
    b'<13>1 2026-11-21T08:00:00.1+00:00 node-1 root - - [a@1 b="c \\"] d"] hello',
    b"<30>2026-11-21T08:00:00.1+00:00 node-1 cron[3]: x\nsecond",
    b"6,1234,5678901,-;text of the kernel\n SUBSYSTEM=net",
    b"6.1.0,4,1235,5678902,-,ncfrag=0/33;first part",
    b"4,1235,5678902,-,ncfrag=17/33;second part",
    b"<2>Kernel panic - not syncing: Attempted to kill init!\n<4>Call Trace:",
    b"\xff\0\x1b[31m\x85",
)
SEEDS: Final = tuple(bytes((kind,)) + one for one in _DATAGRAMS for kind in (0, 1))


def check(data: bytes) -> None:
    """data: one byte that chooses the format, then a datagram."""
    words = Words(data)
    parse = parse_netconsole if words.number() & 1 else parse_syslog
    lines = parse(words.rest())
    assert len(lines) <= LINES_MAX
    for line in lines:
        _check_line(line)
    reason = find_panic(lines)
    assert reason is None or reason


def _check_line(line: LogLine) -> None:
    assert 0 < len(line.text) <= TEXT_MAX
    assert 0 <= line.severity <= 7
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in line.text)
    line.text.encode()
    assert line.part is None or min(line.part) >= 0
    assert line.is_bad in (True, False)
