"""The whole rollout, one step further: waves, how many may be away, when it holds, how it ends."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from server.errors import ServerError
from server.quantities import sort_naturally
from server.rollout.actions import Action, MoveTag
from server.rollout.machine import Turn, advance, begin, leave, release, send_back
from server.rollout.seen import Observations, Seen
from server.rollout.spec import Spec, SpecError, count_of
from server.rollout.state import (
    BUSY,
    DONE,
    ENDED,
    FINISHING,
    HELD,
    LAST,
    LOST,
    ON_HOLD,
    PAUSED,
    PROVEN,
    RETURNING,
    RUNNING,
    TARGET,
    UNDONE,
    WAITING,
    Machine,
    Rollout,
)
from server.rollout.words import explain_failures


class OrderError(ServerError):
    """What was asked for cannot be done with a rollout as it stands."""


@dataclass(frozen=True)
class Member:
    """A machine that a rollout is for, as it is at the start."""

    key: str
    name: str
    last_image: str = ""
    last_digest: str = ""
    is_control_plane: bool = False


def start(
    spec: Spec,
    members: Iterable[Member],
    *,
    name: str,
    image: str,
    digest: str,
    tag_before: str,
    now: float,
) -> Rollout:
    """A rollout of image@digest, its machines put into waves; control planes come last.

    name: its id. Raises SpecError where it is for no machine.
    """
    ordered = sorted(members, key=lambda one: (one.is_control_plane, sort_naturally(one.name)))
    if not ordered:
        raise SpecError(
            "no machine is selected", hint="look at select; `bootfarm nodes` lists the machines"
        )
    sizes = spec.sizes(len(ordered))
    machines = {}
    for number, one in enumerate(ordered):
        wave = next(wave for wave, size in enumerate(sizes) if number < size)
        last = (one.last_image, one.last_digest) if one.last_digest != digest else ("", "")
        machines[one.key] = Machine(
            one.key,
            one.name,
            since=now,
            wave=wave,
            last_image=last[0],
            last_digest=last[1],
            is_control_plane=one.is_control_plane,
        )
    return Rollout(name, spec, image, digest, now, machines, tag_before=tag_before, wave_since=now)


def step(rollout: Rollout, seen: Observations, now: float) -> tuple[Rollout, list[Action]]:
    """The rollout after one step, and what is to be done now. now: seconds since the epoch.

    Its revision is higher where anything has changed. The same rollout, seen in the same way
    at the same time, gives the same.
    """
    if rollout.is_over:
        return rollout, []
    before = rollout
    actions: list[Action] = []
    turn = Turn(rollout, seen, now)
    if rollout.state in (PAUSED, ON_HOLD, RETURNING, FINISHING):
        rollout = _change_all(rollout, lambda one: _stop(one, turn))
    for machine in list(rollout.machines.values()):
        found, more = advance(machine, Turn(rollout, seen, now))
        actions += more
        rollout = rollout.with_machine(found) if found != machine else rollout
    rollout = _judge_failures(rollout, Turn(rollout, seen, now))
    if rollout.state == RUNNING:
        rollout = _next_wave(rollout, now)
    rollout, taken = _take(rollout, seen, now)
    rollout, last = _finish(rollout, seen, now)
    actions += [*taken, *last]
    if rollout != before:
        rollout = replace(rollout, revision=before.revision + 1)
    return rollout, actions


def _stop(machine: Machine, turn: Turn) -> Machine:
    """A machine that is not rebooted yet is let go, unless it is on its way back."""
    if machine.goal == LAST and turn.rollout.state == RETURNING:
        return machine
    return release(machine, turn)


def _change_all(rollout: Rollout, change: Callable[[Machine], Machine]) -> Rollout:
    changed = {key: change(one) for key, one in rollout.machines.items()}
    return replace(rollout, machines=changed) if changed != rollout.machines else rollout


def list_failed(rollout: Rollout) -> list[Machine]:
    """Machines that did not do what they should."""
    return [one for one in rollout.machines.values() if one.failed]


def _judge_failures(rollout: Rollout, turn: Turn) -> Rollout:
    failed = list_failed(rollout)
    limit = 1 if rollout.wave == 0 else rollout.spec.failures
    if rollout.state == ON_HOLD and len(failed) > rollout.known_failures:
        return replace(rollout, reason=explain_failures(failed))
    if rollout.state != RUNNING or len(failed) - rollout.known_failures < limit:
        return rollout
    reason = explain_failures(failed)
    if rollout.spec.on_failure == "back":
        return send_all_back(replace(rollout, reason=reason), turn)
    return replace(rollout, state=ON_HOLD, reason=reason, waits="")


def send_all_back(rollout: Rollout, turn: Turn) -> Rollout:
    """All machines that have the target get their last good image again."""
    found = _change_all(rollout, lambda one: send_back(one, turn))
    return replace(found, state=RETURNING, waits="", paused_from="")


def _next_wave(rollout: Rollout, now: float) -> Rollout:
    machines = rollout.machines.values()
    if any(one.phase not in ENDED for one in machines if one.wave <= rollout.wave):
        return rollout
    if any(one.wave > rollout.wave for one in machines):
        return replace(rollout, wave=rollout.wave + 1, wave_since=now)
    if not any(one.phase == PROVEN for one in machines):
        words = "no machine runs the image, so that no tag is moved"
        failed = list_failed(rollout)
        reason = f"{words}: {explain_failures(failed)}" if failed else words
        return replace(rollout, state=ON_HOLD, reason=reason, waits="")
    return replace(rollout, state=FINISHING, waits="")


def _take(rollout: Rollout, seen: Observations, now: float) -> tuple[Rollout, list[Action]]:
    """Begin with as many machines as may be away."""
    if rollout.state not in (RUNNING, RETURNING):
        return rollout, []
    goal = TARGET if rollout.state == RUNNING else LAST
    actions: list[Action] = []
    waits = ""
    room = _measure(rollout, seen, goal)
    for key in list(_order(rollout, goal)):
        machine = rollout.machines[key]
        turn = Turn(rollout, seen, now)
        if goal == TARGET and (words := _find_obstacle(machine, turn)):
            rollout = rollout.with_machine(leave(machine, turn, words))
            continue
        if words := _find_wait(machine, turn, room):
            waits = waits or words
            continue
        found, more = begin(machine, turn)
        rollout = rollout.with_machine(found)
        room = _measure(rollout, seen, goal)
        actions += more
    return (replace(rollout, waits=waits) if rollout.waits != waits else rollout), actions


def _order(rollout: Rollout, goal: str) -> Iterator[str]:
    """Machines that wait and whose turn it is; control planes last."""
    found = [
        one
        for one in rollout.machines.values()
        if one.phase == WAITING and one.goal == goal and (goal == LAST or one.wave <= rollout.wave)
    ]
    yield from (one.key for one in found if not one.is_control_plane)
    yield from (one.key for one in found if one.is_control_plane)


def _find_obstacle(machine: Machine, turn: Turn) -> str:
    """Why a machine is left alone, or ""."""
    seen = turn.seen.machines.get(machine.key, Seen())
    if seen.pinned:
        return seen.pinned
    if seen.is_in_maintenance:
        return "somebody works on it"
    if not turn.seen.has_cluster:
        return ""
    late = turn.now - turn.rollout.wave_since > turn.spec.boot_seconds
    if seen.node is None and late:
        return "the cluster had no Node of its name when its turn came"
    if seen.node is not None and not seen.node.is_ready and late:
        return "its Node was not Ready when its turn came"
    return ""


@dataclass(frozen=True)
class _Room:
    """Who is away, and how many may be; measured once for all machines that wait."""

    busy: tuple[Machine, ...]
    away: frozenset[str]
    most: int
    has_workers: bool


def _measure(rollout: Rollout, seen: Observations, goal: str) -> _Room:
    return _Room(
        tuple(one for one in rollout.machines.values() if one.phase in BUSY),
        frozenset(list_away(rollout, seen)),
        count_of(rollout.spec.max_unavailable, seen.cluster_size or len(rollout.machines)),
        _has_waiting_workers(rollout, goal),
    )


def _find_wait(machine: Machine, turn: Turn, room: _Room) -> str:
    """Why a machine is not begun with now, or ""."""
    rollout, seen = turn.rollout, turn.seen
    if rollout.state == RUNNING and not rollout.spec.is_open(turn.now):
        return f"outside of its window ({rollout.spec.window}, UTC)"
    one = seen.machines.get(machine.key, Seen())
    if not one.is_known:
        return f"what lts.conf gives {machine.name} is being found out"
    if one.is_up and one.digest and one.digest == _goal_digest(rollout, machine):
        return ""  # it runs it: nothing is taken away
    if seen.has_cluster and (one.node is None or not one.node.is_ready):
        return f"{machine.name} is not Ready"
    if machine.is_control_plane and room.busy:
        return f"{machine.name} is a control plane: it comes alone"
    if alone := next((other.name for other in room.busy if other.is_control_plane), ""):
        return f"{alone} is a control plane: it comes alone"
    if machine.is_control_plane and room.has_workers:
        return f"{machine.name} is a control plane: it comes last"
    if len(room.away) >= room.most:
        shown = ", ".join(sort_names(room.away)[:5])
        return f"{len(room.away)} of at most {room.most} are away: {shown}"
    return ""


def _goal_digest(rollout: Rollout, machine: Machine) -> str:
    return rollout.digest if machine.goal == TARGET else machine.last_digest


def _has_waiting_workers(rollout: Rollout, goal: str) -> bool:
    return any(
        one.phase == WAITING and one.goal == goal and not one.is_control_plane
        for one in rollout.machines.values()
        if goal == LAST or one.wave <= rollout.wave
    )


def sort_names(names: Iterable[str]) -> list[str]:
    """As people count."""
    return sorted(names, key=sort_naturally)


def list_away(rollout: Rollout, seen: Observations) -> set[str]:
    """Who cannot take pods now: Nodes that are not Ready, and machines of the rollout."""
    mine = {
        one.name
        for one in rollout.machines.values()
        if one.is_cordoned or one.phase in (*BUSY, LOST) or (one.phase == HELD and one.is_reached)
    }
    return mine | seen.away


def _finish(rollout: Rollout, seen: Observations, now: float) -> tuple[Rollout, list[Action]]:
    """The end: the tag leads where it should, and nothing is cordoned that should not be."""
    machines = rollout.machines.values()
    if rollout.state == RETURNING:
        back = rollout.tag_before
        if rollout.ended and back and seen.tag_digest not in ("", back):
            # It was moved: who is no member boots what it led to, from now on.
            return rollout, [MoveTag(rollout.image, rollout.spec.tag, back)]
        if any(
            one.phase in BUSY or (one.phase == WAITING and one.goal == LAST) for one in machines
        ):
            return rollout, []
        if _has_cordons(machines, seen.machines):
            return rollout, []
        return replace(rollout, state=UNDONE, ended=now), []
    if rollout.state != FINISHING:
        return rollout, []
    if rollout.spec.tag and seen.tag_digest != rollout.digest:
        return rollout, [MoveTag(rollout.image, rollout.spec.tag, rollout.digest)]
    if _has_cordons(machines, seen.machines):
        return rollout, []
    return replace(rollout, state=DONE, ended=now, reason=""), []


def _has_cordons(machines: Iterable[Machine], seen: Mapping[str, Seen]) -> bool:
    """Whether a machine is still cordoned that has its pods to get again."""
    return any(
        one.is_cordoned
        and one.phase != LOST
        and not (one.phase == HELD and one.is_reached)
        and seen.get(one.key, Seen()).node is not None
        for one in machines
    )


# What people say


def pause(rollout: Rollout) -> Rollout:
    """Begin with no further machine; those that reboot go on to their end. Raises OrderError."""
    if rollout.state not in (RUNNING, RETURNING):
        raise _cannot(rollout, "paused", "`resume` goes on with one that is paused or on hold")
    return _tick(rollout, state=PAUSED, paused_from=rollout.state, waits="")


def resume(rollout: Rollout) -> Rollout:
    """Go on; what has failed until now holds it no more. Raises OrderError."""
    if rollout.state not in (PAUSED, ON_HOLD):
        raise _cannot(rollout, "resumed", "only one that is paused or on hold")
    state = rollout.paused_from or RUNNING
    known = len(list_failed(rollout))
    return _tick(rollout, state=state, paused_from="", known_failures=known, reason="")


def undo(rollout: Rollout, seen: Observations, now: float) -> Rollout:
    """Give all machines their last good image again, and the tag what it led to. OrderError."""
    if rollout.state in (RETURNING, UNDONE):
        raise _cannot(rollout, "undone", "it is")
    found = send_all_back(rollout, Turn(rollout, seen, now))
    moved = rollout.state in (FINISHING, DONE)
    return _tick(found, ended=now if moved else 0.0)


def _cannot(rollout: Rollout, what: str, hint: str) -> OrderError:
    return OrderError(f"the rollout is {rollout.state}, and cannot be {what}", hint=hint)


def _tick(rollout: Rollout, **more: object) -> Rollout:
    found: Rollout = replace(rollout, revision=rollout.revision + 1, **more)  # type: ignore[arg-type]
    return found


def list_active(rollout: Rollout) -> Sequence[Machine]:
    """Machines whose pods have to be looked at."""
    return [one for one in rollout.machines.values() if one.phase in BUSY]
