"""One timeline a node, made from what the services saw: the one door for events.

Bounded: at most `limit` nodes (those that nobody could name go first, then the
ones that were silent longest), `events` events each, texts cut. Belongs to the
loop's thread.
"""

import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from server.eventlog import EventLog
from server.events import Event
from server.phases import (
    ORDER,
    PHASES,
    digest_of,
    is_core,
    is_menu,
    phase_of,
    phase_of_path,
)
from server.timeline import (
    EVENTS,
    FACTS,
    Boot,
    Node,
    Phase,
    describe,
    pack_node,
    summarize,
    unpack_node,
)
from server.yamlfile import parse_mac

__all__ = [
    "ORDER",
    "PHASES",
    "Boot",
    "Node",
    "Nodes",
    "Phase",
    "bound_detail",
    "describe",
    "digest_of",
    "is_core",
    "pack_node",
    "phase_of",
    "phase_of_path",
    "summarize",
]

STATUSES = ("start", "ok", "error")
TEXT_MAX = 400
FACT_MAX = 100
DETAILS_MAX = 12
_log = logging.getLogger(__name__)

Identify = Callable[[str], tuple[str | None, str | None]]
"""IP -> (MAC or None, hostname or None)."""


class Nodes:
    """The nodes that were seen. identify: whom an IP address belongs to, by the server's means."""

    def __init__(
        self,
        identify: Identify = lambda ip: (None, None),
        *,
        limit: int = 10_000,
        events: int = EVENTS,
    ) -> None:
        self._identify = identify
        self._limit = limit
        self._events = events
        # Both in the order in which the nodes were last seen.
        self._nodes: OrderedDict[str, Node] = OrderedDict()
        self._strangers: OrderedDict[str, None] = OrderedDict()
        # Who had which address last, as DHCP or the neighbour table showed: for machines
        # behind a router, which no such table knows, and those that have fallen silent,
        # which it forgets in seconds.
        self._holders: OrderedDict[str, str] = OrderedDict()
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
        if event.source == "dhcp" and not _is_error(detail):
            self._note_holder(node.mac, detail.get("address"))
        if event.source == "dhcp" and "firmware" not in detail and not _is_error(detail):
            # Linux asks, perhaps to renew: no step of a boot, and no boot of a machine with a disk.
            node.last_seen = max(node.last_seen, event.time)
            self._append(node, event, phase, path, detail)
            return
        boot = self._boot_of(node, event, phase, path, detail)
        node.last_seen = max(node.last_seen, event.time)
        if phase == "loader" and _is_error(detail) and not is_core(path):
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
        """A node by MAC (any spelling), or by the IP that it has or had last."""
        return self._nodes.get(parse_mac(key) or key) or self._nodes.get(self._holders.get(key, ""))

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
            if mac:
                self._note_holder(mac, ip)
            else:
                mac = self._holders.get(ip)
        key = mac or ip
        if mac and ip and ip in self._nodes:
            self._adopt(ip, key)
        node = self._nodes.get(key)
        if node is None:
            self._make_room()
            node = Node(key, mac, first_seen=now, last_seen=now)
            node.events = EventLog(self._events)
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

    def _note_holder(self, mac: str | None, address: object) -> None:
        if mac is None or not isinstance(address, str):
            return
        self._holders[address] = mac
        self._holders.move_to_end(address)
        if len(self._holders) > self._limit:
            self._holders.popitem(last=False)

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
        if boot is None or _starts_boot(boot, event, phase, path, detail):
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
        entry: dict[str, Any] = {
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
        last = node.events.last
        if last is not None and _is_begun(last, entry):
            node.events.replace_last(entry)
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
                node = unpack_node(json.loads(file.read_bytes()), self._events)
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                _log.warning("%s: not a timeline, left aside: %s", file, error)
                continue
            if _file_name(node.key) == file.name:
                found.append(node)
        for node in sorted(found, key=lambda node: node.last_seen):
            self._make_room()
            self._nodes[node.key] = node
            if node.ip:
                self._note_holder(node.mac, node.ip)
            if node.boot is not None:
                self._note_holder(node.mac, node.boot.facts.get("address"))
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


def _is_error(detail: Mapping[str, Any]) -> bool:
    return detail.get("status") == "error"


def _is_ok(detail: Mapping[str, Any]) -> bool:
    return bool(detail.get("status", "ok") == "ok")


def _starts_boot(
    boot: Boot, event: Event, phase: str, path: str, detail: Mapping[str, Any]
) -> bool:
    boot_id = detail.get("boot")
    if boot_id and boot.boot_id and boot_id != boot.boot_id:
        return True
    reached = ORDER[boot.last_phase() or PHASES[0]]
    if phase == "dhcp":
        # Firmware, loader, initramfs and the running system each ask, and the last two name no
        # firmware; who has its menu and asks as firmware does was switched on anew.
        return _is_firmware(detail) and reached >= ORDER["menu"]
    if phase == "loader" and is_core(path):
        # Only its beginning: the last ACK may be lost, and the end be told when the menu is there.
        begins = detail.get("status") == "start" or (event.source != "tftp" and _is_ok(detail))
        return begins and reached >= ORDER["menu"]
    if phase == "menu" and is_menu(path):
        return reached >= ORDER["initramfs"]
    return False


def _is_firmware(detail: Mapping[str, Any]) -> bool:
    """Whether a DHCP message is the first of a machine that boots from the network."""
    return "firmware" in detail and detail.get("request") in (None, "discover")


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
    if status == "error":
        seen.errors += 1
        seen.error, seen.error_at = text, now
    elif status == "ok":
        seen.errors = 0


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
        and _file_of(begun) is not None
        and _file_of(begun) == _file_of(ended)
        and all(last.get(key) == entry.get(key) for key in keys)
    )


def _file_of(detail: Mapping[str, Any]) -> Any:
    return detail.get("path", detail.get("file"))


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
