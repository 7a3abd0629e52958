"""An honest machine: `python -m tests.floods.honest SECONDS` asks for what a boot and an
operator ask for, and prints as JSON how long each took. `--alive`: whether there is a server."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from tests.floods.place import HONEST_MAC, INITRD_BYTES, ROOT_BYTES, SERVER
from tests.floods.wire import attach, discover, dns_query, http_get, take, tftp_request

GIVE_UP_SECONDS: Final = 10.0
READS: Final = 10
DISCOVERS: Final = 3
BLOCK: Final = 1400


def fetch(path: str, at_least: int = 1) -> None:
    """GET over HTTP, to the end; raises unless it is a 200 of so many bytes."""
    with socket.create_connection((SERVER, 8080), GIVE_UP_SECONDS) as sock:
        sock.sendall(http_get(path, SERVER))
        head, size = b"", 0
        while data := sock.recv(1 << 20):
            head = head or data[:60]
            size += len(data)
    if b" 200 " not in head or size < at_least:
        raise ConnectionError(f"{path}: {head!r}")


def follow() -> None:
    """Open the live page's stream and wait for its first bytes."""
    with socket.create_connection((SERVER, 8080), GIVE_UP_SECONDS) as sock:
        sock.sendall(http_get("/api/changes", SERVER))
        if b" 200 " not in (head := sock.recv(4096)):
            raise ConnectionError(repr(head[:60]))


def load_kernel() -> None:
    """Read a file over TFTP, block by block."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(GIVE_UP_SECONDS / 2)
        sock.sendto(tftp_request("/ltsp/amd64/vmlinuz", "blksize", str(BLOCK)), (SERVER, 69))
        while True:
            data, peer = sock.recvfrom(65536)
            (kind,) = struct.unpack(">H", data[:2])
            if kind == 6:
                sock.sendto(b"\0\4\0\0", peer)
            elif kind == 3:
                sock.sendto(b"\0\4" + data[2:4], peer)
                if len(data) - 4 < BLOCK:
                    return
            else:
                raise ConnectionError(repr(data))


def read_root() -> None:
    """Attach the root file system and read from it."""
    with socket.create_connection((SERVER, 10809), GIVE_UP_SECONDS) as sock:
        attach(sock)
        for number in range(READS):
            offset = random.randrange(ROOT_BYTES // 4096 - 1) * 4096
            sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, number, offset, 4096))
            take(sock, 16 + 4096)


def resolve() -> None:
    """Ask the farm's DNS for the server's name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(GIVE_UP_SECONDS / 2)
        sock.sendto(dns_query("boot.rack.example.org"), (SERVER, 53))
        if socket.inet_aton(SERVER) not in sock.recv(4096):
            raise ConnectionError("no address")


def boot_by_dhcp() -> None:
    """A DHCPDISCOVER as firmware broadcasts it, sent again where no answer comes (RFC 2131,
    4.1; sooner than that has it)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        sock.bind(("", 68))
        sock.settimeout(1.0)
        asked = discover(bytes.fromhex(HONEST_MAC.replace(":", "")))
        for _ in range(DISCOVERS):
            sock.sendto(asked, ("10.78.255.255", 67))
            with contextlib.suppress(TimeoutError):
                while sock.recv(2048)[4:8] != asked[4:8]:
                    pass
                return
    raise ConnectionError(f"{DISCOVERS} unanswered")


ASKED: Final[dict[str, tuple[Callable[[], None], float]]] = {
    "lts.conf": (lambda: fetch("/ltsp/amd64/lts.conf"), 0.05),
    "8 MiB": (lambda: fetch("/ltsp/amd64/initrd.img", INITRD_BYTES), 0.1),
    "TFTP": (load_kernel, 0.05),
    "NBD": (read_root, 0.05),
    "DHCP": (boot_by_dhcp, 0.4),
    "DNS": (resolve, 0.1),
    "live page": (follow, 0.5),
    "probe": (lambda: fetch("/livez"), 0.2),
}
"""What is asked for, each with the pause before it is asked for again."""


def repeat(ask: Callable[[], None], pause: float, until: float) -> dict[str, Any]:
    """Ask again and again: count, failures, and milliseconds (median, worst)."""
    took: list[float] = []
    failures: list[str] = []
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            ask()
        except (OSError, EOFError) as error:
            failures.append(str(error) or type(error).__name__)
        took.append(1000 * (time.monotonic() - began))
        time.sleep(pause)
    return {
        "count": len(took),
        "failed": len(failures),
        "why": failures[:3],
        "median": statistics.median(took),
        "worst": max(took),
    }


def main(words: list[str]) -> int:
    if words == ["--alive"]:
        for name in ("probe", "TFTP", "NBD"):
            try:
                ASKED[name][0]()
            except (OSError, EOFError):
                return 1
        return 0
    until = time.monotonic() + float(words[0])
    results: dict[str, Any] = {}

    def run(name: str) -> None:
        results[name] = repeat(*ASKED[name], until)

    threads = [threading.Thread(target=run, args=(name,)) for name in ASKED]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
