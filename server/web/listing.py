"""`/api/nodes` and `/api/overview`: machines by filters, causes and counts; and forgetting them."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from imagebuild.yamlloader import did_you_mean
from server.diagnosis import RULES
from server.nodes.node import describe, summarize
from server.nodes.phases import PHASES
from server.nodes.timelines import Nodes
from server.observe.marks import (
    ALL_STATES,
    LABEL_PREFIX,
    OLD,
    PLAYED,
    SEEN,
    SORTS,
    Counts,
    Filter,
    Shelf,
    read_filter,
)
from server.observe.overview import Group, Overview, Row
from server.protocols.http import Response
from server.quantities import sort_naturally

QUICK_SECONDS: Final = 0.02
SHARE: Final = 20
"""An answer that took longer than QUICK_SECONDS is kept SHARE times as long as it took."""
KEPT: Final = 8
"""Answers of different queries that are kept."""
MOST: Final = 1_000_000
"""The `limit` of a query that names none: all machines."""
_RULE_IDS: Final = frozenset(rule.id for rule in RULES)
NAMES: Final = 100
"""Machines of a cause that `/api/overview` names."""
NAMED: Final = 20
"""Images, and labels' names and values, that a note names."""
NOTE_HEADER: Final = "X-Bootfarm-Note"
_KEYS: Final = ("state", "cause", "phase", "image", "q", "sort", "limit", "view", "page")


class Listing:
    """The answers of /api/nodes, kept while making one again would cost the loop too much.

    What took long is given again for SHARE times as long; of some hundred nodes
    it takes no time, and each answer is a fresh one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[tuple[str, str], ...], tuple[float, Response]] = OrderedDict()

    def get(self, query: Mapping[str, str], make: Callable[[], Response]) -> Response:
        """The answer kept for a query, or what `make` gives."""
        began = self._clock()
        key = tuple(sorted(query.items()))
        until, answer = self._kept.get(key, (0.0, None))
        if answer is not None and began < until:
            return answer
        self._kept.pop(key, None)
        answer = make()
        ended = self._clock()
        took = ended - began
        if took > QUICK_SECONDS:
            self._kept[key] = (ended + SHARE * took, answer)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return answer


def list_nodes(overview: Overview, query: Mapping[str, str], now: float) -> list[dict[str, Any]]:
    """Machines that fit the query's filter, by its `sort`, at most `limit` of them.

    Without `state` all that were seen; without `sort` who was heard of last comes first.
    """
    wanted = read_filter(query)
    if "state" not in query:
        wanted = Filter(
            SEEN, wanted.cause, wanted.phase, wanted.image, wanted.labels, wanted.wanted
        )
    most = read_number(query.get("limit", ""), MOST)
    sort = query.get("sort", "seen")
    found = overview.rows(now, wanted=wanted, sort=sort, most=max(1, most))
    return [summarize_row(row) for row in found.rows]


def explain_query(query: Mapping[str, str]) -> str:
    """What is wrong with a query that a script wrote, or "": one who filters gets no other list.

    The page's own query is taken as far as it goes instead.
    """
    for word in filter(None, query.get("state", "").split(",")):
        if word not in ALL_STATES:
            return f"state= is some of {','.join(ALL_STATES)}, not {word[:40]!r}"
    if (phase := query.get("phase", "")) and phase not in PHASES:
        return f"phase= is one of {', '.join(PHASES)}, not {phase[:40]!r}"
    cause = query.get("cause", "")
    if cause and cause.partition("~")[0] not in _RULE_IDS:
        return f"cause= is a rule of docs/diagnosis.md, not {cause[:40]!r}"
    sort = query.get("sort", "")
    if sort and sort not in SORTS and not sort.startswith(LABEL_PREFIX):
        return f"sort= is one of {', '.join(SORTS)} and {LABEL_PREFIX}<name>, not {sort[:40]!r}"
    if (limit := query.get("limit", "")) and read_number(limit, 0) < 1:
        return f"limit= is a whole number from 1 on, not {limit[:40]!r}"
    return ""


def find_unknown(
    query: Mapping[str, str], overview: Overview, doubled: Sequence[str] = ()
) -> list[str]:
    """Words of a query that are understood and can fit no machine, each with those that exist:
    an image that neither the store nor a machine has, a label that the inventory has not; keys
    that are no filter, and those that stand more than once (doubled)."""
    wanted = read_filter(query)
    notes = [f"{_show(key)} stands more than once: only the last counts" for key in doubled]
    notes += [
        f"{_show(key)} is no filter and counts for nothing"
        + (f"; {near}" if (near := did_you_mean(key, _KEYS)) else "")
        for key in query
        if key not in _KEYS and not key.startswith(LABEL_PREFIX)
    ]
    image = wanted.image
    if image and image != OLD and not any(map(overview.shelf.judge(image), overview.image_keys())):
        names = _name_images(overview)
        notes.append(
            f"image={_show(image)}: neither the store nor a machine has it; there are"
            f" {_name_some(names)}"
        )
    sort = query.get("sort", "")
    names = list(overview.label_names)
    for name, value in wanted.labels.items():
        notes += _check_label(name, f"{LABEL_PREFIX}{name}={value}", names)
        values = overview.label_values(name)
        if name in names and value not in values:
            known = sorted(values, key=sort_naturally)
            notes.append(
                f"{_show(f'{LABEL_PREFIX}{name}={value}')}: no machine has that; there are"
                f" {_name_some(known)}"
            )
    if sort.startswith(LABEL_PREFIX):
        notes += _check_label(sort.removeprefix(LABEL_PREFIX), f"sort={sort}", names)
    return notes


def _check_label(name: str, words: str, names: Sequence[str]) -> list[str]:
    if name in names:
        return []
    known = f"it has {_name_some(names)}" if names else "it has none (labels in farm.yaml)"
    return [f"{_show(words)}: the inventory has no label of that name; {known}"]


def _name_images(overview: Overview) -> list[str]:
    """`name:tag` of what tags lead to, `name@digest` of the rest, in order."""
    names: list[str] = []
    for one in map(overview.shelf.find, overview.image_keys()):
        names += [f"{one.name}:{tag}" for tag in one.tags] or [f"{one.name}@{one.digest[:12]}"]
    return sorted(names)


def _name_some(words: Sequence[str]) -> str:
    """The first NAMED of them, or that there are none."""
    more = ", …" if len(words) > NAMED else ""
    return f"{', '.join(words[:NAMED])}{more}" or "none"


def _show(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def note_header(notes: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Notes as a header of an answer that is a list and has no room for them."""
    text = "; ".join(notes)[:1000].encode("ascii", "backslashreplace").decode()
    return ((NOTE_HEADER, text),) if text else ()


def summarize_row(row: Row) -> dict[str, Any]:
    """A machine in one JSON object."""
    return {**summarize(row.node), **_add(row)}


def describe_row(row: Row) -> dict[str, Any]:
    """A machine with its whole timeline, as JSON has it."""
    return {**describe(row.node), **_add(row)}


def _add(row: Row) -> dict[str, Any]:
    return {
        "last_seen": row.node.last_seen or None,
        "finding": row.finding.to_json() if row.finding is not None else None,
        "state": row.state,
        "serial": row.serial,
        "labels": dict(row.labels),
        "bmc": row.bmc,
        "tags": list(row.image.tags),
        "old": row.image.is_old,
    }


def describe_overview(
    overview: Overview, query: Mapping[str, str], now: float, doubled: Sequence[str] = ()
) -> dict[str, Any]:
    """Counts within the query's filter, and what is the matter, one cause after the other."""
    wanted = read_filter(query)
    found = overview.rows(now, wanted=wanted, most=1)
    progress = overview.progress(now)
    return {
        "notes": find_unknown(query, overview, doubled),
        "total": found.total,
        "states": {state: found.counts.states[state] for state in ALL_STATES},
        "phases": dict(found.counts.phases),
        "images": list_images(found.counts, overview.shelf),
        "labels": list_labels(found.counts, overview.label_names),
        "causes": [_pack_group(group) for group in overview.groups(wanted)],
        "booting": {
            "now": progress.booting,
            "ready_in_10_min": progress.ready,
            "median_seconds": round(progress.median, 1),
            "busiest_phase": progress.busiest,
            "ready_in_1_min": progress.a_minute,
            "slowest_phase": progress.slowest,
            "slowest_phase_seconds": round(progress.slowest_median, 1),
        },
    }


def list_images(counts: Counts, shelf: Shelf) -> list[dict[str, Any]]:
    """Images that machines have booted, with how many, the most first."""
    images = []
    for key, count in sorted(counts.images.items(), key=lambda item: (-item[1], item[0])):
        words = shelf.find(key)
        images.append(
            {
                "image": words.name,
                "digest": words.digest,
                "tags": list(words.tags),
                "old": words.is_old,
                "count": count,
            }
        )
    return images


def list_labels(counts: Counts, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Each label's values, with how many machines."""
    labels: dict[str, dict[str, int]] = {name: {} for name in names}
    for (name, value), count in counts.labels.items():
        labels.setdefault(name, {})[value] = count
    return labels


def _pack_group(group: Group) -> dict[str, Any]:
    cause = group.cause
    return {
        "cause": cause.id,
        "rule": cause.rule,
        "phase": cause.phase,
        "severity": cause.severity,
        "words": cause.words,
        "check": list(cause.check),
        "count": group.count,
        "names": list(group.names[:NAMES]),
        "nodes": list(group.keys[:NAMES]),
    }


def forget_many(
    nodes: Nodes, query: Mapping[str, str], now: float, forget: Callable[[str], bool]
) -> int | str:
    """Forget the nodes silent for `older_than` seconds, with `state=played` what is played, with
    both what is played and was silent for so long.

    How many these were, or what is wrong with the query.
    """
    older, state = query.get("older_than", ""), query.get("state", "")
    if not older and not state:
        return "say which: older_than=SECONDS, state=played, or /api/nodes/<mac>"
    if state not in ("", PLAYED):
        return f"state= is {PLAYED} here, not {state[:40]!r}: nothing was forgotten"
    seconds = read_number(older, -1)
    if older and seconds < 60:
        return "older_than= is a number of seconds, 60 at least"
    keys = [
        node.key
        for node in nodes.newest()
        if (node.played or not state) and now - node.last_seen > seconds
    ]
    return sum(map(forget, keys))


def read_number(text: str, default: int) -> int:
    """A whole number of a query, or the default for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else default
