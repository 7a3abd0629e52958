"""Which nodes need a look, boot, are ready or off: kept up to date in small steps.

A page of 10,000 nodes costs what a page of 100 does: nothing here looks at all
nodes at once, but for a search. States are re-made for nodes that were heard of,
and, because silence is a sign too, for all others in turn (`turn`).
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from server.diagnosis import FarmFacts, Finding, diagnose
from server.nodes import Node, Nodes

STATES: Final = ("look", "booting", "ready", "off")
TURN: Final = 200
ROLL: Final = 50
"""Nodes whose state is made again in one turn: that were heard of, and that were not."""
_HEX = re.compile(r"[0-9a-f:.-]{4,}")


Diagnose = Callable[[Node, float], Finding | None]


def diagnose_alone(node: Node, now: float) -> Finding | None:
    """What can be said of a node without knowing the farm."""
    return diagnose(node, now, FarmFacts())


@dataclass(frozen=True)
class Row:
    """A node as a list shows it. finding: what is wrong, or None."""

    node: Node
    state: str
    finding: Finding | None
    serial: str


@dataclass(frozen=True)
class Rows:
    """A page of nodes. total: how many fit, of which these are those from `first` (0) on."""

    rows: list[Row]
    total: int
    first: int


class Overview:
    """States of nodes, counted and listed. serial: of a MAC, by the inventory, or ""."""

    def __init__(
        self,
        nodes: Nodes,
        diagnose: Diagnose = diagnose_alone,
        serial: Callable[[str], str] = lambda mac: "",
    ) -> None:
        self._nodes = nodes
        self._diagnose = diagnose
        self._serial = serial
        self._states: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        # In the order in which nodes were last heard of, as Nodes has them.
        self._members: dict[str, OrderedDict[str, None]] = {
            state: OrderedDict() for state in STATES
        }
        self._changed: dict[str, None] = {}
        self._rolling: Iterator[str] = iter(())
        self.note_all()

    def note(self, key: str) -> None:
        """Something was heard of a node."""
        self._changed[key] = None
        self._texts.pop(key, None)

    def note_all(self) -> None:
        """Look at every node again, as after a start; a turn at a time."""
        self._changed.update((node.key, None) for node in reversed(list(self._nodes.newest())))

    def turn(self, now: float) -> list[str]:
        """Make some states again, changed ones first. The nodes that have another one now."""
        heard = list(islice(self._changed, TURN))
        for key in heard:
            del self._changed[key]
        silent = list(islice(self._rolling, ROLL))
        if not silent:
            self._rolling = iter(list(self._states))
        return [key for key in heard if self._update(key, now, heard=True)] + [
            key for key in silent if self._update(key, now, heard=False)
        ]

    def counts(self) -> dict[str, int]:
        """Nodes of each state."""
        return {state: len(members) for state, members in self._members.items()}

    def __len__(self) -> int:
        return len(self._nodes)

    def look(self, node: Node, now: float) -> Row:
        """One node, as it is now."""
        finding = self._diagnose(node, now)
        return Row(node, _state_of(node, finding), finding, self._serial_of(node))

    def rows(
        self, now: float, *, state: str = "", wanted: str = "", first: int = 0, most: int = 100
    ) -> Rows:
        """Nodes last heard of first: of one state, if it is named, with `wanted` in MAC, serial,
        IP or name. A `first` beyond the end gives the last page."""
        candidates: Iterable[Node]
        if state in self._members:
            members = self._members[state]
            total = len(members)
            keys = reversed(members)
            candidates = (node for key in keys if (node := self._nodes.get(key)) is not None)
        else:
            total = len(self._nodes)
            candidates = self._nodes.newest()
        if wanted.strip():
            found = self._find(candidates, wanted)
            candidates, total = found, len(found)
        if first >= total:
            first = max(0, (total - 1) // most * most)
        page = islice(candidates, first, first + most)
        return Rows([self.look(node, now) for node in page], total, first)

    # Inside

    def _update(self, key: str, now: float, *, heard: bool) -> bool:
        node = self._nodes.get(key)
        before = self._states.get(key)
        if node is None or node.key != key:
            if before is not None:
                del self._states[key]
                self._texts.pop(key, None)
                del self._members[before][key]
            return before is not None
        if heard or before is None:
            self._texts[key] = self._text_of(node)
        state = _state_of(node, self._diagnose(node, now))
        if state != before:
            if before is not None:
                del self._members[before][key]
            self._states[key] = state
            self._members[state][key] = None
        elif heard:
            self._members[state].move_to_end(key)
        return state != before

    def _serial_of(self, node: Node) -> str:
        """The operator's word, else what the machine says of itself."""
        told = node.boot.facts.get("serial", "") if node.boot is not None else ""
        return (self._serial(node.mac) if node.mac else "") or str(told)

    def _find(self, candidates: Iterable[Node], wanted: str) -> list[Node]:
        """Those that have `wanted` in MAC, serial, IP or name."""
        wanted = wanted.strip().lower()
        # A MAC as labels and switches write it: 52-54-00-…, 5254.00….
        bare = re.sub("[:.-]", "", wanted) if _HEX.fullmatch(wanted) else ""
        texts = self._texts
        found = []
        for node in candidates:
            text = texts.get(node.key) or self._text_of(node)
            if wanted in text or (bare and bare in text.partition(" ")[0]):
                found.append(node)
        return found

    def _text_of(self, node: Node) -> str:
        """What is searched; the MAC's bare digits first."""
        bare = node.mac.replace(":", "") if node.mac else ""
        return f"{bare} {node.key} {node.ip} {node.hostname or ''} {self._serial_of(node)}".lower()


def _state_of(node: Node, finding: Finding | None) -> str:
    if finding is not None and finding.severity != "note":
        return "look"
    phase = node.boot.last_phase() if node.boot is not None else None
    if phase == "shutdown":
        return "off"
    return "ready" if phase == "ready" else "booting"
