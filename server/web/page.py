"""The status page at `/`: the nodes, a row each; a page of 100 costs the same in any farm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from server.diagnosis import Finding
from server.nodes import ORDER, PHASES, Boot, Node
from server.overview import STATES, Overview, Row
from server.protocols.http import Response
from server.quantities import name_age
from server.web.rendering import format_span, render

ROWS = 100
WANTED_MAX = 80
STEPS = PHASES[: PHASES.index("shutdown")]


@dataclass(frozen=True)
class RowView:
    """A row in words. steps: a class for each phase; progress: the same for readers."""

    key: str
    href: str
    name: str
    mac: str
    ip: str
    serial: str
    state: str
    steps: list[str]
    progress: str
    finding: Finding | None
    image: str
    digest: str
    last_seen: float


@dataclass(frozen=True)
class ListView:
    """A page of rows, and where it stands."""

    rows: list[RowView]
    total: int
    first: int
    most: int

    @property
    def page(self) -> int:
        return self.first // self.most + 1

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // self.most))


def render_nodes(
    overview: Overview,
    health: Mapping[str, Any],
    query: Mapping[str, str],
    now: float,
    *,
    can_leave: bool = False,
) -> Response:
    """The list. `?page=N` from 1 on, `?q=` finds in MAC, serial, IP and name, `?state=` filters."""
    wanted = query.get("q", "").strip()[:WANTED_MAX]
    state = query.get("state", "")
    state = state if state in STATES else ""
    number = query.get("page", "1")
    page = max(int(number), 1) if number.isascii() and number.isdecimal() and len(number) < 8 else 1
    found = overview.rows(now, state=state, wanted=wanted, first=(page - 1) * ROWS, most=ROWS)
    views = [view_row(row, now) for row in found.rows]
    listed = ListView(views, found.total, found.first, ROWS)

    def link(**changes: str | int) -> str:
        words = {"state": state, "q": wanted, "page": listed.page} | changes
        kept = {key: value for key, value in words.items() if value not in ("", 1)}
        return f"/?{urlencode(kept)}" if kept else "/"

    return render(
        "nodes.html.j2",
        list=listed,
        link=link,
        wanted=wanted,
        state=state,
        states=STATES,
        counts=overview.counts(),
        total_nodes=len(overview),
        health=health,
        now=now,
        can_leave=can_leave,
    )


def view_row(row: Row, now: float) -> RowView:
    """A node in words."""
    node = row.node
    boot = node.boot
    return RowView(
        key=node.key,
        href=f"/nodes/{quote(node.key, safe=':')}",
        name=node.hostname or node.mac or node.ip or node.key,
        mac=node.mac or "",
        ip=node.ip,
        serial=row.serial,
        state=row.state,
        steps=_steps(boot),
        progress=_progress(node, now),
        finding=row.finding,
        image=boot.image if boot else "",
        digest=boot.digest if boot else "",
        last_seen=node.last_seen,
    )


def _steps(boot: Boot | None) -> list[str]:
    """For each phase: ok, start, error, unseen (passed by without a trace) or none (ahead)."""
    if boot is None:
        return ["none"] * len(STEPS)
    reached = ORDER[boot.last_phase() or STEPS[0]]
    steps = []
    for phase in STEPS:
        seen = boot.phases.get(phase)
        if seen is None:
            steps.append("unseen" if ORDER[phase] < reached else "none")
        elif seen.status == "start" and ORDER[phase] < reached:
            steps.append("ok")  # it went on
        else:
            steps.append(seen.status)
    return steps


def _progress(node: Node, now: float) -> str:
    boot = node.boot
    phase = boot.last_phase() if boot else None
    if boot is None or phase is None:
        return "nothing of its boot seen yet"
    at = boot.phases[phase]
    if phase == "shutdown":
        return f"shut down {name_age(now - at.first)} ago"
    if phase == "ready":
        return f"ready {format_span(at.first - boot.started)} after it began"
    step = f"step {ORDER[phase] + 1} of {len(STEPS)}"
    if at.status == "error":
        return f"{phase} failed, {step}"
    return f"{phase}, {step}, for {name_age(now - at.first)}"
