"""Answers of the web API as lines for a terminal; pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from server.nodes.phases import ORDER, PHASES
from server.nodes.space import name_spaces, read_space
from server.quantities import compress_names, name_age, name_size
from server.terminal.words import (
    clean,
    cut,
    fit_columns,
    make_table,
    name_amount,
    name_date,
    name_rate,
    name_seconds,
    name_time,
    number_of,
    shorten,
    text_of,
)

STEPS: Final = PHASES[: PHASES.index("shutdown")]
_MARKS: Final = {"error": "!", "stalled": "?", "note": "i"}
Fields = Mapping[str, Any]


def render_bar(phase: str | None, finding: Fields | None, *, unicode: bool = True) -> str:
    """A mark for each phase up to ready: done, where it stands, to come.

    `!` an error, `?` a stall, `>` on its way.
    """
    done, to_come = ("█", "░") if unicode else ("#", ".")
    if phase is None or phase not in ORDER:
        return to_come * len(STEPS)
    if phase == "shutdown":
        return "-" * len(STEPS)
    at = ORDER[phase]
    severity = finding.get("severity") if finding else None
    if severity in ("error", "stalled"):
        here = _MARKS[severity]
    else:
        here = done if phase == "ready" else ">"
    return done * at + here + to_come * (len(STEPS) - at - 1)


def finding_of(node: Fields) -> Fields | None:
    """The diagnosis' finding for a node, or None."""
    finding = node.get("finding")
    return finding if isinstance(finding, Mapping) else None


def is_in_trouble(node: Fields) -> bool:
    """Whether the node stands in an error, or is stalled."""
    finding = finding_of(node)
    return finding is not None and finding.get("severity") in ("error", "stalled")


def name_of(node: Fields) -> str:
    """The node's hostname, else its MAC, else its address."""
    return text_of(node, "hostname") or text_of(node, "mac") or text_of(node, "ip")


NARROW: Final = 34
"""Characters that are left for what is the matter, however narrow the window."""
NAME_MAX: Final = 24
"""Characters of a node's name in the table."""
NAMES_LEAST: Final = 16
"""Characters of a cause's line that are left for its machines."""


def render_nodes(
    nodes: Sequence[Fields], now: float, *, width: int | None = None, unicode: bool = True
) -> list[str]:
    """The table: a row a node, in the order given; then how many there are of each kind."""
    return [*render_table(nodes, now, width=width, unicode=unicode), "", count_nodes(nodes)]


def render_table(
    nodes: Sequence[Fields], now: float, *, width: int | None = None, unicode: bool = True
) -> list[str]:
    """A heading and a row a node. Where it is narrow, what is the matter keeps its room."""
    rows = [_row(node, now, unicode, width) for node in nodes]
    head = ("NODE", "IP", "BOOT", "PHASE", "SINCE", "IMAGE", "WHAT IS THE MATTER")
    return make_table(*fit_columns(head, rows, width, (1, 5, 2, 4), NARROW), width)


def count_nodes(nodes: Sequence[Fields]) -> str:
    """How many there are of each kind."""
    ready = sum(node.get("phase") == "ready" for node in nodes)
    trouble = sum(map(is_in_trouble, nodes))
    unseen = sum(node.get("state") == "unseen" for node in nodes)
    words = f"{len(nodes)} nodes, {ready} ready, {trouble} with an error or stalled"
    return words + (f", {unseen} not seen yet" if unseen else "")


def render_progress(overview: Fields) -> str:
    """How the farm boots: how many a minute become ready, how long it takes; "" where none is."""
    found = overview.get("booting")
    if not isinstance(found, Mapping):
        return ""
    if not number_of(found, "ready_in_10_min"):
        return ""
    words = f"{number_of(found, 'ready_in_1_min'):.0f} became ready in the last minute"
    words += f", median {number_of(found, 'median_seconds'):.0f} s"
    if slowest := text_of(found, "slowest_phase"):
        words += f", slowest phase {slowest} ({number_of(found, 'slowest_phase_seconds'):.0f} s)"
    return words


def render_causes(overview: Fields, *, width: int | None = None, most: int = 8) -> list[str]:
    """What is the matter, a line a cause: how many machines, why, which."""
    causes = [one for one in overview.get("causes") or [] if isinstance(one, Mapping)]
    lines = []
    for cause in causes[:most]:
        given = cause.get("names")
        names = compress_names([clean(one) for one in given] if isinstance(given, list) else [])
        line = f"{int(number_of(cause, 'count')):>5}  {text_of(cause, 'words')}"
        if width is not None:
            room = min(len(names), max(NAMES_LEAST, width - len(line) - 2))
            line, names = cut(line, width - room - 2), cut(names, room)
        lines.append(f"{line}  {names}")
    if len(causes) > most:
        rest = sum(int(number_of(cause, "count")) for cause in causes[most:])
        lines.append(f"{rest:>5}  for {len(causes) - most} more causes")
    return lines


def render_screen(
    nodes: Sequence[Fields],
    overview: Fields,
    now: float,
    *,
    width: int,
    height: int,
    unicode: bool = True,
) -> list[str]:
    """A window's worth: causes, then as many rows as there is room for, then what is left out."""
    causes = render_causes(overview, width=width, most=height // 5) if height >= 10 else []
    total = int(number_of(overview, "total"))
    lines = [*causes, *([""] if causes else [])]
    room = max(1, height - len(lines) - 3)  # heading, what is left out, counts
    lines += render_table(nodes[:room], now, width=width, unicode=unicode)
    if total > room:
        lines.append(cut(f"… {total - room} more: narrow it by TEXT, --states, --label", width))
    states = overview.get("states")
    counts = states if isinstance(states, Mapping) else {}
    words = [f"{total} nodes"]
    words += [
        f"{int(number_of(counts, state))} {name}"
        for state, name in STATE_WORDS.items()
        if number_of(counts, state)
    ]
    progress = render_progress(overview)
    lines.append(cut(", ".join([*words, *([progress] if progress else [])]), width))
    return lines


STATE_WORDS: Final = {
    "look": "need a look",
    "booting": "booting",
    "unseen": "not seen yet",
    "ready": "ready",
    "off": "off",
    "played": "played",
}


def _row(node: Fields, now: float, unicode: bool, width: int | None) -> tuple[str, ...]:
    finding = finding_of(node)
    phase = text_of(node, "phase")
    since = number_of(node, "since")
    words = ""
    if finding is not None:
        mark = _MARKS.get(text_of(finding, "severity"), "!")
        words = f"{mark} {text_of(finding, 'headline')}"
    note = text_of(node, "note")
    if node.get("maintenance"):
        words = f"in maintenance{': ' if note else ''}{note}"
    elif note:
        words = f"{words} ({note})" if words else f"i {note}"
    unseen = text_of(node, "state") == "unseen"
    return (
        cut(name_of(node), NAME_MAX if width is not None else None),
        text_of(node, "ip"),
        render_bar(phase or None, finding, unicode=unicode),
        phase or ("unseen" if unseen else "seen"),
        name_age(now - since) if since else "",
        name_image(node),
        words,
    )


def name_image(node: Fields) -> str:
    """Its image's name with the tag, if one leads to it, and the digest's beginning."""
    tags = node.get("tags")
    tag = f":{clean(tags[0])}" if isinstance(tags, list) and tags else ""
    image, digest = text_of(node, "image"), text_of(node, "digest")[:12]
    old = "old" if node.get("old") is True else ""
    return " ".join(word for word in (f"{image}{tag}" if image else "", digest, old) if word)


def render_node(node: Fields, now: float, *, unicode: bool = True, events: int = 0) -> list[str]:
    """One node: who it is, what is the matter, the timeline of its boot, its last events."""
    boot = node.get("boot")
    boot = boot if isinstance(boot, Mapping) else {}
    lines = _render_head(node, boot, now)
    finding = finding_of(node)
    lines += ["", _render_state(node, finding, now, unicode)]
    if finding is not None:
        lines += ["", *render_finding(finding, now)]
    lines += ["", *_render_phases(boot)]
    recent = [entry for entry in node.get("events") or [] if isinstance(entry, Mapping)]
    if events > 0 and recent:
        lines += ["", f"Its last {min(events, len(recent))} events:"]
        lines += [f"  {render_event(entry, name='')}" for entry in recent[-events:]]
    return lines


def _render_head(node: Fields, boot: Fields, now: float) -> list[str]:
    facts = boot.get("facts")
    facts = facts if isinstance(facts, Mapping) else {}
    who = dict.fromkeys(text_of(node, key) for key in ("hostname", "mac", "ip"))
    lines = ["  ".join(word for word in who if word)]
    if note := text_of(node, "note"):
        lines.append(f"note:    {note}")
    if node.get("maintenance"):
        lines.append("in maintenance: nothing is the matter with it")
    machine = [text_of(facts, "firmware")]
    if memory := number_of(facts, "memory"):
        machine.append(f"{name_size(memory * (1 << 20))} of memory")
    if serial := text_of(node, "serial") or text_of(facts, "serial"):
        machine.append(f"serial {serial}")
    if any(machine):
        lines.append("machine: " + ", ".join(word for word in machine if word))
    network = [f"address {text_of(facts, 'address')}"] if text_of(facts, "address") else []
    for key, words in (("dhcp_server", "given by the DHCP server"), ("relay", "through the relay")):
        if value := text_of(facts, key):
            network.append(f"{words} {value}")
    if network:
        lines.append("network: " + ", ".join(network))
    labels = node.get("labels")
    labels = labels if isinstance(labels, Mapping) else {}
    place = [f"{clean(name)} {clean(value)}" for name, value in labels.items()]
    if bmc := text_of(node, "bmc"):
        place.append(f"management controller {bmc}")
    if place:
        lines.append("stands:  " + ", ".join(place))
    if text_of(node, "image"):
        old = node.get("old") is True
        lines.append(f"image:   {name_image(node)}" + (" (a reboot upgrades it)" if old else ""))
    if spaces := name_spaces(read_space(facts)):
        lines.append("in use:  " + clean(", ".join(spaces)))
    if started := number_of(node, "boot_started"):
        count = int(number_of(node, "boots"))
        lines.append(
            f"boot:    {name_date(started)} ({name_age(now - started)} ago), number {count}"
            f" that was seen; last heard of {name_age(now - number_of(node, 'last_seen'))} ago"
        )
    return lines


def _render_state(node: Fields, finding: Fields | None, now: float, unicode: bool) -> str:
    phase = text_of(node, "phase")
    if text_of(node, "state") == "unseen":
        return (
            "in the inventory, and never seen: switch it on, the network first in its boot order;"
            " `bootfarm doctor` says whether this server would answer it"
        )
    if not phase:
        return "no boot of it was seen"
    since = number_of(node, "since")
    boot = node.get("boot")
    phases = boot.get("phases") if isinstance(boot, Mapping) else None
    here = phases.get(phase) if isinstance(phases, Mapping) else None
    if isinstance(here, Mapping) and text_of(node, "status") == "error":
        since = number_of(here, "error_at") or since
    bar = render_bar(phase, finding, unicode=unicode)
    return f"{bar}  {phase}: {text_of(node, 'status')}, since {name_age(now - since)}"


def render_finding(finding: Fields, now: float) -> list[str]:
    """What is the matter, in words, and what to do."""
    severity = text_of(finding, "severity")
    since = number_of(finding, "since")
    age = f", for {name_age(now - since)}" if since else ""
    lines = [f"{_MARKS.get(severity, '!')} {text_of(finding, 'headline')}"]
    lines.append(f"  {severity} in phase {text_of(finding, 'phase')}{age}")
    lines.append(f"  expected: {text_of(finding, 'expected')}")
    lines.append(f"  seen:     {text_of(finding, 'seen')}")
    lines.append("  to check:")
    checks = finding.get("check")
    for number, line in enumerate(checks if isinstance(checks, list) else [], 1):
        lines.append(f"    {number}. {clean(line)}")
    lines.append(f"  (rule {text_of(finding, 'rule')}, docs/diagnosis.md)")
    return lines


def _render_phases(boot: Fields) -> list[str]:
    found = boot.get("phases")
    phases = found if isinstance(found, Mapping) else {}
    started = number_of(boot, "started")
    names = [
        name
        for name in sorted(phases, key=lambda word: ORDER.get(word, len(ORDER)))
        if isinstance(phases[name], Mapping)
    ]
    rows = []
    for number, name in enumerate(names):
        phase = phases[name]
        following = phases[names[number + 1]] if number + 1 < len(names) else None
        began, ended = _began(phase), number_of(phase, "last")
        if ended <= began and following is not None:
            # A single event was heard of it: it lasted until the next phase's first event.
            ended = max(began, _began(following))
        status = text_of(phase, "status")
        if status == "start" and following is not None:
            status = "ok"  # a later phase shows that it ended well
        amount, seconds = number_of(phase, "bytes"), number_of(phase, "seconds")
        retries = int(number_of(phase, "retries"))
        rows.append(
            (
                clean(name),
                status,
                f"+{name_seconds(began - started)}",
                name_seconds(ended - began) if ended > began else "",
                name_amount(amount),
                name_rate(amount, seconds),
                str(retries) if retries else "",
                text_of(phase, "detail"),
            )
        )
    if not rows:
        return ["no phase of a boot was seen"]
    head = ("PHASE", "STATUS", "BEGAN", "LASTED", "BYTES", "RATE", "RETRIES", "DETAIL")
    return make_table(head, rows)


def _began(phase: Fields) -> float:
    """When a phase began. A transfer is reported when it is over: it began that long before."""
    first = number_of(phase, "first")
    if number_of(phase, "count") == 1:
        return min(first, number_of(phase, "last") - number_of(phase, "seconds"))
    return first


def render_log(log: object, count: int) -> list[str]:
    """The last lines that its kernel and syslog sent; a line before each boot's says which."""
    answer = log if isinstance(log, Mapping) else {}
    found: list[tuple[int, Fields]] = []
    for boot in answer.get("boots") or []:
        if isinstance(boot, Mapping) and isinstance(boot.get("lines"), list):
            number = int(number_of(boot, "boot"))
            found += [(number, line) for line in boot["lines"] if isinstance(line, Mapping)]
    if not found:
        return ["", "No line of its kernel came (docs/status-page.md says how to have them sent)."]
    lines, before = [""], 0
    present = int(number_of(answer, "present"))
    for number, line in found[-count:]:
        if number != before:
            lines.append(f"Kernel and syslog, {_name_boot(present - number)}:")
            before = number
        stamp = name_time(number_of(line, "time"))
        lines.append(f"  {stamp}  {text_of(line, 'source')}  {text_of(line, 'text')}")
    return lines


def _name_boot(ago: int) -> str:
    return ("this boot", "the boot before")[ago] if ago in (0, 1) else f"{ago} boots ago"


def render_event(event: Fields, name: str | None = None) -> str:
    """One event in one line. name: of the node, instead of its key; "" for none."""
    detail = event.get("detail")
    detail = detail if isinstance(detail, Mapping) else {}
    shown = {clean(key): shorten(clean(value)) for key, value in detail.items() if value != ""}
    status = shown.pop("status", "")
    file = shown.pop("path", "") or shown.pop("file", "") or shown.pop("export", "")
    words = shown.pop("detail", "") or shown.pop("message", "")
    amount = number_of(detail, "bytes")
    seconds = number_of(detail, "seconds")
    for key in ("bytes", "seconds", "size", "boot", "digest", "options"):
        shown.pop(key, None)
    if shown.get("retries") == "0":
        del shown["retries"]
    numbers = [name_amount(amount), f"in {seconds:.2f} s" if seconds else ""]
    count = int(number_of(event, "count"))
    who = text_of(event, "node") if name is None else name
    what = text_of(event, "phase") or text_of(event, "what")
    parts = [
        name_time(number_of(event, "time")),
        who,
        text_of(event, "source"),
        what,
        status,
        file,
        words,
        *numbers,
        " ".join(f"{key}={value}" for key, value in shown.items()),
        f"({count} times)" if count > 1 else "",
    ]
    return "  ".join(part for part in parts if part)
