"""A node's own report of its boot: `POST /beacon`, a small form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from server.causes import CAUSES
from server.events import Event
from server.nodes import phases
from server.nodes.space import SPACE, parse_space

PHASES = frozenset(phases.PHASES[phases.PHASES.index("initramfs") :])
"""Those that the node itself sees; the ones before them are firmware's and loader's."""
STATUSES = frozenset(("start", "ok", "error"))
FACTS = frozenset(
    (
        *("cards", "ram_image", "ram_system", "ram_free", "ram_total", "rcfile", "exit", "last"),
        *("said", "bootstrap", "corrupted", "served"),
    )
)
"""What a cause is about, where it is about something; docs/contracts.md says which."""
FIELDS = FACTS | {SPACE, "mac", "phase", "status", "detail", "boot", "memory", "serial", "cause"}
FACT_MAX = 300
"""Characters of one fact; the same as nodes/timelines.py keeps."""
DETAIL_MAX = 1000
"""Characters of the words for people."""
BOOT_MAX = 64
"""Characters of a boot's id (a UUID has 36)."""
SERIAL_MAX = 64
"""Characters of a serial number."""
MEMORY_MAX = 1 << 30
"""MiB; a petabyte."""


class BeaconError(ValueError):
    """A beacon that is not one; the text is for its sender."""


@dataclass(frozen=True)
class Beacon:
    """One step of a boot as the node tells it. boot: the id of this boot, or "".

    memory: in MiB, 0 where it is not told. serial: of the machine (SMBIOS), or "".
    cause: one of server.causes' for beacons, or "". facts: what the cause is about.
    space: how full its file systems are, in a beacon whose phase is "space".
    """

    mac: str | None
    phase: str
    status: str
    detail: str = ""
    boot: str = ""
    memory: int = 0
    serial: str = ""
    cause: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    space: str = ""

    def event(self, time: float, node: str) -> Event:
        """The report as an event; `node` is the address that it came from, not what it says."""
        detail: dict[str, str | int | float | bool] = {"status": self.status}
        if self.detail:
            detail["detail"] = self.detail
        if self.boot:
            detail["boot"] = self.boot
        if self.memory:
            detail["memory"] = self.memory
        if self.serial:
            detail["serial"] = self.serial
        if self.cause:
            detail["cause"] = self.cause
        if self.space:
            detail[SPACE] = self.space
        detail.update(self.facts)
        return Event(time, node, "beacon", self.phase, detail)


def parse_beacon(content_type: str, body: bytes) -> Beacon:
    """Check a form. Raises BeaconError: another type, unknown field, phase or status."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("application/x-www-form-urlencoded", ""):
        raise BeaconError(f"{kind[:60]} is not application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=len(FIELDS), errors="replace"
        )
    except ValueError as error:
        raise BeaconError(f"not a form: {error}") from None
    form = dict(pairs)
    if unknown := sorted(set(form) - FIELDS):
        raise BeaconError(f"unknown field {unknown[0][:40]!r}")
    phase, status = form.get("phase", ""), form.get("status", "ok")
    if phase != SPACE and phase not in PHASES:
        raise BeaconError(f"unknown phase {phase[:40]!r}; known: {', '.join(sorted(PHASES))}")
    if status not in STATUSES:
        raise BeaconError(f"unknown status {status[:40]!r}; known: {', '.join(sorted(STATUSES))}")
    return Beacon(
        mac=form.get("mac") or None,
        phase=phase,
        status=status,
        detail=_clean(form.get("detail", ""))[:DETAIL_MAX],
        boot=_clean(form.get("boot", ""))[:BOOT_MAX],
        memory=_read_memory(form.get("memory", "")),
        serial=_clean(form.get("serial", ""))[:SERIAL_MAX],
        cause=_known_cause(form.get("cause", "")),
        facts={name: _clean(form[name])[:FACT_MAX] for name in sorted(FACTS) if name in form},
        space=_read_space(phase, form.get(SPACE)),
    )


def _read_space(phase: str, text: str | None) -> str:
    if (phase == SPACE) != (text is not None):
        raise BeaconError("the field space goes with the phase space, and only with that")
    text = _clean(text or "")[:FACT_MAX]
    try:
        parse_space(text)
    except ValueError as error:
        raise BeaconError(f"space: {error}") from None
    return text


def _known_cause(word: str) -> str:
    """The cause, or "" for one of an image that is newer than this server."""
    return word if word in CAUSES["beacon"] else ""


def _read_memory(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise BeaconError(f"memory {text[:40]!r} is no number of MiB")
    return min(int(text or 0), MEMORY_MAX)


def _clean(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text).strip()
