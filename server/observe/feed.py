"""The last events of the services, for people who watch: a bounded ring, and its followers.

An entry is a JSON object: `id` (counts from 1 in each server), `time`, `node`
(the key of its node, or "" where it is of none), `ip`, `source`, `phase` (one of
nodes.PHASES, or null), `what` (the service's own word) and `detail`.
"""

import json
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from server.events import Event
from server.nodes.effects import bound_detail
from server.nodes.node import Node
from server.nodes.phases import phase_of

RING = 2000
"""Events that are kept for a page that begins to watch."""
MOST_KEYS = 100
"""Changed nodes that are named in one message."""
Push = Callable[[bytes], None]


@dataclass(frozen=True)
class Entry:
    """One event. source: of the event. data: its JSON, one line without an end."""

    number: int
    key: str
    source: str
    data: bytes

    def message(self) -> bytes:
        """As a server-sent event (HTML Living Standard, section 9.2)."""
        return b"id: %d\ndata: %s\n\n" % (self.number, self.data)


class _Followers:
    """The functions that get messages as they come, each those of one node and source, or all."""

    def __init__(self) -> None:
        self._pushes: dict[int, tuple[str, str, Push]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._pushes)

    def add(self, push: Push, node: str, source: str = "") -> Callable[[], None]:
        """node: its key, source: an event's; "" for all. The result ends it."""
        self._next += 1
        number = self._next
        self._pushes[number] = (node, source, push)

        def leave() -> None:
            self._pushes.pop(number, None)

        return leave

    def push(self, message: bytes, keys: Collection[str] | None, source: str = "") -> None:
        """Give a message about these nodes (None: about any) to the followers that want it."""
        for node, wanted, push in list(self._pushes.values()):
            if wanted in ("", source) and (node == "" or keys is None or node in keys):
                push(message)


class Feed:
    """The last `limit` events and those who follow; belongs to the loop's thread."""

    def __init__(self, limit: int = RING) -> None:
        self._ring: deque[Entry] = deque(maxlen=limit)
        self._number = 0
        self._followers = _Followers()

    def record(self, event: Event, node: Node | None) -> None:
        """Add an event, and send it to the followers."""
        self._number += 1
        key = node.key if node is not None else ""
        fields: dict[str, Any] = {
            "id": self._number,
            "time": round(event.time, 3),
            "node": key,
            "ip": node.ip if node is not None else "",
            "source": event.source[:20],
            "phase": phase_of(event),
            "what": event.phase[:20],
            "detail": bound_detail(event.detail),
        }
        data = json.dumps(fields, separators=(",", ":")).encode()
        entry = Entry(self._number, key, fields["source"], data)
        self._ring.append(entry)
        if not self._followers:
            return
        self._followers.push(entry.message(), {key}, entry.source)

    def last(
        self, *, since: int = 0, node: str = "", source: str = "", limit: int = RING
    ) -> list[Entry]:
        """Entries, oldest first: those after number `since`, of one node, of one source, at most
        the last `limit`.

        A `since` from the future is that of a server before this one: it gets all.
        """
        if since > self._number:
            since = 0
        newest = islice(self._match(since, node, source), limit)
        return list(reversed(list(newest)))

    def _match(self, since: int, node: str, source: str) -> Iterator[Entry]:
        """Entries after `since` that fit, the newest first."""
        for entry in reversed(self._ring):
            if entry.number <= since:
                return
            if node in ("", entry.key) and source in ("", entry.source):
                yield entry

    def follow(self, push: Push, node: str = "", source: str = "") -> Callable[[], None]:
        """Give each further entry (of one node or source, if named) to `push`; the result ends
        it."""
        return self._followers.add(push, node, source)

    def __len__(self) -> int:
        return len(self._ring)


class Changes:
    """Which nodes have changed, collected into one message a turn, for pages that then ask for the
    list again."""

    def __init__(self) -> None:
        self._changed: dict[str, None] = {}
        self._followers = _Followers()

    def note(self, key: str) -> None:
        """A node has changed; "" stands for the server itself."""
        if self._followers and len(self._changed) <= MOST_KEYS:
            self._changed[key] = None

    def flush(self) -> None:
        """Send the followers `{"nodes": [key...]}`, or `{"many": true}`."""
        keys = list(self._changed)
        self._changed.clear()
        if not keys:
            return
        many = len(keys) > MOST_KEYS
        fields: dict[str, Any] = {"many": True} if many else {"nodes": keys}
        message = b"data: %s\n\n" % json.dumps(fields, separators=(",", ":")).encode()
        self._followers.push(message, None if many else keys)

    def follow(self, push: Push, node: str = "") -> Callable[[], None]:
        """Give each further message (that names one node, if one is named) to `push`; the
        result ends it."""
        return self._followers.add(push, node)
