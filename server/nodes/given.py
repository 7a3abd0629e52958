"""What of lts.conf a node booted with, so that the page can say what has changed since.

A boot keeps prints of its values, made with a key of this server's: no value, and no secret, can
be told from them. What the values were stands, masked, in one table for all nodes, which have
most of them in common: so many bytes and no more, and what was given longest ago goes first.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuild.wholefile import read_whole, write_whole

GIVEN: Final = "given"
"""The boot's fact that holds them, as `KEY=print` words."""
KEY_FILE: Final = "given.key"
VALUES_FILE: Final = "given.json"
MOST: Final = 200
"""Variables of a node that are kept."""
VALUE_MAX: Final = 400
"""Characters of a value that are kept."""
TABLE_MAX: Final = 512 * 1024
"""Bytes of all values that are kept."""
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
    """Makes prints. key: as `load_key` gives it. mark: a word that names the key, to stand before
    them: prints of two keys cannot be compared."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.mark = f"={hashlib.blake2b(b'mark', key=key, digest_size=4).hexdigest()}"

    def print_values(self, values: Mapping[str, str]) -> str:
        """The values as `KEY=print` words, the first MOST of them by name."""
        return " ".join(f"{key}={self._print(values[key])}" for key in sorted(values)[:MOST])

    def _print(self, value: str) -> str:
        data = value.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, key=self._key, digest_size=_DIGITS // 2).hexdigest()


class GivenValues:
    """The values that nodes were given, by name and print. Belongs to the loop's thread.

    mask: (name, value) -> as people may read it. state: where they are kept over a restart, or
    None. has_secrets: whether templates have secrets to fill in. What a template makes of one
    (`| b64encode`) no mask recognises, and secrets are on no disk: from then on nothing is
    written, and what the values were is known until the server ends.
    """

    def __init__(
        self,
        mask: Callable[[str, str], str],
        state: Path | None = None,
        has_secrets: Callable[[], bool] = lambda: False,
    ) -> None:
        self._mask = mask
        self._has_secrets = has_secrets
        self._file = state / VALUES_FILE if state is not None else None
        # `KEY=print` to the masked text, what was given last at the end.
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._bytes = 0
        self._is_dirty = False
        self._load()

    def keep(self, prints: str, values: Mapping[str, str]) -> None:
        """A node gets values, with the prints `prints`; those that are known cost nothing."""
        if self._has_secrets():
            self._file = None
        for word in prints.split():
            if word in self._texts:
                self._texts.move_to_end(word)
                continue
            name = word.partition("=")[0]
            text = values[name].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            self._put(word, cut_value(self._mask(name, text)))
            self._is_dirty = True

    def find(self, name: str, value_print: str) -> str | None:
        """The masked value, or None where it is not kept (any more)."""
        text = self._texts.get(f"{name}={value_print}")
        return None if text is None else self._mask(name, text)  # by what is secret now, too

    def save(self) -> None:
        """Write them down, if there are new ones. Raises OSError."""
        if self._is_dirty and self._file is not None:
            text = json.dumps({"format": 1, "values": self._texts}, separators=(",", ":"))
            write_whole(self._file, text.encode())
        self._is_dirty = False

    def _put(self, word: str, text: str) -> None:
        self._texts[word] = text
        self._bytes += _weigh(word, text)
        while self._bytes > TABLE_MAX:
            self._bytes -= _weigh(*self._texts.popitem(last=False))

    def _load(self) -> None:
        """What the server before this one kept; a damaged file costs old values only."""
        if self._file is None:
            return
        try:
            values = json.loads(read_whole(self._file, 8 * TABLE_MAX))["values"]
            for word, text in values.items():
                if isinstance(text, str):
                    self._put(word, cut_value(text))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass


def cut_value(text: str) -> str:
    """A value's first VALUE_MAX characters, and whether there were more."""
    return text if len(text) <= VALUE_MAX else f"{text[:VALUE_MAX]}…"


def _weigh(word: str, text: str) -> int:
    return len(word) + len(text.encode("utf-8", "replace"))


@dataclass(frozen=True)
class Change:
    """A variable that a next boot gets otherwise. before: its print at this boot, "" where it was
    not given; now: whether it is given now."""

    name: str
    before: str
    now: bool

    @property
    def words(self) -> str:
        """`A`, `B (new)`, `C (gone)`."""
        if not self.before:
            return f"{self.name} (new)"
        return self.name if self.now else f"{self.name} (gone)"


def find_changes(before: str, now: str) -> list[Change]:
    """The variables that differ between two texts of prints, in order; none, where these are of
    different keys (the first was lost)."""
    old, new = _read(before), _read(now)
    marks = {old.pop("", None), new.pop("", None)} - {None}
    if len(marks) > 1:
        return []
    return [
        Change(key, old.get(key, ""), key in new)
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def list_changes(before: str, now: str) -> list[str]:
    """The names of variables that differ, in words: `A`, `B (new)`, `C (gone)`."""
    return [change.words for change in find_changes(before, now)]


def _read(text: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in text.split())
    return {key: value for key, _, value in pairs}
