"""The IPv4 addresses of this machine (of this network namespace), asked from the kernel."""

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_HEADER: Final = struct.Struct("=IHHII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_DONE: Final = 3
_ERROR: Final = 2
_IFA_LOCAL: Final = 2


@dataclass(frozen=True)
class InterfaceAddress:
    """One address. index: of the interface. network: with host bits, as `10.9.0.1/16`."""

    index: int
    name: str
    network: ipaddress.IPv4Interface

    @property
    def address(self) -> str:
        """Without the prefix length."""
        return str(self.network.ip)


def list_addresses() -> list[InterfaceAddress]:
    """All IPv4 addresses, in the kernel's order (rtnetlink(7), RTM_GETADDR). Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        body = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)
        sock.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _DUMP, 1, 0) + body)
        found: list[InterfaceAddress] = []
        while True:
            for kind, payload in _split_messages(sock.recv(65536)):
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    raise OSError("the kernel refused to list the addresses")
                if kind == _RTM_NEWADDR and (entry := _parse_address(payload)):
                    found.append(entry)


def _split_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _parse_address(payload: bytes) -> InterfaceAddress | None:
    _, prefix, _, _, index = _ADDRESS.unpack_from(payload)
    rest = payload[_ADDRESS.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        if kind == _IFA_LOCAL:
            text = f"{socket.inet_ntoa(rest[4:8])}/{prefix}"
            try:
                name = socket.if_indextoname(index)
            except OSError:
                return None  # the interface has gone in the meantime
            return InterfaceAddress(index, name, ipaddress.IPv4Interface(text))
        rest = rest[max(4, (length + 3) & ~3) :]
    return None
