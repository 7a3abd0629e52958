"""From a node's timeline to the finding that matters most; pure."""

from typing import Final

from server.diagnosis import (
    certificate,
    firmware,
    initramfs,
    join,
    kernel,
    root,
    space,
    stall,
    system,
    transfer,
    verity,
)
from server.diagnosis.case import Case, FarmFacts
from server.diagnosis.rule import SEVERITIES, Finding, Rule
from server.nodes.node import Node
from server.nodes.phases import ORDER, PHASES

RULES: Final[tuple[Rule, ...]] = (
    *kernel.RULES,
    *root.RULES,
    *firmware.RULES,
    *transfer.RULES,
    *verity.RULES,
    *initramfs.RULES,
    *space.RULES,
    *certificate.RULES,
    *join.RULES,
    *system.RULES,
    *stall.RULES,
)
"""In the order in which they are asked, within one severity; the general ones last."""

_RANK: Final = {severity: number for number, severity in enumerate(SEVERITIES)}


def _by_last_phase() -> dict[str, tuple[Rule, ...]]:
    """For each phase that a boot may have got to: the rules that can hold, the worst first."""
    return {
        last: tuple(
            sorted(
                (rule for rule in RULES if rule.stays or ORDER[rule.phase] >= ORDER[last]),
                key=lambda rule: _RANK[rule.severity],
            )
        )
        for last in PHASES
    }


_RULES_OF: Final = _by_last_phase()


def diagnose(node: Node, now: float, farm: FarmFacts) -> Finding | None:
    """What is the matter with a node, or None. now: seconds since the epoch.

    Errors come before stalls, stalls before notes; of one kind the first rule
    that holds. It looks at the present boot only.
    """
    boot = node.boot
    if boot is None or not boot.phases:
        return None
    case = Case(node, boot, now, farm)
    for rule in _RULES_OF[case.last]:
        finding = rule.apply(case)
        if finding is not None:
            return finding
    return None
