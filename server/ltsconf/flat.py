"""The flat text: what one node gets, `KEY="value"` a line; see docs/contracts.md.

    # bootfarm lts.conf
    RCFILE_01_SSH="ssh-keygen -A"
    # end

There are no escapes: the value is everything between the first `="` and the
last `"` of its line. The lines stand in the order of LTSP 5's `sort -V`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from server.ltsconf.errors import LtsConfError
from server.ltsconf.order import sort_lines

FIRST_LINE = "# bootfarm lts.conf"
LAST_LINE = "# end"
_KEY = re.compile(r"[A-Z_][A-Z0-9_]*")


def is_flat_key(key: str) -> bool:
    """Whether a key can be written: a shell variable's name in upper case."""
    return _KEY.fullmatch(key) is not None


def render_flat(values: Mapping[str, str]) -> str:
    """The flat text of these values; keys that are no variable names are left out.

    Bytes that are not UTF-8 stand as lone surrogates: encode with
    `surrogateescape`. Raises LtsConfError for a value with a newline or NUL,
    which the parser never gives.
    """
    lines = [FIRST_LINE]
    for key, value in sort_lines((k, v) for k, v in values.items() if is_flat_key(k)):
        if "\n" in value or "\0" in value:
            raise LtsConfError(
                f"the value of {key} holds a newline or a NUL byte",
                hint="A value is one line; join commands with ; or &&.",
            )
        lines.append(f'{key}="{value}"')
    lines.append(LAST_LINE)
    return "\n".join(lines) + "\n"


def parse_flat(text: str) -> dict[str, str]:
    """The values of a flat text, in its order. Raises LtsConfError on anything else."""
    lines = text.split("\n")
    if lines[0] != FIRST_LINE:
        raise LtsConfError(
            f"a flat text begins with {FIRST_LINE!r}", path="lts.conf", line=1, column=1
        )
    if lines[-2:] != [LAST_LINE, ""]:
        raise LtsConfError(f"the text was cut: it does not end in {LAST_LINE!r}", path="lts.conf")
    values: dict[str, str] = {}
    for number, line in enumerate(lines[1:-2], 2):
        key, found, rest = line.partition('="')
        if not found or not rest.endswith('"') or not is_flat_key(key):
            raise LtsConfError('not KEY="value"', path="lts.conf", line=number, column=1)
        if key in values:
            raise LtsConfError(f"{key} stands here twice", path="lts.conf", line=number, column=1)
        values[key] = rest[:-1]
    return values
