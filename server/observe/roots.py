"""Whose root is attached: the NBD connections of each node, looked at again and again.

Events tell of connections that come and go. That a connection does not come back, no event
tells.
"""

from collections.abc import Callable, Mapping, Sequence

from server.diagnosis.root import LOST_SECONDS
from server.nodes.node import Node
from server.nodes.timelines import Nodes

Attached = Callable[[], Mapping[str, Sequence[str]] | None]
"""Digest to clients' addresses; None where this process does not serve NBD."""


class Roots:
    """When each node's root was last seen attached. `turn` is to be called every few seconds."""

    def __init__(self, nodes: Nodes, attached: Attached) -> None:
        self._nodes = nodes
        self._attached = attached
        self._began: float | None = None
        self._seen: dict[str, float] = {}
        self._lost: set[str] = set()

    def attached_at(self, key: str) -> float | None:
        """When a node's root was last seen attached, in seconds since the epoch; None where nobody
        knows.

        At least the time of the first turn: after a restart of the server, nodes need a
        moment to come back.
        """
        return None if self._began is None else self._seen.get(key, self._began)

    def turn(self, now: float) -> list[Node]:
        """Look which roots are attached.

        The nodes whose answer differs from the one before this turn.
        """
        attached = self._attached()
        if attached is None:
            return []
        if self._began is None:
            self._began = now
        for clients in attached.values():
            for client in clients:
                self._seen[self._nodes.key_of(client)] = now
        if len(self._seen) > 2 * len(self._nodes) + 100:
            self._seen = {key: at for key, at in self._seen.items() if key in self._nodes}
        limit = now - LOST_SECONDS
        lost = {
            node.key
            for node in self._nodes.newest()
            if self._seen.get(node.key, self._began) < limit
        }
        changed, self._lost = lost ^ self._lost, lost
        return [node for key in changed if (node := self._nodes.get(key)) is not None]
