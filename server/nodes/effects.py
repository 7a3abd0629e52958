"""What one event does to a boot: begins it, marks a phase of it, is told together with another."""

import math
from collections.abc import Mapping
from typing import Any

from server.events import Event
from server.nodes.node import (
    FACTS,
    LIVE_ROOT,
    Boot,
    Node,
    Phase,
)
from server.nodes.phases import (
    ORDER,
    PHASES,
    is_core,
    is_menu,
)
from server.nodes.space import SPACE

STATUSES = ("start", "ok", "error")
TEXT_MAX = 400
"""Characters of one text of an event; the rest is cut off."""
FACT_MAX = 300
"""Characters of one fact about a boot; the rest is cut off."""
DETAILS_MAX = 13
"""Details of one event; what comes after is dropped."""


def is_error(detail: Mapping[str, Any]) -> bool:
    """Whether an event says that something failed."""
    return detail.get("status") == "error"


def is_ok(detail: Mapping[str, Any]) -> bool:
    """Whether an event says that something went well, or does not say how it went."""
    return bool(detail.get("status", "ok") == "ok")


def starts_boot(boot: Boot, event: Event, phase: str, path: str, detail: Mapping[str, Any]) -> bool:
    """Whether an event shows that the node has begun another boot than `boot`.

    path: what it asked for.
    """
    boot_id = detail.get("boot")
    if boot_id and boot.boot_id and boot_id != boot.boot_id:
        return True
    reached = ORDER[boot.last_phase() or PHASES[0]]
    if phase == "dhcp":
        # Firmware, loader, initramfs and the running system each ask, and the last two name no
        # firmware; a machine that has its menu and asks as firmware does was switched on anew.
        return _is_firmware(detail) and reached >= ORDER["menu"]
    if phase == "loader" and is_core(path):
        # Only its start: the last ACK may be lost, and the end be noticed when the menu is there.
        begins = detail.get("status") == "start" or (event.source != "tftp" and is_ok(detail))
        return begins and reached >= ORDER["menu"]
    if phase == "menu" and is_menu(path):
        return reached >= ORDER["initramfs"]
    return False


def note_space(node: Node, event: Event, detail: Mapping[str, Any]) -> None:
    """How full the file systems of the present boot are now: a fact of it, no event in its list."""
    node.last_seen = max(node.last_seen, event.time)
    boot = node.boot
    told_by = str(detail.get("boot") or "")
    if boot is None or (boot.boot_id and told_by and boot.boot_id != told_by):
        return
    boot.facts[SPACE] = str(detail.get(SPACE) or "")[:FACT_MAX]
    boot.facts["space_at"] = round(event.time, 3)


def _is_firmware(detail: Mapping[str, Any]) -> bool:
    """Whether a DHCP message is the first of a machine that boots from the network."""
    return "firmware" in detail and detail.get("request") in (None, "discover")


def note_facts(boot: Boot, detail: Mapping[str, Any]) -> None:
    """Keep what an event tells of the boot, each text cut."""
    for name in FACTS:
        if name in detail:
            value = detail[name]
            boot.facts[name] = value[:FACT_MAX] if isinstance(value, str) else value


def mark_phase(boot: Boot, phase: str, event: Event, detail: Mapping[str, Any]) -> None:
    """Note an event in the phase that it is of, and its facts in the boot."""
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
    note_facts(boot, detail)
    if phase == "menu" and event.source != "plan" and status != "error":
        return  # what the menu says was decided before it was sent
    seen.status = status
    seen.detail = text
    seen.cause = str(detail.get("cause") or "")
    if status == "error":
        seen.errors += 1
        seen.error, seen.error_at, seen.error_cause = text, now, seen.cause
    elif status == "ok":
        seen.errors = 0


def note_root(boot: Boot, what: str) -> None:
    """Whether it lives on NBD: who has its root in memory lets go before init-ltsp begins."""
    if what == "attach":
        boot.facts[LIVE_ROOT] = True
    elif what == "detach" and ORDER[boot.last_phase() or PHASES[0]] < ORDER["preinit"]:
        boot.facts.pop(LIVE_ROOT, None)


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


def image_of(path: str) -> str:
    """The image's name in `/ltsp/<name>/@…` or `[/]opt/ltsp/<name>@…`."""
    head = path.partition("@")[0].rstrip("/")
    return head.rpartition("/")[2]
