"""The order of numbered keys: `sort -V` as LTSP 5 ran it, over whole KEY=value lines.

It is the version sort of GNU coreutils 8 in the C locale (the one of coreutils
9 differs in file suffixes): runs of digits compare as numbers, letters before
all other characters, `~` before everything, and what looks like a file suffix
(`.tar.gz`) at the end of a line counts only where the lines are equal without.
Lines that are equal so far compare as bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cmp_to_key

from server.ltsconf.conf import encode

_DIGITS = b"0123456789"
_ALPHA = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ALNUM = _ALPHA | frozenset(_DIGITS)
_TILDE = 0x7E
_DOT = 0x2E

# Alternately the weights of a run of other characters and a number (length, digits).
_Key = list[tuple[int, ...] | tuple[int, bytes]]


def sort_numbered(values: Mapping[str, str], prefix: str) -> list[tuple[str, str]]:
    """The (key, value) pairs whose key begins with `prefix`, as LTSP 5 runs them."""
    return sort_lines((key, value) for key, value in values.items() if key.startswith(prefix))


def sort_lines(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(key, value) pairs in the order of `sort -V` over their KEY=value lines."""
    lines = {encode(f"{key}={value}"): (key, value) for key, value in pairs}
    return [lines[line] for line in sort_versions(lines)]


def sort_versions(lines: Iterable[bytes]) -> list[bytes]:
    """The lines as `sort -V` orders them."""
    compared = sorted((_Line(line) for line in lines), key=cmp_to_key(_compare))
    return [line.text for line in compared]


class _Line:
    """A line with what comparing needs, made once."""

    __slots__ = ("_key", "_stem_key", "hidden", "stem", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.hidden = text.startswith(b".")
        bare = text[1:] if self.hidden else text
        self.stem = bare[: _find_suffix(bare)]
        self._stem_key: _Key | None = None
        self._key: _Key | None = None

    def stem_key(self) -> _Key:
        if self._stem_key is None:
            self._stem_key = _make_key(self.stem)
        return self._stem_key

    def key(self) -> _Key:
        if self._key is None:
            self._key = _make_key(self.text[1:] if self.hidden else self.text)
        return self._key


def _compare(one: _Line, other: _Line) -> int:
    if one.text == other.text:
        return 0
    bytewise = -1 if one.text < other.text else 1
    for special in (b"", b".", b".."):
        if one.text == special:
            return -1
        if other.text == special:
            return 1
    if one.hidden != other.hidden:
        return -1 if one.hidden else 1
    if one.stem == other.stem:
        left, right = one.key(), other.key()
    else:
        left, right = one.stem_key(), other.stem_key()
    if left == right:
        return bytewise
    return -1 if left < right else 1


def _find_suffix(text: bytes) -> int:
    """Where the suffix (\\.[A-Za-z~][A-Za-z0-9~]*)* at the end begins."""
    found, want_letter = -1, False
    for position, byte in enumerate(text):
        if want_letter:
            want_letter = False
            if byte not in _ALPHA and byte != _TILDE:
                found = -1
        elif byte == _DOT:
            want_letter = True
            if found < 0:
                found = position
        elif byte not in _ALNUM and byte != _TILDE:
            found = -1
    return found if found >= 0 else len(text)


def _make_key(text: bytes) -> _Key:
    """A key whose natural order is that of Debian's and coreutils' version comparison."""
    key: _Key = []
    position, end = 0, len(text)
    while True:
        weights = []
        while position < end and text[position] not in _DIGITS:
            weights.append(_weigh(text[position]))
            position += 1
        weights.append(0)  # the end and a digit weigh the same
        key.append(tuple(weights))
        begin = position
        while position < end and text[position] in _DIGITS:
            position += 1
        digits = text[begin:position].lstrip(b"0")
        key.append((len(digits), digits))
        if position == end:
            key.append((0,))
            return key


def _weigh(byte: int) -> int:
    if byte in _ALPHA:
        return byte
    return -1 if byte == _TILDE else byte + 256
