"""One timeline a node, made from what the services saw: the one door for events.

Bounded: at most `limit` nodes (those that nobody could name go first, then the
ones that were silent longest), `events` events each, texts cut. Belongs to the
loop's thread.
"""

import json
import logging
import math
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.events import Event
from server.yamlfile import parse_mac

PHASES = (
    "dhcp",
    "loader",
    "menu",
    "kernel",
    "initrd",
    "initramfs",
    "network",
    "ltsconf",
    "root",
    "preinit",
    "systemd",
    "rcfile",
    "join",
    "ready",
    "shutdown",
)
ORDER = {phase: number for number, phase in enumerate(PHASES)}

STATUSES = ("start", "ok", "error")
TEXT_MAX = 400
FACTS = (
    *("firmware", "architecture", "uuid", "dhcp_server", "address", "relay"),
    *("memory", "serial"),
)
"""What a boot remembers of its events: of DHCP's, and of the node's own words."""
FACT_MAX = 100
DETAILS_MAX = 12
PAST_BOOTS = 3
FORMAT = 1
_FILE_PHASES = {
    "vmlinuz": "kernel",
    "initrd.img": "initrd",
    "lts.conf": "ltsconf",
    "rootfs.squashfs": "root",
}
CORES = ("core.0", "core.efi", "undionly.kpxe", "snponly.efi")
"""What firmware fetches: GRUB's and iPXE's loaders for BIOS and UEFI."""
_log = logging.getLogger(__name__)

Identify = Callable[[str], tuple[str | None, str | None]]
"""IP -> (MAC or None, hostname or None)."""


def _is_menu(path: str) -> bool:
    """Whether the path is a rendered menu; GRUB asks for grub.cfg-01-<mac> first."""
    return path.rpartition("/")[2].split("-")[0] in ("grub.cfg", "boot.ipxe")


def phase_of_path(path: str) -> str | None:
    """The phase of a boot in which a node asks for a path of the boot tree."""
    if _is_menu(path):
        return "menu"
    file = path.rpartition("/")[2]
    if file in _FILE_PHASES:
        return _FILE_PHASES[file]
    return "loader" if "/grub/" in path or "/ipxe/" in path else None


def phase_of(event: Event) -> str | None:
    """The phase of a boot that an event is of, or None where it is of none."""
    if event.phase in ORDER:
        return event.phase
    if event.source == "nbd":
        # A file that is no image's (`--export`) is nobody's root.
        return None if event.detail.get("digest") == "" else "root"
    return phase_of_path(str(event.detail.get("file") or event.detail.get("path") or ""))


def is_core(path: str) -> bool:
    """Whether a path is that of a boot loader itself, not of its modules."""
    return path.rpartition("/")[2] in CORES


def digest_of(path: str) -> str:
    """The digest that a path or an export's name holds behind `@`, or ""."""
    word = path.partition("@")[2].partition("/")[0]
    return word if len(word) == 64 else ""


@dataclass
class Phase:
    """What is known of one phase of one boot. first, last: seconds since the epoch.

    bytes, seconds, retries: of the transfers in it that ended, together.
    """

    first: float
    last: float
    status: str
    count: int = 1
    bytes: int = 0
    detail: str = ""
    seconds: float = 0.0
    retries: int = 0


@dataclass
class Boot:
    """One start of a node, up to the next. boot_id: what its initramfs made up, or "".

    facts: what is worth keeping of it when its events are gone; FACTS has the names.
    """

    started: float
    boot_id: str = ""
    image: str = ""
    digest: str = ""
    phases: dict[str, Phase] = field(default_factory=dict)
    facts: dict[str, str | int | float | bool] = field(default_factory=dict)

    def last_phase(self) -> str | None:
        """The furthest phase that was reached."""
        return max(self.phases, key=ORDER.__getitem__, default=None)

    def error(self) -> str:
        """What went wrong and has not been mended since, or ""."""
        for phase in sorted(self.phases, key=ORDER.__getitem__, reverse=True):
            if self.phases[phase].status == "error":
                return f"{phase}: {self.phases[phase].detail or 'failed'}"
        return ""


@dataclass
class Node:
    """A machine and its timeline. key: its MAC, or its IP while the MAC is unknown."""

    key: str
    mac: str | None
    ip: str = ""
    hostname: str | None = None
    first_seen: float = 0.0
    last_seen: float = 0.0
    boots: int = 0
    boot: Boot | None = None
    past: deque[Boot] = field(default_factory=lambda: deque(maxlen=PAST_BOOTS))
    events: deque[dict[str, Any]] = field(default_factory=deque)


class Nodes:
    """The nodes that were seen. identify: whom an IP address belongs to, by the server's means."""

    def __init__(
        self,
        identify: Identify = lambda ip: (None, None),
        *,
        limit: int = 10_000,
        events: int = 64,
    ) -> None:
        self._identify = identify
        self._limit = limit
        self._events = events
        # Both in the order in which the nodes were last seen.
        self._nodes: OrderedDict[str, Node] = OrderedDict()
        self._strangers: OrderedDict[str, None] = OrderedDict()
        self._dirty: dict[str, None] = {}
        self._gone: set[str] = set()
        self._watchers: list[Callable[[str, Node | None], None]] = []

    def watch(self, action: "Callable[[str, Node | None], None]") -> None:
        """Have `action` called with a node's key after each event of it; None: it is forgotten."""
        self._watchers.append(action)

    def record(self, event: Event) -> "Node | None":
        """Take one event into its node's timeline; anything odd in it is cut, never raised.

        The node that it is of, if it is of one.
        """
        if not event.node:
            return None
        detail = bound_detail(event.detail)
        phase = phase_of(event)
        node = self._find(event.node, event.time)
        if phase is not None:
            self._take(node, event, phase, detail)
        self._tell(node.key, node)
        return node

    def _take(self, node: "Node", event: Event, phase: str, detail: dict[str, Any]) -> None:
        path = str(detail.get("file") or detail.get("path") or detail.get("export") or "")
        boot = self._boot_of(node, event, phase, path, detail)
        node.last_seen = max(node.last_seen, event.time)
        if phase == "loader" and detail.get("status") == "error" and not is_core(path):
            return  # GRUB asks for dozens of files that need not be there
        marks = not (event.source == "nbd" and event.phase == "detach")
        if marks:
            _mark(boot, phase, event, detail)
            if digest := str(detail.get("digest") or digest_of(path)):
                boot.digest = digest
                boot.image = str(detail.get("image") or _image_of(path)) or boot.image
        self._append(node, event, phase, path, detail)

    def nodes(self) -> list[Node]:
        """Every node, last seen first."""
        return sorted(self._nodes.values(), key=lambda node: node.last_seen, reverse=True)

    def newest(self) -> Iterator[Node]:
        """Every node, the one that was heard of last first; costs nothing until it is read."""
        return reversed(self._nodes.values())

    def get(self, key: str) -> Node | None:
        """A node by MAC (any spelling) or, where that is unknown, by IP."""
        return self._nodes.get(parse_mac(key) or key)

    def __len__(self) -> int:
        return len(self._nodes)

    # From events to nodes

    def _find(self, name: str, now: float) -> Node:
        mac = parse_mac(name)
        hostname = None
        ip = ""
        if mac is None:
            ip = name
            mac, hostname = self._identify(ip)
        key = mac or ip
        if mac and ip and ip in self._nodes:
            self._adopt(ip, key)
        node = self._nodes.get(key)
        if node is None:
            self._make_room()
            node = Node(key, mac, first_seen=now, last_seen=now)
            node.events = deque(maxlen=self._events)
            self._nodes[key] = node
            self._gone.discard(key)
        self._nodes.move_to_end(key)
        if mac is None:
            self._strangers[key] = None
            self._strangers.move_to_end(key)
        node.ip = ip or node.ip
        node.hostname = hostname or node.hostname
        self._dirty[key] = None
        return node

    def _adopt(self, ip: str, mac: str) -> None:
        """What was seen of an address belongs to the machine that has it."""
        stranger = self._nodes.pop(ip)
        self._strangers.pop(ip, None)
        self._forget(ip)
        if mac not in self._nodes:
            stranger.key, stranger.mac = mac, mac
            self._nodes[mac] = stranger
            self._gone.discard(mac)

    def _make_room(self) -> None:
        while len(self._nodes) >= self._limit:
            key = next(iter(self._strangers or self._nodes))
            del self._nodes[key]
            self._strangers.pop(key, None)
            self._forget(key)

    def _forget(self, key: str) -> None:
        self._dirty.pop(key, None)
        self._gone.add(key)
        self._tell(key, None)

    def _tell(self, key: str, node: Node | None) -> None:
        for action in self._watchers:
            action(key, node)

    def _boot_of(
        self, node: Node, event: Event, phase: str, path: str, detail: Mapping[str, Any]
    ) -> Boot:
        boot_id = str(detail.get("boot") or "")
        boot = node.boot
        if boot is None or _starts_boot(boot, event, phase, path, boot_id):
            if boot is not None:
                node.past.append(boot)
            boot = node.boot = Boot(event.time)
            node.boots += 1
        if boot_id:
            boot.boot_id = boot_id
        return boot

    def _append(
        self, node: Node, event: Event, phase: str, path: str, detail: dict[str, Any]
    ) -> None:
        entry = {
            "time": round(event.time, 3),
            "source": event.source[:20],
            "phase": phase,
            "what": event.phase[:20],
            "detail": detail,
        }
        if event.phase == phase:
            del entry["what"]
        if phase == "loader" and path.endswith((".mod", ".lst")):
            return  # dozens a boot; the phase counts them
        last = node.events[-1] if node.events else None
        if last is not None and _is_begun(last, entry):
            node.events.pop()
            node.events.append(entry)
            return
        if last is not None and _same(last, entry):
            last["count"] = last.get("count", 1) + 1
            last["until"] = entry["time"]
            return
        node.events.append(entry)

    # Kept over a restart

    def load(self, directory: Path) -> int:
        """Read what `save` wrote; a damaged file costs its node only. The number of nodes read."""
        try:
            files = sorted(directory.glob("*.json"))
        except OSError:
            return 0
        found: list[Node] = []
        for file in files:
            try:
                node = _unpack(json.loads(file.read_bytes()), self._events)
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                _log.warning("%s: not a timeline, left aside: %s", file, error)
                continue
            if _file_name(node.key) == file.name:
                found.append(node)
        for node in sorted(found, key=lambda node: node.last_seen):
            self._make_room()
            self._nodes[node.key] = node
            if node.mac is None:
                self._strangers[node.key] = None
        return len(self._nodes)

    def save(self, directory: Path, most: int | None = None) -> int:
        """Write changed nodes, each beside and renamed; at most `most`. How many are left."""
        directory.mkdir(parents=True, exist_ok=True)
        for key in list(self._gone)[:most]:
            (directory / _file_name(key)).unlink(missing_ok=True)
            self._gone.discard(key)
        for key in list(self._dirty)[:most]:
            node = self._nodes.get(key)
            if node is not None:
                path = directory / _file_name(key)
                beside = path.with_suffix(".new")
                beside.write_text(json.dumps(pack_node(node), separators=(",", ":")))
                os.replace(beside, path)
            del self._dirty[key]
        return len(self._dirty) + len(self._gone)


def summarize(node: Node) -> dict[str, Any]:
    """A node in one JSON object: where its boot has got to."""
    boot = node.boot
    phase = boot.last_phase() if boot else None
    last = boot.phases[phase] if boot and phase else None
    return {
        "mac": node.mac,
        "ip": node.ip,
        "hostname": node.hostname,
        "phase": phase,
        "status": last.status if last else None,
        "since": last.first if last else None,
        "last_seen": node.last_seen,
        "boot_started": boot.started if boot else None,
        "boots": node.boots,
        "image": boot.image if boot else "",
        "digest": boot.digest if boot else "",
        "error": boot.error() if boot else "",
    }


def describe(node: Node) -> dict[str, Any]:
    """A node with its whole timeline, as JSON has it."""
    return {**summarize(node), **pack_node(node)}


def pack_node(node: Node) -> dict[str, Any]:
    """What `save` writes of a node."""
    return {
        "format": FORMAT,
        "key": node.key,
        "mac": node.mac,
        "ip": node.ip,
        "hostname": node.hostname,
        "first_seen": node.first_seen,
        "last_seen": node.last_seen,
        "boots": node.boots,
        "boot": _pack_boot(node.boot) if node.boot else None,
        "past": [_pack_boot(boot) for boot in node.past],
        "events": list(node.events),
    }


def _pack_boot(boot: Boot) -> dict[str, Any]:
    phases = {
        phase: vars(boot.phases[phase]) for phase in sorted(boot.phases, key=ORDER.__getitem__)
    }
    return {**vars(boot), "phases": phases}


def _unpack(data: Any, events: int) -> Node:
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r}")
    node = Node(
        key=str(data["key"]),
        mac=data["mac"],
        ip=str(data["ip"]),
        hostname=data["hostname"],
        first_seen=float(data["first_seen"]),
        last_seen=float(data["last_seen"]),
        boots=int(data["boots"]),
    )
    node.boot = _unpack_boot(data["boot"]) if data["boot"] else None
    node.past.extend(_unpack_boot(boot) for boot in data["past"])
    node.events = deque((dict(entry) for entry in data["events"]), maxlen=events)
    return node


def _unpack_boot(data: Any) -> Boot:
    phases = {phase: Phase(**value) for phase, value in data["phases"].items() if phase in ORDER}
    return Boot(**{**data, "phases": phases})


def _starts_boot(boot: Boot, event: Event, phase: str, path: str, boot_id: str) -> bool:
    if boot_id and boot.boot_id and boot_id != boot.boot_id:
        return True
    reached = ORDER[boot.last_phase() or PHASES[0]]
    if phase == "dhcp":
        # Firmware, loader and initramfs each ask; only the firmware's is a beginning.
        return reached >= ORDER["systemd"]
    if phase == "loader" and is_core(path):
        return reached >= ORDER["menu"]
    if phase == "menu" and _is_menu(path):
        return reached >= ORDER["initramfs"]
    return False


def _mark(boot: Boot, phase: str, event: Event, detail: Mapping[str, Any]) -> None:
    now = event.time
    status = str(detail.get("status") or "ok")
    if status not in STATUSES:
        status = "start"  # "stop": a size probe, or a file that was closed early
    text = str(detail.get("detail") or detail.get("message") or "")
    seen = boot.phases.get(phase)
    if seen is None:
        seen = boot.phases[phase] = Phase(now, now, status, 0, detail=text)
    seen.last = max(seen.last, now)
    seen.count += 1
    if detail.get("status") != "start":
        seen.bytes += _number(detail, "bytes")
        seen.seconds = round(seen.seconds + _number(detail, "seconds"), 6)
        seen.retries += _number(detail, "retries")
    for name in FACTS:
        if name in detail:
            value = detail[name]
            boot.facts[name] = value[:FACT_MAX] if isinstance(value, str) else value
    if phase == "menu" and event.source != "plan" and status != "error":
        return  # what the menu says was decided before it was sent
    seen.status = status
    seen.detail = text


def _number(detail: Mapping[str, Any], key: str) -> Any:
    """An amount that an event tells, or 0."""
    value = detail.get(key)
    return value if isinstance(value, int | float) and value > 0 else 0


def bound_detail(detail: Mapping[str, Any]) -> dict[str, Any]:
    """An event's detail of bounded size, with plain values."""
    items = list(detail.items())[:DETAILS_MAX]
    return {
        str(key)[:40]: value if _is_plain(value) else str(value)[:TEXT_MAX] for key, value in items
    }


def _is_plain(value: Any) -> bool:
    """Whether JSON has it: no infinity, and no number of a thousand digits."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and abs(value) < 1 << 63


def _is_begun(last: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether `last` is the beginning of the transfer that `entry` is the end of."""
    keys = ("source", "phase", "what")
    begun, ended = last["detail"], entry["detail"]
    return (
        begun.get("status") == "start"
        and ended.get("status") not in (None, "start")
        and begun.get("path") is not None
        and begun.get("path") == ended.get("path")
        and all(last.get(key) == entry.get(key) for key in keys)
    )


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two events differ in time and amounts only."""

    def essence(entry: Mapping[str, Any]) -> tuple[Any, ...]:
        detail = entry["detail"]
        words = sorted((key, value) for key, value in detail.items() if isinstance(value, str))
        return (entry["source"], entry["phase"], entry.get("what"), words)

    return essence(one) == essence(other)


def _image_of(path: str) -> str:
    """The image's name in `/ltsp/<name>/@…` or `[/]opt/ltsp/<name>@…`."""
    head = path.partition("@")[0].rstrip("/")
    return head.rpartition("/")[2]


def _file_name(key: str) -> str:
    return key.replace(":", "-").replace("/", "_") + ".json"
