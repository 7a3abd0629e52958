"""What the API's queries take: each by name, with its JSON Schema and what it means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from server.causes import CAUSES
from server.diagnosis import RULES
from server.nodes.node import NOTE_MAX
from server.nodes.phases import PHASES
from server.observe.feed import RING
from server.observe.marks import ALL_STATES, LABEL_PREFIX, PLAYED, SORTS
from server.rollout.spec import ON_DRAIN_TIMEOUT, ON_FAILURE, REBOOT
from server.web.events import DEFAULT_LIMIT

_MOST: Final = 999_999_999


@dataclass(frozen=True)
class Query:
    """One word of a query. schema: of what it says; an array's items stand between commas.

    prefix: it stands for all words that begin so, as an object's properties.
    """

    name: str
    about: str
    schema: Mapping[str, Any]
    prefix: str = ""

    def has(self, word: str) -> bool:
        """Whether a query's word is this one."""
        return word.startswith(self.prefix) if self.prefix else word == self.name


STATE: Final = Query(
    "state",
    "Of these states, with commas; without it those that were seen.",
    {"type": "array", "items": {"enum": list(ALL_STATES)}},
)
CAUSE: Final = Query(
    "cause",
    "With this trouble: a rule of docs/diagnosis.md, or a cause of /api/overview.",
    {"type": "string", "pattern": f"^({'|'.join(rule.id for rule in RULES)})(~.*)?$"},
)
PHASE: Final = Query("phase", "In this phase.", {"enum": list(PHASES)})
IMAGE: Final = Query(
    "image",
    "Of this image: name, name:tag, :tag, a digest's beginning, or old: older than current.",
    {"type": "string"},
)
TEXT: Final = Query(
    "q", "With this in MAC, IP, name, serial, image's digest or a label.", {"type": "string"}
)
LABELS: Final = Query(
    "labels",
    f"With these labels of the inventory, as {LABEL_PREFIX}rack=r1.",
    {
        "type": "object",
        "propertyNames": {"pattern": r"^label\."},
        "additionalProperties": {"type": "string"},
    },
    prefix=LABEL_PREFIX,
)
FILTERS: Final = (STATE, CAUSE, PHASE, IMAGE, LABELS, TEXT)
SORT: Final = Query(
    "sort",
    "The order; seen (who was heard of last comes first) unless it is given.",
    {"type": "string", "pattern": rf"^({'|'.join(SORTS)}|label\..*)$"},
)
LIMIT_NODES: Final = Query(
    "limit", "At most so many.", {"type": "integer", "minimum": 1, "maximum": _MOST}
)
OLDER_THAN: Final = Query(
    "older_than",
    "Silent for so many seconds.",
    {"type": "integer", "minimum": 60, "maximum": _MOST},
)
PLAYED_ONLY: Final = Query("state", "What `simulate` and `doctor` have played.", {"enum": [PLAYED]})
NOTE: Final = Query(
    "note", f"The note, {NOTE_MAX} characters of it; an empty one removes it.", {"type": "string"}
)
MAINTENANCE: Final = Query(
    "maintenance",
    "1: somebody works on it, it needs no look and fires no alert. 0: nobody does.",
    {"enum": [0, 1]},
)
ROLLOUT: Final = (
    Query("image", "What is rolled out: name:tag or name@digest.", {"type": "string"}),
    Query(
        "select",
        "Machines, with semicolons between the terms: labels of the inventory as rack=r1,r2, of the"
        " Node as k8s:zone=a; names, globs, MACs. All, where it is not given.",
        {"type": "string"},
    ),
    Query(
        "waves",
        "Machines that each wave has reached at its end, numbers or per cent; the last is 100%.",
        {"type": "string", "pattern": r"^[1-9][0-9]*%?(,[1-9][0-9]*%?)*$"},
    ),
    Query(
        "max_unavailable",
        "So many Nodes may be away at once, of all in the cluster; a number or per cent.",
        {"type": "string", "pattern": r"^[1-9][0-9]*%?$"},
    ),
    Query(
        "window", "When machines are begun with, in UTC: mon-fri 22:00-05:00.", {"type": "string"}
    ),
    Query(
        "tag", "The tag that moves at the end; current, where it is not given.", {"type": "string"}
    ),
    Query(
        "failures",
        "So many hold it; in the first wave one does.",
        {"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": 1},
    ),
    Query("on_failure", "hold, or back: all get their last image.", {"enum": list(ON_FAILURE)}),
    Query(
        "on_drain_timeout",
        "Of a machine whose pods do not move: hold it, or reboot it all the same.",
        {"enum": list(ON_DRAIN_TIMEOUT)},
    ),
    Query("reboot", "By the node's agent, or by hand.", {"enum": list(REBOOT)}),
    *(
        Query(name, about, {"type": "integer", "minimum": 0, "maximum": 604_800})
        for name, about in (
            ("drain_seconds", "For which pods may take to move."),
            ("boot_seconds", "Until a machine has to be back."),
            ("ready_seconds", "For which everything has to hold."),
            ("finding_seconds", "For which the diagnosis may have something to say."),
        )
    ),
)
ORDER: Final = Query("do", "What to do with the rollout.", {"enum": ["pause", "resume", "undo"]})
NODE: Final = Query("node", "Of this machine only: its MAC, or its IP.", {"type": "string"})
SOURCE: Final = Query("source", "Of this source only.", {"enum": list(CAUSES)})
SINCE: Final = Query(
    "since",
    "Only those after the event with this id; a stream takes Last-Event-ID, too.",
    {"type": "integer", "minimum": 0, "maximum": _MOST},
)
LIMIT_EVENTS: Final = Query(
    "limit",
    f"At most so many, the last; {RING} are kept.",
    {"type": "integer", "minimum": 0, "maximum": _MOST, "default": DEFAULT_LIMIT},
)
FOLLOW: Final = Query(
    "follow", "1: go on with those that come, as server-sent events.", {"enum": [0, 1]}
)
