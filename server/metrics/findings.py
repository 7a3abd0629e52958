"""What is the matter with the nodes, counted by the diagnosis' rules.

Rules look at the time, too, so a node that is on its way is asked about again
and again; one turn of `advance` asks about a bounded number of nodes.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from server.diagnosis import RULES, FarmFacts, diagnose
from server.metrics.tally import AT_REST
from server.nodes.node import Node

AGAIN_SECONDS: Final = 30.0
"""How often a node on its way is asked about, where there are not too many."""
SEVERITIES: Final = {rule.id: rule.severity for rule in RULES}


class Findings:
    """The rule that holds for each node, counted. farm: what the farm is now.

    present: by rule, how many nodes it holds for. found: by rule, how many
    times it came to hold.
    """

    def __init__(self, farm: Callable[[], FarmFacts]) -> None:
        self.present: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self._farm = farm
        self._rules: dict[str, str] = {}
        # Nodes that wait to be diagnosed, and nodes that were, with the time, longest ago first.
        self._fresh: dict[str, Node] = {}
        self._asked: OrderedDict[str, tuple[float, Node]] = OrderedDict()

    def change(self, key: str, node: Node | None) -> None:
        """A node may have changed; None: it was forgotten.

        A node that `simulate` or `doctor` plays, or that is in maintenance, has no finding.
        """
        if node is not None and not node.played and not node.maintenance:
            self._fresh[key] = node
            return
        self._fresh.pop(key, None)
        self._asked.pop(key, None)
        self._set(key, "")

    def advance(self, now: float, most: int = 200) -> None:
        """Diagnose nodes that changed, and nodes whose last diagnosis is old; `most` of them."""
        farm = self._farm()
        for _ in range(most):
            if self._fresh:
                key = next(iter(self._fresh))
                node = self._fresh.pop(key)
            elif self._asked:
                key, (asked, node) = next(iter(self._asked.items()))
                if now - asked < AGAIN_SECONDS:
                    return
            else:
                return
            self._asked.pop(key, None)
            finding = diagnose(node, now, farm)
            self._set(key, finding.rule if finding is not None else "")
            if finding is not None or not _is_at_rest(node):
                self._asked[key] = (now, node)

    def _set(self, key: str, rule: str) -> None:
        old = self._rules.pop(key, "")
        if rule:
            self._rules[key] = rule
        if rule == old:
            return
        if old:
            self.present[old] -= 1
        if rule:
            self.present[rule] += 1
            self.found[rule] += 1


def _is_at_rest(node: Node) -> bool:
    return node.boot is None or node.boot.last_phase() in AT_REST
