"""The TFTP wire format: RFC 1350, and the option extension of RFC 2347. Decides nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from server.fastpath import TFTP_OPCODE_ACK

MAX_REQUEST: Final = 2048
"""Longest request that is read, in bytes. RFC 2347 allows 512; long paths and many
options of some firmware go beyond."""
HEADER: Final = 4
"""Bytes before the data of a DATA packet, and the length of an ACK."""


class Opcode(IntEnum):
    """Kinds of packets (RFC 1350; OACK: RFC 2347)."""

    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = TFTP_OPCODE_ACK
    ERROR = 5
    OACK = 6


class ErrorCode(IntEnum):
    """Codes of ERROR packets (RFC 1350; 8: RFC 2347)."""

    UNDEFINED = 0
    NOT_FOUND = 1
    ACCESS = 2
    DISK_FULL = 3
    ILLEGAL = 4
    UNKNOWN_ID = 5
    EXISTS = 6
    NO_USER = 7
    OPTIONS = 8


class RequestError(Exception):
    """A packet that is no request to be obeyed; the message may be sent to the client."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.ILLEGAL) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Request:
    """A read request.

    path: as sent, but with a leading slash, no doubled ones, no lone dots, and slashes for
    backslashes. netascii: else octet. options: names in lower case, in the order of the packet.
    """

    path: str
    netascii: bool
    options: Mapping[str, str]


def parse_request(packet: bytes) -> Request:
    """Read an RRQ. Raises RequestError for anything else."""
    opcode = int.from_bytes(packet[:2], "big")
    if opcode == Opcode.WRQ:
        raise RequestError("this server is read-only", ErrorCode.ACCESS)
    if opcode != Opcode.RRQ or len(packet) < 2:
        raise RequestError("not a read request")
    if len(packet) > MAX_REQUEST:
        raise RequestError(f"a request of more than {MAX_REQUEST} bytes")
    # Some clients leave out the last NUL, some fill up with NULs.
    fields = packet[2:].rstrip(b"\0").split(b"\0")
    if len(fields) < 2 or not fields[0]:
        raise RequestError("a request without file name or mode")
    mode = fields[1].lower()
    if mode not in (b"octet", b"netascii"):
        raise RequestError("the mode must be octet or netascii")
    # Firmware that copies DHCP's file name without its end sends its 0xff end mark too.
    # Windows' loaders, and DHCP servers there, write paths with backslashes.
    name = fields[0].rstrip(b"\xff").replace(b"\\", b"/").decode(errors="backslashreplace")
    # A lone dot is the folder itself: ./pxelinux.0 is what some DHCP servers name.
    path = "/" + "/".join(part for part in name.split("/") if part not in ("", "."))
    options: dict[str, str] = {}
    for index in range(2, len(fields) - 1, 2):
        option = fields[index].decode("latin-1").lower()
        options.setdefault(option, fields[index + 1].decode("latin-1"))
    return Request(path, mode == b"netascii", options)


def pack_request(path: str, options: Mapping[str, str] | None = None, mode: str = "octet") -> bytes:
    """A client's RRQ, for tests and the simulator."""
    fields = [path, mode]
    for name, value in (options or {}).items():
        fields += [name, value]
    return b"\0\1" + b"".join(field.encode() + b"\0" for field in fields)


def pack_ack(block: int) -> bytes:
    """A client's ACK of a block (its low 16 bits are sent)."""
    return b"\0\4" + (block & 0xFFFF).to_bytes(2, "big")


def pack_oack(options: Mapping[str, str]) -> bytes:
    """An OACK that acknowledges these options (RFC 2347)."""
    return b"\0\6" + b"".join(
        name.encode() + b"\0" + value.encode() + b"\0" for name, value in options.items()
    )


def pack_error(code: int, message: str) -> bytes:
    """An ERROR packet. The message is cut so that it fits into 512 bytes."""
    text = message.encode("ascii", "replace").replace(b"\0", b"?")[:500]
    return b"\0\5" + code.to_bytes(2, "big") + text + b"\0"


def unpack_error(packet: bytes) -> tuple[int, str]:
    """(code, message) of an ERROR packet, however short; the message is printable."""
    code = int.from_bytes(packet[2:4], "big")
    text = packet[4:204].split(b"\0", 1)[0].decode("ascii", "backslashreplace")
    return code, "".join(c if c.isprintable() else "?" for c in text)


def encode_netascii(data: bytes) -> bytes:
    """RFC 764's form: a line ends with CR LF, a lone CR is CR NUL."""
    return data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
