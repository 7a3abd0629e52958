"""What a virtual machine is made of, and QEMU's command line for it. Pure."""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from imagebuild.architecture import ARCHITECTURES, DEFAULT, Emulator
from rack.errors import RackError

FIRST_SLOT = 16
"""PCI slot of the first NIC; the others follow. Linux names it enp0s16."""

Firmware = Literal["bios", "uefi"]

_TRANSLATED = ("-accel", "tcg,thread=multi,tb-size=64", "-cpu")
TCG = (*_TRANSLATED, ARCHITECTURES[DEFAULT].emulator.cpu)
KVM = ("-accel", "kvm", "-cpu", "host")


@dataclass(frozen=True)
class Nic:
    """A network card. model: a QEMU device. has_cable: a tap on the bridge."""

    mac: str
    model: str = "virtio-net-pci"
    has_cable: bool = True


@dataclass(frozen=True)
class NodeSpec:
    """A bare machine.

    mac: of the NIC it boots from; made from the name when empty. memory: MiB.
    disks: files, raw. extra_nics: come after the first in PCI order, or before
    it (`boot_nic` is the position of the first among all). uuid: DMI's, made from
    the name when empty, so that the machine-id is stable. ip: given by DHCP; the
    next free one when empty. arguments: more for QEMU. architecture: by Debian's name.
    """

    name: str
    mac: str = ""
    firmware: Firmware = "bios"
    memory: int = 1024
    cpus: int = 1
    nic: str = "virtio-net-pci"
    disks: tuple[Path, ...] = ()
    extra_nics: tuple[Nic, ...] = ()
    boot_nic: int = 0
    uuid: str = ""
    ip: str = ""
    arguments: tuple[str, ...] = ()
    architecture: str = DEFAULT

    @property
    def emulator(self) -> Emulator:
        """QEMU's machine for it."""
        return ARCHITECTURES[self.architecture].emulator

    def completed(self, ip: str) -> "NodeSpec":
        """The same machine with mac, uuid and ip filled in."""
        digest = hashlib.sha256(self.name.encode()).digest()
        made_mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])
        return replace(
            self,
            mac=self.mac.lower() or made_mac,
            uuid=self.uuid or str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.bootfarm.local")),
            ip=self.ip or ip,
        )

    @property
    def boot_interface(self) -> str:
        """The name that udev gives the NIC that it boots from."""
        return f"enp0s{FIRST_SLOT + self.boot_nic}"

    @property
    def nics(self) -> tuple[Nic, ...]:
        """All cards in PCI order."""
        cards = list(self.extra_nics)
        cards.insert(self.boot_nic, Nic(self.mac, self.nic))
        return tuple(cards)


@dataclass(frozen=True)
class MachineFiles:
    """Where one machine's files are. sockets: a directory with a short path
    (a unix socket's path is at most 107 bytes)."""

    directory: Path
    sockets: Path
    name: str
    taps: Sequence[str] = field(default_factory=tuple)

    @property
    def console_log(self) -> Path:
        """What the serial console has shown."""
        return self.directory / "console.log"

    @property
    def console_socket(self) -> Path:
        """The socket on which a person types at the serial console."""
        return self.sockets / f"{self.name}.console"

    @property
    def qmp_socket(self) -> Path:
        """The socket of QEMU's machine protocol."""
        return self.sockets / f"{self.name}.qmp"

    @property
    def variables(self) -> Path:
        """The machine's own copy of UEFI's variables."""
        return self.directory / "OVMF_VARS.fd"


def qemu_argv(
    spec: NodeSpec, files: MachineFiles, accelerator: Sequence[str] = TCG, qemu: str = ""
) -> list[str]:
    """QEMU's command line for a machine that boots from its first NIC by PXE.

    `spec` is completed; `files.taps` has a tap's name for each NIC, in order.
    accelerator: of machines of the rack's own architecture; QEMU translates the others.
    Raises RackError if a socket's path is too long for the kernel, or where the machine has no
    such firmware.
    """
    emulator = spec.emulator
    if spec.firmware == "bios" and ARCHITECTURES[spec.architecture].bios is None:
        raise RackError(f"{spec.architecture} machines have no BIOS", hint="--firmware uefi")
    if spec.architecture != DEFAULT:
        accelerator = (*_TRANSLATED, emulator.cpu)
    for path in (files.console_socket, files.qmp_socket):
        if len(str(path).encode()) > 107:
            raise RackError(
                f"the socket path {path} is longer than 107 bytes",
                hint="give the rack a directory with a shorter path",
            )
    argv = [
        *(qemu or emulator.program, "-name", spec.name, "-uuid", spec.uuid),
        *("-machine", emulator.machine, *accelerator),
        *("-m", str(spec.memory), "-smp", str(spec.cpus)),
        *("-nodefaults", "-display", "none", "-vga", "none", "-boot", "strict=on"),
        "-chardev",
        f"socket,id=console,path={files.console_socket},server=on,wait=off,"
        f"logfile={files.console_log},logappend=on",
        *("-serial", "chardev:console"),
        *("-qmp", f"unix:{files.qmp_socket},server=on,wait=off"),
        # A source of random numbers: the machine must not wait for key strokes.
        *("-object", "rng-random,id=rng,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=rng"),
    ]
    if spec.firmware == "uefi":
        argv += [
            *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={emulator.code}"),
            *("-drive", f"if=pflash,format=raw,unit=1,file={files.variables}"),
        ]
    for index, (nic, tap) in enumerate(zip(spec.nics, files.taps, strict=True)):
        device = f"{nic.model},netdev=net{index},mac={nic.mac},addr={FIRST_SLOT + index:#x}"
        if index == spec.boot_nic:
            device += ",bootindex=1"
        if spec.firmware == "uefi":
            # Without it OVMF would run iPXE's ROM instead of its own PXE.
            device += ",romfile="
        argv += [
            *("-netdev", f"tap,id=net{index},ifname={tap},script=no,downscript=no"),
            *("-device", device),
        ]
    for index, disk in enumerate(spec.disks):
        argv += [
            *("-drive", f"if=none,id=disk{index},format=raw,file={disk},cache=unsafe"),
            *("-device", f"virtio-blk-pci,drive=disk{index}"),
        ]
    return [*argv, *spec.arguments]
