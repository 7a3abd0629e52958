"""A verdict, and how many of them become an exit code, lines for a person, JSON for a program."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final


class Level(StrEnum):
    """How bad a verdict is."""

    OK = "ok"
    SKIP = "skip"
    WARN = "warn"
    FAIL = "fail"


EXIT_CODES: Final = {Level.OK: 0, Level.SKIP: 0, Level.WARN: 1, Level.FAIL: 2}
"""Those of monitoring plug-ins; 3 is for a doctor that could not look at all."""
CANNOT_LOOK: Final = 3


@dataclass(frozen=True)
class Verdict:
    """One thing that was looked at.

    id: `<check>.ok`, or a key of findings.FINDINGS. subject: what was looked
    at (a file, a server, a firmware). words: what was seen. remedy: "" when
    nothing is to be done.
    """

    id: str
    level: Level
    subject: str
    words: str
    remedy: str = ""


def good(check: str, subject: str, words: str) -> Verdict:
    """What was looked at is as it should be."""
    return Verdict(f"{check}.ok", Level.OK, subject, words)


def worst(verdicts: Iterable[Verdict]) -> Level:
    """The worst level among them; OK when there are none."""
    order = list(Level)
    return max((verdict.level for verdict in verdicts), key=order.index, default=Level.OK)


def render_line(verdict: Verdict) -> str:
    """A verdict as text: one line, and one more with the remedy where there is one."""
    line = f"{verdict.level.upper():<4}  {verdict.id:<20} {verdict.subject}: {verdict.words}"
    return f"{line}\n      remedy: {verdict.remedy}" if verdict.remedy else line


def render_summary(verdicts: Sequence[Verdict]) -> str:
    """How many of each level, in words."""
    counts = [
        f"{sum(verdict.level is level for verdict in verdicts)} {level.upper()}" for level in Level
    ]
    return ", ".join(counts)


def as_data(verdicts: Sequence[Verdict], server: str, when: float) -> dict[str, Any]:
    """What `--output json` prints. when: seconds since the epoch."""
    level = worst(verdicts)
    return {
        "format": 1,
        "server": server,
        "time": round(when, 3),
        "level": str(level),
        "exit_code": EXIT_CODES[level],
        "verdicts": [{**asdict(verdict), "level": str(verdict.level)} for verdict in verdicts],
    }
