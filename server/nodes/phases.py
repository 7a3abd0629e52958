"""The phases of a boot, and the phase that a request or a report of a node belongs to."""

from imagebuild.architecture import LOADERS
from imagebuild.store.manifest import ROOTFS
from server.events import Event

PHASES = (
    "dhcp",
    "loader",
    "menu",
    "kernel",
    "initrd",
    "initramfs",
    "network",
    "ltsconf",
    "root",
    "preinit",
    "systemd",
    "rcfile",
    "join",
    "ready",
    "shutdown",
)
ORDER = {phase: number for number, phase in enumerate(PHASES)}

_FILE_PHASES = {
    "vmlinuz": "kernel",
    "initrd.img": "initrd",
    "lts.conf": "ltsconf",
    ROOTFS: "root",
}
CORES = LOADERS
"""What firmware fetches: GRUB's and iPXE's loaders."""


def is_menu(path: str) -> bool:
    """Whether the path is a rendered menu; GRUB asks for grub.cfg-01-<mac> first."""
    return path.rpartition("/")[2].split("-")[0] in ("grub.cfg", "boot.ipxe")


def phase_of_path(path: str) -> str | None:
    """The phase of a boot in which a node asks for a path of the boot tree."""
    if is_menu(path):
        return "menu"
    file = path.rpartition("/")[2]
    if file in _FILE_PHASES:
        return _FILE_PHASES[file]
    return "loader" if "/grub/" in path or "/ipxe/" in path else None


def phase_of(event: Event) -> str | None:
    """The phase of a boot that an event is of, or None where it is of none."""
    if event.phase in ORDER:
        return event.phase
    if event.source == "join":
        return "join"
    if event.source == "nbd":
        # An export without an image (`--export`) is not the root of a node.
        return None if event.detail.get("digest") == "" else "root"
    return phase_of_path(str(event.detail.get("file") or event.detail.get("path") or ""))


def is_core(path: str) -> bool:
    """Whether a path is that of a boot loader itself, not of its modules."""
    return path.rpartition("/")[2] in CORES


def digest_of(path: str) -> str:
    """The digest that a path or an export's name holds behind `@`, or ""."""
    word = path.partition("@")[2].partition("/")[0]
    return word if len(word) == 64 else ""
