"""How full a node's file systems are, as it tells of itself (docs/contracts.md, `space`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from server.quantities import name_size

SPACE: Final = "space"
"""The beacon's word where others have a phase; it is of no phase of a boot."""
MOST: Final = 8
"""File systems of one node that are looked at."""
KINDS: Final = ("overlay", "run", "containers", "disk")
_KIND_OF: Final = {
    "/": "overlay",
    "/run": "run",
    "/var/lib/docker": "containers",
    "/var/lib/containerd": "containers",
}
_PATH_MAX: Final = 100
_MIB_MAX: Final = 1 << 40
"""The longest path, and the largest size, that a node may tell of a file system."""


@dataclass(frozen=True)
class Space:
    """One file system. percent: of its blocks in use, files: of its inodes; mib: its size."""

    path: str
    percent: int
    files: int
    mib: int

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return _KIND_OF.get(self.path, "disk")

    @property
    def full(self) -> int:
        """Percent of what runs out first."""
        return max(self.percent, self.files)

    def words(self) -> str:
        """`63 % of 650 MiB`, or `97 % of its files (inodes; 12 % of 650 MiB)`."""
        size = f"{self.percent} % of {name_size(self.mib * (1 << 20))}"
        if self.files > self.percent:
            return f"{self.files} % of its files (inodes; {size})"
        return size


def parse_space(text: str) -> tuple[Space, ...]:
    """`PATH:PERCENT:FILES:MIB` with blanks between, at most MOST. ValueError for anything else."""
    words = text.split()
    if len(words) > MOST:
        raise ValueError(f"more than {MOST} file systems")
    found = []
    for word in words:
        path, *numbers = word.rsplit(":", 3)
        if len(numbers) != 3 or not path.startswith("/") or len(path) > _PATH_MAX:
            raise ValueError(f"{word[:40]!r} is not PATH:PERCENT:FILES:MIB")
        if not all(one.isascii() and one.isdecimal() and len(one) <= 12 for one in numbers):
            raise ValueError(f"{word[:40]!r} has no three numbers")
        percent, files, mib = map(int, numbers)
        found.append(Space(path, min(percent, 100), min(files, 100), min(mib, _MIB_MAX)))
    return tuple(found)


def read_space(facts: Mapping[str, object]) -> tuple[Space, ...]:
    """Those that a boot's facts hold; none where they hold nothing, or nonsense."""
    text = facts.get(SPACE)
    if not isinstance(text, str):
        return ()
    try:
        return parse_space(text)
    except ValueError:
        return ()


def name_spaces(spaces: tuple[Space, ...]) -> list[str]:
    """Each in words, as the page and the terminal show it."""
    return [f"{space.path} {space.words()}" for space in spaces]
