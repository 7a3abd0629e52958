"""How long a boot may be silent in each phase before it counts as stalled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Expectation:
    """What follows a phase, and within how many seconds; None: nothing has to."""

    seconds: float | None
    next: str
    why: str


EXPECTATIONS: Final[Mapping[str, Expectation]] = {
    "dhcp": Expectation(60, "a request for the boot loader", "firmware asks at once"),
    "loader": Expectation(60, "a request for the menu", "GRUB loads its modules first"),
    "menu": Expectation(60, "a request for the kernel", "the menu's own wait, and the request"),
    "kernel": Expectation(60, "a request for the initramfs", "the loader asks at once"),
    "initrd": Expectation(
        150,
        "the initramfs's first word",
        "it waits 30 s for the card, 60 s for its link, then for DHCP",
    ),
    "initramfs": Expectation(60, "the network's address", "told in one breath"),
    "network": Expectation(60, "a request for lts.conf", "the clock is set first"),
    "ltsconf": Expectation(90, "the attachment of the root", "a few packets"),
    "root": Expectation(300, "the first word of init-ltsp", "a large image is copied into memory"),
    "preinit": Expectation(120, "the start of systemd", "PREINIT_* lines and FSTAB_* volumes"),
    "systemd": Expectation(180, "the first RCFILE_*", "units that come before it"),
    "rcfile": Expectation(900, "the end of the RCFILE_*", "a line may install software"),
    "join": Expectation(240, "that the Node is Ready", "a try of kubeadm has 2 min of its own"),
    "ready": Expectation(None, "nothing: it is up", ""),
    "shutdown": Expectation(None, "nothing, until it is switched on", ""),
}

TRANSFER_SECONDS: Final = 1800.0
"""For a transfer that has begun: one that stands still is ended by the server within 30 s."""
