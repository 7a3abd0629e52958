"""A flooding machine: `python -m tests.floods.attack NAME SECONDS`."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.floods.place import HONEST, SERVER, further_addresses
from tests.floods.wire import (
    attach,
    discover,
    forged,
    http_get,
    long_query,
    random_mac,
    tftp_request,
)

FILES: Final = 20_000


def paced(rate: float, until: float) -> Iterator[int]:
    """0, 1, 2 … so many a second."""
    began, number = time.monotonic(), 0
    while (now := time.monotonic()) < until:
        if number <= rate * (now - began):
            yield number
            number += 1
        else:
            time.sleep(0.001)


def forge(source: Callable[[], str], port: int, data: bytes, rate: float, until: float) -> None:
    """UDP with forged sources."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for _ in paced(rate, until):
            with contextlib.suppress(OSError):
                raw.sendto(forged(source(), SERVER, port, data), (SERVER, 0))


def anywhere() -> str:
    return f"192.0.{random.randrange(2, 250)}.{random.randrange(1, 255)}"


def tftp_forged(until: float) -> None:
    """1,500 requests a second, each from another address that never answers."""
    forge(anywhere, 69, tftp_request("/ltsp/amd64/initrd.img", "blksize", "1400"), 1500, until)


def tftp_victim(until: float) -> None:
    """600 requests a second with the honest machine's own address."""
    forge(lambda: HONEST, 69, tftp_request("/ltsp/amd64/none"), 600, until)


def hold(port: int, addresses: int, each: int, until: float, begin: bytes = b"") -> None:
    """As many connections of each address as it may have, made again when they are cut."""
    held: dict[str, list[socket.socket]] = {ip: [] for ip in further_addresses()[:addresses]}
    while time.monotonic() < until:
        for ip, socks in held.items():
            socks[:] = [sock for sock in socks if _lives(sock)]
            for _ in range(min(32, each - len(socks))):
                with contextlib.suppress(OSError):
                    sock = socket.create_connection((SERVER, port), 2, (ip, 0))
                    sock.setblocking(False)
                    socks.append(sock)
                    if begin:
                        sock.send(begin)
        time.sleep(0.2)


def _lives(sock: socket.socket) -> bool:
    """Whether a connection is still there; what waits in it is not read."""
    try:
        if sock.recv(1, socket.MSG_PEEK):
            return True
    except BlockingIOError:
        return True
    except OSError:
        pass
    sock.close()
    return False


def http_silent(until: float) -> None:
    """40 addresses with 64 connections each that say nothing."""
    hold(8080, 40, 64, until)


def http_unread(until: float) -> None:
    """40 addresses with 64 connections each that ask for 8 MiB and take nothing of it."""
    hold(8080, 40, 64, until, http_get("/ltsp/amd64/initrd.img", SERVER))


def http_followers(until: float) -> None:
    """16 addresses with 8 live streams each."""
    hold(8080, 16, 8, until, http_get("/api/changes", SERVER))


def nbd_bare(until: float) -> None:
    """40 addresses with 64 connections each that never choose an export."""
    hold(10809, 40, 64, until)


def in_threads(count: int, work: Callable[[], None], until: float) -> None:
    """Do it again and again, in so many threads."""

    def repeat() -> None:
        while time.monotonic() < until:
            try:
                work()
            except (OSError, EOFError):
                time.sleep(0.01)

    threads = [threading.Thread(target=repeat) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def nbd_idle(until: float) -> None:
    """8 addresses that attach 1,024 times each and read nothing."""
    held: list[socket.socket] = []
    addresses = further_addresses()[:8]

    def one() -> None:
        if len(held) >= 8 * 1024:
            time.sleep(0.1)
            return
        sock = socket.create_connection((SERVER, 10809), 2, (random.choice(addresses), 0))
        held.append(sock)
        attach(sock)

    in_threads(8, one, until)


def http_missing(until: float) -> None:
    """lts.conf of images that there are not, over 32 connections."""

    def one() -> None:
        with socket.create_connection((SERVER, 8080), 5) as sock:
            while time.monotonic() < until:
                path = f"/ltsp/n{random.getrandbits(60)}/lts.conf"
                sock.sendall(http_get(path, SERVER, close=False))
                if not sock.recv(65536):
                    return

    in_threads(32, one, until)


def http_errors(until: float) -> None:
    """404s as fast as 8 connections get them."""

    def one() -> None:
        with socket.create_connection((SERVER, 8080), 5) as sock:
            while time.monotonic() < until:
                sock.sendall(http_get("/ltsp/amd64/" + "x" * 900, SERVER, close=False))
                if not sock.recv(65536):
                    return

    in_threads(8, one, until)


def dns_long(until: float) -> None:
    """50 queries a second that are long to parse."""
    query = long_query()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in paced(50, until):
            sock.sendto(query, (SERVER, 53))


def dns_tcp(until: float) -> None:
    """The same over TCP, as fast as 4 connections take them."""
    query = long_query()
    framed = len(query).to_bytes(2, "big") + query

    def one() -> None:
        with socket.create_connection((SERVER, 53), 2) as sock:
            sock.sendall(framed * 4)
            sock.recv(4096)

    in_threads(4, one, until)


def dhcp_relays(until: float) -> None:
    """5,000 DISCOVERs a second, each by another relay for another card."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in paced(5000, until):
            relay = f"10.{random.randrange(100, 200)}.{random.randrange(256)}.1"
            with contextlib.suppress(OSError):
                sock.sendto(discover(random_mac(), relay), (SERVER, 67))


def syslog_long(until: float) -> None:
    """1,500 datagrams a second of 40 addresses, of lines that are long to mask."""
    line = ("<3>" + "\n".join(["-eyJ" * 249] * 8)).encode()[:8192]
    socks = []
    for ip in further_addresses():
        _be_seen(ip)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((ip, 0))
        socks.append(sock)
    for number in paced(1500, until):
        with contextlib.suppress(OSError):
            socks[number % len(socks)].sendto(line, (SERVER, 514))


def _be_seen(ip: str) -> None:
    """Only machines that were seen have a log."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((SERVER, 8080), 5, (ip, 0)) as sock,
    ):
        sock.sendall(http_get("/ltsp/amd64/grub/grub.cfg", SERVER))
        sock.recv(100)


@dataclass(frozen=True)
class Flood:
    """One kind. words: for the table."""

    name: str
    run: Callable[[float], None]

    @property
    def words(self) -> str:
        return (self.run.__doc__ or "").strip().rstrip(".")


FLOODS: Final = (
    Flood("tftp-forged", tftp_forged),
    Flood("tftp-victim", tftp_victim),
    Flood("http-silent", http_silent),
    Flood("http-unread", http_unread),
    Flood("http-followers", http_followers),
    Flood("http-missing", http_missing),
    Flood("http-errors", http_errors),
    Flood("nbd-idle", nbd_idle),
    Flood("nbd-bare", nbd_bare),
    Flood("dns-long", dns_long),
    Flood("dns-tcp", dns_tcp),
    Flood("dhcp-relays", dhcp_relays),
    Flood("syslog-long", syslog_long),
)


def main(words: list[str]) -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    (flood,) = [flood for flood in FLOODS if flood.name == words[0]]
    flood.run(time.monotonic() + float(words[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
