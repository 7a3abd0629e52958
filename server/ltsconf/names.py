"""Names in a template that no node can have: reported at load, in whichever branch they stand.

What stands below node and image is a fixed set; farm has the `facts` of farm.yaml, secrets
the files of the directory of secrets. Which of these names one node has, only its rendering
tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from server.ltsconf.problem import Outcome, Problem
from server.ltsconf.scan import Included

ROOTS = ("node", "image", "farm", "secrets")
# What stands below node and image in a template, and nothing else: `check_names` tells of
# any other name. labels (a mapping) and bmc come from the inventory.
NODE_NAMES = ("mac", "ip", "hostname", "arch", "serial", "uuid", "labels", "bmc")
IMAGE_NAMES = ("name", "digest", "kernel", "architecture", "versions")
# What Jinja2 lets a template call of a mapping.
_METHODS = frozenset({"get", "items", "keys", "values", "copy"})


@dataclass(frozen=True)
class Use:
    """A name that a template takes: path as ("node", "serial"), and its line.

    guarded: `default(…)` or `is defined` is applied to it, so it may be missing.
    """

    path: tuple[str, ...]
    line: int
    guarded: bool


def check_names(
    main: Included,
    uses: Iterable[Use],
    *,
    farm: Mapping[str, Any] | None = None,
    secrets: Mapping[str, Any] | None = None,
) -> list[Problem]:
    """An error for each use of a name that no node can have, in the order of lines.

    farm, secrets: the names below them; None where the caller does not know them: then any
    name passes.
    """
    return [
        Problem("unknown-name", "error", Outcome.FINE, main.path, line, 1, message, hint, excerpt)
        for line, message, hint, excerpt in sorted(_find(main, uses, farm, secrets))
    ]


def _find(
    main: Included,
    uses: Iterable[Use],
    farm: Mapping[str, Any] | None,
    secrets: Mapping[str, Any] | None,
) -> Iterator[tuple[int, str, str, str]]:
    lines = (main.origin.data if main.origin is not None else main.data or b"").split(b"\n")
    known: dict[str, Mapping[str, Any] | None] = {
        "node": dict.fromkeys(NODE_NAMES),
        "image": dict.fromkeys(IMAGE_NAMES),
        "farm": farm,
        "secrets": secrets,
    }
    for use in uses:
        root = use.path[0]
        if root not in known:
            message = f"a template has no name {root!r}"
            hint = _suggest(root, ROOTS, f"It has {', '.join(ROOTS)}, and what {{% set %}} makes.")
        else:
            missing = _find_missing(use, known[root])
            if missing is None:
                continue
            before, name, choices = missing
            message = f"{before} has no {name!r}"
            hint = _suggest(f"{before}.{name}", [f"{before}.{one}" for one in choices], "")
            hint += _tell_choices(before, choices)
        excerpt = lines[use.line - 1] if 0 < use.line <= len(lines) else b""
        yield use.line, message, hint.strip(), excerpt[:600].decode("utf-8", "replace")[:120]


def _find_missing(use: Use, known: Mapping[str, Any] | None) -> tuple[str, str, list[str]] | None:
    """(the name before, the missing name, the names that are there), or None."""
    root = use.path[0]
    # Below farm and secrets a name may be missing on purpose; below node and image a
    # name that is not among them never comes.
    if use.guarded and root in ("farm", "secrets"):
        return None
    before = root
    for name in use.path[1:]:
        if not isinstance(known, Mapping) or name in _METHODS:
            return None
        if name not in known:
            return before, name, [str(one) for one in known]
        known = known[name]
        before += f".{name}"
    return None


def _suggest(word: str, known: Iterable[str], otherwise: str) -> str:
    close = get_close_matches(word, list(known), 1, 0.6)
    return f"Did you mean {close[0]}? " if close else otherwise


def _tell_choices(before: str, choices: list[str]) -> str:
    if not choices:
        where = "farm.yaml's facts" if before.startswith("farm") else "the directory of secrets"
        return f"Nothing is known below {before}: add it to {where}."
    shown = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    return f"{before} has {shown}."
