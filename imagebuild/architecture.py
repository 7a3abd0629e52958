"""What depends on a machine's architecture: one table, which both halves of the house read.

A further architecture is a further entry of ARCHITECTURES, and nothing else.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Grub:
    """GRUB for one kind of firmware.

    platform: its directory below /usr/lib/grub. package: the Debian package that has it.
    target: what grub-mkimage calls it. core: the file that firmware fetches. modules: linked
    into the core besides those that all platforms have.
    """

    platform: str
    package: str
    target: str
    core: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Firmware:
    """One kind of network boot.

    name: in words. pxe, http: the numbers by which DHCP's option 93 tells it (IANA, Processor
    Architecture Types), of a PXEClient and of an HTTPClient. ipxe: iPXE's loader below
    Debian's /usr/lib/ipxe, "" where Debian has none. is_bios: else it is UEFI.
    """

    name: str
    pxe: tuple[int, ...]
    http: tuple[int, ...]
    grub: Grub
    ipxe: str = ""
    is_bios: bool = False

    @property
    def ipxe_file(self) -> str:
        """iPXE's loader as images name it, or ""."""
        return self.ipxe.rpartition("/")[2]

    @property
    def grub_path(self) -> str:
        """GRUB's core in an image's boot tree."""
        return f"grub/{self.grub.platform}/{self.grub.core}"

    @property
    def ipxe_path(self) -> str:
        """iPXE's loader in an image's boot tree, or ""."""
        return f"ipxe/{self.ipxe_file}" if self.ipxe else ""


@dataclass(frozen=True)
class Emulator:
    """QEMU's machine of an architecture, for the rack.

    cpu: without hardware's help. code, variables: of its UEFI, and package: Debian's of both.
    """

    program: str
    machine: str
    cpu: str
    code: Path
    variables: Path
    package: str


@dataclass(frozen=True)
class Architecture:
    """An architecture.

    name: Debian's, which is Go's too. title: in words. machine: what `uname -m` says, and how
    qemu-user calls it. triplet: of its compiler. kernel: its usual kernel package. console: its
    usual serial line, as the kernel's command line has it. loader_packages: what is fetched from
    the recipe's archive and unpacked for its boot loaders; none: they are the building machine's.
    """

    name: str
    title: str
    machine: str
    triplet: str
    kernel: str
    console: str
    firmware: tuple[Firmware, ...]
    emulator: Emulator
    loader_packages: tuple[str, ...] = ()

    @property
    def uefi(self) -> Firmware:
        """Its UEFI."""
        return next(one for one in self.firmware if not one.is_bios)

    @property
    def bios(self) -> Firmware | None:
        """Its BIOS, where it has one."""
        return next((one for one in self.firmware if one.is_bios), None)


_EFI_MODULES: Final = ("efinet", "efi_gop")

_AMD64: Final = Architecture(
    name="amd64",
    title="x86-64",
    machine="x86_64",
    triplet="x86_64-linux-gnu",
    kernel="linux-image-amd64",
    console="ttyS0",
    firmware=(
        Firmware(
            name="BIOS",
            pxe=(0,),
            http=(),
            grub=Grub(
                "i386-pc", "grub-pc-bin", "i386-pc-pxe", "core.0", modules=("pxe", "vga_text")
            ),
            ipxe="undionly.kpxe",
            is_bios=True,
        ),
        # RFC 4578 has 9 for x64 and 7 for EBC; its erratum and all firmware since have it the
        # other way round. Both mean x64 in the field.
        Firmware(
            name="UEFI x64",
            pxe=(7, 9),
            http=(7, 9, 16),
            grub=Grub(
                "x86_64-efi",
                "grub-efi-amd64-bin",
                "x86_64-efi",
                "core.efi",
                modules=(*_EFI_MODULES, "efi_uga"),
            ),
            ipxe="snponly.efi",
        ),
    ),
    emulator=Emulator(
        program="qemu-system-x86_64",
        machine="q35,graphics=off,sata=off",
        cpu="qemu64",
        code=Path("/usr/share/OVMF/OVMF_CODE_4M.fd"),
        variables=Path("/usr/share/OVMF/OVMF_VARS_4M.fd"),
        package="ovmf",
    ),
)

_ARM64: Final = Architecture(
    name="arm64",
    title="arm64",
    machine="aarch64",
    triplet="aarch64-linux-gnu",
    kernel="linux-image-arm64",
    console="ttyAMA0",
    firmware=(
        Firmware(
            name="UEFI arm64",
            pxe=(11,),
            http=(11, 19),
            grub=Grub(
                "arm64-efi", "grub-efi-arm64-bin", "arm64-efi", "core.efi", modules=_EFI_MODULES
            ),
            # Debian 13 is the first release that has it.
            ipxe="ipxe-arm64.efi",
        ),
    ),
    emulator=Emulator(
        program="qemu-system-aarch64",
        machine="virt",
        cpu="cortex-a57",
        code=Path("/usr/share/AAVMF/AAVMF_CODE.fd"),
        variables=Path("/usr/share/AAVMF/AAVMF_VARS.fd"),
        package="qemu-efi-aarch64",
    ),
    # Debian has grub-efi-arm64-bin for arm64 alone: no amd64 machine can install it.
    loader_packages=("grub-efi-arm64-bin", "ipxe"),
)

ARCHITECTURES: Final[Mapping[str, Architecture]] = {one.name: one for one in (_AMD64, _ARM64)}
"""By name; the first is what a recipe means that names none."""
DEFAULT: Final = next(iter(ARCHITECTURES))
GRUB_PLATFORMS: Final = tuple(
    firmware.grub.platform for one in ARCHITECTURES.values() for firmware in one.firmware
)
LOADERS: Final = tuple(
    dict.fromkeys(
        name
        for pick in ("grub", "ipxe")
        for one in ARCHITECTURES.values()
        for firmware in one.firmware
        if (name := firmware.grub.core if pick == "grub" else firmware.ipxe_file)
    )
)
"""What firmware fetches: the files' names of GRUB's cores, then of iPXE's loaders."""


def find_firmware(number: int, *, http: bool) -> tuple[Architecture, Firmware] | None:
    """The architecture and firmware of a number of option 93; None for one that nothing here
    boots. http: the client says HTTPClient."""
    for architecture in ARCHITECTURES.values():
        for firmware in architecture.firmware:
            if number in (firmware.http if http else firmware.pxe):
                return architecture, firmware
    return None


def find_architecture(number: int) -> str:
    """The architecture's name by option 93, however it boots; "" for one that nothing boots."""
    found = find_firmware(number, http=False) or find_firmware(number, http=True)
    return found[0].name if found else ""


def machine_architecture() -> str:
    """This machine's, by Debian's name; what `uname -m` says where the table has it not."""
    said = platform.machine()
    return next((one.name for one in ARCHITECTURES.values() if one.machine == said), said)
