"""Rules for file systems that fill: of memory, of containers, of disks (server.nodes.space)."""

from collections.abc import Callable
from typing import Final

from server.diagnosis.case import Case
from server.diagnosis.rule import Rule, Severity, Values
from server.nodes.space import read_space

LIMITS: Final = {
    # kind: (from which percent on a note, an error)
    "overlay": (80, 95),
    "run": (80, 95),
    # kubelet removes images it does not need from 85 % on, and evicts pods.
    "containers": (86, 95),
    "disk": (90, 95),
}
_NAMES: Final = {
    "overlay": "the root's overlay",
    "run": "/run",
    "containers": "the containers' file system",
    "disk": "a disk of FSTAB_*",
}
_FIND: Final = "`du -xh --max-depth=3 {path} | sort -h | tail` on the machine: what takes it"
_CHECKS: Final = {
    "overlay": (
        "`du -xh --max-depth=3 / | sort -h | tail` on the machine: what was written there;"
        " kubelet evicts pods from 90 % on",
        "a log or a directory that grows: a disk for it (FSTAB_*), or a limit of its own",
        "a larger OVERLAY_SIZE in lts.conf, at the cost of CONTAINERS_SIZE and MEMORY_RESERVE;"
        " it counts from the next boot on",
    ),
    "run": (
        _FIND,
        "the journal: a smaller JOURNAL_SIZE in lts.conf, or a disk on /var/log/journal (FSTAB_*)",
        "a program that leaves its files in /run",
    ),
    "containers": (
        "what is in it: `docker system df`, or `crictl images` and `crictl ps -a`",
        "containers that write much into their own layer, or print much: give them a volume,"
        " limit their logs",
        "a larger CONTAINERS_SIZE in lts.conf, or a disk for {path} (FSTAB_*)",
    ),
    "disk": (_FIND, "a larger disk, or less on it"),
}


def _match(kind: str, level: int) -> Callable[[Case], Values | None]:
    def match(case: Case) -> Values | None:
        spaces = [space for space in read_space(case.boot.facts) if space.kind == kind]
        worst = max(spaces, key=lambda space: space.full, default=None)
        if worst is None or worst.full < LIMITS[kind][level]:
            return None
        told = case.boot.facts.get("space_at")
        since = {"since": float(told)} if isinstance(told, int | float) else {}
        return {"path": worst.path, "use": worst.words(), "phase": case.last, **since}

    return match


_LEVELS: Final[tuple[tuple[str, Severity, str], ...]] = (
    ("filling", "note", "{path} is filling: in use are {use}."),
    (
        "full",
        "error",
        "{path} is all but full: in use are {use}. What writes there fails (ENOSPC).",
    ),
)
"""Of a rule for each of LIMITS: its name, severity and headline."""


def _make_rule(kind: str, level: int) -> Rule:
    name, severity, headline = _LEVELS[level]
    return Rule(
        id=f"{kind}-{name}",
        phase="ready",
        severity=severity,
        when=f"The machine says that {_NAMES[kind]} is in use to {LIMITS[kind][level]} % or more,"
        " of its size or of its inodes.",
        headline=headline,
        expected=f"less than {LIMITS[kind][0]} % in use",
        seen="{use}",
        check=_CHECKS[kind],
        match=_match(kind, level),
    )


RULES: Final = tuple(_make_rule(kind, level) for kind in LIMITS for level in (1, 0))
