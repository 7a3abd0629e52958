"""How full nodes' file systems are, counted by kind; each change costs the same in any farm."""

from collections import Counter
from typing import Final

from server.nodes.node import Node
from server.nodes.space import read_space

FILLS: Final = ("0-50", "50-80", "80-95", "95-100")
_LIMITS: Final = (50, 80, 95)


class Fullness:
    """fills: by (kind, one of FILLS), nodes whose fullest file system of that kind is so full.

    A machine that has shut down, or that told nothing in its present boot, is not counted.
    """

    def __init__(self) -> None:
        self.fills: Counter[tuple[str, str]] = Counter()
        self._percents: Counter[tuple[str, int]] = Counter()
        self._marks: dict[str, dict[str, int]] = {}

    def change(self, key: str, node: Node | None) -> None:
        """A node may have changed; None: it was forgotten."""
        old = self._marks.get(key, {})
        new = _fullest_of(node)
        if new == old:
            return
        self._count(old, -1)
        self._count(new, 1)
        if new:
            self._marks[key] = new
        else:
            del self._marks[key]

    def fullest(self, kind: str) -> int:
        """Percent of the fullest file system of that kind, 0 where there is none."""
        return max((percent for percent in range(101) if self._percents[kind, percent]), default=0)

    def _count(self, mark: dict[str, int], by: int) -> None:
        for kind, percent in mark.items():
            fill = FILLS[sum(percent >= limit for limit in _LIMITS)]
            self.fills[kind, fill] += by
            self._percents[kind, percent] += by


def _fullest_of(node: Node | None) -> dict[str, int]:
    boot = node.boot if node is not None else None
    if boot is None or "space" not in boot.facts or boot.last_phase() == "shutdown":
        return {}
    found: dict[str, int] = {}
    for space in read_space(boot.facts):
        found[space.kind] = max(found.get(space.kind, 0), space.full)
    return found
