"""What rules look at: one node's present boot, the time, and what the farm is."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

from server.diagnosis.expectation import EXPECTATIONS, TRANSFER_SECONDS
from server.nodes.node import Boot, Node, Phase
from server.nodes.phases import ORDER

Entry = Mapping[str, Any]
"""One of Node.events: {time, source, phase, what, detail, count, until}. To be read sparingly."""


def _nobody_knows(key: str) -> float | None:
    return None


@dataclass(frozen=True)
class FarmFacts:
    """What rules know of the farm. Nothing in it is secret.

    address: of the server, "" where it differs from node to node. dhcp: "off",
    "proxy" or "full". images: digest -> bytes of its root file system. tokens:
    id of a bootstrap token (its first half) -> when it ends, seconds since the epoch.
    attached_at: a node's key -> when its root was last seen attached over NBD, or None
    where nobody knows.
    """

    address: str = ""
    tftp_port: int = 69
    http_port: int = 8080
    nbd_port: int = 10809
    dhcp: str = "off"
    single_port: bool = False
    images: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, float] = field(default_factory=dict)
    attached_at: Callable[[str], float | None] = _nobody_knows


class Case:
    """One node at one time, for the rules. node.boot is not None."""

    def __init__(self, node: Node, boot: Boot, now: float, farm: FarmFacts) -> None:
        self.node = node
        self.boot = boot
        self.now = now
        self.farm = farm
        self.last = max(boot.phases, key=ORDER.__getitem__)
        # The events of this boot, newest first: those that a rule has looked at, and the others,
        # which are still packed.
        self._read: list[Entry] = []
        self._unread = iter(reversed(node.events))

    @property
    def server(self) -> str:
        """The server in words."""
        return self.farm.address or "the server"

    @cached_property
    def heard(self) -> float:
        """When the last event of this boot was seen, in seconds since the epoch."""
        return max(phase.last for phase in self.boot.phases.values())

    @cached_property
    def quiet(self) -> float:
        """Seconds since the last event of this boot."""
        return max(0.0, self.now - self.heard)

    @cached_property
    def is_stalled(self) -> bool:
        """Whether the node has been silent for longer than its phase allows."""
        limit = EXPECTATIONS[self.last].seconds
        if limit is None or self.is_done:
            return False
        if self.has_open_transfer:
            limit = max(limit, TRANSFER_SECONDS)
        return self.quiet > limit

    @cached_property
    def is_done(self) -> bool:
        """Whether nothing has to follow: a machine whose RCFILE_* lines ended and that joins no
        cluster."""
        if self.last != "rcfile":
            return False
        phase = self.boot.phases["rcfile"]
        return phase.status == "ok" and phase.cause == "all_lines"

    @cached_property
    def has_open_transfer(self) -> bool:
        """Whether a file transfer has begun and not ended."""
        last = self.node.events.last
        return (
            last is not None
            and last["time"] >= self.boot.started
            and last["source"] in ("tftp", "http")
            and last["detail"].get("status") == "start"
        )

    def phase(self, name: str) -> Phase | None:
        """One phase of this boot."""
        return self.boot.phases.get(name)

    def error_in(self, name: str) -> str | None:
        """The words of the error that a phase stands in, or None."""
        phase = self.boot.phases.get(name)
        return phase.detail if phase is not None and phase.status == "error" else None

    def cause_in(self, name: str) -> str | None:
        """The cause of the error that a phase stands in, one of server.causes or "", or None."""
        phase = self.boot.phases.get(name)
        return phase.cause if phase is not None and phase.status == "error" else None

    def find(
        self, *, source: str = "", phase: str = "", status: str = "", what: str = ""
    ) -> Iterator[Entry]:
        """Events of this boot, newest first, as far as the timeline still has them."""
        for entry in self._entries():
            if (
                (not source or entry["source"] == source)
                and (not phase or entry["phase"] == phase)
                and (not what or entry.get("what") == what)
                and (not status or entry["detail"].get("status", "ok") == status)
            ):
                yield entry

    def _entries(self) -> Iterator[Entry]:
        for number in count():
            if number == len(self._read):
                entry = next(self._unread, None)
                if entry is None:
                    return
                self._read.append(entry)
            if self._read[number]["time"] >= self.boot.started - 0.001:
                yield self._read[number]


def number_in(entry: Entry, key: str) -> float:
    """An amount that an event tells, 0 where it does not."""
    value = entry["detail"].get(key)
    return value if isinstance(value, int | float) and value > 0 else 0


def count_of(entry: Entry) -> int:
    """How many events an entry stands for."""
    return int(entry.get("count", 1))


def search(pattern: str, text: str) -> re.Match[str] | None:
    """The first match of the pattern, upper or lower case."""
    return re.search(pattern, text, re.IGNORECASE)


def name_count(number: int) -> str:
    """`once`, `twice`, `three times`, `17 times`."""
    words = ("never", "once", "twice", "three times", "four times", "five times", "six times")
    return words[number] if 0 <= number < len(words) else f"{number} times"
