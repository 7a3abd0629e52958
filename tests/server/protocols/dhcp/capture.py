"""Capture what real firmware says to DHCP servers, for the fixtures in this folder.

    .venv/bin/python -m tests.server.protocols.dhcp.capture OUT [CASE...]

Boots QEMU machines (TCG, root needed) on a bridge of their own. Beside them are
dnsmasq, which gives addresses and nothing else, and our proxyDHCP service; the
files come over dnsmasq's TFTP. Each case leaves OUT/<case>.pcap with its DHCP frames and
OUT/<case>.log with what the TFTP server was asked for.
"""

import asyncio
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rack.namespace import Namespace
from rack.network import BRIDGE, SERVER_IP, add_tap, set_up_network
from server.events import Event
from server.protocols.dhcp import Client, Loaders
from server.services.dhcp import DhcpService, parse_range

SITE_IP = "10.9.0.2"
MAC = "52:54:00:ca:97:01"
UUID = "01234567-89ab-4cde-8f01-23456789abcd"
OVMF = Path("/usr/share/OVMF")
IPXE_EFI = Path("/usr/lib/ipxe/qemu/efi-virtio.rom")
LOADERS = Loaders(
    "amd64",
    bios="/ltsp/amd64/grub/i386-pc/core.0",
    uefi="/ltsp/amd64/grub/x86_64-efi/core.efi",
    http="/ltsp/amd64/grub/x86_64-efi/core.efi",
    ipxe="/ltsp/amd64/boot.ipxe",
)
CHAIN = replace(
    LOADERS,
    bios="/ltsp/amd64/ipxe/undionly.kpxe",
    uefi="/ltsp/amd64/ipxe/snponly.efi",
    http="/ltsp/amd64/ipxe/snponly.efi",
)


@dataclass(frozen=True)
class Case:
    """One machine. full: our service gives the addresses, and dnsmasq none."""

    device: str = "virtio-net-pci"
    uefi: bool = False
    full: bool = False
    loaders: Loaders = LOADERS
    arguments: tuple[str, ...] = ()
    seconds: int = 150


HTTP_ONLY = ("-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
CASES = {
    "seabios-ipxe": Case(),
    "seabios-ipxe-e1000": Case("e1000"),
    "seabios-ipxe-full": Case(full=True),
    "seabios-ipxe-grub": Case(full=True, loaders=replace(LOADERS, ipxe="")),
    "ovmf-pxe": Case(uefi=True, loaders=CHAIN),
    "ovmf-pxe-full": Case(uefi=True, full=True),
    "ovmf-http": Case(uefi=True, loaders=CHAIN, arguments=HTTP_ONLY),
    "ovmf-ipxe": Case(f"virtio-net-pci,romfile={IPXE_EFI}", uefi=True),
}


class Sniffer:
    """Writes the DHCP frames of an interface to a pcap file."""

    def __init__(self, namespace: Namespace, path: Path) -> None:
        self._sock = namespace.in_network(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        )
        self._sock.bind((BRIDGE, 0))
        self._sock.settimeout(0.2)
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with open(self._path, "wb") as out:
            out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
            while not self._stop.is_set():
                try:
                    frame = self._sock.recv(65535)
                except TimeoutError:
                    continue
                if is_dhcp(frame):
                    now = time.time()
                    seconds = int(now)
                    micros = int((now - seconds) * 1e6)
                    out.write(struct.pack("<IIII", seconds, micros, len(frame), len(frame)))
                    out.write(frame)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._sock.close()


def is_dhcp(frame: bytes) -> bool:
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return False
    start = 14 + (frame[14] & 15) * 4
    ports = struct.unpack_from("!HH", frame, start)
    return bool({67, 68, 4011} & set(ports))


def make_files(root: Path) -> None:
    """GRUB network directories, as an image has them, with a menu that says it was found."""
    subprocess.run(
        ["grub-mknetdir", f"--net-directory={root}", "--subdir=/ltsp/amd64/grub"],
        check=True,
        capture_output=True,
    )
    (root / "ltsp/amd64/grub/grub.cfg").write_text("echo menu found\nsleep 100\n")
    shutil.copytree("/usr/lib/ipxe", root / "ltsp/amd64/ipxe", dirs_exist_ok=True)
    (root / "ltsp/amd64/boot.ipxe").write_text("#!ipxe\necho script found\nshell\n")


def run_case(name: str, out: Path, files: Path) -> None:
    case = CASES[name]
    namespace, site = Namespace(), Namespace()
    events: list[Event] = []
    loop = asyncio.new_event_loop()
    try:
        set_up_network(namespace)
        add_tap(namespace, "tap0")
        namespace.run(["ip", "link", "add", "site0", "type", "veth", "peer", "site1"])
        namespace.run(["ip", "link", "set", "site0", "master", BRIDGE, "up"])
        # From outside: inside, the other namespace's process cannot be seen.
        enter = ["nsenter", f"--net=/proc/{namespace.pid}/ns/net"]
        move = ["ip", "link", "set", "site1", "netns", str(site.pid)]
        subprocess.run([*enter, *move], check=True)
        site.run(["ip", "address", "add", f"{SITE_IP}/16", "dev", "site1"])
        site.run(["ip", "link", "set", "site1", "up"])
        sniffer = Sniffer(namespace, out / f"{name}.pcap")
        if not case.full:
            site.start(
                "dnsmasq",
                [
                    *(
                        "dnsmasq",
                        "--keep-in-foreground",
                        "--conf-file=/dev/null",
                        "--pid-file=",
                        "--port=0",
                    ),
                    *("--dhcp-range=10.9.50.1,10.9.50.9,255.255.0.0", "--log-facility=-"),
                    *("--dhcp-leasefile=/dev/null", "--interface=site1", "--user=root"),
                ],
                out / f"{name}.site.log",
            )
        namespace.start(
            "tftp",
            [
                *(
                    "dnsmasq",
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--pid-file=",
                    "--port=0",
                ),
                *("--enable-tftp", f"--tftp-root={files}", "--log-facility=-", "--user=root"),
            ],
            out / f"{name}.log",
        )
        http = ["python3", "-m", "http.server", "8080", "--directory", str(files)]
        namespace.start("http", http, out / f"{name}.http.log")

        def find_loaders(client: Client) -> Loaders:
            return case.loaders

        service = DhcpService(
            loop,
            mode="full" if case.full else "proxy",
            find_loaders=find_loaders,
            emit=events.append,
            address=SERVER_IP,
            addresses=parse_range("10.9.60.1-10.9.60.9") if case.full else None,
        )
        namespace.in_network(service.bind)
        loop.call_soon(service.start)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        argv = [
            *("qemu-system-x86_64", "-machine", "q35,graphics=off", "-accel", "tcg,tb-size=64"),
            *("-cpu", "qemu64", "-m", "512", "-nodefaults", "-display", "none", "-vga", "none"),
            *("-serial", f"file:{out / name}.console", "-boot", "strict=on", "-uuid", UUID),
            *("-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"),
        ]
        device = case.device
        if case.uefi:
            variables = out / f"{name}.vars"
            shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
            code = OVMF / "OVMF_CODE_4M.fd"
            argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
            argv += ["-drive", f"if=pflash,format=raw,file={variables}"]
            device += "" if "romfile" in device else ",romfile="
        argv += ["-device", f"{device},netdev=n0,mac={MAC},bootindex=1", *case.arguments]
        machine = namespace.start(name, argv, out / f"{name}.qemu.log")
        end = time.monotonic() + case.seconds
        while time.monotonic() < end and machine.is_running():
            time.sleep(0.5)
            if "found" in (out / f"{name}.console").read_text(errors="replace"):
                break
        print(f"{name}: {len(events)} events")
        for event in events:
            print("  ", dict(event.detail))
        machine.kill()
        sniffer.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    finally:
        namespace.close()
        site.close()


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    files = out / "files"
    make_files(files)
    for name in sys.argv[2:] or list(CASES):
        run_case(name, out, files)


if __name__ == "__main__":
    main()
