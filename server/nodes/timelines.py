"""One timeline a node, made from what the services saw: the one door for events.

Bounded: at most `limit` nodes (those that nobody could name go first, then those
that only a DHCP message named, then the ones that were silent longest), `events`
events each, texts cut. Belongs to the loop's thread.
"""

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from imagebuild.wholefile import read_whole, write_whole
from server.addresses import parse_mac
from server.events import Event
from server.nodes.awaited import Awaited
from server.nodes.effects import (
    bound_detail,
    image_of,
    is_error,
    is_ok,
    mark_phase,
    note_facts,
    note_root,
    note_space,
    starts_boot,
)
from server.nodes.eventlog import EventLog, is_begun, is_same
from server.nodes.given import GIVEN
from server.nodes.node import (
    EVENTS,
    NOTE_MAX,
    Boot,
    Node,
    pack_node,
    set_back,
    unpack_node,
)
from server.nodes.phases import (
    ORDER,
    digest_of,
    is_core,
    phase_of,
)
from server.nodes.space import SPACE

TIMELINES = "nodes"
"""The directory below `state` in which they are kept."""
CLOCK_SECONDS = 3600.0
"""A node that was seen so much later than now was seen by a clock that has been set since."""
PLAYERS = ("simulate", "doctor")
"""Who plays machines that are none: `bootfarm simulate` and `bootfarm doctor`."""
DOCTORS_MACS = "02:bf:"
"""What MACs begin with that the doctor makes up."""
SIMULATED_NETWORK = ip_network("127.64.0.0/10")
"""Where `bootfarm simulate` has its nodes against a server of the same machine."""
_FILE_MAX = 64 * 1024 * 1024
"""Bytes of a kept timeline that are read."""
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
        # MACs that stood in a DHCP message and nowhere else: anybody writes any.
        self._hearsay: OrderedDict[str, None] = OrderedDict()
        # Who had which address last, as DHCP or the neighbour table showed: for machines
        # behind a router, which no such table knows, and those that have fallen silent,
        # which it forgets in seconds.
        self._holders: OrderedDict[str, str] = OrderedDict()
        # Addresses of what is no machine, and who plays it.
        self._players: OrderedDict[str, str] = OrderedDict()
        self._awaited = Awaited(limit)
        self._offset: float | None = None
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
        elif event.source == "beacon" and event.phase == SPACE:
            note_space(node, event, detail)
        self._tell(node.key, node)
        return node

    def _take(self, node: "Node", event: Event, phase: str, detail: dict[str, Any]) -> None:
        path = str(detail.get("file") or detail.get("path") or detail.get("export") or "")
        if event.source == "dhcp" and not is_error(detail):
            self._note_holder(node.mac, detail.get("address"))
        if event.source == "dhcp" and "firmware" not in detail and not is_error(detail):
            # Linux asks, perhaps to renew: no step of a boot, and no boot of a machine with a disk.
            node.last_seen = max(node.last_seen, event.time)
            self._append(node, event, phase, path, detail)
            return
        boot = self._boot_of(node, event, phase, path, detail)
        node.last_seen = max(node.last_seen, event.time)
        if phase == "loader" and is_error(detail) and not is_core(path):
            return  # GRUB asks for dozens of files that need not be there
        # How its join goes the node says itself: a certificate is no join yet, and anybody on a
        # node may ask for one.
        is_desk = event.source == "join"
        marks = not is_desk and not (event.source == "nbd" and event.phase == "detach")
        if is_desk and is_ok(detail):
            note_facts(boot, detail)
        if node.played and boot.boot_id:
            node.played = ""  # it speaks for itself
        if marks:
            mark_phase(boot, phase, event, detail)
            if digest := str(detail.get("digest") or digest_of(path)):
                boot.digest = digest
                boot.image = str(detail.get("image") or image_of(path)) or boot.image
        self._append(node, event, phase, path, detail)
        if event.source == "nbd":
            note_root(boot, event.phase)

    def note_given(self, key: str, given: str) -> bool:
        """A node fetches its lts.conf (nodes.given); what it asks for once it runs changes
        nothing that it booted with, and is not noted (False)."""
        node = self.get(key)
        boot = node.boot if node is not None else None
        if node is None or boot is None:
            return False
        if ORDER[boot.last_phase() or "dhcp"] > ORDER["ltsconf"]:
            return False
        boot.facts[GIVEN] = given
        self._dirty[node.key] = None
        return True

    def nodes(self) -> list[Node]:
        """Every node, last seen first."""
        return sorted(self._nodes.values(), key=lambda node: node.last_seen, reverse=True)

    def newest(self) -> Iterator[Node]:
        """Every node, the one that was heard of last first; costs nothing until it is read."""
        return reversed(self._nodes.values())

    def get(self, key: str) -> Node | None:
        """A node by MAC (any spelling), or by the IP that it has or had last."""
        return self._nodes.get(parse_mac(key) or key) or self._nodes.get(self._holders.get(key, ""))

    def mind_clock(self, wall: float, steady: float) -> None:
        """Where the clock was set back since the last call: what was seen by it before happened as
        late as now at most. wall: seconds since the epoch; steady: of a clock that nobody sets."""
        before, self._offset = self._offset, wall - steady
        if before is None or before - self._offset <= CLOCK_SECONDS:
            return
        for node in self._nodes.values():
            if node.last_seen > wall + CLOCK_SECONDS:
                set_back(node, node.last_seen - wall)
                self._dirty[node.key] = None
                self._tell(node.key, node)

    def play(self, key: str, player: str) -> None:
        """What has this address is no machine: it is played by `player`, one of PLAYERS; until
        it says that it boots."""
        self._players[key] = player
        self._players.move_to_end(key)
        if len(self._players) > self._limit:
            self._players.popitem(last=False)
        node = self.get(key)
        if node is None or node.played == player or (node.boot and node.boot.boot_id):
            return
        node.played = player
        self._dirty[node.key] = None
        self._tell(node.key, node)

    def annotate(
        self, key: str, note: str | None, maintenance: bool | None, *, awaited: bool = False
    ) -> bool:
        """Keep a person's note on a node, by its key, and whether somebody works on it.

        None leaves either as it is; what is not printable is left out. awaited: the key is the
        MAC of a machine that will come: what is written is kept until it does. False where there
        is no such node.
        """
        node = self._nodes.get(key) or self._awaited.get(key)
        if node is None:
            if not awaited:
                return False
            node = Node(key, key)
        if note is not None:
            node.note = "".join(char for char in note if char.isprintable()).strip()[:NOTE_MAX]
        if maintenance is not None:
            node.maintenance = maintenance
        if key in self._nodes:
            self._dirty[key] = None
            self._tell(key, node)
        else:
            self._await(node)
        return True

    def _await(self, node: Node) -> None:
        """Keep what people wrote of a machine that is not there; nothing, where they did not."""
        kept, gone = self._awaited.put(node)
        for key in kept:
            self._dirty[key] = None
            self._gone.discard(key)
        for key in gone:
            self._dirty.pop(key, None)
            self._gone.add(key)
        for key in (*kept, *gone):
            self._tell(key, None)

    def awaited(self, key: str) -> Node | None:
        """What people wrote of a machine, by MAC, that was not seen yet."""
        return self._awaited.get(key)

    def forget(self, key: str) -> bool:
        """Forget a node, by its key; False where there is none. What it does next begins anew."""
        known = self._nodes.pop(key, None) or self._awaited.take(key)
        if known is None:
            return False
        self._strangers.pop(key, None)
        self._hearsay.pop(key, None)
        for address in [ip for ip, mac in self._holders.items() if mac == key]:
            del self._holders[address]
        self._forget(key)
        return True

    def key_of(self, address: str) -> str:
        """The key of the node that has an address or had it last; the address for none."""
        return address if address in self._nodes else self._holders.get(address, address)

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, key: str) -> bool:
        """Whether a node has exactly this key."""
        return key in self._nodes

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
        named = not ip  # by the event, and not by an address that answers
        if mac and ip and ip in self._nodes:
            self._adopt(ip, key)
        node = self._nodes.get(key)
        if node is None:
            self._make_room()
            node = Node(key, mac, first_seen=now, last_seen=now)
            node.events = EventLog(self._events)
            node.played = _find_player(key, mac) or self._players.get(ip, "")
            self._nodes[key] = node
            self._gone.discard(key)
            if named:
                self._hearsay[key] = None
        if (awaited := self._awaited.take(key)) is not None:
            _carry_note(awaited, node)
        self._nodes.move_to_end(key)
        if not named:
            self._hearsay.pop(key, None)
        elif key in self._hearsay:
            self._hearsay.move_to_end(key)
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
        else:
            _carry_note(stranger, self._nodes[mac])

    def _make_room(self) -> None:
        while len(self._nodes) >= self._limit:
            key = next(iter(self._strangers or self._hearsay or self._nodes))
            node = self._nodes.pop(key)
            self._strangers.pop(key, None)
            self._hearsay.pop(key, None)
            self._forget(key)
            if node.mac is not None and (node.note or node.maintenance):
                # What people wrote is not theirs to push out who floods the list.
                self._await(Node(key, node.mac, note=node.note, maintenance=node.maintenance))

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
        if boot is None or starts_boot(boot, event, phase, path, detail):
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
        if last is not None and is_begun(last, entry):
            node.events.replace_last(entry)
            return
        if last is not None and is_same(last, entry):
            last["count"] = last.get("count", 1) + 1
            last["until"] = entry["time"]
            return
        node.events.append(entry)

    # Kept over a restart

    def load(self, directory: Path, now: float | None = None) -> int:
        """Read what `save` wrote; a damaged file costs its node only. The number of nodes read.

        now: seconds since the epoch; what was seen later was told by a clock that was ahead.
        """
        now = time.time() if now is None else now
        try:
            files = sorted(directory.glob("*.json"))
        except OSError:
            return 0
        found: list[Node] = []
        for file in files:
            try:
                node = unpack_node(json.loads(read_whole(file, _FILE_MAX)), self._events)
            except (
                OSError,
                ValueError,
                TypeError,
                KeyError,
                AttributeError,
                RecursionError,
            ) as error:
                _log.warning("%s: not a timeline, left aside: %s", file, error)
                continue
            if _file_name(node.key) == file.name:
                found.append(node)
            if node.last_seen > now + CLOCK_SECONDS:
                set_back(node, node.last_seen - now)
        for node in sorted(found, key=lambda node: node.last_seen):
            if node.mac is not None and node.boot is None and node.first_seen == 0.0:
                self._awaited.put(node)
                continue
            self._make_room()
            self._nodes[node.key] = node
            if node.ip:
                self._note_holder(node.mac, node.ip)
            if node.boot is not None:
                self._note_holder(node.mac, node.boot.facts.get("address"))
            if node.mac is None:
                self._strangers[node.key] = None
            elif not node.ip:
                self._hearsay[node.key] = None
        return len(self._nodes)

    def save(self, directory: Path, most: int | None = None) -> int:
        """Write changed nodes, each beside and renamed; at most `most`. How many are left."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for key in list(self._gone)[:most]:
            (directory / _file_name(key)).unlink(missing_ok=True)
            self._gone.discard(key)
        for key in list(self._dirty)[:most]:
            node = self._nodes.get(key) or self._awaited.get(key)
            if node is not None:
                packed = json.dumps(pack_node(node), separators=(",", ":"))
                write_whole(directory / _file_name(key), packed.encode())
            del self._dirty[key]
        return len(self._dirty) + len(self._gone)


def _carry_note(known: Node, node: Node) -> None:
    """What people wrote of a machine under another key is of `node`."""
    node.note = known.note or node.note
    node.maintenance = known.maintenance or node.maintenance


def _find_player(key: str, mac: str | None) -> str:
    """Who plays a machine, as far as its address tells."""
    if mac is not None:
        return "doctor" if mac.startswith(DOCTORS_MACS) else ""
    try:
        return "simulate" if ip_address(key) in SIMULATED_NETWORK else ""
    except ValueError:
        return ""


def _file_name(key: str) -> str:
    return key.replace(":", "-").replace("/", "_") + ".json"
