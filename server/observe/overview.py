"""Which machines need a look, boot, are ready, off, or were never seen: kept up in small steps.

A page of 10,000 machines costs what a page of 100 does: nothing here looks at all
of them at once, but for a search or a filter. States are re-made for nodes that were heard of,
and, because silence is a sign too, for all others in turn (`turn`).
"""

import heapq
import re
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median
from typing import Final

from imagebuild.store.images import Image
from server.diagnosis import FarmFacts, Finding, diagnose
from server.farm.inventory import Inventory, Machine
from server.nodes.node import Boot, Node
from server.nodes.timelines import Nodes
from server.observe.marks import (
    ALL_STATES,
    MAINTENANCE,
    NO_IMAGE,
    PLAYED,
    STATES,
    Cause,
    Counts,
    Filter,
    ImageKey,
    ImageWords,
    Mark,
    Shelf,
    choose,
    name_cause,
    order,
)
from server.quantities import sort_naturally

TURN: Final = 200
"""Changed nodes whose state is made again in one turn of the loop."""
ROLL: Final = 50
"""Nodes whose state is made again in one turn: that were heard of, and that were not."""
RECENT_BOOTS: Final = 500
RECENT_SECONDS: Final = 600.0
"""Boots that became ready: how many, and of what time, are told of together."""
MEMBERS: Final = 1000
"""Machines of one cause that are named."""
_HEX = re.compile(r"[0-9a-f:.-]{4,}")


Diagnose = Callable[[Node, float], Finding | None]


def diagnose_alone(node: Node, now: float) -> Finding | None:
    """What can be said of a node without knowing the farm."""
    return diagnose(node, now, FarmFacts())


@dataclass(frozen=True)
class Row:
    """A machine as a list shows it. finding: what is wrong, or None. machine: its entry in the
    inventory, or None. image: of its last boot."""

    node: Node
    state: str
    finding: Finding | None
    serial: str
    machine: Machine | None = None
    image: ImageWords = NO_IMAGE

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Where it stands, as the inventory says."""
        return self.machine.labels if self.machine is not None else ()

    @property
    def bmc(self) -> str:
        """The address of its management controller's page, or ""."""
        return (self.machine.bmc or "") if self.machine is not None else ""


@dataclass(frozen=True)
class Rows:
    """A page of machines. total: how many fit, of which these are those from `first` (0) on.
    counts: for each further choice."""

    rows: list[Row]
    total: int
    first: int
    counts: Counts


@dataclass(frozen=True)
class Group:
    """One cause and the machines that it keeps. names: in order, MEMBERS at most."""

    cause: Cause
    count: int
    names: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """How the farm boots now.

    ready: boots that became ready in the last RECENT_SECONDS; median: of their seconds.
    a_minute: how many did in the last minute. busiest: the phase that most booting machines
    are in, or "". slowest: the phase that took those boots longest, or "", and
    slowest_median: its seconds.
    """

    booting: int
    ready: int
    median: float
    busiest: str
    a_minute: int
    slowest: str
    slowest_median: float


@dataclass(frozen=True)
class _Booted:
    """A boot that became ready. at: seconds since the epoch. spans: seconds of each phase."""

    at: float
    took: float
    spans: Mapping[str, float]


def _measure(boot: Boot) -> _Booted:
    """How long a whole boot took, and each phase of it until the next began."""
    began = sorted((phase.first, name) for name, phase in boot.phases.items())
    ready = boot.phases["ready"].first
    spans = {
        name: after - first
        for (first, name), (after, _) in pairwise(began)
        if first <= ready and name != "ready"
    }
    return _Booted(ready, ready - boot.started, spans)


class Overview:
    """States of machines, counted and listed. inventory, images: as they are now."""

    def __init__(
        self,
        nodes: Nodes,
        diagnose: Diagnose = diagnose_alone,
        *,
        inventory: Callable[[], Inventory] = Inventory,
        images: Callable[[], Sequence[Image]] = tuple,
    ) -> None:
        self._nodes = nodes
        self._diagnose = diagnose
        self._inventory = inventory
        self._images = images
        self._listed = Inventory()
        self._shelf: tuple[Sequence[Image], Shelf] = ((), Shelf())
        self._marks: dict[str, Mark] = {}
        self._texts: dict[str, str] = {}
        # By state: (sort key of the name, key of the machine), in order.
        self._members: dict[str, list[tuple[str, str]]] = {state: [] for state in ALL_STATES}
        self._suffering: dict[Cause, dict[str, None]] = {}
        self._counts = Counts()
        self._changed: dict[str, None] = {}
        self._rolling: Iterator[str] = iter(())
        self._booted: deque[_Booted] = deque(maxlen=RECENT_BOOTS)
        nodes.watch(self._note)
        self.note_all()

    def _note(self, key: str, node: Node | None) -> None:
        """Something was heard of a node, or it was forgotten (None)."""
        self._changed[key] = None
        self._texts.pop(key, None)
        if node is None or key not in self._marks:
            # It stands in lists at once; its turn will find out what is the matter with it.
            self._put(key, self._make_mark(node, None) if node else self._imagine_mark(key))

    def note_all(self) -> None:
        """Look at every node again, as after a start; a turn at a time."""
        for node in reversed(list(self._nodes.newest())):
            self._note(node.key, node)

    def turn(self, now: float) -> list[str]:
        """Judge some machines again, changed ones first.

        The keys of those whose state is now another.
        """
        self._read_inventory()
        heard = self._take_changed(TURN)
        silent = list(islice(self._rolling, ROLL))
        if not silent:
            self._rolling = iter(list(self._marks))
        return [key for key in heard if self._update(key, now, heard=True)] + [
            key for key in silent if self._update(key, now, heard=False)
        ]

    def counts(self) -> dict[str, int]:
        """Machines of each state."""
        return {state: self._counts.states[state] for state in ALL_STATES}

    def gauge(self) -> dict[str, int]:
        """Machines of each state as alerts want them: those in maintenance are of this state, and
        of no other."""
        kept = self._counts.maintained
        counts = {state: number - kept[state] for state, number in self.counts().items()}
        return counts | {MAINTENANCE: kept.total()}

    def __len__(self) -> int:
        return sum(self._counts.states[state] for state in STATES)

    def look(self, node: Node, now: float) -> Row:
        """One node's row, as it is now."""
        finding = self._judge(node, now)
        machine = self._machine_of(node)
        boot = node.boot
        image = self.shelf.find((boot.image, boot.digest) if boot is not None else ("", ""))
        state = _state_of(node, finding, self._is_unseen(node))
        return Row(node, state, finding, self._serial_of(node), machine, image)

    def find(self, key: str) -> Node | None:
        """A node by MAC (however it is written) or IP; by name or serial number of the inventory;
        and a machine of the inventory that was never seen, as a node without a boot."""
        mac = _spell_mac(key)
        node = self._nodes.get(key) or (self._nodes.get(mac) if mac else None)
        if node is None and (machine := self._find_machine(key, mac)) is not None:
            node = self._nodes.get(machine.mac) or self._imagine(machine)
        return node or self._nodes.awaited(mac)

    def rows(
        self,
        now: float,
        *,
        wanted: Filter = Filter(),  # noqa: B008 - it is frozen
        sort: str = "",
        first: int = 0,
        most: int = 100,
    ) -> Rows:
        """Those that fit, trouble first, or as `sort` (one of SORTS) wants them. A `first` beyond
        the end gives the last page."""
        self._catch_up(now)
        if wanted.is_plain and not wanted.states and sort in ("", "trouble"):
            total, counts = len(self), self._counts
            first = _fit(first, total, most)
            keys = list(islice(self._in_order(STATES), first, first + most))
        else:
            found, counts = self._choose(wanted)
            total = len(found)
            first = _fit(first, total, most)
            keys = [mark.key for mark in order(found, sort)[first : first + most]]
        nodes = (self._node_of(key) for key in keys)
        return Rows([self.look(node, now) for node in nodes if node], total, first, counts)

    def groups(self, wanted: Filter = Filter(), most: int = 1000) -> list[Group]:  # noqa: B008
        """What is the matter, the cause with most machines first, at most so many."""
        members: Mapping[Cause, Sequence[str] | Mapping[str, None]] = self._suffering
        if not wanted.is_plain or wanted.states:
            among: dict[Cause, list[str]] = {}
            for mark in self._choose(wanted)[0]:
                if mark.cause is not None:
                    among.setdefault(mark.cause, []).append(mark.key)
            members = among
        first = heapq.nsmallest(most, members, key=lambda cause: (-len(members[cause]), cause.id))
        groups = []
        for cause in first:
            marks = [self._marks[key] for key in islice(members[cause], MEMBERS)]
            marks.sort(key=lambda mark: mark.sort)
            names = tuple(mark.name for mark in marks)
            keys = tuple(mark.key for mark in marks)
            groups.append(Group(cause, len(members[cause]), names, keys))
        return groups

    def progress(self, now: float) -> Progress:
        """How the farm boots."""
        recent = [boot for boot in self._booted if now - boot.at <= RECENT_SECONDS]
        spans: dict[str, list[float]] = {}
        for boot in recent:
            for phase, seconds in boot.spans.items():
                spans.setdefault(phase, []).append(seconds)
        medians = {phase: median(seconds) for phase, seconds in spans.items()}
        slowest = max(medians, key=medians.__getitem__, default="")
        phases: dict[str, int] = {}
        for _, key in islice(self._members["booting"], 2000):
            phase = self._marks[key].phase
            phases[phase] = phases.get(phase, 0) + 1
        phases.pop("", None)
        busiest = max(phases, key=phases.__getitem__, default="")
        return Progress(
            booting=self._counts.states["booting"],
            ready=len(recent),
            median=median(boot.took for boot in recent) if recent else 0.0,
            busiest=busiest,
            a_minute=sum(now - boot.at <= 60 for boot in recent),
            slowest=slowest,
            slowest_median=medians.get(slowest, 0.0),
        )

    @property
    def shelf(self) -> Shelf:
        """The images of the store, as they are now."""
        images = self._images()
        if images is not self._shelf[0]:
            self._shelf = (images, Shelf(images))
        return self._shelf[1]

    def places(self) -> Mapping[tuple[str, str, str], int]:
        """Machines by a label's name, its value, and state, which is MAINTENANCE for some."""
        return self._counts.places

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the inventory's labels."""
        return self._inventory().label_names

    def label_values(self, name: str) -> set[str]:
        """The values that machines have of a label."""
        return {value for one, value in self._counts.labels if one == name}

    def image_keys(self) -> set[ImageKey]:
        """The images that the store has, or a machine has booted."""
        return {*self.shelf.keys, *self._counts.images}

    # Inside

    def _judge(self, node: Node, now: float) -> Finding | None:
        """What is the matter with a machine; nothing is with what is played, nor with one that
        somebody works on."""
        return None if node.played or node.maintenance else self._diagnose(node, now)

    def _in_order(self, states: Sequence[str]) -> Iterator[str]:
        for state in states:
            for _, key in self._members[state]:
                yield key

    def _choose(self, wanted: Filter) -> tuple[list[Mark], Counts]:
        marks: Iterator[Mark] = iter(self._marks.values())
        return choose(marks, wanted, self.shelf, self._make_search(wanted.wanted))

    def _take_changed(self, most: int) -> list[str]:
        heard = list(islice(self._changed, most))
        for key in heard:
            del self._changed[key]
        return heard

    def _catch_up(self, now: float) -> None:
        self._read_inventory()
        for key in self._take_changed(TURN):
            self._update(key, now, heard=True)

    def _read_inventory(self) -> None:
        """Take over an inventory that was replaced: machines that were never seen at once; labels
        and names of the others in turn."""
        inventory = self._inventory()
        if inventory is self._listed:
            return
        before, self._listed = self._listed, inventory
        for mac in {**before.by_mac, **inventory.by_mac}:
            if before.by_mac.get(mac) == inventory.by_mac.get(mac):
                continue
            if self._nodes.get(mac) is None:
                self._texts.pop(mac, None)
                self._put(mac, self._imagine_mark(mac))
            else:
                self._changed[mac] = None

    def _update(self, key: str, now: float, *, heard: bool) -> bool:
        node = self._nodes.get(key)
        before = self._marks.get(key)
        if node is None or node.key != key:
            self._texts.pop(key, None)
            return self._put(key, self._imagine_mark(key))
        mark = self._make_mark(node, self._judge(node, now))
        if heard or before is None:
            self._texts[key] = self._text_of(node)
        boot = node.boot
        if boot is not None and before is not None and mark.phase == "ready" != before.phase:
            self._booted.append(_measure(boot))
        return self._put(key, mark)

    def _make_mark(self, node: Node, finding: Finding | None) -> Mark:
        state = _state_of(node, finding, is_unseen=False)
        boot, machine = node.boot, self._machine_of(node)
        phase = (boot.last_phase() if boot is not None else None) or ""
        name = node.hostname or node.mac or node.ip or node.key
        return Mark(
            node.key,
            state,
            name,
            sort_naturally(name),
            name_cause(finding, node) if finding is not None and state == "look" else None,
            phase,
            (boot.image, boot.digest) if boot is not None else ("", ""),
            machine.labels if machine is not None else (),
            boot.phases[phase].first if boot is not None and phase else 0.0,
            node.last_seen,
            node.maintenance,
        )

    def _put(self, key: str, mark: Mark | None) -> bool:
        """Replace the mark of a key; True when its state has changed."""
        before = self._marks.get(key)
        if before == mark:
            return False
        if before is not None:
            self._counts.add(before, -1)
            members = self._members[before.state]
            del members[bisect_left(members, (before.sort, key))]
            if before.cause is not None:
                del self._suffering[before.cause][key]
                if not self._suffering[before.cause]:
                    del self._suffering[before.cause]
        if mark is None:
            del self._marks[key]
            return True
        self._marks[key] = mark
        self._counts.add(mark)
        insort(self._members[mark.state], (mark.sort, key))
        if mark.cause is not None:
            self._suffering.setdefault(mark.cause, {})[key] = None
        return before is None or before.state != mark.state

    def _imagine_mark(self, key: str) -> Mark | None:
        """The mark of a machine that was not seen; None where the inventory does not have it."""
        machine = self._listed.by_mac.get(key)
        if machine is None:
            return None
        name = machine.hostname or machine.mac
        return Mark(
            key,
            "unseen",
            name,
            sort_naturally(name),
            labels=machine.labels,
            maintenance=self._imagine(machine).maintenance,
        )

    def _imagine(self, machine: Machine) -> Node:
        """A machine of the inventory that was never seen, as a node: with what people wrote."""
        written = self._nodes.awaited(machine.mac)
        return Node(
            machine.mac,
            machine.mac,
            machine.ip or "",
            machine.hostname,
            note=written.note if written else "",
            maintenance=written is not None and written.maintenance,
        )

    def _node_of(self, key: str) -> Node | None:
        node = self._nodes.get(key)
        if node is None and (machine := self._listed.by_mac.get(key)) is not None:
            node = self._imagine(machine)
        return node

    def _is_unseen(self, node: Node) -> bool:
        return node.first_seen == 0.0 and self._nodes.get(node.key) is None

    def _machine_of(self, node: Node) -> Machine | None:
        return self._inventory().by_mac.get(node.mac) if node.mac else None

    def _find_machine(self, key: str, mac: str) -> Machine | None:
        inventory, word = self._inventory(), key.lower()
        found = inventory.by_mac.get(mac) or inventory.by_ip.get(key)
        if found is None and word:
            found = inventory.by_hostname.get(word) or next(
                (one for one in inventory.machines if (one.serial or "").lower() == word), None
            )
        return found

    def _serial_of(self, node: Node) -> str:
        """The serial number as the inventory has it, else as the machine reports it."""
        told = node.boot.facts.get("serial", "") if node.boot is not None else ""
        machine = self._machine_of(node)
        return (machine.serial if machine is not None else None) or str(told)

    def _make_search(self, wanted: str) -> Callable[[Mark], bool]:
        """Whether a machine has `wanted` in MAC, serial, IP, name, image's digest or a label."""
        wanted = wanted.strip().lower()
        # A MAC as labels and switches write it: 52-54-00-…, 5254.00….
        bare = re.sub("[:.-]", "", wanted) if _HEX.fullmatch(wanted) else ""

        def has(mark: Mark) -> bool:
            text = self._texts.get(mark.key)
            if text is None:
                node = self._node_of(mark.key)
                if node is None:
                    return False
                text = self._texts[mark.key] = self._text_of(node)
            return wanted in text or bool(bare and bare in text.partition(" ")[0])

        return has

    def _text_of(self, node: Node) -> str:
        """What is searched; the MAC's bare digits first."""
        bare = node.mac.replace(":", "") if node.mac else ""
        machine, boot = self._machine_of(node), node.boot
        words = [bare, node.key, node.ip, node.hostname or "", self._serial_of(node)]
        words += [f"{boot.image}@{boot.digest}"] if boot is not None and boot.digest else []
        words += [f"{name}={value}" for name, value in machine.labels] if machine else []
        return " ".join(words).lower()


def _spell_mac(text: str) -> str:
    """A MAC as the server writes it, of any spelling: 525400123456, 5254.0012.3456; or ""."""
    bare = re.sub("[:.-]", "", text.lower())
    if re.fullmatch("[0-9a-f]{12}", bare) is None:
        return ""
    return ":".join(bare[at : at + 2] for at in range(0, 12, 2))


def _fit(first: int, total: int, most: int) -> int:
    return first if first < total else max(0, (total - 1) // most * most)


def _state_of(node: Node, finding: Finding | None, is_unseen: bool) -> str:
    if is_unseen:
        return "unseen"
    if node.played:
        return PLAYED
    if finding is not None and finding.severity != "note":
        return "look"
    phase = node.boot.last_phase() if node.boot is not None else None
    if phase == "shutdown":
        return "off"
    return "ready" if phase == "ready" else "booting"
