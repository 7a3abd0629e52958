"""Section names as globs: fnmatch(3) of glibc in the C locale with FNM_CASEFOLD.

`*`, `?`, `\\x`, `[a-z]`, `[!x]`, `[^x]`, `[[:alpha:]]`, `[[=a=]]`, `[[.a.]]`
on bytes. No special treatment of `/` or a leading dot. A bracket that is never
closed is an ordinary `[`; a pattern that ends in a lone backslash matches nothing.
"""

from __future__ import annotations

import string

# A token is the set of (folded) bytes that it accepts; None stands for `*`.
Token = frozenset[int] | None

_ANY = frozenset(range(256))
_FOLD = bytes(range(256)).lower()
_UNFOLDED = [frozenset(byte for byte in _ANY if _FOLD[byte] == folded) for folded in range(256)]
_CLASSES = {
    "alpha": string.ascii_letters,
    "digit": string.digits,
    "alnum": string.ascii_letters + string.digits,
    "upper": string.ascii_uppercase,
    "lower": string.ascii_lowercase,
    "space": " \t\n\v\f\r",
    "blank": " \t",
    "punct": string.punctuation,
    "print": string.ascii_letters + string.digits + string.punctuation + " ",
    "graph": string.ascii_letters + string.digits + string.punctuation,
    "cntrl": "".join(map(chr, range(32))) + "\x7f",
    "xdigit": string.hexdigits,
}
_MAX_ELEMENTS = 4096
"""Elements of a bracket; with more the pattern matches nothing."""
_META = frozenset(b"*?[\\")


class _IllFormedError(Exception):
    """The pattern can match nothing."""


def is_glob(name: bytes) -> bool:
    """Whether `name` can match anything but itself."""
    return any(byte in _META for byte in name[:4096]) or len(name) > 4096


def match_glob(pattern: bytes, text: bytes) -> bool:
    """Whether the whole of `text` matches `pattern`, letters of ASCII folded.

    The work is bounded by len(text), whatever the pattern. Unlike glibc's, a
    bracket with more than 4096 elements matches nothing.
    """
    try:
        tokens = _parse(pattern, len(text))
    except _IllFormedError:
        return False
    return tokens is not None and _match(tokens, text)


def parse_glob(pattern: bytes) -> list[Token] | None:
    """What a pattern matches, a set of bytes (both cases of letters) or None for `*` each.

    None for a pattern that can match nothing.
    """
    try:
        return _parse(pattern, len(pattern))
    except _IllFormedError:
        return None


def _match(tokens: list[Token], text: bytes) -> bool:
    """Greedy matching: only the last `*` ever needs to give bytes back."""
    at, position, star, resume = 0, 0, -1, 0
    while position < len(text):
        token = tokens[at] if at < len(tokens) else frozenset()
        if token is None:
            star, resume = at, position
            at += 1
        elif text[position] in token:
            at += 1
            position += 1
        elif star >= 0:
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return all(token is None for token in tokens[at:])


def _parse(pattern: bytes, length: int) -> list[Token] | None:
    """The pattern as tokens; None when it needs more than `length` bytes of text."""
    tokens: list[Token] = []
    needed, position = 0, 0
    while position < len(pattern):
        byte = pattern[position]
        position += 1
        if byte == 0x2A:  # *
            if not tokens or tokens[-1] is not None:
                tokens.append(None)
            continue
        if byte == 0x3F:  # ?
            tokens.append(_ANY)
        elif byte == 0x5C:  # backslash
            if position == len(pattern):
                raise _IllFormedError
            tokens.append(_both_cases(pattern[position]))
            position += 1
        elif byte == 0x5B:  # [
            bracket = _parse_bracket(pattern, position)
            if bracket is None:
                tokens.append(_both_cases(byte))
            else:
                tokens.append(bracket[0])
                position = bracket[1]
        else:
            tokens.append(_both_cases(byte))
        needed += 1
        if needed > length:
            return None
    return tokens


def _both_cases(byte: int) -> frozenset[int]:
    one = bytes((byte,))
    return frozenset((byte, one.lower()[0], one.upper()[0]))


class _Bracket:
    """What a bracket accepts so far, as a set of unfolded bytes."""

    def __init__(self) -> None:
        self.accepted: set[int] = set()

    def add_range(self, first: int, last: int) -> None:
        self.accepted.update(*_UNFOLDED[first : last + 1])

    def add_class(self, name: str) -> None:
        members = _CLASSES.get(name)
        if members is None:
            raise _IllFormedError
        self.accepted.update(members.encode())


def _parse_bracket(pattern: bytes, position: int) -> tuple[frozenset[int], int] | None:
    """The bracket whose text begins at `position`, and where it ends; None if it never does."""
    end = len(pattern)
    if pattern.find(b"]", position) < 0:
        return None
    negated = pattern[position : position + 1] in (b"!", b"^")
    if negated:
        position += 1
    bracket = _Bracket()
    first = True
    for _ in range(_MAX_ELEMENTS):
        if position >= end:
            return None
        byte = pattern[position]
        position += 1
        if byte == 0x5D and not first:
            break
        first = False
        if byte == 0x5B and pattern[position : position + 1] == b":":
            name = _read_class(pattern, position + 1)
            if name is not None:
                bracket.add_class(name)
                position += len(name) + 3
                continue
        if byte == 0x5B and _is_equivalence(pattern, position):  # that byte, not folded
            bracket.accepted.add(pattern[position + 1])
            position += 4
            continue
        low, position, symbol = _read_element(pattern, position - 1)
        if pattern[position : position + 1] == b"-" and (
            pattern[position + 1 : position + 2] not in (b"", b"]")
        ):
            high, position, _ = _read_element(pattern, position + 1)
            bracket.add_range(low, high)
        elif symbol:
            bracket.accepted.add(low)
        else:
            bracket.add_range(low, low)
    else:
        raise _IllFormedError
    accepted = frozenset(bracket.accepted)
    return (_ANY - accepted if negated else accepted), position


def _is_equivalence(pattern: bytes, position: int) -> bool:
    """Whether `=x=]` stands at `position`, behind a [."""
    return (
        pattern[position : position + 1] == b"=" and pattern[position + 2 : position + 4] == b"=]"
    )


def _read_class(pattern: bytes, position: int) -> str | None:
    """The name in `[:name:]`, whose name begins at `position`; None if it is no class."""
    close = pattern.find(b":]", position, position + 258)
    if close < 0:
        return None
    name = pattern[position:close]
    return name.decode() if all(0x61 <= byte < 0x7A for byte in name) else None


def _read_element(pattern: bytes, position: int) -> tuple[int, int, bool]:
    """One byte of a bracket (plain and `\\x` folded, `[.x.]` not), what follows, `[.x.]`?"""
    byte = pattern[position]
    if byte == 0x5C:
        if position + 1 >= len(pattern):
            raise _IllFormedError
        return _FOLD[pattern[position + 1]], position + 2, False
    if byte == 0x5B and pattern[position + 1 : position + 2] == b".":
        if pattern[position + 3 : position + 5] != b".]":
            raise _IllFormedError
        return pattern[position + 2], position + 5, True
    return _FOLD[byte], position + 1, False
