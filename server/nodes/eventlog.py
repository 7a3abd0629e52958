"""The last events of one node: a ring that keeps all but the newest packed.

Ten thousand nodes have 640,000 events: as dicts over a gigabyte, as bytes some 150 MB.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

Entry = dict[str, Any]


class EventLog:
    """At most `limit` entries (JSON objects, a time each), oldest first.

    What is read is a copy, but for `last`, which may be changed in place.
    """

    __slots__ = ("_packed", "last")

    def __init__(self, limit: int, entries: Iterable[Mapping[str, Any]] = ()) -> None:
        self._packed: deque[bytes] = deque(maxlen=max(0, limit - 1))
        self.last: Entry | None = None
        for entry in entries:
            self.append(dict(entry))

    def append(self, entry: Entry) -> None:
        """Add an entry; where the ring is full, the oldest goes."""
        if self.last is not None:
            self._packed.append(json.dumps(self.last, separators=(",", ":")).encode())
        self.last = entry

    def replace(self, entries: Iterable[Entry]) -> None:
        """Hold these in the place of all that it holds."""
        self._packed.clear()
        self.last = None
        for entry in entries:
            self.append(entry)

    def replace_last(self, entry: Entry) -> None:
        """Put an entry into the place of the newest."""
        self.last = entry

    def __len__(self) -> int:
        return len(self._packed) + (self.last is not None)

    def __iter__(self) -> Iterator[Entry]:
        return chain(map(json.loads, self._packed), self._newest())

    def __reversed__(self) -> Iterator[Entry]:
        return chain(self._newest(), map(json.loads, reversed(self._packed)))

    def __getitem__(self, index: int) -> Entry:
        return list(self)[index]

    def _newest(self) -> Iterator[Entry]:
        if self.last is not None:
            yield self.last


def is_begun(last: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether `last` is the beginning of the transfer that `entry` is the end of."""
    keys = ("source", "phase", "what")
    begun, ended = last["detail"], entry["detail"]
    return (
        begun.get("status") == "start"
        and ended.get("status") not in (None, "start")
        and _file_of(begun) is not None
        and _file_of(begun) == _file_of(ended)
        and all(last.get(key) == entry.get(key) for key in keys)
    )


def _file_of(detail: Mapping[str, Any]) -> Any:
    return detail.get("path", detail.get("file"))


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two events differ in time and amounts only."""

    def essence(entry: Mapping[str, Any]) -> tuple[Any, ...]:
        detail = entry["detail"]
        words = sorted((key, value) for key, value in detail.items() if isinstance(value, str))
        return (entry["source"], entry["phase"], entry.get("what"), words)

    return essence(one) == essence(other)
