"""When the tags of a store moved, and which were removed: what stores of several servers compare.

A tag is a symlink, and the time of its last change (of the link itself) is when it moved.
A tag that was removed leaves an empty file `STORE/.gone/<name>/<tag>` with that time.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

GONE = ".gone"


@dataclass(frozen=True)
class Move:
    """Where a tag leads, and since when.

    digest: "" for a tag that was removed. moved: microseconds since the epoch.
    """

    digest: str
    moved: int

    def beats(self, other: "Move | None") -> bool:
        """Whether this move is the newer one; of two at the same time the greater digest is."""
        return other is None or (self.moved, self.digest) > (other.moved, other.digest)


def read_moved(path: Path) -> int | None:
    """When a link or file was last changed; None where there is none."""
    try:
        return os.lstat(path).st_mtime_ns // 1000
    except OSError:
        return None


def write_moved(path: Path, moved: int) -> None:
    """Let a link, and not what it leads to, have been changed at that time."""
    os.utime(path, ns=(moved * 1000, moved * 1000), follow_symlinks=False)


def next_move(before: Move | None) -> int:
    """The time of a move that is made now. It is later than that of the move that it replaces,
    also where that was made by a server whose clock is ahead."""
    now = time.time_ns() // 1000
    return now if before is None else max(now, before.moved + 1)


def read_gone(store: Path, name: str) -> dict[str, Move]:
    """The tags of an image that were removed."""
    found: dict[str, Move] = {}
    with contextlib.suppress(OSError):
        for tag in os.listdir(store / GONE / name):
            if (moved := read_moved(store / GONE / name / tag)) is not None:
                found[tag] = Move("", moved)
    return found


def write_gone(store: Path, name: str, tag: str, moved: int) -> None:
    """Note that a tag was removed."""
    path = store / GONE / name / tag
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o644)
    write_moved(path, moved)


def forget_gone(store: Path, name: str, tag: str) -> None:
    """The tag is there again."""
    (store / GONE / name / tag).unlink(missing_ok=True)
