"""Writes down which images nodes read, and removes images that nobody needs any more."""

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path

from imagebuild.store.images import Collected, Image, Store
from imagebuild.store.inuse import GRACE_SECONDS, InUseRecord, read_in_use
from server.background import Background, Job

COLLECT_SECONDS = 5.0
"""How often to look for images that can be removed."""
_log = logging.getLogger(__name__)


class Keeper:
    """One server's part in keeping the images that nodes read.

    collect_after: seconds that an image without tags is kept after the last node
    has left it, and after it lost its last tag; None leaves that to `images gc`.
    Belongs to the loop's thread; the removing is done in another one. problem: why
    the last removal failed.
    """

    def __init__(
        self,
        store: Path,
        state: Path,
        *,
        collect_after: float | None = None,
        wall: Callable[[], float] = time.time,
        background: Background | None = None,
    ) -> None:
        self.problem = ""
        self._store = store
        self._state = state
        self._after = collect_after
        self._wall = wall
        self._background = background or Background()
        self._grace = max(GRACE_SECONDS, collect_after or 0.0)
        self._record: InUseRecord | None = None
        self._untagged: dict[str, float] = {}
        self._job: Job[Collected] | None = None
        self._tidied = False

    def adopt(self, collect_after: float | None) -> None:
        """Remove what can go after so many seconds from now on; None: nothing."""
        self._after = collect_after
        self._grace = max(GRACE_SECONDS, collect_after or 0.0)

    def note(self, connected: Collection[str]) -> None:
        """Nodes read exactly these digests now. Raises OSError when that cannot be written."""
        if self._record is None:
            self._record = InUseRecord(self._state, self._wall(), self._grace)
        self._record.note(connected, self._wall())

    def collect(self, images: Collection[Image]) -> None:
        """Begin to remove what can go of the store's `images`, unless a removal is under way."""
        if self._after is None or (self._job is not None and not self._job.done.is_set()):
            return
        self._finish()
        now = self._wall()
        untagged = {image.digest for image in images if not image.tags}
        self._untagged = {digest: self._untagged.get(digest, now) for digest in untagged}
        ripe = {d for d, since in self._untagged.items() if now - since >= self._after}
        if ripe or not self._tidied:
            self._tidied = True  # an import that was interrupted has left its half
            fresh = {image.digest for image in images} - ripe
            self._job = self._background.submit(lambda: self._remove(fresh, now))

    def _finish(self) -> None:
        """Log what the last removal did."""
        job, self._job = self._job, None
        if job is None:
            return
        outcome = job.outcome
        if isinstance(outcome, Exception):
            reason = getattr(outcome, "message", str(outcome))
            self.problem = f"images that no node reads cannot be removed: {reason}"
            return
        self.problem = ""
        for image in outcome.images:
            _log.info("removed %s@%s: no tag, and no node reads it", image.name, image.digest)

    def _remove(self, spared: Collection[str], now: float) -> Collected:
        assert self._after is not None
        in_use = read_in_use(self._state).spared(now, self._after)
        return Store(self._store).collect_garbage({*spared, *in_use})
