"""What an edit of lts.conf changes, node by node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from server.ltsconf.conf import LtsConf, NodeId
from server.ltsconf.errors import LtsConfError
from server.ltsconf.order import sort_lines

# An LtsConf for a node: a template gives another one for each.
ConfOf = Callable[[NodeId], LtsConf]


@dataclass(frozen=True)
class Change:
    """One key of one node; None where it is not set."""

    key: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class NodeDiff:
    """All changes of a node, in order of keys; or why one of the two gives it nothing."""

    node: NodeId
    changes: tuple[Change, ...]
    old_error: str = ""
    new_error: str = ""

    @property
    def differs(self) -> bool:
        """Whether the node gets something different."""
        return bool(self.changes) or self.failed

    @property
    def failed(self) -> bool:
        """Whether the two could not be compared."""
        return bool(self.old_error or self.new_error)


def diff_nodes(old: ConfOf, new: ConfOf, nodes: Iterable[NodeId]) -> list[NodeDiff]:
    """The nodes that would get something different, and those that could not be compared."""
    found = (diff_node(old, new, node) for node in nodes)
    return [one for one in found if one.differs]


def diff_node(old: ConfOf, new: ConfOf, node: NodeId) -> NodeDiff:
    """What changes for one node."""
    before, old_error = _resolve(old, node)
    after, new_error = _resolve(new, node)
    keys = sort_lines((key, "") for key in {**before, **after})
    changes = tuple(
        Change(key, before.get(key), after.get(key))
        for key, _ in keys
        if before.get(key) != after.get(key)
    )
    return NodeDiff(node, () if old_error or new_error else changes, old_error, new_error)


def _resolve(conf_of: ConfOf, node: NodeId) -> tuple[dict[str, str], str]:
    try:
        return conf_of(node).resolve(node), ""
    except LtsConfError as error:
        return {}, str(error)
