"""What errors are counted by: a fixed vocabulary, whatever a client sends."""

from collections.abc import Mapping
from typing import Final

from server import causes
from server.events import Event
from server.nodes.phases import PHASES

OTHER: Final = "other"

CAUSES: Final[Mapping[str, tuple[str, ...]]] = {
    **{
        source: causes.CAUSES[source]
        for source in ("tftp", "http", "nbd", "dhcp", "workers", "store", "join")
    },
    "plan": PHASES,
    "beacon": PHASES,
}
"""By source. Beacons and plans are counted by the phase that failed."""


def cause_of(event: Event) -> tuple[str, str]:
    """(source, cause) of an error, each of CAUSES, or "other" for what stands not in there."""
    known = CAUSES.get(event.source)
    if known is None:
        return OTHER, OTHER
    cause = event.phase if known is PHASES else str(event.detail.get("cause", ""))
    return event.source, cause if cause in known else OTHER
