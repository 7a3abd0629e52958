"""What of lts.conf a node booted with, so that the page can say what has changed since.

Kept are prints of the values, made with a key of this server's: no value, and no secret, can
be told from them.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from imagebuild.wholefile import read_whole, write_whole

GIVEN: Final = "given"
"""The boot's fact that holds them, as `KEY=print` words."""
KEY_FILE: Final = "given.key"
MOST: Final = 200
"""Variables of a node that are kept."""
_KEY_BYTES: Final = 32
_DIGITS: Final = 12
"""Hex digits of a print: 48 bits, so that two values of a variable do not share one by chance."""


def load_key(state: Path | None) -> bytes:
    """The key of the server with this state, made where there is none.

    Without a state, or where it cannot be kept, one for this run. Never raises.
    """
    if state is not None:
        try:
            key = bytes.fromhex(read_whole(state / KEY_FILE, 4 * _KEY_BYTES).decode())
            if len(key) == _KEY_BYTES:
                return key
        except (OSError, ValueError):
            pass
    key = os.urandom(_KEY_BYTES)
    if state is not None:
        try:
            write_whole(state / KEY_FILE, f"{key.hex()}\n".encode())
        except OSError:
            pass  # timelines are kept in the same place, and report the error
    return key


class Printer:
    """Makes prints. key: as `load_key` gives it."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def print_values(self, values: Mapping[str, str]) -> str:
        """The values as `KEY=print` words, the first MOST of them by name."""
        return " ".join(f"{key}={self._print(values[key])}" for key in sorted(values)[:MOST])

    def _print(self, value: str) -> str:
        data = value.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, key=self._key, digest_size=_DIGITS // 2).hexdigest()


def list_changes(before: str, now: str) -> list[str]:
    """The names of variables that differ, in words: `A`, `B (new)`, `C (gone)`."""
    old, new = _read(before), _read(now)
    words = []
    for key in sorted(old.keys() | new.keys()):
        if key not in old:
            words.append(f"{key} (new)")
        elif key not in new:
            words.append(f"{key} (gone)")
        elif old[key] != new[key]:
            words.append(key)
    return words


def _read(text: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in text.split())
    return {key: value for key, _, value in pairs}
