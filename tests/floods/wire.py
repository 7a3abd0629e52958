"""Messages that honest and flooding machines send."""

from __future__ import annotations

import os
import random
import socket
import struct
from typing import Final

EXPORT: Final = b"/opt/ltsp/amd64"
NBD_FLAGS: Final = 3
_GO: Final = 7
_ACK: Final = 1


def http_get(path: str, host: str, *, close: bool = True) -> bytes:
    """A GET request (RFC 9112)."""
    end = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{end}\r\n".encode()


def tftp_request(path: str, *options: str) -> bytes:
    """A read request in octet mode (RFC 1350, RFC 2347)."""
    return b"\0\1" + b"".join(word.encode() + b"\0" for word in (path, "octet", *options))


def dns_query(name: str) -> bytes:
    """One question for an A record (RFC 1035, section 4)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", random.getrandbits(16), 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def long_query() -> bytes:
    """A query of 4 KiB: one name of 120 labels, and questions that all point at it."""
    name = b"\1a" * 120 + b"\0"
    first = name + struct.pack(">2H", 1, 1)
    more = (4000 - len(first)) // 6
    return struct.pack(">6H", 1, 0x100, 1 + more, 0, 0, 0) + first + b"\xc0\x0c\0\1\0\1" * more


def discover(mac: bytes, relay: str = "0.0.0.0") -> bytes:
    """A DHCPDISCOVER of PXE firmware (RFC 2131, PXE 2.1). relay: giaddr."""
    head = struct.pack(">4BIHH", 1, 1, 6, 0, random.getrandbits(32), 0, 0x8000)
    addresses = b"\0" * 12 + socket.inet_aton(relay)
    options = (
        b"\x63\x82\x53\x63\x35\1\1\x3c\x20PXEClient:Arch:00007:UNDI:003016"
        b"\x5d\2\0\7\x5e\3\1\3\x10\xff"
    )
    return head + addresses + mac.ljust(16, b"\0") + b"\0" * 192 + options


def random_mac() -> bytes:
    """A locally administered one."""
    return b"\2" + os.urandom(5)


def forged(source: str, target: str, port: int, data: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram that says it comes from `source`."""
    sport = random.randrange(1024, 65000)
    datagram = struct.pack(">4H", sport, port, 8 + len(data), 0) + data
    return (
        struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, socket.IPPROTO_UDP, 0)
        + socket.inet_aton(source)
        + socket.inet_aton(target)
        + datagram
    )


def take(sock: socket.socket, count: int) -> bytes:
    """So many bytes, or EOFError."""
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise EOFError("hung up")
        data += more
    return data


def attach(sock: socket.socket) -> None:
    """Negotiate with an NBD server until the export is attached (NBD_OPT_GO)."""
    take(sock, 18)
    body = struct.pack(">I", len(EXPORT)) + EXPORT + b"\0\0"
    sock.sendall(
        struct.pack(">I", NBD_FLAGS) + b"IHAVEOPT" + struct.pack(">2I", _GO, len(body)) + body
    )
    while True:
        _, _, kind, length = struct.unpack(">Q3I", take(sock, 20))
        take(sock, length)
        if kind == _ACK:
            return
        if kind >> 31:
            raise ConnectionError(f"refused with {kind:#x}")
