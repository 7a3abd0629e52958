"""What a node tells of its own boot: `POST /beacon`, a small form."""

from dataclasses import dataclass
from urllib.parse import parse_qsl

from server import nodes
from server.events import Event

PHASES = frozenset(nodes.PHASES[nodes.PHASES.index("initramfs") :])
"""Those that the node itself sees; the ones before them are firmware's and loader's."""
STATUSES = frozenset(("start", "ok", "error"))
FIELDS = frozenset(("mac", "phase", "status", "detail", "boot", "memory", "serial"))
DETAIL_MAX = 1000
BOOT_MAX = 64
SERIAL_MAX = 64
MEMORY_MAX = 1 << 30
"""MiB; a petabyte."""


class BeaconError(ValueError):
    """A beacon that is not one; the text is for its sender."""


@dataclass(frozen=True)
class Beacon:
    """One step of a boot as the node tells it. boot: the id of this boot, or "".

    memory: in MiB, 0 where it is not told. serial: of the machine (SMBIOS), or "".
    """

    mac: str | None
    phase: str
    status: str
    detail: str = ""
    boot: str = ""
    memory: int = 0
    serial: str = ""

    def event(self, time: float, node: str) -> Event:
        """The event of it; `node` is who the server says it is."""
        detail: dict[str, str | int | float | bool] = {"status": self.status}
        if self.detail:
            detail["detail"] = self.detail
        if self.boot:
            detail["boot"] = self.boot
        if self.memory:
            detail["memory"] = self.memory
        if self.serial:
            detail["serial"] = self.serial
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
    if phase not in PHASES:
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
    )


def _read_memory(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise BeaconError(f"memory {text[:40]!r} is no number of MiB")
    return min(int(text or 0), MEMORY_MAX)


def _clean(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text).strip()
