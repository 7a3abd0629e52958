"""Work in a child process that can outlive the command that started it."""

import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click

from imagebuild.errors import Interrupted

DETACHED = b"D"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = 1.0
"""Seconds after which a stop is asked for again: a signal that comes between
Python's last look and a system call that blocks is not seen until the next one."""

Detach = Callable[[Path], None]
"""Let the command return with success now; from then on output goes to this log."""


class Stopped(BaseException):
    """SIGTERM or Ctrl-C ended the work: no error; context managers clean up."""


def _stop(number: int, frame: FrameType | None) -> None:
    # Once: a second Ctrl-C must not interrupt the cleaning up.
    for again in SIGNALS:
        signal.signal(again, signal.SIG_IGN)
    raise Stopped(signal.Signals(number).name)


def run_detachable(work: Callable[[Detach], None]) -> int:
    """Run `work(detach)` in a child; its exit code, or 0 as soon as it detached.

    Ctrl-C and SIGTERM reach the child as Stopped, which its context managers
    see; the same happens when this process dies before the child detached.
    Call it before any thread is started.
    """
    context = click.get_current_context(silent=True)
    what = context.command_path if context is not None else "the work"
    sys.stdout.flush()
    sys.stderr.flush()
    news_read, news_write = os.pipe()
    alive_read, alive_write = os.pipe()
    # No signal may fall between the fork and the handlers on either side.
    before_mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child == 0:
        os.close(news_read)
        os.close(alive_write)
        os._exit(_child(work, what, news_write, alive_read, before_mask))
    os.close(news_write)
    os.close(alive_read)
    stopping = threading.Event()
    before = {
        number: signal.signal(number, lambda number, frame: stopping.set()) for number in SIGNALS
    }
    signal.pthread_sigmask(signal.SIG_SETMASK, before_mask)
    try:
        if _read_news(news_read, child, stopping) == DETACHED:
            return 0
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) % 256
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(news_read)
        os.close(alive_write)


def _read_news(news: int, child: int, stopping: threading.Event) -> bytes:
    """What the child says, b"" when it has ended. Until then a stop is passed on to it."""
    while True:
        if stopping.is_set():
            os.kill(child, signal.SIGTERM)
        if select.select([news], [], [], AGAIN / 4 if not stopping.is_set() else AGAIN)[0]:
            return os.read(news, 1)


def _child(
    work: Callable[[Detach], None],
    what: str,
    news: int,
    alive: int,
    mask: set[int | signal.Signals],
) -> int:
    os.setsid()
    for number in SIGNALS:
        signal.signal(number, _stop)
    detached = threading.Event()

    def watch() -> None:
        os.read(alive, 1)
        while not detached.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(AGAIN)

    threading.Thread(target=watch, daemon=True).start()

    def detach(log: Path) -> None:
        detached.set()
        sys.stdout.flush()
        sys.stderr.flush()
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.write(news, DETACHED)
        for descriptor, target in ((nothing, 0), (sink, 1), (sink, 2)):
            os.dup2(descriptor, target)

    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        work(detach)
        code = 0
    except Stopped:
        end = Interrupted(what, hint="everything is torn down; what was built is kept in the cache")
        end.show()
        code = end.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code
