"""No core dumps: a process's memory holds secrets, and a core file would keep them."""

import ctypes
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4
"""Of linux/prctl.h."""


def refuse_dumps() -> None:
    """Have the kernel write no core of this process, nor let others of its user read its memory.

    RLIMIT_CORE covers files; where core_pattern is a pipe only PR_SET_DUMPABLE does (core(5)).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
