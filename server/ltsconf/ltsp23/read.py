"""An ltsp.conf as its sections and lines, in the way that LTSP 23 turns it into shell.

LTSP goes by lines: a section's head, an INCLUDE, an assignment, and all else is shell as it
stands (ltsp/common/ltsp/55-config.sh, ini2sh).
"""

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from server.ltsconf.ltsp23.words import CodeError, OpenError, split_words

UNNAMED: Final = "unnamed"
"""What LTSP calls the lines above the first section."""
_HEAD: Final = re.compile(r" *\[[^\]]*\]")
_STRANGE: Final = re.compile(r"[^-*./:?@_|0-9a-z]")
_INCLUDE: Final = re.compile(r"include *= *", re.IGNORECASE)
_SETTING: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_SPACED: Final = re.compile(r"([A-Za-z0-9_]*) *= *")


@dataclass(frozen=True)
class Setting:
    """NAME=value. computed: what of the value the shell makes at boot, or ""."""

    line: int
    name: str
    value: str
    computed: str = ""


@dataclass(frozen=True)
class Include:
    """INCLUDE=name."""

    line: int
    name: str


@dataclass(frozen=True)
class Code:
    """A line of shell, or some that a quote holds together."""

    line: int
    text: str


@dataclass(frozen=True)
class Comment:
    """A line with nothing but a comment."""

    line: int
    text: str


Part = Setting | Include | Code | Comment


@dataclass
class Section:
    """name: in lower case, perhaps a pattern, with | between several. line: its head's."""

    line: int
    name: str
    parts: list[Part] = field(default_factory=list)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Each of the patterns that it stands for."""
        return tuple(name for name in self.name.split("|") if name)

    def matches(self, word: str) -> bool:
        """Whether the shell's `case` would take it for `word`."""
        return any(fnmatchcase(word, pattern) for pattern in self.patterns)


def read_sections(text: str) -> list[Section]:
    """All sections in order, that of the lines above the first one included."""
    sections = [Section(0, UNNAMED)]
    lines = text.replace("\0", "").replace("\r\n", "\n").split("\n")
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at]
        at += 1
        if _HEAD.match(line):
            sections.append(Section(number, _clean(line)))
        elif found := _INCLUDE.match(line):
            sections[-1].parts.append(Include(number, _clean(line[found.end() :])))
        elif line.strip().startswith("#"):
            sections[-1].parts.append(Comment(number, line.strip()))
        elif line.strip():
            parts, taken = _read_command(number, lines[at - 1 :])
            sections[-1].parts += parts
            at += taken - 1
    return sections


def _clean(line: str) -> str:
    """A name as LTSP reads it: lower case, no comment, nothing that no name has."""
    return _STRANGE.sub("", line.lower().partition("#")[0])


def _read_command(number: int, lines: list[str]) -> tuple[list[Part], int]:
    """What the first line is, together with those that its quotes reach to, and how many."""
    whole = _SPACED.sub(r"\1=", lines[0], count=1) if _SPACED.match(lines[0]) else lines[0]
    for taken in range(1, len(lines) + 1):
        if taken > 1:
            if _HEAD.match(lines[taken - 1]) or _INCLUDE.match(lines[taken - 1]):
                break
            whole += "\n" + lines[taken - 1]
        try:
            words = split_words(whole)
        except OpenError:
            continue
        except CodeError:
            break
        names = [_SETTING.match(word.text) for word in words]
        if not all(names):
            return [Code(number, whole)], taken
        return [
            Setting(number, name[1], word.text[name.end() :], word.computed)
            for name, word in zip(names, words, strict=True)
            if name is not None
        ], taken
    return [Code(number, lines[0])], 1
