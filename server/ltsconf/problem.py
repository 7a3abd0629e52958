"""What can be wrong with a text, as data: one Problem, its severity and its place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """What LTSP 5's own resolver does when it meets the problem."""

    STOPS = "stops"  # reports a syntax error and silently loses all that follows
    CRASHES = "crashes"  # dies: the node has no configuration at all
    DIFFERS = "differs"  # goes on with something else than the author meant
    FINE = "fine"  # nothing; the remark is ours


@dataclass(frozen=True)
class Origin:
    """The file that a text was made from: a template that was rendered, a manifest.

    lines: for each line of the text, the file's (from 1). data: the file's bytes.
    """

    lines: Sequence[int]
    data: bytes

    def find_line(self, line: int) -> int:
        """The file's line of the text's line (both from 1); 0 where there is none."""
        if not self.lines:
            return 0
        return self.lines[min(max(line, 1), len(self.lines)) - 1]

    def through(self, outer: Origin | None) -> Origin:
        """The same for a file that was made from a file itself."""
        if outer is None:
            return self
        return Origin([outer.find_line(line) for line in self.lines], outer.data)


@dataclass
class Source:
    """One file's bytes, with places in them.

    origin: where they came from another file, which is the one that people can open;
    lines and columns are that one's then.
    """

    path: str
    data: bytes
    origin: Origin | None = None
    _starts: list[int] = field(default_factory=list, repr=False)
    _opened: Source | None = field(default=None, repr=False)

    def locate(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of the byte at `offset`."""
        starts = self._line_starts()
        line = bisect_right(starts, offset)
        before = self.data[starts[line - 1] : offset]
        column = len(before.decode("utf-8", "replace")) + 1
        if self.origin is None:
            return line, column
        there = self.origin.find_line(line)
        return there, self._find_column(line, column, there)

    def _find_column(self, line: int, column: int, there: int) -> int:
        """The column in the file's line: where the two lines part, if they do before."""
        ours = self._line(self.data, self._line_starts(), line).decode("utf-8", "replace")
        opened = self._open()
        theirs = opened._line(opened.data, opened._line_starts(), there).decode("utf-8", "replace")
        indent = len(theirs) - len(theirs.lstrip(" "))
        for shift in (0, indent):
            if theirs[shift:] == ours:
                return column + shift
        for shift in (0, indent):
            same = _count_same(theirs[shift:], ours)
            if same:
                return min(column, same + 1) + shift
        return 1

    def excerpt(self, line: int) -> str:
        """The text of line `line` (of the origin, where there is one), cut to 120 characters."""
        if self.origin is not None:
            return self._open().excerpt(line).lstrip(" ")
        text = self._line(self.data, self._line_starts(), line).decode("utf-8", "replace")
        return text if len(text) <= 120 else text[:119] + "…"

    def _open(self) -> Source:
        if self._opened is None:
            assert self.origin is not None
            self._opened = Source(self.path, self.origin.data)
        return self._opened

    @staticmethod
    def _line(data: bytes, starts: list[int], line: int) -> bytes:
        if not 1 <= line <= len(starts):
            return b""
        begin = starts[line - 1]
        end = starts[line] if line < len(starts) else len(data)
        return data[begin : min(end, begin + 600)].rstrip(b"\n")

    def _line_starts(self) -> list[int]:
        if not self._starts:
            starts = [0]
            find, position = self.data.find, self.data.find(b"\n")
            while position >= 0:
                starts.append(position + 1)
                position = find(b"\n", position + 1)
            self._starts = starts
        return self._starts


def _count_same(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


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
    """One result of a check of the linter; `offset` is in the document's buffer."""

    severity: str
    code: str
    offset: int
    message: str
    hint: str
