"""What is being fetched from elsewhere: kept when it breaks off, at a bounded pace."""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from imagebuild.store.images import INCOMING, Store, StoreError

BURST_SECONDS: Final = 0.2
"""Of an allowance that was not used, so much is kept."""


@contextlib.contextmanager
def open_incoming(store: Store, key: str) -> Iterator[Path]:
    """The directory `STORE/.incoming/<key>`, with what an earlier try left in it.

    Whatever is left of it afterwards stays there for the next try; garbage collection removes
    it a day after the last one. Raises StoreError while another process works in it.
    """
    path = store.path / INCOMING / key
    while True:
        path.mkdir(parents=True, exist_ok=True)
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            raise StoreError(
                f"another process is fetching {key[:80]} into the store {store.path}",
                hint="wait until it is done",
            ) from None
        if path.exists():  # a collection may come between
            break
        os.close(held)
    try:
        os.utime(path)
        yield path
    finally:
        os.close(held)


def check_space(path: Path, wanted: int) -> None:
    """Raise StoreError where the disk has not so many bytes left."""
    free = shutil.disk_usage(path).free
    if wanted > free:
        raise StoreError(
            f"the disk of {path} has {free // 2**20} MiB left, and the image wants"
            f" {wanted // 2**20} MiB more",
            hint="`bootfarm images gc` removes what nobody needs; or give the store a larger disk",
        )


class Pace:
    """Bounds how many bytes a second are fetched, of all that share it. 0: no bound."""

    def __init__(
        self,
        rate: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0

    def ahead(self, count: int) -> float:
        """So many bytes were fetched: the seconds that the next ones have to wait."""
        if self.rate <= 0:
            return 0.0
        now = self._clock()
        self._free_at = max(self._free_at, now - BURST_SECONDS) + count / self.rate
        return max(0.0, self._free_at - now)

    def take(self, count: int) -> None:
        """So many bytes were fetched: wait as long as the next ones have to."""
        if (wait := self.ahead(count)) > 0:
            self._sleep(wait)
