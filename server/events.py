"""What the services saw: the one kind of message that they emit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """Something a service saw of one node.

    time: seconds since the epoch. node: the node's IP address, or its MAC
    (lower case, colons) where the service knows it. source: the service
    ("tftp", "nbd", "http", "dhcp", "beacon"). phase: one of nodes.PHASES.
    detail: small facts (file, bytes, seconds, status, message); plain values.
    """

    time: float
    node: str
    source: str
    phase: str
    detail: Mapping[str, str | int | float | bool] = field(default_factory=dict)


Emit = Callable[[Event], None]
