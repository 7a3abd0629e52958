"""How many nodes are in which phase, boot which image, stand still: kept as they change.

Each change costs the same however many nodes there are, and so does asking.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from server.nodes.node import Boot, Node
from server.nodes.phases import ORDER

STALLED_SECONDS: Final = 600.0
"""A boot that is in one phase for longer stands still."""
GONE_SECONDS: Final = 86400.0
"""And after this time nobody waits for it: a machine that was switched off."""
AT_REST: Final = ("ready", "shutdown")
_WATCHED_FROM: Final = ORDER["systemd"]


K = TypeVar("K")


@dataclass(frozen=True)
class Mark:
    """What was counted of a node. boot: when its boot started, None before the first.
    maintenance: somebody works on it."""

    boot: float | None = None
    phase: str = ""
    status: str = ""
    image: str = ""
    digest: str = ""
    ready: bool = False
    maintenance: bool = False


class Tally:
    """Counts of nodes; call `change` for each change of one.

    nodes: by (phase, status), ("", "") for nodes that were seen and boot not.
    images: by (image, digest), of boots that have got one. stalled: by phase, without those
    that somebody works on. boots: how many have begun. booted: told once of each boot that
    becomes ready, but for those.
    """

    def __init__(self, booted: Callable[[Boot], None] = lambda boot: None) -> None:
        self.nodes: Counter[tuple[str, str]] = Counter()
        self.images: Counter[tuple[str, str]] = Counter()
        self.stalled: Counter[str] = Counter()
        self.boots = 0
        self._booted = booted
        self._marks: dict[str, Mark] = {}
        # Keys with the time at which they came into their phase, oldest first.
        self._moving: OrderedDict[str, float] = OrderedDict()
        self._standing: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._now = 0.0

    def seed(self, nodes: Iterable[Node]) -> None:
        """Take over the nodes that the server before this one kept; their boots are not counted
        again."""
        booted, self._booted = self._booted, lambda boot: None
        for node in sorted(nodes, key=_since):
            self.change(node.key, node)
        self._booted = booted
        self.boots = 0

    def change(self, key: str, node: Node | None) -> None:
        """A node may have changed; None: it was forgotten."""
        old = self._marks.get(key)
        new = _mark(node) if node is not None else None
        if new == old:
            return
        if old is not None:
            self._take_away(old)
        if new is None:
            del self._marks[key]
            self._rest(key)
            return
        self._marks[key] = new
        self.nodes[new.phase, new.status] += 1
        if new.digest:
            self.images[new.image, new.digest] += 1
        if old is None or _stand(old) != _stand(new):
            self._rest(key)
            waits = new.boot is not None and new.phase not in AT_REST and not new.maintenance
            if node is not None and waits:
                # Who has worked on it gets as much time for its boot as any other machine.
                over = self._now if old is not None and old.maintenance else 0.0
                self._moving[key] = max(_since(node), over)
        fresh = old is None or old.boot != new.boot
        if new.boot is not None and fresh:
            self.boots += 1
        came = new.ready and (fresh or old is None or not old.ready) and not new.maintenance
        if came and node and node.boot:
            self._booted(node.boot)

    def advance(self, now: float) -> None:
        """Count the nodes that have been in a phase for too long by now."""
        self._now = max(self._now, now)
        while self._moving:
            key, since = next(iter(self._moving.items()))
            if now - since < STALLED_SECONDS:
                break
            del self._moving[key]
            phase = self._marks[key].phase
            self._standing[key] = (since, phase)
            self.stalled[phase] += 1
        while self._standing:
            key, (since, _) = next(iter(self._standing.items()))
            if now - since < GONE_SECONDS:
                break
            self._rest(key)

    def _take_away(self, mark: Mark) -> None:
        _subtract(self.nodes, (mark.phase, mark.status))
        if mark.digest:
            _subtract(self.images, (mark.image, mark.digest))

    def _rest(self, key: str) -> None:
        """Stop waiting for a node, or begin to wait anew."""
        self._moving.pop(key, None)
        if standing := self._standing.pop(key, None):
            _subtract(self.stalled, standing[1])


def is_whole(boot: Boot) -> bool:
    """Whether the server saw a boot from early on, so that its length is known."""
    return min(map(ORDER.__getitem__, boot.phases), default=_WATCHED_FROM) < _WATCHED_FROM


def _stand(mark: Mark) -> tuple[float | None, str, bool]:
    """What has to change for a node to be waited for anew."""
    return mark.boot, mark.phase, mark.maintenance


def _mark(node: Node) -> Mark:
    boot = node.boot
    phase = boot.last_phase() if boot is not None else None
    if boot is None or phase is None:
        return Mark(maintenance=node.maintenance)
    ready = boot.phases.get("ready")
    return Mark(
        boot.started,
        phase,
        boot.phases[phase].status,
        boot.image,
        boot.digest,
        ready is not None and ready.status == "ok",
        node.maintenance,
    )


def _since(node: Node) -> float:
    """When the node came into its present phase."""
    boot = node.boot
    phase = boot.last_phase() if boot is not None else None
    return boot.phases[phase].first if boot is not None and phase else node.first_seen


def _subtract(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
