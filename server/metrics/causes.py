"""The causes of errors: a fixed vocabulary, whatever a client sends."""

from collections.abc import Mapping
from typing import Final

from server.events import Event
from server.nodes import PHASES

OTHER: Final = "other"

CAUSES: Final[Mapping[str, tuple[str, ...]]] = {
    "tftp": (
        "not_found",
        "refused",
        "malformed",
        "limit",
        "unreadable",
        "network",
        "never_answered",
        "timeout",
        "hung_up",
        "stopped",
    ),
    "http": ("not_found", "refused", "malformed", "limit", "server", "hung_up"),
    "nbd": ("not_found", "refused", "malformed", "limit", "unreadable", "network"),
    "dhcp": ("no_address", "other_server", "address_in_use", "refused", "server"),
    "workers": ("worker_ended",),
    "plan": PHASES,
    "beacon": PHASES,
}
"""By source. Beacons and plans have the phase that failed for a cause."""


def cause_of(event: Event) -> tuple[str, str]:
    """(source, cause) of an error, each of CAUSES, or "other" for what stands not in there."""
    known = CAUSES.get(event.source)
    if known is None:
        return OTHER, OTHER
    cause = event.phase if known is PHASES else str(event.detail.get("cause", ""))
    return event.source, cause if cause in known else OTHER
