"""A cluster and its machines, played: it obeys a rollout's actions; machines go wrong as told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from server.rollout.actions import (
    Action,
    Cordon,
    Drain,
    MoveTag,
    Reboot,
    Tell,
    Uncordon,
    Withdraw,
)
from server.rollout.overlay import make_overlay
from server.rollout.seen import Daemon, NodeSeen, Observations, Seen
from server.rollout.spec import parse_spec
from server.rollout.state import Rollout, pack, unpack
from server.rollout.step import Member, start, step

OLD, NEW = "a" * 64, "b" * 64
DEAF, LOST, SICK, STUCK, STALE, FLAPS = "deaf", "lost", "sick", "stuck", "stale", "flaps"
LOOPS = "loops"
"""deaf: does not obey an order. lost: does not come back from the target. sick: the diagnosis has
a finding with the target. stuck: its pods do not move. stale: boots the old image all the same.
flaps: a DaemonSet's pod restarts again and again with the target. loops: fails to boot the target,
and reboots by itself."""
FINDING, CAUSE = "kubelet does not start", "join.kubelet"
BOOT = 40.0
"""Seconds of a boot."""


@dataclass
class Played:
    """One machine. foreign: somebody else has cordoned it."""

    member: Member
    wrong: str = ""
    foreign: bool = False
    pinned: str = ""
    boot: float = 1.0
    digest: str = OLD
    up_at: float = 0.0
    cordoned: bool = False
    ours: bool = False
    order: str = ""
    obeyed: str = ""
    pods: int = 3
    dead: bool = False
    restarts: int = 0


@dataclass
class World:
    """All of them, and the tag."""

    machines: dict[str, Played]
    tag: str = OLD
    now: float = 1000.0
    told: list[Tell] = field(default_factory=list)
    done: list[Action] = field(default_factory=list)
    has_cluster: bool = True

    def is_up(self, one: Played) -> bool:
        return not one.dead and self.now >= one.up_at

    def see(self) -> Observations:
        seen = {}
        for key, one in self.machines.items():
            up, bad = self.is_up(one), one.digest == NEW
            if bad and one.wrong == FLAPS and up:
                one.restarts += 1
            node = NodeSeen(
                one.member.name,
                is_ready=up,
                is_cordoned=one.cordoned,
                is_ours=one.ours,
                boot_id=str(one.boot) if up else str(one.boot - 1),
                order=one.order,
                obeyed=one.obeyed,
                movable=one.pods,
                daemons=(Daemon("net", up, one.restarts),),
                blocked="the budget web" if one.wrong == STUCK else "",
                is_control_plane=one.member.is_control_plane,
            )
            sick = bad and (
                (one.wrong == SICK and up) or (one.wrong == LOOPS and self.now - one.boot > 20)
            )
            seen[key] = Seen(
                boot=one.boot,
                image="amd64",
                digest=one.digest,
                is_up=up,
                attached=one.digest if up else "",
                finding=FINDING if sick else "",
                cause=CAUSE if sick else "",
                pinned=one.pinned,
                node=node if self.has_cluster else None,
            )
        names = [one.member.name for one in self.machines.values() if not self.is_up(one)]
        size = len(self.machines) if self.has_cluster else 0
        away = frozenset(names) if self.has_cluster else frozenset()
        return Observations(seen, self.has_cluster, away, size, self.tag)

    def obey(self, action: Action, rollout: Rollout) -> None:
        self.done.append(action)
        if isinstance(action, Tell):
            self.told.append(action)
            return
        if isinstance(action, MoveTag):
            self.tag = action.digest
            return
        one = next(one for one in self.machines.values() if one.member.name == action.node)
        if isinstance(action, Cordon):
            one.cordoned = one.ours = True
        elif isinstance(action, Uncordon):
            assert one.ours, "it uncordons what somebody else has cordoned"
            one.cordoned = one.ours = False
            one.pods = 3
        elif isinstance(action, Drain):
            one.pods -= one.wrong != STUCK and one.pods > 0
        elif isinstance(action, Reboot):
            one.order = action.order
            if one.wrong != DEAF:
                one.obeyed = action.order
                self.reboot(one, rollout)
        elif isinstance(action, Withdraw):
            one.order = ""

    def reboot(self, one: Played, rollout: Rollout) -> None:
        pin = make_overlay(rollout).find(one.member.key)
        one.digest = pin.digest if pin is not None else self.tag
        if one.wrong == STALE and one.digest == NEW:
            one.digest = OLD
        if one.wrong == LOST and one.digest == NEW:
            one.dead = True
            return
        one.dead = False
        one.boot, one.up_at = self.now + 0.5, self.now + BOOT
        if one.wrong == LOOPS and one.digest == NEW:
            one.up_at = float("inf")

    def loop(self, rollout: Rollout) -> None:
        """Machines that fail to boot begin again after half a minute."""
        for one in self.machines.values():
            if one.wrong == LOOPS and one.digest == NEW and self.now - one.boot > 30:
                self.reboot(one, rollout)

    def turn(self, rollout: Rollout, seconds: float = 5.0) -> Rollout:
        """One step; what is written down is all that the next one knows."""
        self.now += seconds
        found, actions = step(rollout, self.see(), self.now)
        for action in actions:
            self.obey(action, found)
        self.loop(found)
        again = unpack(pack(found))
        assert again == found
        return again

    def run(self, rollout: Rollout, until: Iterable[str], most: float = 40_000.0) -> Rollout:
        """Until it is in one of these states."""
        states, end = set(until), self.now + most
        while rollout.state not in states:
            assert self.now < end, f"it is {rollout.state} for ever: {rollout.waits}"
            rollout = self.turn(rollout)
        return rollout


def make(
    workers: int = 4,
    control: int = 0,
    wrong: Mapping[str, str] | None = None,
    **given: object,
) -> tuple[World, Rollout]:
    """A world, and a rollout in it. wrong: by name, as node-1 or cp-1."""
    names = [f"node-{number + 1}" for number in range(workers)]
    names += [f"cp-{number + 1}" for number in range(control)]
    members = [
        Member(f"52:54:00:00:00:{at:02x}", name, "amd64", OLD, name.startswith("cp"))
        for at, name in enumerate(names)
    ]
    played = {one.key: Played(one, (wrong or {}).get(one.name, "")) for one in members}
    usual = {"image": "amd64:candidate", "waves": "1,50%,100%", "ready_seconds": 20}
    spec = parse_spec({**usual, "boot_seconds": 200, "drain_seconds": 60, **given})
    world = World(played)
    rollout = start(
        spec, members, name="r1", image="amd64", digest=NEW, tag_before=OLD, now=world.now
    )
    return world, rollout
