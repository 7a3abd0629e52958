"""DHCP on the wire: RFC 951 and RFC 2131 messages, RFC 2132 options, nothing decided.

Addresses are dotted text, hardware addresses lower case with colons.
"""

import ipaddress
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

CLIENT_PORT: Final = 68
SERVER_PORT: Final = 67
PXE_PORT: Final = 4011
"""Where a PXE client asks its boot server (PXE 2.1, section 2.2.2)."""

ANY: Final = "0.0.0.0"
BROADCAST: Final = "255.255.255.255"

MIN_REPLY: Final = 300
"""Bytes below which some relays and clients drop a BOOTP message (RFC 1542, section 2.1)."""
MAX_MESSAGE: Final = 4096
"""Bytes of a message that is read; firmware's have 576 (RFC 2131, 2) to 1,500."""
FLAG_BROADCAST: Final = 0x8000

_FIXED: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_COOKIE: Final = b"\x63\x82\x53\x63"
ETHERNET: Final = 1
_IEEE_802: Final = 6
_PAD: Final = 0
_END: Final = 255


class Op(IntEnum):
    """The field `op` (RFC 2131, section 2)."""

    REQUEST = 1
    REPLY = 2


class MessageType(IntEnum):
    """Option 53 (RFC 2132, section 9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(IntEnum):
    """The options that this server reads or writes."""

    SUBNET_MASK = 1
    ROUTER = 3
    DNS = 6
    HOSTNAME = 12
    DOMAIN = 15
    BROADCAST_ADDRESS = 28
    NTP = 42
    VENDOR = 43
    REQUESTED_ADDRESS = 50
    LEASE_SECONDS = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETERS = 55
    MESSAGE = 56
    RENEWAL_SECONDS = 58
    REBINDING_SECONDS = 59
    VENDOR_CLASS = 60
    BOOT_FILE = 67
    USER_CLASS = 77
    RELAY_AGENT = 82
    ARCHITECTURE = 93
    NETWORK_INTERFACE = 94
    MACHINE_ID = 97
    IPXE = 175


class WireError(ValueError):
    """The bytes are no DHCP message that this server can read; says which rule they break.

    mac: whose message it is, where that can be read and it wants to be one; else "". boots: a
    network boot's firmware sent it, so that somebody waits for the answer.
    """

    def __init__(self, message: str, mac: str = "", *, boots: bool = False) -> None:
        super().__init__(message)
        self.mac = mac
        self.boots = boots


@dataclass(frozen=True)
class Message:
    """One DHCP message.

    options: by number, in the order in which they are (to be) written; an
    option that came in several parts is joined (RFC 3396). `sname` and `file`
    are without their NULs, and empty where they carried options (option 52).
    """

    op: int
    xid: int
    mac: str
    secs: int = 0
    flags: int = 0
    hops: int = 0
    htype: int = ETHERNET
    ciaddr: str = ANY
    yiaddr: str = ANY
    siaddr: str = ANY
    giaddr: str = ANY
    sname: bytes = b""
    file: bytes = b""
    options: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def type(self) -> MessageType:
        """Option 53; `unpack` has checked that it is there."""
        return MessageType(self.options[Option.MESSAGE_TYPE][0])

    def address(self, option: int) -> str | None:
        """An option that is one IPv4 address, or None where it is missing or another length."""
        raw = self.options.get(option, b"")
        return dotted(raw) if len(raw) == 4 else None


def dotted(raw: bytes) -> str:
    """Four bytes as a dotted IPv4 address."""
    return ".".join(str(byte) for byte in raw)


def packed(address: str) -> bytes:
    """A dotted IPv4 address as four bytes. Raises ValueError for anything else."""
    return ipaddress.IPv4Address(address).packed


def pack_addresses(addresses: Iterable[str]) -> bytes:
    """Dotted IPv4 addresses as bytes, four each."""
    return b"".join(packed(address) for address in addresses)


def unpack(data: bytes) -> Message:
    """Read a message. Raises WireError, and nothing else on any bytes.

    Accepts an option field that ends without option 255: RFC 2132 asks for it,
    nothing is lost without it. Where the options break off, what stands before
    that is read. Of an option 53 that came twice the first counts.
    """
    if len(data) < _FIXED.size + len(_COOKIE):
        raise WireError(f"{len(data)} bytes are too few for a DHCP message")
    if len(data) > MAX_MESSAGE:
        raise WireError(f"{len(data)} bytes are too many for a DHCP message")
    fields = _FIXED.unpack_from(data)
    op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr = fields[:12]
    sname, file = fields[12], fields[13]
    if op not in (Op.REQUEST, Op.REPLY):
        raise WireError(f"operation {op} is neither request nor reply")
    if data[_FIXED.size : _FIXED.size + 4] != _COOKIE:
        raise WireError("no DHCP magic cookie: plain BOOTP")
    options: dict[int, bytes] = {}
    broken = _read_options(data[_FIXED.size + 4 :], options, "options")
    overload = options.get(Option.OVERLOAD, b"")
    carried = overload[0] if len(overload) == 1 else 0
    if carried & 1:
        broken = _read_options(file, options, "file") or broken
        file = b""
    if carried & 2:
        broken = _read_options(sname, options, "sname") or broken
        sname = b""
    kind = options.get(Option.MESSAGE_TYPE, b"")
    boots = options.get(Option.VENDOR_CLASS, b"").startswith((b"PXEClient", b"HTTPClient"))
    # Quirk: some cards say that they are of IEEE 802 (RFC 1700: 6), with the same addresses.
    if htype not in (ETHERNET, _IEEE_802) or hlen != 6:
        words = f"hardware type {htype} with addresses of {hlen} bytes is not Ethernet"
        raise WireError(words, boots=boots)
    mac = ":".join(f"{byte:02x}" for byte in chaddr[:6])
    if not kind or not 1 <= kind[0] <= 8:
        if broken:
            raise WireError(f"{broken}, and no message type (option 53) before", mac)
        words = "no DHCP message type (option 53): plain BOOTP, or broken"
        raise WireError(words, mac if boots else "", boots=boots)
    return Message(
        op=op,
        xid=xid,
        mac=mac,
        secs=secs,
        flags=flags,
        hops=hops,
        htype=htype,
        ciaddr=dotted(ciaddr),
        yiaddr=dotted(yiaddr),
        siaddr=dotted(siaddr),
        giaddr=dotted(giaddr),
        sname=sname.partition(b"\0")[0],
        file=file.partition(b"\0")[0],
        options=options,
    )


def _read_options(data: bytes, options: dict[int, bytes], where: str) -> str:
    """Add the options of one field; where it breaks off, or ""."""
    position = 0
    while position < len(data):
        number = data[position]
        if number == _END:
            return ""
        position += 1
        if number == _PAD:
            continue
        if position >= len(data):
            return f"option {number} in {where} has no length"
        length = data[position]
        position += 1
        value = data[position : position + length]
        if len(value) != length:
            return f"option {number} in {where} says {length} bytes and has {len(value)}"
        position += length
        options[number] = options.get(number, b"") + value
    return ""


def pack(message: Message) -> bytes:
    """The bytes of a message, padded to 300.

    `file` and `sname` never carry options: GRUB and old PXE ROMs read them as
    text whatever option 52 says. Raises ValueError for one that is too long to
    end with a NUL.
    """
    if len(message.file) > 127 or len(message.sname) > 63:
        raise ValueError("file (127 bytes) or sname (63 bytes) is too long")
    parts = [
        _FIXED.pack(
            message.op,
            message.htype,
            6,
            message.hops,
            message.xid,
            message.secs,
            message.flags,
            packed(message.ciaddr),
            packed(message.yiaddr),
            packed(message.siaddr),
            packed(message.giaddr),
            bytes.fromhex(message.mac.replace(":", "")),
            message.sname,
            message.file,
        ),
        _COOKIE,
    ]
    for number, value in message.options.items():
        for start in range(0, max(1, len(value)), 255):
            piece = value[start : start + 255]
            parts.append(bytes((number, len(piece))) + piece)
    parts.append(bytes((_END,)))
    return b"".join(parts).ljust(MIN_REPLY, b"\0")


def unpack_suboptions(data: bytes) -> dict[int, bytes]:
    """The options inside option 43 or 175; what is broken ends the list without an error.

    These are hints of one vendor's firmware, and broken ones are in the field.
    """
    options: dict[int, bytes] = {}
    try:
        _read_options(data, options, "suboptions")
    except WireError:
        pass
    return options


def pack_suboptions(options: Mapping[int, bytes]) -> bytes:
    """The inside of option 43 with its own end mark (RFC 2132, section 8.4)."""
    body = b"".join(bytes((number, len(value))) + value for number, value in options.items())
    return body + bytes((_END,))
