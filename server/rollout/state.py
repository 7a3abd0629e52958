"""Where a rollout stands: a value that is written down after each step, and read again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

from server.errors import ServerError
from server.rollout.spec import Spec, SpecError, parse_spec

FORMAT: Final = 1
TARGET: Final = "target"
LAST: Final = "last"
WAITING: Final = "waiting"
CORDONED: Final = "cordoned"
DRAINING: Final = "draining"
REBOOTING: Final = "rebooting"
GATE: Final = "gate"
PROVEN: Final = "proven"
BACK: Final = "back"
HELD: Final = "held"
LOST: Final = "lost"
LEFT: Final = "left"
PHASES: Final = (
    *(WAITING, CORDONED, DRAINING, REBOOTING, GATE),
    *(PROVEN, BACK, HELD, LOST, LEFT),
)
"""Of a machine. left: lts.conf or a person keeps the rollout from it."""
BUSY: Final = (CORDONED, DRAINING, REBOOTING, GATE)
"""A machine that the rollout has taken away from the cluster."""
ENDED: Final = (PROVEN, BACK, HELD, LOST, LEFT)
RUNNING: Final = "running"
PAUSED: Final = "paused"
ON_HOLD: Final = "on-hold"
RETURNING: Final = "returning"
FINISHING: Final = "finishing"
DONE: Final = "done"
UNDONE: Final = "undone"
STATES: Final = (RUNNING, PAUSED, ON_HOLD, RETURNING, FINISHING, DONE, UNDONE)
"""Of a rollout. finishing: all machines are reached, and the tag moves."""
OVER: Final = (DONE, UNDONE)


class StateError(ServerError):
    """What was written down is no rollout."""


@dataclass(frozen=True)
class Machine:
    """One machine of a rollout.

    goal: the image that it shall boot, the target or its last good one. since: when its phase
    began. wave: from 0. last_image, last_digest: its last good image. is_reached: its next boot
    gets its goal's image, whatever lts.conf says. is_cordoned: by the rollout. order: the reboot
    that it was ordered, "" before. boot, boot_id: of the boot before that. tried: reboots that
    were ordered. ready_since: since when it has held all that the gate asks for, 0 while it
    does not. bad_since: since when the diagnosis has had a finding. restarts: of its daemons'
    containers, when it became Ready, -1 before. gate_boot: the boot that is judged; bad,
    bad_cause: what the diagnosis said of it last, and by which rule, or "". failed: why it did
    not pass its gate, or ""; cause: one word for that. reason: what is the matter now, or "".
    """

    key: str
    name: str
    phase: str = WAITING
    goal: str = TARGET
    since: float = 0.0
    wave: int = 0
    last_image: str = ""
    last_digest: str = ""
    is_control_plane: bool = False
    is_reached: bool = False
    is_cordoned: bool = False
    order: str = ""
    boot: float = 0.0
    boot_id: str = ""
    tried: int = 0
    ready_since: float = 0.0
    bad_since: float = 0.0
    restarts: int = -1
    gate_boot: float = 0.0
    bad: str = ""
    bad_cause: str = ""
    failed: str = ""
    cause: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Rollout:
    """A rollout. id: a word of its own. revision: counts the steps that changed anything.

    image, digest: the target. tag_before: the digest that the tag led to at the start, or "".
    wave: the present one, from 0; wave_since: when it began. reason: why it holds, in one
    sentence, or "". waits: why no further machine is begun with now, or "". known_failures:
    machines that had failed when somebody said `resume`: they hold it no more. paused_from: the
    state that a pause has interrupted.
    """

    id: str
    spec: Spec
    image: str
    digest: str
    started: float
    machines: Mapping[str, Machine] = field(default_factory=dict)
    state: str = RUNNING
    wave: int = 0
    revision: int = 1
    tag_before: str = ""
    reason: str = ""
    waits: str = ""
    wave_since: float = 0.0
    known_failures: int = 0
    paused_from: str = ""
    ended: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is done."""
        return self.state in OVER

    def with_machine(self, machine: Machine) -> "Rollout":
        """The same with one machine as it is now."""
        return replace(self, machines={**self.machines, machine.key: machine})


def pack(rollout: Rollout) -> str:
    """One JSON object on one line; of machines only what differs from the beginning."""
    data = {one.name: getattr(rollout, one.name) for one in fields(Rollout)}
    plain = asdict(Machine("", ""))
    machines = [
        {name: value for name, value in asdict(one).items() if value != plain[name]}
        for one in rollout.machines.values()
    ]
    data |= {"format": FORMAT, "spec": rollout.spec.to_json(), "machines": machines}
    return json.dumps(data, separators=(",", ":"))


def unpack(text: str | bytes, where: str = "the rollout") -> Rollout:
    """What `pack` gave. Raises StateError for anything else."""
    try:
        data = json.loads(text)
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        spec = parse_spec(data.pop("spec"))
        machines = [_unpack(Machine, one) for one in data.pop("machines")]
        named = {"id", "image", "digest", "started"}
        if not named <= data.keys():
            raise ValueError("it is not whole")
        found: Rollout = _unpack(
            Rollout, data, spec=spec, machines={one.key: one for one in machines}
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SpecError) as error:
        words = error.message if isinstance(error, SpecError) else str(error)
        raise StateError(
            f"{where} cannot be read: {words[:200]}",
            hint="remove it, if no rollout is under way; machines then boot what lts.conf says",
        ) from None
    bad = [
        one.phase for one in machines if one.phase not in PHASES or one.goal not in (TARGET, LAST)
    ]
    if bad or found.state not in STATES or not all(one.key for one in machines):
        raise StateError(f"{where} holds a state that is none", hint="remove it")
    return found


def _unpack(kind: type[Any], data: Mapping[str, Any], **more: Any) -> Any:
    kinds = {one.name: one.type for one in fields(kind)}
    for name, value in data.items():
        wanted = kinds.get(name)
        fits = {
            str: isinstance(value, str),
            bool: isinstance(value, bool),
            int: isinstance(value, int) and not isinstance(value, bool),
            float: isinstance(value, int | float) and not isinstance(value, bool),
        }
        if not (isinstance(wanted, type) and fits.get(wanted, False)):
            raise ValueError(f"{name}: {str(value)[:40]!r}")
    return kind(**data, **more)
