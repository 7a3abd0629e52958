"""One machine of a rollout: waiting, cordoned, draining, rebooting, gate, and how it ends."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from server.rollout.actions import Action, Cordon, Drain, Reboot, Tell, Uncordon, Withdraw
from server.rollout.seen import NodeSeen, Observations, Seen
from server.rollout.spec import Spec
from server.rollout.state import (
    BACK,
    BUSY,
    CORDONED,
    DRAINING,
    GATE,
    HELD,
    LAST,
    LEFT,
    LOST,
    PROVEN,
    REBOOTING,
    TARGET,
    WAITING,
    Machine,
    Rollout,
)

NO_REBOOT: Final = "no_reboot"
SILENT: Final = "silent"
DRAIN: Final = "drain"
WRONG_IMAGE: Final = "wrong_image"
SLOW: Final = "gate_time"


@dataclass(frozen=True)
class Turn:
    """What one step goes by. now: seconds since the epoch."""

    rollout: Rollout
    seen: Observations
    now: float

    @property
    def spec(self) -> Spec:
        """What was asked for."""
        return self.rollout.spec


Step = tuple[Machine, tuple[Action, ...]]


def wanted_digest(rollout: Rollout, machine: Machine) -> str:
    """The digest that a machine shall boot."""
    return rollout.digest if machine.goal == TARGET else machine.last_digest


def name_image(image: str, digest: str) -> str:
    """As people write it."""
    return f"{image}@{digest[:12]}"


def advance(machine: Machine, turn: Turn) -> Step:
    """The machine after one step, and what is to be done for it now."""
    seen = turn.seen.machines.get(machine.key, Seen())
    machine, actions = _mind_cordon(machine, seen)
    actions = (*actions, *_mind_order(machine, seen))
    steps = {
        CORDONED: _cordon,
        DRAINING: _drain,
        REBOOTING: _reboot,
        GATE: _judge,
        LOST: _find_again,
        HELD: _find_again,
    }
    if machine.phase not in steps:
        return machine, actions
    machine, more = steps[machine.phase](machine, seen, turn)
    return machine, (*actions, *more)


def begin(machine: Machine, turn: Turn) -> Step:
    """Take a waiting machine: away from the cluster, or to its gate where it runs the image."""
    seen = turn.seen.machines.get(machine.key, Seen())
    wanted = wanted_digest(turn.rollout, machine)
    if seen.is_up and seen.digest == wanted:
        return _enter(machine, GATE, turn, is_reached=True), ()
    if machine.goal == TARGET and seen.digest and seen.digest != wanted:
        machine = replace(machine, last_image=seen.image, last_digest=seen.digest)
    if not turn.seen.has_cluster:
        return _order(machine, seen, turn), ()
    return _cordon(_enter(machine, CORDONED, turn), seen, turn)


def send_back(machine: Machine, turn: Turn) -> Machine:
    """The machine of a rollout that is undone: where it goes from here."""
    if machine.goal == LAST or machine.phase in (WAITING, LEFT, LOST, HELD):
        return machine
    if machine.phase in (CORDONED, DRAINING):
        return _enter(machine, WAITING, turn)
    if not machine.last_digest:
        words = "no image is known that it ran before"
        return _enter(machine, HELD, turn, reason=words, is_reached=False)
    seen = turn.seen.machines.get(machine.key, Seen())
    if machine.phase == REBOOTING and not _may_have_rebooted(machine, seen, turn):
        return _enter(machine, WAITING, turn, is_reached=False)
    machine = replace(machine, goal=LAST)
    if machine.phase == PROVEN:
        return _enter(machine, WAITING, turn, is_reached=True)
    return _order(machine, seen, turn)


def _may_have_rebooted(machine: Machine, seen: Seen, turn: Turn) -> bool:
    """Whether a machine that is to reboot has begun with it, or has heard of it."""
    if seen.boot > machine.boot:
        return True
    has_heard = seen.node is not None and seen.node.order == machine.order
    return has_heard and turn.spec.reboot == "agent"


def release(machine: Machine, turn: Turn) -> Machine:
    """A machine that is taken and not rebooted yet waits again, when nothing more begins."""
    if machine.phase in (CORDONED, DRAINING):
        return _enter(machine, WAITING, turn)
    return machine


def leave(machine: Machine, turn: Turn, reason: str) -> Machine:
    """A machine that the rollout does not touch."""
    return _enter(machine, LEFT, turn, reason=reason)


def _enter(machine: Machine, phase: str, turn: Turn, **more: object) -> Machine:
    plain = {"ready_since": 0.0, "bad_since": 0.0, "restarts": -1, "reason": ""}
    plain |= {"gate_boot": 0.0, "bad": "", "bad_cause": ""}
    found: Machine = replace(machine, phase=phase, since=turn.now, **{**plain, **more})  # type: ignore[arg-type]
    return found


def _mind_cordon(machine: Machine, seen: Seen) -> Step:
    """Uncordon a machine that ended well, or that is let go; only what the rollout cordoned."""
    node = seen.node
    if node is None or not machine.is_cordoned or machine.phase in BUSY:
        return machine, ()
    if not (node.is_cordoned and node.is_ours):
        return replace(machine, is_cordoned=False), ()
    if machine.phase == LOST or (machine.phase == HELD and machine.is_reached):
        return machine, ()  # nobody knows that it can take pods
    return machine, (Uncordon(node.name),)


def _mind_order(machine: Machine, seen: Seen) -> tuple[Action, ...]:
    """Withdraw an order that is none any more: the machine was booted by somebody else, or it is
    given up. Its agent would obey once it runs, and take away pods that nobody has moved."""
    node = seen.node
    if node is None or machine.phase == REBOOTING or not machine.order:
        return ()
    is_open = node.order == machine.order != node.obeyed
    return (Withdraw(node.name),) if is_open else ()


def _cordon(machine: Machine, seen: Seen, turn: Turn) -> Step:
    node = seen.node
    if node is not None and node.is_cordoned:
        # Somebody else's cordon stays when the rollout is through with the machine.
        return _enter(machine, DRAINING, turn, is_cordoned=node.is_ours), ()
    if turn.now - machine.since > turn.spec.drain_seconds:
        return _hold(machine, turn, DRAIN, "it could not be cordoned")
    if node is None:
        return replace(machine, reason="its Node is gone from the cluster"), ()
    return replace(machine, is_cordoned=True), (Cordon(node.name),)


def _drain(machine: Machine, seen: Seen, turn: Turn) -> Step:
    node = seen.node
    if node is not None and node.movable == 0:
        return _order(machine, seen, turn), ()
    late = turn.now - machine.since > turn.spec.drain_seconds
    if late and turn.spec.on_drain_timeout == "reboot":
        return _order(machine, seen, turn), ()
    blocked = node.blocked if node is not None else "its Node is gone from the cluster"
    if late:
        words = f"its pods were not moved in {turn.spec.drain_seconds} s"
        return _hold(machine, turn, DRAIN, f"{words}: {blocked}" if blocked else words)
    if node is None or node.movable is None:
        return replace(machine, reason=blocked), ()
    pods = f"{node.movable} pods to move"
    return replace(machine, reason=blocked or pods), (Drain(node.name),)


def _order(machine: Machine, seen: Seen, turn: Turn) -> Machine:
    """Have it rebooted into the image of its goal."""
    tried = machine.tried + 1
    return _enter(
        machine,
        REBOOTING,
        turn,
        is_reached=True,
        tried=tried,
        order=f"{turn.rollout.id}-{tried}",
        boot=seen.boot,
        boot_id=seen.node.boot_id if seen.node is not None else "",
    )


def _reboot(machine: Machine, seen: Seen, turn: Turn) -> Step:
    if seen.boot > machine.boot:
        return _enter(machine, GATE, turn), ()
    by_hand = turn.spec.reboot == "hand"
    if not by_hand and turn.now - machine.since > turn.spec.boot_seconds:
        return _give_up(machine, seen, turn)
    if by_hand:
        return replace(machine, reason="waits until somebody reboots it"), ()
    node = seen.node
    if node is None or node.order == machine.order:
        return machine, ()
    return machine, (Reboot(node.name, machine.order),)


def _give_up(machine: Machine, seen: Seen, turn: Turn) -> Step:
    """It has not booted in time: either it still runs, or nobody knows what it does."""
    spent = f"in {turn.spec.boot_seconds} s"
    node = seen.node
    runs = node.is_ready if node is not None else seen.is_up
    if runs and machine.goal == LAST and seen.digest == machine.last_digest:
        return _enter(machine, GATE, turn, boot_id=""), ()  # it never left the image
    if runs:
        words = f"it was told to reboot and did not {spent}: does its agent run (ROLLOUT_AGENT)?"
        return _hold(machine, turn, NO_REBOOT, words)
    words = f"it was told to reboot, and no boot of it was seen {spent}"
    return _lose(machine, turn, words)


def _lose(machine: Machine, turn: Turn, words: str) -> Step:
    """Not waited for any more. If it comes after all, it boots its last good image."""
    has_last = bool(machine.last_digest)
    found = _enter(
        machine,
        LOST,
        turn,
        goal=LAST if has_last else machine.goal,
        is_reached=has_last,
        failed=machine.failed or words,
        cause=machine.cause or SILENT,
        reason=words,
    )
    return found, _tell(machine, turn, "RolloutLost", words)


def _find_again(machine: Machine, seen: Seen, turn: Turn) -> Step:
    """A machine that was given up on its way back: when it has booted, it is judged again."""
    if seen.boot <= machine.boot or machine.goal != LAST or not machine.is_reached:
        return machine, ()
    return _enter(machine, GATE, turn), ()


def _judge(machine: Machine, seen: Seen, turn: Turn) -> Step:
    """The gate: everything that has to hold, and for how long it has."""
    wanted = wanted_digest(turn.rollout, machine)
    if seen.digest and seen.digest != wanted:
        words = f"it booted {name_image(seen.image, seen.digest)} in place of {wanted[:12]}"
        return _fail(machine, seen, turn, WRONG_IMAGE, words)
    if machine.goal == TARGET and machine.bad and seen.boot > machine.gate_boot:
        # It has booted again by itself (bootfarm.on_error=reboot), which ended the finding.
        return _fail(machine, seen, turn, machine.bad_cause, machine.bad)
    bad_since = (machine.bad_since or turn.now) if seen.finding else 0.0
    if seen.finding and turn.now - bad_since >= turn.spec.finding_seconds:
        return _fail(machine, seen, turn, seen.cause, seen.finding)
    missing = next(_list_missing(machine, seen, turn), "")
    restarts = _count_restarts(seen.node)
    is_fresh = machine.restarts < 0 or restarts < 0 or restarts <= machine.restarts
    if not is_fresh:
        missing = missing or "a pod of its DaemonSets restarts"
    since = 0.0 if missing else machine.ready_since or turn.now
    if not missing and turn.now - since >= turn.spec.ready_seconds:
        return _pass(machine, turn)
    if turn.now - machine.since > turn.spec.boot_seconds + turn.spec.ready_seconds and missing:
        spent = turn.spec.boot_seconds + turn.spec.ready_seconds
        return _fail(machine, seen, turn, SLOW, f"not through its gate in {spent} s: {missing}")
    kept = restarts if restarts >= 0 and (not missing or not is_fresh) else machine.restarts
    found = replace(
        machine,
        bad_since=bad_since,
        bad=seen.finding,
        bad_cause=seen.cause,
        gate_boot=seen.boot,
        ready_since=since,
        restarts=kept,
        reason=missing,
    )
    return found, ()


def _list_missing(machine: Machine, seen: Seen, turn: Turn) -> Iterator[str]:
    """What does not hold yet, the first thing first."""
    if not seen.digest:
        yield "it has not said what it boots"
    if not seen.is_up and seen.node is None:
        yield "it is not up yet"
    if seen.attached is not None and (seen.attached or seen.lives_on_nbd):
        if not seen.attached:
            yield "its root is not attached over NBD"
        elif seen.attached != seen.digest:
            runs = seen.digest[:12]
            yield f"it reads {seen.attached[:12]} over NBD, and says that it runs {runs}"
    if seen.finding:
        yield seen.finding
    if turn.seen.has_cluster:
        yield from _list_missing_of_node(machine, seen.node)


def _list_missing_of_node(machine: Machine, node: NodeSeen | None) -> Iterator[str]:
    if node is None:
        yield "the cluster has no Node of its name"
        return
    if machine.boot_id and machine.boot_id == node.boot_id:
        yield "its kubelet has not spoken since the reboot"  # Ready is of the boot before
    if not node.is_ready:
        yield "its Node is not Ready"
    if node.daemons is None:
        yield "its pods were not looked at yet"
        return
    for pod in node.daemons:
        if not pod.is_running:
            yield f"pod {pod.name} of a DaemonSet does not run"


def _count_restarts(node: NodeSeen | None) -> int:
    if node is None or node.daemons is None:
        return -1
    return sum(pod.restarts for pod in node.daemons)


def _pass(machine: Machine, turn: Turn) -> Step:
    if machine.goal == TARGET:
        words = f"booted {name_image(turn.rollout.image, turn.rollout.digest)}, and holds"
        return _enter(machine, PROVEN, turn), _tell(
            machine, turn, "RolloutProven", words, bad=False
        )
    words = f"is back on {name_image(machine.last_image, machine.last_digest)}"
    found = _enter(machine, BACK, turn, reason=machine.failed)
    return found, _tell(machine, turn, "RolloutBack", words, bad=False)


def _fail(machine: Machine, seen: Seen, turn: Turn, cause: str, words: str) -> Step:
    """Give it its last good image again; one that fails with that, too, is for a person."""
    if machine.goal == LAST:
        reason = f"it fails with its last good image, too: {words}"
        return _enter(machine, HELD, turn, reason=reason, boot=seen.boot), _tell(
            machine, turn, "RolloutHeld", reason
        )
    if not machine.last_digest:
        return _hold(machine, turn, cause, f"{words}; no image is known that it ran before")
    found = _order(replace(machine, goal=LAST, failed=words, cause=cause or SLOW), seen, turn)
    return found, _tell(machine, turn, "RolloutPinnedBack", f"pinned back: {words}")


def _hold(machine: Machine, turn: Turn, cause: str, words: str) -> Step:
    """Leave it as it is, for a person; its next boot is again what lts.conf says."""
    found = _enter(
        machine,
        HELD,
        turn,
        is_reached=machine.goal == LAST,
        failed=machine.failed or words,
        cause=machine.cause or cause,
        reason=words,
    )
    return found, _tell(machine, turn, "RolloutHeld", words)


def _tell(
    machine: Machine, turn: Turn, reason: str, words: str, *, bad: bool = True
) -> tuple[Action, ...]:
    node = turn.seen.machines.get(machine.key, Seen()).node
    return (Tell(node.name, reason, words, is_warning=bad),) if node is not None else ()
