"""Values that a template computes for some machine and that no node could use.

What the text itself says is `lint_conf`'s to judge; an expression, a fact or a secret has a value
only for one machine, when it is rendered for that.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from server.ltsconf.conf import LtsConf, NodeId, decode
from server.ltsconf.errors import LtsConfError
from server.ltsconf.joinline import check_kubeadm
from server.ltsconf.lint_values import check_setting
from server.ltsconf.problem import Finding, Problem
from server.ltsconf.variables import find_variable
from server.quantities import compress_names

LONGEST: Final = 16384
"""Characters of a value that are looked at."""
MOST: Final = 100
"""Different wrong values that are kept; a template may compute one for each machine."""
_CODES: Final = ("bad-value", "ipxe-word", "swap-variable")


class WrongValues:
    """Each wrong value once, with the machines that get it.

    told: messages of what was said already, since it is the same for all machines. is_secret:
    whether there is a secret in a value; then no part of the value is quoted.
    """

    def __init__(self, told: Collection[str], is_secret: Callable[[str], bool]) -> None:
        self._told = told
        self._is_secret = is_secret
        self._found: dict[tuple[str, int, str], tuple[Problem, list[str]]] = {}

    def look(self, conf: LtsConf, node: NodeId, name: str) -> None:
        """Look at what a node gets of a text that was rendered for it. name: in words."""
        try:
            links = conf.build_chain(node).links
        except LtsConfError:
            return  # the node gets nothing, which is told by whoever resolves it
        for entry in (entry for link in links for entry in link.section.entries):
            key, value = decode(entry.key), decode(entry.value[:LONGEST])
            for code, message, hint in _find_wrong(key, value, quotes=not self._is_secret(value)):
                if message in self._told:
                    continue
                problem = conf.document.tell(Finding("error", code, entry.offset, message, hint))
                place = (problem.path, problem.line, message)
                if place not in self._found:
                    if len(self._found) >= MOST:
                        continue
                    self._found[place] = problem, []
                names = self._found[place][1]
                if not names or names[-1] != name:
                    names.append(name)

    def list(self) -> list[Problem]:
        """An error for each, with the number and the names of its machines."""
        return [with_names(one, names) for one, names in self._found.values()]


def with_names(problem: Problem, names: Sequence[str]) -> Problem:
    """The problem, with the number and the names of the machines that have it."""
    return replace(problem, message=f"{problem.message} ({len(names)}: {compress_names(names)})")


@lru_cache(maxsize=4096)
def _find_wrong(key: str, value: str, *, quotes: bool) -> tuple[tuple[str, str, str], ...]:
    """What `lts check` calls an error in a value: its code, the words, and the remedy.

    quotes: whether the words may hold parts of the value.
    """
    if not quotes:
        variable = find_variable(key.upper())
        if variable is None or variable.kind != "command":
            return ()
        words = check_kubeadm(value)
        return tuple(
            ("bad-value", f"{key}: {wrong}", hint) for wrong, hint in words if "behind --" in wrong
        )
    return tuple(
        (code, message, hint)
        for severity, code, message, hint in check_setting(key, value)
        if severity == "error" and code in _CODES
    )
