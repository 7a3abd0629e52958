"""A rollout in words and numbers, for people and programs."""

from collections.abc import Iterable
from typing import Any, Final

from server.rollout.spec import Spec
from server.rollout.state import BUSY, PHASES, Machine, Rollout

_NAMED: Final = 5
"""Machines of one cause that a sentence names."""


def explain_failures(failed: Iterable[Machine]) -> str:
    """One sentence: the causes, the one with most machines first, in the finding's own words."""
    groups: dict[str, list[Machine]] = {}
    for one in failed:
        groups.setdefault(one.cause or one.failed, []).append(one)
    parts = []
    for members in sorted(groups.values(), key=len, reverse=True):
        names = ", ".join(one.name for one in members[:_NAMED])
        more = f" and {len(members) - _NAMED} more" if len(members) > _NAMED else ""
        parts.append(f"{names}{more}: {members[0].failed.rstrip('.')}")
    return "; ".join(parts)


def count_phases(rollout: Rollout) -> dict[str, int]:
    """Machines of each phase."""
    counts = dict.fromkeys(PHASES, 0)
    for one in rollout.machines.values():
        counts[one.phase] += 1
    return counts


def count_waves(spec: Spec, machines: int) -> int:
    """Waves that the rollout has."""
    return len(spec.sizes(machines))


def describe(rollout: Rollout) -> dict[str, Any]:
    """As the API has it."""
    return {
        "id": rollout.id,
        "state": rollout.state,
        "image": rollout.image,
        "digest": rollout.digest,
        "reference": rollout.spec.image,
        "tag": rollout.spec.tag,
        "started": rollout.started,
        "ended": rollout.ended,
        "revision": rollout.revision,
        "wave": rollout.wave + 1,
        "waves": count_waves(rollout.spec, len(rollout.machines)),
        "reason": rollout.reason,
        "waits": rollout.waits,
        "counts": count_phases(rollout),
        "spec": rollout.spec.to_json(),
        "machines": [_describe_machine(one) for one in rollout.machines.values()],
    }


def _describe_machine(one: Machine) -> dict[str, Any]:
    return {
        "node": one.key,
        "name": one.name,
        "phase": one.phase,
        "goal": one.goal,
        "wave": one.wave + 1,
        "since": one.since,
        "last_digest": one.last_digest,
        "failed": one.failed,
        "reason": one.reason,
    }


def describe_machine(rollout: Rollout, key: str) -> str:
    """One machine in a sentence for its page, or ""."""
    one = rollout.machines.get(key)
    if one is None or rollout.is_over:
        return ""
    words = f"Rollout of {rollout.image}@{rollout.digest[:12]}: {one.phase}"
    if one.phase in BUSY and one.goal == "last":
        words += f", on its way back to {one.last_image}@{one.last_digest[:12]}"
    return f"{words}: {one.reason}" if one.reason else words
