"""Long work done in a thread, for an event loop that may not wait for it."""

import queue
import threading
from collections.abc import Callable
from functools import cache
from typing import Generic, TypeVar

from server.errors import ServerError

WAIT_SECONDS = 0.2
"""How long a caller waits for work that is done quickly as a rule."""

T = TypeVar("T")


class Job(Generic[T]):
    """One piece of work, done once. Its outcome is what `work` returns or raises."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._outcome: T | Exception | None = None
        self.done = threading.Event()
        self.cancelled = False

    def run(self) -> None:
        """Do the work, unless the job was cancelled; called by the thread."""
        try:
            if not self.cancelled:
                self._outcome = self._work()
        except Exception as error:
            self._outcome = error
        finally:
            self.done.set()

    @property
    def outcome(self) -> T | Exception:
        """What the work returned or raised. Of a job that was cancelled: a ServerError."""
        if self._outcome is None:
            return ServerError("was not done, for nobody wanted it any more", cause="not_yet")
        return self._outcome


class Background:
    """One thread that does jobs in turn. The event loop submits them and may wait for each a
    little.

    A job that takes longer than `seconds` keeps one caller of `wait` for that time, once;
    until it is done, every `wait` returns at once.
    """

    def __init__(self, seconds: float = WAIT_SECONDS) -> None:
        self._seconds = seconds
        self._jobs: queue.SimpleQueue[Job[object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._slow: threading.Event | None = None

    def submit(self, work: Callable[[], T]) -> Job[T]:
        """Have `work` done when its turn comes."""
        job = Job(work)
        if self._thread is None:
            # A daemon: what is left undone at the end of the process is of no use to anybody.
            self._thread = threading.Thread(target=self._run, name="background", daemon=True)
            self._thread.start()
        self._jobs.put(job)  # type: ignore[arg-type]
        return job

    def wait(self, job: Job[T]) -> bool:
        """Wait at most `seconds` for the job. True when it is done."""
        if self._slow is not None and self._slow.is_set():
            self._slow = None
        if job.done.wait(self._seconds if self._slow is None else 0):
            return True
        if self._slow is None:
            self._slow = job.done
        return False

    def _run(self) -> None:
        while True:
            self._jobs.get().run()


@cache
def shared_background() -> Background:
    """The Background that everything in this process shares."""
    return Background()
