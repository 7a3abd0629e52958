"""What tells one state of a watched file from another."""

import os
from pathlib import Path
from typing import NamedTuple

SETTLE_SECONDS = 0.25
"""A file that is written in place is taken when it was left alone for so long."""


class Stamp(NamedTuple):
    """A file's state: device and inode, its size, and when it was changed (ns)."""

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> "Stamp | None":
        """The state of the file that a path leads to now; None when there is none."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def same_file(self, other: "Stamp | None") -> bool:
        """Whether both are states of one file, perhaps with other content."""
        return other is not None and (self.device, self.inode) == (other.device, other.inode)


def is_being_written(now: Stamp | None, seen: Stamp | None, wall: float) -> bool:
    """Whether a file that was `seen` is being changed in place. wall: the time, in seconds."""
    if now is None or now == seen or not now.same_file(seen):
        return False
    return wall - now.changed / 1e9 < SETTLE_SECONDS
