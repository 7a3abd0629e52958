"""What can be wrong with a text, as data: one Problem, its severity and its place."""

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """What LTSP 5's own resolver does when it meets the problem."""

    STOPS = "stops"  # reports a syntax error and silently loses all that follows
    CRASHES = "crashes"  # dies: the node has no configuration at all
    DIFFERS = "differs"  # goes on with something else than the author meant
    FINE = "fine"  # nothing; the remark is ours


@dataclass
class Source:
    """One file's bytes, with places in them."""

    path: str
    data: bytes
    _starts: list[int] = field(default_factory=list, repr=False)

    def locate(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of the byte at `offset`."""
        starts = self._line_starts()
        line = bisect_right(starts, offset)
        before = self.data[starts[line - 1] : offset]
        return line, len(before.decode("utf-8", "replace")) + 1

    def excerpt(self, line: int) -> str:
        """The text of line `line`, cut to 120 characters."""
        starts = self._line_starts()
        begin = starts[line - 1]
        end = starts[line] if line < len(starts) else len(self.data)
        text = self.data[begin : min(end, begin + 600)].rstrip(b"\n").decode("utf-8", "replace")
        return text if len(text) <= 120 else text[:119] + "…"

    def _line_starts(self) -> list[int]:
        if not self._starts:
            starts = [0]
            find, position = self.data.find, self.data.find(b"\n")
            while position >= 0:
                starts.append(position + 1)
                position = find(b"\n", position + 1)
            self._starts = starts
        return self._starts


@dataclass(frozen=True)
class Problem:
    """One thing to tell: `code` names it for ever, `message` and `hint` are for people."""

    code: str
    severity: str  # "error" or "warning"
    outcome: Outcome
    path: str
    line: int
    column: int
    message: str
    hint: str
    excerpt: str = ""


class Finding(NamedTuple):
    """What a check of the linter gives; `offset` is in the document's buffer."""

    severity: str
    code: str
    offset: int
    message: str
    hint: str
