"""IP_PKTINFO: which local address a datagram was sent to, and which one answers (ip(7)).

A socket that is bound to no address hears broadcasts, and its answers must come from the
address that was asked.
"""

import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

IP_PKTINFO: Final = 8
"""Of linux/in.h; Python 3.11's socket module does not have it."""
_LAYOUT: Final = struct.Struct("=I4s4s")
"""struct in_pktinfo: interface, local address, the header's destination."""
Ancillary = tuple[int, int, bytes]


class PacketInfo(NamedTuple):
    """interface: its number. local: the address that took the datagram. destination: the one
    that it was sent to, perhaps a broadcast."""

    interface: int
    local: str
    destination: str


def receive_packet_info(sock: socket.socket) -> None:
    """Have each datagram from now on come with its PacketInfo."""
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def read_packet_info(ancillary: Iterable[Ancillary]) -> PacketInfo | None:
    """The PacketInfo of a datagram, from recvmsg's ancillary data."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(data) >= _LAYOUT.size:
            interface, local, destination = _LAYOUT.unpack_from(data)
            return PacketInfo(interface, socket.inet_ntoa(local), socket.inet_ntoa(destination))
    return None


def pack_packet_info(local: str, interface: int = 0) -> Ancillary:
    """Ancillary data for sendmsg: send from `local`. interface: 0 lets the routes decide."""
    info = _LAYOUT.pack(interface, socket.inet_aton(local), bytes(4))
    return (socket.IPPROTO_IP, IP_PKTINFO, info)
