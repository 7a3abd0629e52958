"""Commands of lts.conf (RCFILE_*, PREINIT_*, INIT_COMMAND_*, CRONTAB_*) as a shell reads them, as
far as a look at the text tells."""

import re
import shlex
from typing import Final

from server.ltsconf.shapes import Wrong, is_computed

_SWAP_ON: Final = re.compile(
    r"(?:^|[;&|(]|\bthen|\bsudo)\s{0,9}(?:/usr)?(?:/sbin/)?swapon\b(?!\s+(-s|--s))"
)

_LONGEST: Final = 2000
"""Characters of a command that is split into words: bounds the time of a check."""


def check_quotes(command: str) -> Wrong | None:
    """A quote that nothing closes: the shell runs nothing of the line.

    Only what is plain: with substitutions, quotes stand within quotes.
    """
    if len(command) > _LONGEST or is_computed(command) or "<<" in command or "#" in command:
        return None
    try:
        shlex.split(command)
    except ValueError as error:
        what = "a backslash at its end" if "escape" in str(error) else "a quote without its end"
        return f"the command has {what}", "Quotes come in pairs: RCFILE_01 = \"echo 'a b'\"."
    return None


def turns_swap_on(command: str) -> bool:
    """Whether a command turns swap on: kubelet refuses to start with it."""
    return _SWAP_ON.search(command) is not None
