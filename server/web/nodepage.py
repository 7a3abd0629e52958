"""A node's page: timeline, finding, kernel log, lts.conf with origins, boots before, events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.nodes.given import GIVEN, VALUE_MAX, GivenValues, cut_value, find_changes
from server.nodes.node import Boot, Node, Phase
from server.nodes.phases import ORDER
from server.nodes.space import name_spaces, read_space
from server.observe.logbook import BootLog
from server.observe.overview import Row
from server.protocols.http import Response
from server.quantities import name_age, name_size
from server.web.explainer import Values
from server.web.page import STEPS, view_row
from server.web.rendering import format_clock, format_span, format_stamp, render

MEANINGS = {
    "dhcp": "asks for an address and a loader",
    "loader": "fetches the boot loader",
    "menu": "reads its menu",
    "kernel": "fetches the kernel",
    "initrd": "fetches the initramfs",
    "initramfs": "the initramfs runs",
    "network": "sets up the network",
    "ltsconf": "fetches its lts.conf",
    "root": "attaches the image",
    "preinit": "init-ltsp applies lts.conf",
    "systemd": "systemd starts services",
    "rcfile": "runs RCFILE_*",
    "join": "kubeadm join",
    "ready": "Kubernetes calls it Ready",
    "shutdown": "shuts down",
}
HOW = {"ok": "done", "start": "under way", "error": "failed"}
CONTEXT = 24
"""Characters before the first difference of two values that are shown."""
TAIL = 200
TAIL_BEFORE = 60
"""Lines of the newest boot's log, and of others', that the page shows."""
_FACTS_FIRST = ("status", "path", "file", "export", "detail", "message")


@dataclass(frozen=True)
class PhaseView:
    """A row of the timeline. before: an error that was mended. x, width: in percent of the boot."""

    name: str
    meaning: str
    status: str
    how: str
    detail: str
    before: str
    at: str
    took: str
    bytes: str
    rate: str
    retries: str
    x: float
    width: float


@dataclass(frozen=True)
class ChangeView:
    """A variable that has changed since a boot, masked. name: with `(new)` or `(gone)`; was, will:
    None where there is nothing to show; remark: what more there is to say, or ""."""

    name: str
    was: str | None
    will: str | None
    remark: str


@dataclass(frozen=True)
class LogLine:
    """A line of the kernel log. bad: of priority error or worse."""

    text: str
    bad: bool


@dataclass(frozen=True)
class LogView:
    """The lines of one boot."""

    title: str
    lines: Sequence[LogLine]


def render_node(
    row: Row,
    values: Values,
    logs: Sequence[LogView],
    log_hint: str,
    health: Mapping[str, Any],
    now: float,
    *,
    can_leave: bool = False,
    given: GivenValues | None = None,
    rollout: str = "",
) -> Response:
    """The page of one node. given: what values were, where that is kept. rollout: its place in a
    rollout that is under way, in a sentence, or ""."""
    node = row.node
    boot = node.boot
    return render(
        "node.html.j2",
        rollout=rollout,
        row=view_row(row, now),
        phases=view_phases(boot, now) if boot else [],
        started=boot.started if boot else 0.0,
        boots=node.boots,
        steps=STEPS,
        spaces=name_spaces(read_space(boot.facts)) if boot else [],
        join=describe_join(boot) if boot else "",
        past=[_view_past(one) for one in reversed(node.past)],
        events=[_view_event(event) for event in reversed(node.events)],
        values=values,
        changes=view_changes(boot, values, given),
        logs=logs,
        log_hint=log_hint,
        health=health,
        now=now,
        can_leave=can_leave,
    )


def describe_join(boot: Boot) -> str:
    """How this boot joins, where it got a certificate for that: when, how fast, until when."""
    issued, until = boot.facts.get("join_issued"), boot.facts.get("join_until")
    if not isinstance(issued, int | float) or not isinstance(until, int | float):
        return ""
    return (
        f"joins by certificate issued {format_clock(issued)}, in {boot.facts.get('join_ms', '?')}"
        f" ms, good until {format_stamp(until)}"
    )


def view_changes(boot: Boot | None, values: Values, given: GivenValues | None) -> list[ChangeView]:
    """Variables that its next boot gets otherwise than this one did, as far as that is known."""
    prints = boot.facts.get(GIVEN) if boot is not None else None
    if not isinstance(prints, str) or not values.prints or values.problem or values.pending:
        return []
    now = {value.key: cut_value(value.value or "") for value in values.values}
    views = []
    for change in find_changes(prints, values.prints):
        known = given.find(change.name, change.before) if given and change.before else None
        was, will = known, now.get(change.name, "") if change.now else None
        remark = ""
        if change.before and known is None:
            remark = "what it was is not kept any more"
        elif was is not None and was == will:
            remark = f"what differs is secret, or behind the first {VALUE_MAX} characters"
        elif was is not None and will is not None:
            was, will = _shorten(was, will)
        views.append(ChangeView(change.words, was, will, remark))
    return views


def _shorten(one: str, other: str) -> tuple[str, str]:
    """Two long texts without what they begin with alike, but for the last words of it."""
    pairs = enumerate(zip(one, other, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
    if same <= 2 * CONTEXT:
        return one, other
    at = same - CONTEXT
    return f"…{one[at:]}", f"…{other[at:]}"


def view_phases(boot: Boot, now: float) -> list[PhaseView]:
    """The phases that were seen, in order, in words."""
    phases = sorted(boot.phases.items(), key=lambda item: ORDER[item[0]])
    furthest = phases[-1][0] if phases else ""
    is_going = bool(phases) and furthest not in ("ready", "shutdown")
    ends = [phase.last for _, phase in phases]
    if is_going and phases[-1][1].status == "start":
        ends.append(now)
    begin = min([boot.started, *(_began(phase) for _, phase in phases)])
    whole = max(max(ends, default=begin) - begin, 0.1)
    views = []
    for number, (name, phase) in enumerate(phases):
        began, ended = _began(phase), phase.last
        if ended <= began and number + 1 < len(phases):
            # A single event was heard of it: it lasted until the next phase's first event.
            ended = max(began, _began(phases[number + 1][1]))
        status = phase.status
        if status == "start" and name != furthest:
            status = "ok"  # a later phase shows that it ended well
        if status == "start":
            ended = max(now, began)
        x = min(100 * (began - begin) / whole, 99.0)
        views.append(
            PhaseView(
                name=name,
                meaning=MEANINGS[name],
                status=status,
                how=HOW[status] + (f", {phase.count} times" if _repeats(phase) else ""),
                detail=phase.detail,
                before=phase.error if phase.error not in ("", phase.detail) else "",
                at=f"+{format_span(began - begin)}",
                took=format_span(ended - began) if ended > began else "",
                bytes=name_size(phase.bytes) if phase.bytes else "",
                rate=f"{name_size(phase.bytes / phase.seconds)}/s" if phase.seconds else "",
                retries=str(phase.retries) if phase.bytes or phase.retries else "",
                x=round(x, 2),
                width=round(min(max(100 * (ended - began) / whole, 1.0), 100 - x), 2),
            )
        )
    return views


def _began(phase: Phase) -> float:
    """When a phase began. A transfer is reported when it is over: it began that long before."""
    return min(phase.first, phase.last - phase.seconds) if phase.count == 1 else phase.first


def _repeats(phase: Phase) -> bool:
    """Whether it is worth saying that a phase was seen more than once; begin and end are two."""
    return phase.count > 2 and not phase.bytes


def _view_past(boot: Boot) -> dict[str, Any]:
    reached = boot.last_phase() or ""
    took = boot.phases[reached].first - boot.started if reached else 0.0
    return {
        "started": boot.started,
        "reached": reached,
        "took": format_span(took),
        "image": boot.image,
        "digest": boot.digest,
        "error": boot.error(),
    }


def _view_event(event: Mapping[str, Any]) -> dict[str, Any]:
    detail = event.get("detail", {})
    order = [key for key in _FACTS_FIRST if key in detail]
    order += [key for key in detail if key not in _FACTS_FIRST and key != "boot"]
    return {
        "time": event["time"],
        "source": event["source"],
        "phase": event["phase"],
        "count": event.get("count", 1),
        "words": ", ".join(f"{key} {detail[key]}" for key in order),
    }


def find_log_hint(hears: bool) -> str:
    """What the page says where no line of the kernel's log was received."""
    if not hears:
        return (
            "The server listens to neither syslog nor netconsole: logs in farm.yaml"
            " switches them on (docs/status-page.md)."
        )
    return (
        "Nothing was heard. SYSLOG_HOST in lts.conf sends the system's log here; netconsole"
        " sends the kernel's words, a panic too (docs/status-page.md)."
    )


def view_logs(node: Node, boots: Sequence[BootLog], now: float) -> list[LogView]:
    """The tail of each boot, the newest boot first."""
    views: list[LogView] = []
    for log in reversed(boots):
        most = TAIL if not views else TAIL_BEFORE
        shown = log.entries[-most:]
        left = len(log.entries) - len(shown)
        lines = [LogLine(f"… {left} lines before these: see the JSON below", False)] if left else []
        lines += [
            LogLine(f"{format_clock(entry.time)} {entry.text}", entry.is_bad) for entry in shown
        ]
        last = log.entries[-1].time
        which = _name_boot(node.boots - log.boot)
        views.append(LogView(f"{which}, last line {name_age(now - last)} ago", lines))
    return views


def _name_boot(back: int) -> str:
    if back <= 0:
        return "This boot"
    return "The boot before" if back == 1 else f"{back} boots before"
