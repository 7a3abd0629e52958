"""Causes: one word each for why something failed; the sentence beside it is for people only.

A cause is part of an event, of an error and of a node's beacon. Counters and the
rules of `server.diagnosis` go by it, never by a sentence.
"""

from collections.abc import Mapping
from typing import Final

_JOIN: Final = (
    *("join_off", "join_request", "join_not_listed", "join_name", "join_alive"),
    *("join_watched", "join_twice", "join_limit", "join_api"),
)

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
    "dhcp": (
        *("no_address", "other_server", "address_in_use", "refused", "server", "malformed"),
        *("not_listed", "no_image", "no_loader", "architecture"),
    ),
    "workers": ("worker_ended",),
    "store": (),
    # Why a node has no plan, or has to wait for a person (held).
    "plan": (
        *("no_image", "not_listed", "held", "command_line", "template", "not_yet"),
        *("contradiction", "architecture", "server"),
    ),
    # What a node says of itself: the initramfs in the order of its steps, then the system.
    "beacon": (
        *("command_line", "no_driver", "no_card", "no_link", "no_dhcp"),
        *("own_ltsconf", "no_ltsconf"),
        *("no_device", "nbd_refused", "nbd_no_answer", "no_export", "nbd_failed"),
        # Where a running machine's root comes from: this server now, or another one.
        *("root_moved", "root_elsewhere"),
        *("verity_mismatch", "no_verity", "image_corrupt"),
        *("too_large", "copy_failed", "no_loop", "no_squashfs", "no_overlay", "step"),
        *("gave_up", "mount_failed", "emergency"),
        *("setting", "exit", "lines_failed", "all_lines", "kubelet_ended", "pods_blocked"),
        "kubelet_csinode",
        *("join_line", "join_ca", "join_token", "join_away", "join_forbidden", "join_kubelet"),
        *("join_server", *_JOIN),
    ),
    # Why a machine gets no certificate for its kubelet; its own beacons say them again.
    "join": _JOIN,
    # The kernel's own words, over the network.
    "netconsole": ("panic",),
    "syslog": ("panic",),
}
"""By the source of the event."""
