"""The status page at `/`: what is the matter, then the machines, a row or a line each.

A page of 100 costs the same in any farm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from server.diagnosis import Finding
from server.nodes.node import Boot
from server.nodes.phases import ORDER, PHASES
from server.observe.marks import (
    LABEL_PREFIX,
    OLD,
    PLAYED,
    SORTS,
    STATES,
    Counts,
    Filter,
    Shelf,
    read_filter,
)
from server.observe.overview import Group, Overview, Row
from server.protocols.http import Response
from server.quantities import compress_names, name_age, sort_naturally
from server.web.listing import explain_query, find_unknown
from server.web.rendering import format_span, render

ROWS = 100
LINES = 400
"""Machines of a page, and of one of the dense view."""
GROUPS = 12
"""Causes that are shown."""
OPTIONS = 200
"""Values that a filter offers."""
STEPS = PHASES[: PHASES.index("shutdown")]
SORT_WORDS = {
    "trouble": "trouble first",
    "name": "by name",
    "seen": "last heard of first",
    "since": "latest change first",
    "phase": "by phase",
    "image": "by image",
}


@dataclass(frozen=True)
class RowView:
    """A row in words. steps: a class for each phase; progress: the same for readers. passed:
    how many steps were. place: the inventory's labels. group: the value of the label that the
    list is sorted by."""

    key: str
    href: str
    name: str
    mac: str
    ip: str
    serial: str
    state: str
    steps: list[str]
    passed: int
    phase: str
    since: float
    progress: str
    finding: Finding | None
    image: str
    digest: str
    tag: str
    is_old: bool
    last_seen: float
    place: str
    bmc: str
    played: str
    note: str
    maintenance: bool
    group: str


@dataclass(frozen=True)
class ListView:
    """A page of rows, and where it stands."""

    rows: list[RowView]
    total: int
    first: int
    most: int

    @property
    def page(self) -> int:
        """The page's number, from 1."""
        return self.first // self.most + 1

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return max(1, -(-self.total // self.most))


@dataclass(frozen=True)
class GroupView:
    """A cause in words. names: of its machines, runs of numbers in brackets."""

    id: str
    count: int
    words: str
    names: str
    check: str
    severity: str


@dataclass(frozen=True)
class Option:
    """What a filter offers. words: with how many machines."""

    value: str
    words: str


@dataclass(frozen=True)
class Choice:
    """A filter with what it offers. name: in the URL."""

    name: str
    label: str
    chosen: str
    options: Sequence[Option]


def render_nodes(
    overview: Overview,
    health: Mapping[str, Any],
    query: Mapping[str, str],
    now: float,
    *,
    can_leave: bool = False,
    servers: Sequence[Mapping[str, Any]] = (),
    rollout: Mapping[str, Any] | None = None,
) -> Response:
    """The list. `?page=N` from 1 on; filters: see read_filter; `?sort=`, `?view=dense`."""
    wanted = read_filter(query)
    sort = query.get("sort", "")
    is_known = sort in SORTS or sort.removeprefix(LABEL_PREFIX) in overview.label_names
    sort = sort if is_known else ""
    dense = query.get("view") == "dense"
    most = LINES if dense else ROWS
    number = query.get("page", "1")
    page = max(int(number), 1) if number.isascii() and number.isdecimal() and len(number) < 8 else 1
    found = overview.rows(now, wanted=wanted, sort=sort, first=(page - 1) * most, most=most)
    views = [view_row(row, now, sort) for row in found.rows]
    listed = ListView(views, found.total, found.first, most)
    asked: dict[str, str | int] = {
        "state": ",".join(wanted.states),
        "cause": wanted.cause,
        "phase": wanted.phase,
        "image": wanted.image,
        **{f"{LABEL_PREFIX}{name}": value for name, value in wanted.labels.items()},
        "q": wanted.wanted,
        "sort": sort,
        "view": "dense" if dense else "",
        "page": listed.page,
    }

    def link(**changes: str | int) -> str:
        kept = {key: value for key, value in (asked | changes).items() if value not in ("", 1)}
        return f"/?{urlencode(kept)}" if kept else "/"

    groups = overview.groups(wanted, GROUPS)
    counts = found.counts
    more = len(counts.causes) - len(groups) if not wanted.cause else 0
    images = [(overview.shelf.find(key), count) for key, count in counts.images.items()]
    return render(
        "nodes.html.j2",
        rollout=rollout,
        list=listed,
        link=link,
        wanted=wanted.wanted,
        state=asked["state"],
        filtered=not wanted.is_plain,
        cause=wanted.cause,
        states=[*STATES, *([PLAYED] if counts.states[PLAYED] or PLAYED in wanted.states else [])],
        counts=counts.states,
        total_nodes=sum(counts.states[state] for state in STATES),
        troubled=overview.counts()["look"],
        groups=[_view_group(group) for group in groups],
        more_causes=more,
        more_machines=counts.causes.total() - sum(group.count for group in groups),
        choices=list(_list_choices(overview, wanted, counts, sort)),
        old=sum(count for words, count in images if words.is_old),
        with_image=sum(count for _, count in images),
        farm=overview.progress(now),
        dense=dense,
        sort=sort,
        sort_words=SORT_WORDS.get(sort or "trouble", f"by {sort.removeprefix(LABEL_PREFIX)}"),
        carried={key: asked[key] for key in ("state", "cause", "view") if asked[key]},
        notes=_list_notes(query, overview),
        health=health,
        now=now,
        can_leave=can_leave,
        servers=servers,
    )


def _list_notes(query: Mapping[str, str], overview: Overview) -> list[str]:
    """What of the address is taken for nothing, or can fit no machine."""
    problem = explain_query({key: query[key] for key in query if key != "limit"})
    return [*([problem] if problem else []), *find_unknown(query, overview)]


def _view_group(group: Group) -> GroupView:
    cause = group.cause
    names = compress_names(group.names, 8)
    check = cause.check[0] if cause.check else ""
    return GroupView(cause.id, group.count, cause.words, names, check, cause.severity)


def _list_choices(overview: Overview, wanted: Filter, counts: Counts, sort: str) -> list[Choice]:
    """The filters, each with counts within the others."""
    phases = [
        Option(phase, f"{phase} ({counts.phases[phase]})")
        for phase in PHASES
        if counts.phases[phase] or phase == wanted.phase
    ]
    choices = [
        Choice("phase", "Phase", wanted.phase, phases),
        Choice("image", "Image", wanted.image, _list_images(wanted, counts, overview.shelf)),
    ]
    for name in overview.label_names:
        values = {value: count for (one, value), count in counts.labels.items() if one == name}
        chosen = wanted.labels.get(name, "")
        if chosen:
            values.setdefault(chosen, 0)
        options = [
            Option(value, f"{value} ({values[value]})")
            for value in sorted(values, key=sort_naturally)[:OPTIONS]
        ]
        choices.append(Choice(f"{LABEL_PREFIX}{name}", name, chosen, options))
    orders = [Option(word, SORT_WORDS[word]) for word in SORTS[1:]]
    orders += [Option(f"{LABEL_PREFIX}{name}", f"by {name}") for name in overview.label_names]
    choices.append(Choice("sort", "Order", sort, orders))
    return choices


def _list_images(wanted: Filter, counts: Counts, shelf: Shelf) -> list[Option]:
    options, old = [], 0
    for key, count in sorted(counts.images.items(), key=lambda item: (-item[1], item[0])):
        words = shelf.find(key)
        old += count if words.is_old else 0
        tag = f":{words.tag}" if words.tag else ""
        older = ", older than current" if words.is_old else ""
        options.append(
            Option(words.digest[:12], f"{words.name}{tag} {words.digest[:12]} ({count}{older})")
        )
    if old or wanted.image == OLD:
        options.insert(0, Option(OLD, f"older than current ({old})"))
    if wanted.image and wanted.image not in {option.value for option in options}:
        options.append(Option(wanted.image, wanted.image))
    return options[:OPTIONS]


def view_row(row: Row, now: float, sort: str = "") -> RowView:
    """A node in words."""
    node = row.node
    boot = node.boot
    phase = (boot.last_phase() if boot else None) or ""
    steps = _steps(boot, is_booting=row.state == "booting")
    return RowView(
        key=node.key,
        href=f"/nodes/{quote(node.key, safe=':')}",
        name=node.hostname or node.mac or node.ip or node.key,
        mac=node.mac or "",
        ip=node.ip,
        serial=row.serial,
        state=row.state,
        steps=steps,
        passed=len(STEPS) if phase == "ready" else steps.count("ok") + steps.count("unseen"),
        phase=phase,
        since=boot.phases[phase].first if boot and phase else 0.0,
        progress=_progress(row, now),
        finding=row.finding,
        image=row.image.name,
        digest=row.image.digest,
        tag=row.image.tag,
        is_old=row.image.is_old,
        last_seen=node.last_seen,
        place=", ".join(f"{name} {value}" for name, value in row.labels),
        bmc=row.bmc,
        played=node.played,
        note=node.note,
        maintenance=node.maintenance,
        group=dict(row.labels).get(sort.removeprefix(LABEL_PREFIX), "none")
        if sort.startswith(LABEL_PREFIX)
        else "",
    )


def _steps(boot: Boot | None, *, is_booting: bool) -> list[str]:
    """For each phase: ok, start, error, unseen (passed by without a trace), next (what it is
    about to do) or none (ahead)."""
    if boot is None:
        return ["none"] * len(STEPS)
    reached = ORDER[boot.last_phase() or STEPS[0]]
    steps = []
    for phase in STEPS:
        seen = boot.phases.get(phase)
        if seen is None:
            steps.append("unseen" if ORDER[phase] < reached else "none")
        elif seen.status == "start" and ORDER[phase] < reached:
            steps.append("ok")  # a later phase was reached
        else:
            steps.append(seen.status)
    if is_booting and reached + 1 < len(STEPS) and steps[reached] == "ok":
        steps[reached + 1] = "next"
    return steps


def _progress(row: Row, now: float) -> str:
    node = row.node
    if row.state == "unseen":
        return "in the inventory, never seen"
    boot = node.boot
    phase = boot.last_phase() if boot else None
    if boot is None or phase is None:
        return "nothing of its boot seen yet"
    at = boot.phases[phase]
    if phase == "shutdown":
        return f"shut down {name_age(now - at.first)} ago"
    if phase == "ready":
        took = f"{format_span(at.first - boot.started)} after it began"
        if row.state == "look":
            return f"became ready {name_age(now - at.first)} ago"
        return f"ready {took}"
    step = f"step {ORDER[phase] + 1} of {len(STEPS)}"
    if at.status == "error":
        return f"{phase} failed, {step}"
    return f"{phase}, {step}, for {name_age(now - at.first)}"
