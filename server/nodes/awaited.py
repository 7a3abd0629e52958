"""What people wrote of machines that are not there: not seen yet, or so long ago that others took
their place."""

from collections import OrderedDict

from server.nodes.node import Node


class Awaited:
    """Notes and maintenance by MAC, as nodes without a boot; at most `limit`, the oldest gives
    way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._nodes: OrderedDict[str, Node] = OrderedDict()

    def get(self, key: str) -> Node | None:
        """What was written of a machine, or None."""
        return self._nodes.get(key)

    def take(self, key: str) -> Node | None:
        """The same, and it is kept here no longer."""
        return self._nodes.pop(key, None)

    def put(self, node: Node) -> tuple[list[str], list[str]]:
        """Keep what was written, in the place of what was; nothing, where all is empty. The keys
        that are to be written down now, and those that are kept no longer."""
        self._nodes.pop(node.key, None)
        if not node.note and not node.maintenance:
            return [], [node.key]
        self._nodes[node.key] = node
        gone = [self._nodes.popitem(last=False)[0]] if len(self._nodes) > self._limit else []
        return [node.key], gone
