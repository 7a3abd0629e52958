"""The server's log: entries that stay what they are, as text, as JSON, or for journald.

Each entry is one line, without control characters of others; a time has its
zone. What an entry is about may come as `extra={"about": {...}}`, keys and
values: JSON has them as they are.
"""

import datetime
import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

from imagebuild.errors import escape

LEVELS: Final = ("debug", "info", "warning", "error")
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4))
"""From which level on which of syslog's priorities (RFC 5424, 6.2.1); below: 6, 7."""


def render_about(about: Mapping[str, Any]) -> str:
    """`key=value` for each, with blanks between them."""
    return " ".join(f"{key}={value}" for key, value in about.items())


def _format_time(record: logging.LogRecord) -> str:
    """RFC 3339 with milliseconds, in the machine's zone."""
    moment = datetime.datetime.fromtimestamp(record.created).astimezone()
    return moment.isoformat(timespec="milliseconds")


class LineFormatter(logging.Formatter):
    """Formats an entry whose message may hold words from the wire.

    Only a traceback takes further lines; each begins with a blank, so that none
    looks like an entry.
    """

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """RFC 3339, as _format_time."""
        return _format_time(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The entry's line, without control characters."""
        return escape(super().formatMessage(record))

    def formatException(self, ei) -> str:  # type: ignore[no-untyped-def]  # noqa: N802
        """The traceback; each line begins with a blank."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {escape(line)}" for line in lines)


class JournalFormatter(LineFormatter):
    """Lines as journald takes them from standard error: `<3>words` (sd-daemon(3)).

    Without a time, which the journal has itself; every line has its priority, those of
    a traceback too.
    """

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The entry, `<priority>` before each of its lines."""
        priority = f"<{find_priority(record.levelno)}>"
        return "\n".join(priority + line for line in super().format(record).split("\n"))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message; `about` and `traceback` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The entry as one JSON object on one line."""
        entry: dict[str, Any] = {
            "time": _format_time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        about = getattr(record, "about", None)
        if isinstance(about, Mapping):
            entry["about"] = {str(key): value for key, value in about.items()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


FORMATS: Final[Mapping[str, Callable[[], logging.Formatter]]] = {
    "text": lambda: LineFormatter("%(asctime)s %(levelname)s %(message)s"),
    "json": JsonFormatter,
    "journald": JournalFormatter,
}


def find_priority(level: int) -> int:
    """Syslog's priority of one of logging's levels."""
    for lowest, priority in _PRIORITIES:
        if level >= lowest:
            return priority
    return 6 if level >= logging.INFO else 7


def start_log(form: str, level: str, stream: TextIO | None = None) -> None:
    """Have this process log in one of FORMATS, from one of LEVELS on. stream: standard error."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(FORMATS[form]())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.WARNING)
