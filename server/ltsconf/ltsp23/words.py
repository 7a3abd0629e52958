"""The words of one command of POSIX shell (XCU 2.2, 2.3), as far as they are plain text."""

import re
from dataclasses import dataclass
from typing import Final

_OPERATORS: Final = ";|&<>()"
_EXPANSION: Final = re.compile(r"\$(?:\{[^}]*\}?|\([^)]*\)*|[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-])")

_BACKQUOTES: Final = re.compile(r"`[^`]*`?")


class CodeError(Exception):
    """This is more than words: a list of commands, a redirection."""


class OpenError(Exception):
    """A quote or a backslash at the end goes on in the next line."""


@dataclass(frozen=True)
class Word:
    """One word, quotes removed. computed: the first thing in it that the shell would put another
    text in place of, or ""."""

    text: str
    computed: str = ""


def split_words(line: str) -> list[Word]:
    """The words of a line, or of several that a quote holds together, without its comment."""
    words: list[Word] = []
    at = 0
    while at < len(line):
        if line[at] in " \t\n":
            at += 1
        elif line[at] == "#":
            end = line.find("\n", at)
            at = len(line) if end < 0 else end
        else:
            word, at = _read_word(line, at)
            words.append(word)
    return words


def _read_word(line: str, at: int) -> tuple[Word, int]:
    parts: list[str] = []
    computed = ""
    while at < len(line) and line[at] not in " \t\n":
        char = line[at]
        if char in _OPERATORS:
            raise CodeError
        if char == "'":
            end = line.find("'", at + 1)
            if end < 0:
                raise OpenError
            parts.append(line[at + 1 : end])
            at = end + 1
        elif char == '"':
            text, found, at = _read_quoted(line, at + 1)
            parts.append(text)
            computed = computed or found
        elif char == "\\":
            if at + 1 == len(line):
                raise OpenError
            parts.append(line[at + 1].replace("\n", ""))
            at += 2
        elif expansion := _find_expansion(line, at):
            computed = computed or expansion
            at += len(expansion)
        elif char == "~" and (not parts or parts[-1].endswith(("=", ":"))):
            computed = computed or "~"
            at += 1
        else:
            parts.append(char)
            at += 1
    return Word("".join(parts), computed), at


def _read_quoted(line: str, at: int) -> tuple[str, str, int]:
    """Up to the closing double quote: the text, what is computed in it, the place behind it."""
    parts: list[str] = []
    computed = ""
    while at < len(line):
        char = line[at]
        if char == '"':
            return "".join(parts), computed, at + 1
        if char == "\\" and line[at + 1 : at + 2] in ("$", "`", '"', "\\", "\n"):
            parts.append(line[at + 1].replace("\n", ""))
            at += 2
        elif expansion := _find_expansion(line, at):
            computed = computed or expansion
            at += len(expansion)
        else:
            parts.append(char)
            at += 1
    raise OpenError


def _find_expansion(line: str, at: int) -> str:
    """What begins here and is computed: `$NAME`, `${…}`, `$(…)`, a backquote; else ""."""
    found = (_BACKQUOTES if line[at] == "`" else _EXPANSION).match(line, at)
    return found[0] if found else ""
