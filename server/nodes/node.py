"""What is known of a node: its boots, their phases, its last events; as JSON and back."""

from collections import deque
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from imagebuild.architecture import find_architecture
from server.addresses import parse_mac
from server.nodes.eventlog import EventLog
from server.nodes.phases import ORDER

JOIN_KEYS = "join_keys"
"""Among a boot's facts: the keys that got a certificate for its kubelet, each shortened."""
FACTS = (
    *("firmware", "architecture", "uuid", "dhcp_server", "address", "relay"),
    *("memory", "serial", "panic", "cards"),
    *("ram_image", "ram_system", "ram_free", "ram_total"),
    *("rcfile", "exit", "last", "said", "bootstrap"),
    *("corrupted", "served"),
    *("join_issued", "join_ms", "join_until", JOIN_KEYS),
)
"""What a boot remembers of its events: of DHCP's, and of the node's own words."""
LIVE_ROOT = "live_root"
"""True among a boot's facts, if its root is read over NBD for as long as it runs."""
FETCHED = ("dhcp", "loader", "menu", "kernel", "initrd")
PAST_BOOTS = 3
"""Boots that are kept besides the present one."""
EVENTS = 64
"""Events that are kept of a node, unless farm.yaml says otherwise."""
FORMAT = 1
"""Of a timeline's file; other formats are left aside."""
NOTE_MAX = 200
"""Characters of a note."""
_TEXT_MAX = 100_000
_NUMBER_MAX = float(1 << 63)
TIME_MAX = 1e11
"""Of an amount, and seconds since the epoch (in the year 5138), that are read back."""
_TIMES = ("first", "last", "error_at", "started", "time", "until")


@dataclass(slots=True)
class Phase:
    """What is known of one phase of one boot. first, last: seconds since the epoch.

    bytes, seconds, retries: of the transfers in it that ended, together. cause: one
    word of server.causes for what `detail` says, or "". errors: how many since it
    last went well; error, error_at, error_cause: the last of all, also when it was
    mended.
    """

    first: float
    last: float
    status: str
    count: int = 1
    bytes: int = 0
    detail: str = ""
    seconds: float = 0.0
    retries: int = 0
    errors: int = 0
    error: str = ""
    error_at: float = 0.0
    cause: str = ""
    error_cause: str = ""


@dataclass(slots=True)
class Boot:
    """One start of a node, up to the next. boot_id: what its initramfs made up, or "".

    facts: what is worth keeping of it when its events are gone; FACTS has the names,
    and besides there are `space` (server.nodes.space) and `space_at`, when it was told.
    """

    started: float
    boot_id: str = ""
    image: str = ""
    digest: str = ""
    phases: dict[str, Phase] = field(default_factory=dict)
    facts: dict[str, str | int | float | bool] = field(default_factory=dict)

    def last_phase(self) -> str | None:
        """The furthest phase that the boot has reached."""
        return max(self.phases, key=ORDER.__getitem__, default=None)

    def error(self) -> str:
        """The error that has not been mended since, or ""."""
        reached = ORDER[self.last_phase() or "dhcp"]
        for phase in sorted(self.phases, key=ORDER.__getitem__, reverse=True):
            if phase in FETCHED and ORDER[phase] < reached:
                break  # a node that has come further got what it had asked for
            if self.phases[phase].status == "error":
                return f"{phase}: {self.phases[phase].detail or 'failed'}"
        return ""


@dataclass(slots=True)
class Node:
    """A machine and its timeline. key: its MAC, or its IP while the MAC is unknown.

    played: by what, where it is no machine: "simulate" or "doctor", else "". note: what a
    person wrote about it; maintenance: somebody works on it, nothing is the matter with it.
    """

    key: str
    mac: str | None
    ip: str = ""
    hostname: str | None = None
    first_seen: float = 0.0
    last_seen: float = 0.0
    boots: int = 0
    boot: Boot | None = None
    past: deque[Boot] = field(default_factory=lambda: deque(maxlen=PAST_BOOTS))
    events: EventLog = field(default_factory=lambda: EventLog(EVENTS))
    played: str = ""
    note: str = ""
    maintenance: bool = False


def architecture_of(node: Node) -> str:
    """The machine's architecture, as amd64, as its firmware said last to DHCP; "" where nothing
    that boots did. It is for words: what a machine boots is not decided by it, since anybody may
    write any MAC into a DHCP message."""
    for boot in (*([node.boot] if node.boot else []), *reversed(node.past)):
        number = boot.facts.get("architecture")
        if isinstance(number, int) and (name := find_architecture(number)):
            return name
    return ""


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
        "played": node.played,
        "note": node.note,
        "maintenance": node.maintenance,
    }


def describe(node: Node) -> dict[str, Any]:
    """A node with its whole timeline, as JSON has it. rate: of a phase, in bytes a second."""
    packed = pack_node(node)
    for boot in (packed["boot"], *packed["past"]):
        for phase in boot["phases"].values() if boot else ():
            seconds = phase["seconds"]
            phase["rate"] = round(phase["bytes"] / seconds) if seconds > 0 else None
    return {**summarize(node), **packed}


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
        "played": node.played,
        "note": node.note,
        "maintenance": node.maintenance,
    }


def _pack_boot(boot: Boot) -> dict[str, Any]:
    packed = {entry.name: getattr(boot, entry.name) for entry in fields(boot)}
    packed["phases"] = {
        phase: asdict(boot.phases[phase]) for phase in sorted(boot.phases, key=ORDER.__getitem__)
    }
    packed["facts"] = dict(boot.facts)
    return packed


def set_back(node: Node, seconds: float) -> None:
    """Move all times of a node so far into the past: they were told by a clock that was ahead."""
    node.first_seen = max(0.0, node.first_seen - seconds)
    node.last_seen = max(0.0, node.last_seen - seconds)
    for boot in (*([node.boot] if node.boot else []), *node.past):
        boot.started = max(0.0, boot.started - seconds)
        for phase in boot.phases.values():
            phase.first = max(0.0, phase.first - seconds)
            phase.last = max(0.0, phase.last - seconds)
            phase.error_at = max(0.0, phase.error_at - seconds)
    moved = []
    for entry in node.events:
        for name in ("time", "until"):
            if name in entry:
                entry[name] = max(0.0, entry[name] - seconds)
        moved.append(entry)
    node.events.replace(moved)


def unpack_node(data: Any, events: int) -> Node:
    """What `pack_node` gave, after JSON; ValueError, TypeError or KeyError for anything else.

    Whatever a file holds, what is made of it has the types and bounds that pages, lists and
    metrics go by: a file that is damaged costs its node, and not the server.
    """
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r}")
    mac = data["mac"]
    if mac is not None and parse_mac(_text(mac)) != mac:
        raise ValueError("a MAC that is none")
    node = Node(
        key=_text(data["key"]),
        mac=mac,
        ip=_text(data["ip"]),
        hostname=None if data["hostname"] is None else _text(data["hostname"]),
        first_seen=float(_amount(data["first_seen"], TIME_MAX)),
        last_seen=float(_amount(data["last_seen"], TIME_MAX)),
        boots=int(_amount(data["boots"])),
    )
    node.boot = _unpack_boot(data["boot"]) if data["boot"] else None
    node.past.extend(_unpack_boot(boot) for boot in data["past"])
    node.events = EventLog(events, map(_check_event, data["events"]))
    node.played = _text(data.get("played") or "")
    node.note = _text(data.get("note") or "")[:NOTE_MAX]
    node.maintenance = data.get("maintenance") is True
    return node


def _unpack_boot(data: Any) -> Boot:
    phases = {
        phase: Phase(**_check_fields(Phase, value))
        for phase, value in data["phases"].items()
        if phase in ORDER
    }
    facts = {_text(name): _plain(value) for name, value in data.get("facts", {}).items()}
    plain = {key: value for key, value in data.items() if key not in ("phases", "facts")}
    return Boot(**{**_check_fields(Boot, plain), "phases": phases, "facts": facts})


def _check_fields(kind: type, data: Any) -> dict[str, Any]:
    """The same fields, each a text or a number as `kind` has it."""
    texts = {entry.name for entry in fields(kind) if entry.type in (str, "str")}
    return {
        name: _text(value) if name in texts else _number(name, value)
        for name, value in data.items()
    }


def _check_event(data: Any) -> dict[str, Any]:
    event = {_text(name): value for name, value in data.items() if name != "detail"}
    for name, value in event.items():
        _text(value) if name in ("source", "phase", "what") else _number(name, value)
    detail = {_text(name): _plain(value) for name, value in data["detail"].items()}
    if not {"time", "source", "phase"} <= event.keys():
        raise ValueError("an event that is none")
    return {**event, "detail": detail}


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_MAX:
        raise ValueError(f"{str(value)[:40]!r} is no text of a timeline")
    return value


def _number(name: str, value: Any) -> Any:
    return _amount(value, TIME_MAX if name in _TIMES else _NUMBER_MAX)


def _amount(value: Any, most: float = _NUMBER_MAX) -> Any:
    """A time, a span or an amount, as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{str(value)[:40]!r} is no number")
    if not 0 <= value < most:  # nor is a NaN
        raise ValueError(f"{str(value)[:40]} is no number of a timeline")
    return value


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, str | bool):
        return value if isinstance(value, bool) else _text(value)
    if not isinstance(value, int | float) or not abs(value) < _NUMBER_MAX:
        raise ValueError(f"{str(value)[:40]!r} is no fact")
    return value
