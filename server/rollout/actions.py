"""What a rollout wants done. Each is asked for again until it is seen to be done."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cordon:
    """Let no pod come to a Node, and mark that the rollout did so."""

    node: str


@dataclass(frozen=True)
class Uncordon:
    """Take back what `Cordon` did; never what somebody else did."""

    node: str


@dataclass(frozen=True)
class Drain:
    """Evict the pods of a Node, but for those of DaemonSets and static ones."""

    node: str


@dataclass(frozen=True)
class Reboot:
    """Order a reboot. order: a word of its own for each one."""

    node: str
    order: str


@dataclass(frozen=True)
class Withdraw:
    """Take an order back that was not obeyed: who obeys it later reboots for nothing."""

    node: str


@dataclass(frozen=True)
class Tell:
    """An Event on the Node. reason: one word in camel case."""

    node: str
    reason: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True)
class MoveTag:
    """Let a tag of the store lead to an image."""

    name: str
    tag: str
    digest: str


Action = Cordon | Uncordon | Drain | Reboot | Withdraw | Tell | MoveTag
