"""Commands of lts.conf as /bin/sh parses them: `sh -n`, which runs nothing.

For `lts check` and `serve --check` only: the running server starts no shell for a text.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from server.ltsconf.grammar import Document
from server.ltsconf.problem import Finding
from server.ltsconf.shell import check_quotes
from server.ltsconf.variables import find_variable

_MOST: Final = 200
_LONGEST: Final = 16384
_SECONDS: Final = 2.0
"""Commands of a text, bytes of a command that are tried, and how long each may take."""
_SAID: Final = re.compile(r"syntax error:? *(.*)", re.IGNORECASE)


def check_shell(document: Document) -> Iterator[Finding]:
    """Findings for RCFILE_*, PREINIT_* and INIT_COMMAND_* that no shell can read."""
    left = _MOST
    for section in document.sections:
        for entry in section.entries:
            variable = find_variable(entry.key.upper().decode("utf-8", "replace"))
            if variable is None or variable.kind != "command" or not left:
                continue
            if len(entry.value) > _LONGEST or b"\0" in entry.value:
                continue
            left -= 1
            words = find_syntax_error(entry.value)
            if words is not None and check_quotes(entry.value.decode("utf-8", "replace")) is None:
                name = entry.key.upper().decode("utf-8", "replace")
                yield Finding(
                    "error",
                    "shell-syntax",
                    entry.offset,
                    f"{name}: the shell cannot read it: {words}",
                    "`sh -n -c 'COMMAND'` says the same; a longer script is a file of the image.",
                )


@lru_cache(maxsize=1024)
def find_syntax_error(command: bytes) -> str | None:
    """What /bin/sh says of a command that it cannot read; None where it can, or nobody can tell."""
    try:
        done = subprocess.run(
            [b"/bin/sh", b"-n", b"-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SECONDS,
            env={},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = _SAID.search(done.stderr.decode("utf-8", "replace"))
    return said[1][:200] if done.returncode and said is not None else None
