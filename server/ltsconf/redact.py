"""Secrets kept out of messages: an error may quote the line or the value that it is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MASK = "(secret)"
PIECE = 6
"""Characters in a row that a message must share with a secret to be masked.

A whole secret that is shorter is masked too, if it has 3 characters or more.
"""
SHORTEST = 3


def redact(text: str, secrets: Mapping[str, Any]) -> str:
    """`text` without any part of a secret, not even a piece of one that was cut off."""
    covered = [False] * len(text)
    for secret in list_values(secrets):
        length = min(PIECE, len(secret))
        if length < SHORTEST:
            continue
        for start in range(len(text) - length + 1):
            if text[start : start + length] in secret:
                covered[start : start + length] = [True] * length
    parts: list[str] = []
    for char, hidden in zip(text, covered, strict=True):
        if not hidden:
            parts.append(char)
        elif not parts or parts[-1] != MASK:
            parts.append(MASK)
    return "".join(parts)


def list_lines(secrets: Mapping[str, Any]) -> set[str]:
    """The lines of secrets: a file may hold several, or end with a line end."""
    return {line for value in list_values(secrets) for line in value.split("\n")}


def list_values(secrets: Mapping[str, Any]) -> Iterator[str]:
    """The texts of secrets, those of subdirectories too."""
    for value in secrets.values():
        if isinstance(value, Mapping):
            yield from list_values(value)
        else:
            yield str(value)
