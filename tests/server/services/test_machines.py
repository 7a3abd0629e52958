"""QEMU machines as clients: a disk over NBD that boots, and iPXE's ROM over TFTP and HTTP.

They end as soon as they have what they came for: seconds, no operating system.
GRUB and the kernel's own NBD client are in the boots of tests/e2e.
"""

import contextlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rack.process import wait_for
from server.content import BytesContent, Content, Export, NotFound
from server.protocols.http import Request, Response
from server.services.http import HttpService
from server.services.nbd import NbdService
from server.services.tftp import TftpService
from tests.server.services.running import Seen, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

QEMU = (
    *("qemu-system-x86_64", "-machine", "q35,graphics=off", "-accel", "tcg,tb-size=32"),
    *("-cpu", "qemu64", "-m", "128", "-nodefaults", "-no-reboot"),
    *("-display", "none", "-vga", "none", "-boot", "strict=on"),
)


@contextlib.contextmanager
def machine(directory: Path, *arguments: str) -> Iterator[Path]:
    """A machine that runs; the file with what it says on its serial line."""
    console = directory / "console"
    argv = [*QEMU, "-serial", f"file:{console}", *arguments]
    with (directory / "qemu").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: console.exists() or process.poll() is not None, 30, "QEMU's start")
        assert process.poll() is None, (directory / "qemu").read_text()
        yield console
    finally:
        process.kill()
        process.wait()


# The boot sector: reads the disk's last sector by the BIOS, says what stands there.
SECTOR = """
    .code16
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7c00, %sp
    mov $packet, %si
    mov $0x42, %ah          # extended read; dl has the drive
    int $0x13
    jc stop
    mov $0x7e00, %si
say:
    lodsb
    test %al, %al
    jz stop
    mov $0x3f8, %dx
    outb %al, %dx
    jmp say
stop:
    hlt
    jmp stop
packet:
    .byte 16, 0
    .word 1, 0x7e00, 0      # one sector, to 0:7e00
    .quad LAST
    .org 510
    .word 0xaa55
"""
SECTORS = 20480
WORDS = "read over NBD by a machine"


def assemble(directory: Path) -> bytes:
    """The boot sector's 512 bytes."""
    source = SECTOR.replace("LAST", str(SECTORS - 1))
    argv = ["as", "--32", "-o", str(directory / "boot.o"), "-"]
    subprocess.run(argv, input=source, text=True, check=True)
    link = ["ld", "-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00"]
    subprocess.run([*link, "-o", "boot", "boot.o"], cwd=directory, check=True, capture_output=True)
    return (directory / "boot").read_bytes()[:512]


def test_a_machine_boots_from_a_drive_over_nbd(tmp_path: Path) -> None:
    image = tmp_path / "image"
    middle = random.Random(6).randbytes((SECTORS - 2) * 512)
    image.write_bytes(assemble(tmp_path) + middle + WORDS.encode().ljust(512, b"\0"))
    export = Export("disk", image, SECTORS * 512)
    seen = Seen()
    with running(
        lambda loop: NbdService(
            loop,
            address="127.0.0.1",
            port=0,
            exports=lambda name, client: export if name == "opt/ltsp/disk" else None,
            list_exports=lambda client: ["opt/ltsp/disk"],
            emit=seen.emit,
        )
    ) as service:
        drive = f"file=nbd://127.0.0.1:{service.port}/opt/ltsp/disk,format=raw,readonly=on"
        with machine(tmp_path, "-drive", f"{drive},if=virtio") as console:
            wait_for(lambda: WORDS in console.read_text(errors="replace"), 120, "the words")
        # A BIOS reads little: its first sector, perhaps others that it tries, and the last.
        assert 1024 <= int(seen.wait_phase("detach")["bytes"]) < SECTORS * 512


BIG = random.Random(7).randbytes(1_000_001)


def test_ipxe_chains_over_http_and_tftp_from_behind_a_nat(tmp_path: Path) -> None:
    """iPXE's ROM in a machine whose network is QEMU's NAT: single-port TFTP, and HTTP."""
    seen = Seen()
    scripts: dict[str, bytes] = {}
    asked: list[str] = []

    def lookup(path: str, client: str) -> Content:
        if path == "/big":
            return BytesContent(BIG)
        if path not in scripts:
            raise NotFound(path)
        return BytesContent(scripts[path])

    def handle(request: Request) -> Response:
        asked.append(request.path)
        if request.path == "/big":
            return Response(200, BIG)
        return Response(200, scripts.get(request.path, b"x"))

    with (
        running(
            lambda loop: TftpService(
                loop,
                address="127.0.0.1",
                port=0,
                lookup=lookup,
                emit=seen.emit,
                single_port=True,
            )
        ) as tftp,
        running(
            lambda loop: HttpService(
                loop, address="127.0.0.1", port=0, handle=handle, emit=seen.emit
            )
        ) as http,
    ):
        by_tftp, by_http = f"tftp://10.0.2.2:{tftp.port}/", f"http://10.0.2.2:{http.port}"
        scripts["/first.ipxe"] = f"#!ipxe\nchain {by_tftp}/second.ipxe\n".encode()
        scripts["/second.ipxe"] = (
            f"#!ipxe\nimgfetch {by_tftp}/big && imgfetch {by_http}/big && imgfetch {by_http}/done\n"
        ).encode()
        nic = ["-netdev", f"user,id=net,bootfile={by_http}/first.ipxe"]
        nic += ["-device", "virtio-net-pci,netdev=net,bootindex=1"]
        with machine(tmp_path, *nic) as console:

            def is_done() -> bool:
                return "/done" in asked

            try:
                wait_for(is_done, 150, "the last fetch")
            finally:
                said = console.read_text(errors="replace")[-2000:]
        assert asked[0] == "/first.ipxe", said
        assert asked[-2:] == ["/big", "/done"], said
    # iPXE goes on after && only when it has all that Content-Length promised.
    got = [event.detail for event in seen.events if event.detail.get("path") == "/big"]
    assert (got[-1]["status"], got[-1]["bytes"]) == ("ok", len(BIG)), got
    scripted = [e.detail for e in seen.events if e.detail.get("path") == "/second.ipxe"]
    assert scripted[-1]["status"] == "ok"
