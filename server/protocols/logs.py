"""What kernels and syslog daemons send over UDP, read leniently: no datagram is refused.

Syslog: RFC 3164 and RFC 5424, and whatever else begins with `<PRI>`. netconsole:
its plain and its extended format (Documentation/networking/netconsole.rst,
Documentation/ABI/testing/dev-kmsg). Bytes in, lines out; nothing is kept here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

TEXT_MAX: Final = 1000
"""Characters of a line that are kept."""
LINES_MAX: Final = 64
"""Lines of one datagram."""
NO_SEVERITY: Final = 6
"""RFC 5424's `informational`, for what does not say."""
_PRI = re.compile(r"<(\d{1,3})>")
_RFC5424 = re.compile(
    r"1 (?P<time>\S{1,64}) (?P<host>\S{1,255}) (?P<app>\S{1,48}) (?P<proc>\S{1,128})"
    r" (?P<id>\S{1,32}) (?P<rest>.*)",
    re.DOTALL,
)
_RFC3164 = re.compile(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d (?P<rest>.*)", re.DOTALL)
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\S+ (?P<rest>.*)", re.DOTALL)
_TAG = re.compile(r"[\w./-]{1,48}(?:\[\d+\])?: ?")
_EXTENDED = re.compile(
    r"(?:[^,;\s]{1,64},)?(?P<prefix>\d{1,6}),(?P<number>\d{1,20}),(?P<time>\d{1,20}),"
    r"(?P<flags>[^,;]{0,8})(?P<more>(?:,[^;]{0,200})?);(?P<text>.*)",
    re.DOTALL,
)
_FRAGMENT = re.compile(r",ncfrag=(\d{1,7})/(\d{1,7})")
_LEVEL = re.compile(r"<(\d{1,3})>")
_CRASH = re.compile(
    r"Kernel panic|\bOops\b|\bBUG: |general protection fault|Unable to handle|unable to handle"
    r"|Call Trace:|end Kernel panic|Out of memory: Kill|I/O error"
)
_PANIC = re.compile(r"Kernel panic - not syncing:? ?(?P<why>.*)")
_CONTROL = {code: " " for code in [*range(32), *range(127, 160)]}


@dataclass(frozen=True)
class LogLine:
    """A line. severity: 0 (emergency) to 7 (debug), RFC 5424 section 6.2.1.

    part: of a message of netconsole in several datagrams, (its number, where it goes on).
    """

    text: str
    severity: int = NO_SEVERITY
    part: tuple[int, int] | None = None

    @property
    def is_bad(self) -> bool:
        """Whether a person should see it first: an error or worse, or the words of a crash."""
        return self.severity <= 3 or _CRASH.search(self.text) is not None


def find_panic(lines: Iterable[LogLine]) -> str | None:
    """Why the kernel panicked, in its own words (`no reason given` for none), if it did."""
    for line in lines:
        if (match := _PANIC.search(line.text)) is not None:
            return match["why"].strip() or "no reason given"
    return None


def parse_syslog(data: bytes) -> list[LogLine]:
    """The lines of a syslog datagram; time and host of its header left out, tag kept."""
    text = _decode(data)
    severity = NO_SEVERITY
    if (pri := _PRI.match(text)) is not None:
        severity = int(pri[1]) & 7
        text = text[pri.end() :]
    if (match := _RFC5424.fullmatch(text)) is not None:
        app, proc = match["app"], match["proc"]
        tag = "" if app == "-" else f"{app}[{proc}]: " if proc != "-" else f"{app}: "
        text = tag + _strip_data(match["rest"]).removeprefix("\ufeff")
    elif (match := _RFC3164.fullmatch(text) or _ISO.fullmatch(text)) is not None:
        text = _strip_host(match["rest"])
    return [LogLine(line, severity) for line in _split(text)]


def parse_netconsole(data: bytes) -> list[LogLine]:
    """The lines of a datagram of netconsole, in either format."""
    text = _decode(data)
    if (match := _EXTENDED.fullmatch(text)) is not None:
        severity = int(match["prefix"]) & 7
        seconds = int(match["time"]) / 1_000_000
        # What follows the first line is a dictionary, a `key=value` a line, indented.
        words = match["text"].partition("\n")[0].translate(_CONTROL)[:TEXT_MAX]
        head = f"[{seconds:12.6f}] "
        fragment = _FRAGMENT.search(match["more"])
        if fragment is None:
            return [LogLine(line, severity) for line in _split(head + words)]
        offset = int(fragment[1])
        text = words if offset else head + words
        part = (int(match["number"]), offset)
        return [LogLine(text[:TEXT_MAX], severity, part)] if text else []
    lines = []
    for line in _split(text):
        level = _LEVEL.match(line)
        if level is None:
            lines.append(LogLine(line))
        elif rest := line[level.end() :]:
            lines.append(LogLine(rest, int(level[1]) & 7))
    return lines


def _strip_data(text: str) -> str:
    """Leave structured data out (RFC 5424 section 6.3); by hand, for it may hold anything."""
    if text.startswith("-"):
        return text[1:].removeprefix(" ")
    place, quoted = 0, False
    while place < len(text):
        char = text[place]
        if quoted and char == "\\":
            place += 1
        elif char == '"':
            quoted = not quoted
        elif char == "]" and not quoted and text[place + 1 : place + 2] != "[":
            return text[place + 1 :].removeprefix(" ")
        place += 1
    return text  # its end is missing: it is not structured data


def _strip_host(text: str) -> str:
    """Leave a hostname out where a tag follows it (RFC 3164 section 4.1.2; many leave it out)."""
    head, _, rest = text.partition(" ")
    if not head.endswith(":") and _TAG.match(rest):
        return rest
    return text


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace").rstrip("\0\r\n")


def _split(text: str) -> list[str]:
    lines = (line.translate(_CONTROL).rstrip()[:TEXT_MAX] for line in text.split("\n", LINES_MAX))
    return [line for line in lines if line][:LINES_MAX]
