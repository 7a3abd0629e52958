"""SIGHUP reloads the server, and ends neither it nor a process that it started.

It goes to all of them when a terminal is closed, or by `systemctl kill`.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


def ignore_hangup() -> None:
    """Let SIGHUP do nothing to this process."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def hangup_spares_children() -> Iterator[None]:
    """Processes started within this context are born with SIGHUP blocked.

    For this thread; a signal that comes meanwhile is taken by another one, or afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
