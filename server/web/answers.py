"""The API's answers as JSON Schema (draft 2020-12): what each holds, and what it means."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from server.nodes.phases import PHASES
from server.observe.marks import ALL_STATES
from server.rollout.state import LAST, TARGET
from server.rollout.state import PHASES as MACHINE_PHASES
from server.rollout.state import STATES as ROLLOUT_STATES
from server.web.replies import KINDS

Schema = dict[str, Any]


def _text(about: str = "") -> Schema:
    return _about({"type": "string"}, about)


def _whole(about: str = "") -> Schema:
    return _about({"type": "integer", "minimum": 0}, about)


def _number(about: str = "") -> Schema:
    return _about({"type": "number"}, about)


def _moment(about: str) -> Schema:
    """Seconds since the epoch."""
    return _about({"type": "number"}, f"{about}, in seconds since the epoch.")


def _flag(about: str) -> Schema:
    return _about({"type": "boolean"}, about)


def _one_of(words: Sequence[str], about: str = "") -> Schema:
    return _about({"type": "string", "enum": list(words)}, about)


def _list(items: Schema, about: str = "") -> Schema:
    return _about({"type": "array", "items": items}, about)


def _map(values: Schema, about: str) -> Schema:
    return _about({"type": "object", "additionalProperties": values}, about)


def _object(about: str, needed: Mapping[str, Schema], more: Mapping[str, Schema] = {}) -> Schema:
    """needed: what is always there. more: what may be."""
    found = {"type": "object", "properties": {**needed, **more}, "required": list(needed)}
    return _about(found, about)


def _or_null(schema: Schema) -> Schema:
    if "$ref" in schema or "enum" in schema:
        about = schema.get("description", "")
        bare = {key: value for key, value in schema.items() if key != "description"}
        return _about({"anyOf": [bare, {"type": "null"}]}, about)
    return {**schema, "type": [schema["type"], "null"]}


def _about(schema: Schema, about: str) -> Schema:
    return {**schema, "description": about} if about else schema


def ref(name: str) -> Schema:
    """The shape of that name, where OpenAPI keeps it."""
    return {"$ref": f"#/components/schemas/{name}"}


_PLAIN: Final[Schema] = {"type": ["string", "number", "boolean"]}
_PHASE: Final = _one_of(PHASES)
_SEVERITY: Final = _one_of(
    ("error", "stalled", "note"),
    "error: a step failed; stalled: nothing came any more; note: it goes on.",
)

_MACHINE: Final[Mapping[str, Schema]] = {
    "mac": _or_null(_text("Lower case, colons; null while it is not known.")),
    "ip": _text(),
    "hostname": _or_null(_text()),
    "state": _one_of(ALL_STATES, "look: it needs one. played: it is no machine."),
    "phase": _or_null(_one_of(PHASES, "The furthest that this boot has reached.")),
    "status": _or_null(_one_of(("start", "ok", "stop", "error"), "Of that phase.")),
    "since": _or_null(_moment("When that phase began")),
    "first_seen": _moment("When something was first heard of it"),
    "last_seen": _or_null(_moment("When something was last heard of it")),
    "boot_started": _or_null(_moment("When this boot began")),
    "boots": _whole("Boots that were seen."),
    "image": _text("The name of the image that this boot asked for, or an empty text."),
    "digest": _text("Of that image."),
    "tags": _list(_text(), "Tags that lead to that image now."),
    "old": _flag("The name's `current` leads to another image now: a reboot upgrades it."),
    "error": _text("What went wrong in this boot and was not mended, or an empty text."),
    "finding": {"anyOf": [ref("finding"), {"type": "null"}]},
    "serial": _text("The inventory's, else what the machine says of itself."),
    "labels": _map(_text(), "The inventory's."),
    "bmc": _text("The web address of its management controller, or an empty text."),
    "played": _one_of(("", "simulate", "doctor"), "What plays it, where it is no machine."),
    "note": _text("What a person wrote about it."),
    "maintenance": _flag("Somebody works on it."),
}

_TIMELINE: Final[Mapping[str, Schema]] = {
    "format": _about({"const": 1}, "Of the timeline."),
    "key": _text("Its MAC, or its IP while that is not known."),
    "boot": {"anyOf": [ref("boot"), {"type": "null"}]},
    "past": _list(ref("boot"), "The boots before, the last one first."),
    "events": _list(ref("nodeEvent"), "Its last events, oldest first."),
}

SHAPES: Final[Mapping[str, Schema]] = {
    "machine": _object(
        "A machine, and how far its boot has come.",
        {key: value for key, value in _MACHINE.items() if key != "first_seen"},
    ),
    "nodes": _list(ref("machine"), "Machines in the order that was asked for."),
    "node": _object("A machine with its timeline.", {**_MACHINE, **_TIMELINE}),
    "finding": _object(
        "What is the matter with a machine.",
        {
            "rule": _text("A stable id of docs/diagnosis.md."),
            "phase": _PHASE,
            "severity": _SEVERITY,
            "headline": _text("One sentence."),
            "expected": _text(),
            "seen": _text(),
            "check": _list(_text(), "What to do, in order."),
            "since": _moment("Since when"),
        },
    ),
    "boot": _object(
        "One start of a machine.",
        {
            "started": _moment("When it began"),
            "boot_id": _text("What its initramfs made up, or an empty text."),
            "image": _text(),
            "digest": _text(),
            "phases": _map(ref("phase"), "The phases that were reached."),
            "facts": _map(_PLAIN, "What is worth keeping of its events."),
        },
    ),
    "phase": _object(
        "One phase of a boot. Amounts are of the transfers in it, together.",
        {
            "first": _moment("When it was first heard of"),
            "last": _moment("When it was last heard of"),
            "status": _text("start, ok, stop or error."),
            "count": _whole("Events."),
            "bytes": _whole(),
            "seconds": _number("In which transfers ran."),
            "retries": _whole("Packets that were sent again."),
            "rate": _or_null(_number("Bytes a second.")),
            "detail": _text("Its last words."),
            "cause": _text("One word for what they say, or an empty text."),
            "errors": _whole("Since it last went well."),
            "error": _text("The last error, also when it was mended."),
            "error_at": _moment("When that was"),
            "error_cause": _text("One word for what it says, or an empty text."),
        },
    ),
    "nodeEvent": _object(
        "One event of a machine, or several that were alike.",
        {
            "time": _moment("When it was"),
            "source": _text("The service that saw it."),
            "phase": _text("Of a boot."),
            "detail": _map(_PLAIN, "Small facts."),
        },
        {
            "what": _text("The service's own word."),
            "count": _whole("How many were alike."),
            "until": _moment("When the last of them was"),
        },
    ),
    "event": _object(
        "Something that a service saw.",
        {
            "id": _whole("Counts from 1 in each server."),
            "time": _moment("When it was"),
            "node": _text("The machine's key, or an empty text."),
            "ip": _text(),
            "source": _text("The service that saw it."),
            "phase": _or_null(_PHASE),
            "what": _text("The service's own word."),
            "detail": _map(_PLAIN, "Small facts."),
        },
    ),
    "events": _list(ref("event"), "Oldest first."),
    "changes": _object(
        "Which machines have changed.",
        {},
        {
            "nodes": _list(_text(), "Their keys; an empty one stands for the server itself."),
            "many": _about({"const": True}, "So many that they are not named."),
        },
    ),
    "log": _object(
        "What a machine's kernel and syslog sent.",
        {
            "node": _text("Its key."),
            "present": _whole("The number of its boot now."),
            "boots": _list(
                _object(
                    "",
                    {
                        "boot": _whole("The boot's number."),
                        "lines": _list(
                            _object(
                                "",
                                {
                                    "time": _moment("When it came"),
                                    "source": _one_of(("syslog", "netconsole")),
                                    "severity": _whole("0 to 7 (RFC 5424, section 6.2.1)."),
                                    "text": _text(),
                                },
                            )
                        ),
                    },
                )
            ),
        },
    ),
    "overview": _object(
        "Machines counted, each count within the other filters.",
        {
            "total": _whole("Machines that fit."),
            "states": _object("", {state: _whole() for state in ALL_STATES}),
            "phases": _map(_whole(), "Machines in each phase."),
            "images": _list(
                _object(
                    "",
                    {
                        "image": _text(),
                        "digest": _text(),
                        "tags": _list(_text()),
                        "old": _flag("Older than its name's `current`."),
                        "count": _whole(),
                    },
                )
            ),
            "labels": _map(_map(_whole(), ""), "Each label's values, with how many machines."),
            "peers": _list(ref("peer"), "farm.yaml's `peers`, in its order."),
            "notes": _list(_text(), "Words of the query that fit nothing, and what there is."),
            "causes": _list(ref("cause"), "The one with most machines first."),
            "booting": _object(
                "How the farm boots.",
                {
                    "now": _whole("Machines that are booting."),
                    "ready_in_10_min": _whole("Boots that became ready in the last 10 minutes."),
                    "ready_in_1_min": _whole("Of them, those of the last minute."),
                    "median_seconds": _number("Of those boots."),
                    "busiest_phase": _text("In which most booting machines are."),
                    "slowest_phase": _text("Which took those boots longest."),
                    "slowest_phase_seconds": _number("Its median."),
                },
            ),
        },
    ),
    "peer": _object(
        "Another server of the farm.",
        {
            "url": _text("As farm.yaml has it."),
            "state": _one_of(
                ("waiting", "here", "away", "self"),
                "waiting: not asked yet; self: it is this server.",
            ),
            "since": _moment("When that began"),
            "problem": _text("Why it is away, or an empty text."),
            "clock_ahead": _number("Seconds that its clock is ahead of ours."),
            "differs": _list(_text(), "Keys of farm.yaml, or lts.conf, that are not as ours."),
            "lts_conf": _text("The beginning of its lts.conf's digest, or an empty text."),
            "own_lts_conf": _text("The same of ours."),
            "images": _whole("Images that it has."),
        },
    ),
    "cause": _object(
        "What is the matter, with one machine or many.",
        {
            "cause": _text("What a query calls it."),
            "rule": _text("A stable id of docs/diagnosis.md."),
            "phase": _PHASE,
            "severity": _SEVERITY,
            "words": _text("One sentence that holds for all of them."),
            "check": _list(_text(), "What to do, in order."),
            "count": _whole("Machines."),
            "names": _list(_text(), "Of the first hundred."),
            "nodes": _list(_text(), "Their keys."),
        },
    ),
    "note": _object(
        "What people say of a machine, now.",
        {"note": _MACHINE["note"], "maintenance": _MACHINE["maintenance"]},
    ),
    "rollout": _object(
        "Whether this server rolls images out, and how far the last rollout has come.",
        {
            "enabled": _flag("farm.yaml has it."),
            "leads": _flag("This server carries it out; others may only look."),
            "leader": _text("Who does, where there is a cluster."),
            "problem": _text("What keeps it from going on, or an empty text."),
            "rollout": {"anyOf": [ref("rolloutState"), {"type": "null"}]},
        },
    ),
    "rolloutState": _object(
        "A rollout.",
        {
            "id": _text(),
            "state": _one_of(ROLLOUT_STATES),
            "image": _text("The name of the image."),
            "digest": _text("Of the image."),
            "reference": _text("How it was asked for."),
            "tag": _text("That moves at the end, or an empty text."),
            "started": _moment("When it began"),
            "ended": _moment("When it ended, or 0"),
            "revision": _whole("Counts its steps."),
            "wave": _whole("The present one, from 1."),
            "waves": _whole("How many there are."),
            "reason": _text("Why it holds, in one sentence, or an empty text."),
            "waits": _text("Why no further machine is begun with now, or an empty text."),
            "counts": _object("", {phase: _whole() for phase in MACHINE_PHASES}),
            "spec": _about(
                {"type": "object", "additionalProperties": True}, "As it was asked for."
            ),
            "machines": _list(ref("rolloutMachine"), "In the order of their turns."),
        },
    ),
    "rolloutMachine": _object(
        "A machine of a rollout.",
        {
            "node": _text("Its key."),
            "name": _text(),
            "phase": _one_of(MACHINE_PHASES),
            "goal": _one_of((TARGET, LAST), "Which image it shall boot."),
            "wave": _whole("Its wave, from 1."),
            "since": _moment("Since when it is in that phase"),
            "last_digest": _text("Of its last good image, or an empty text."),
            "failed": _text("Why it did not pass, or an empty text."),
            "reason": _text("What is the matter now, or an empty text."),
        },
    ),
    "document": _about({"type": "object"}, "An OpenAPI document."),
    "forgotten": _object("", {"forgotten": _whole("Machines that were forgotten.")}),
    "problem": _object(
        "An error (RFC 9457).",
        {
            "type": _about({"const": "about:blank"}, "`code` says more."),
            "title": _text("The status in words."),
            "status": _about({"type": "integer"}, "That of the answer."),
            "detail": _text("What happened, for people; it may be reworded."),
            "code": _one_of(list(KINDS), "What happened, for programs: it keeps its meaning."),
            "hint": _text("What to do."),
            "error": {**_text("The same as `detail`, by its older name."), "deprecated": True},
        },
    ),
}
"""Every shape by its name in the document. Further fields may come: a client leaves aside
what it does not know."""
