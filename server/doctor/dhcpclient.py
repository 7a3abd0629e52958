"""A PXE client's side of DHCP, sans-IO: what each firmware asks, and what an answer says.

RFC 2131, PXE 2.1, RFC 4578, UEFI 2.5 section 24.7. It only ever DISCOVERs, and asks boot
servers on port 4011 as firmware does; it never takes an address.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from imagebuild.architecture import ARCHITECTURES, DEFAULT
from server.protocols.dhcp_wire import (
    ANY,
    FLAG_BROADCAST,
    Message,
    MessageType,
    Op,
    Option,
    WireError,
    pack,
    unpack,
    unpack_suboptions,
)

_IPXE_FEATURES: Final = b"\x13\x01\x01\xb1\x01\x01"
"""Suboptions of option 175: it can do HTTP, it is a PXE client."""
_DISCOVERY_CONTROL: Final = 6
_USE_BOOT_FILE: Final = 8
_PARAMETERS: Final = bytes((1, 3, 6, 12, 15, 43, 54, 60, 66, 67, 97, 128, 135, 175))
_TFTP_SERVER: Final = 66
_IP_UDP: Final = 17
"""UDP's number in an IP header."""


@dataclass(frozen=True)
class Profile:
    """One kind of machine. architecture: option 93; None for one that boots from its disk."""

    name: str
    architecture: int | None
    vendor: str = ""
    ipxe: bool = False

    @property
    def is_http(self) -> bool:
        """Whether it is UEFI's HTTP Boot."""
        return self.vendor.startswith("HTTPClient")

    @property
    def is_uefi(self) -> bool:
        """Whether it is UEFI's own PXE."""
        return bool(self.architecture) and not self.is_http


BIOS: Final = Profile("BIOS", 0, "PXEClient:Arch:00000:UNDI:002001")
UEFI: Final = Profile("UEFI x64", 7, "PXEClient:Arch:00007:UNDI:003001")
UEFI_HTTP: Final = Profile("UEFI HTTP boot", 16, "HTTPClient:Arch:00016:UNDI:003001")
IPXE: Final = Profile("iPXE", 0, "PXEClient:Arch:00000:UNDI:002001", ipxe=True)
PLAIN: Final = Profile("plain machine", None)


def _list_others() -> Iterator[Profile]:
    for name, architecture in ARCHITECTURES.items():
        if name != DEFAULT:
            pxe, http = architecture.uefi.pxe[0], architecture.uefi.http[-1]
            said = architecture.uefi.name
            yield Profile(said, pxe, f"PXEClient:Arch:{pxe:05}:UNDI:003000")
            yield Profile(f"{said} HTTP boot", http, f"HTTPClient:Arch:{http:05}:UNDI:003000")


OTHERS: Final = tuple(_list_others())
"""Firmware of further architectures, which a farm need not have."""
PROFILES: Final = (BIOS, UEFI, UEFI_HTTP, IPXE, PLAIN, *OTHERS)


def make_mac(seed: str) -> str:
    """A locally administered address that is always the same for `seed`."""
    digest = hashlib.sha256(seed.encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, 0xBF, *digest[:4]))


def make_request(profile: Profile, mac: str, xid: int, *, ciaddr: str = ANY) -> bytes:
    """DHCPDISCOVER of that machine; with ciaddr, its REQUEST to a boot server's port 4011."""
    boot_server = ciaddr != ANY
    kind = MessageType.REQUEST if boot_server else MessageType.DISCOVER
    options: dict[int, bytes] = {
        Option.MESSAGE_TYPE: bytes((kind,)),
        57: (1472).to_bytes(2, "big"),
        Option.PARAMETERS: _PARAMETERS,
    }
    if profile.architecture is not None:
        options[Option.VENDOR_CLASS] = profile.vendor.encode()
        options[Option.ARCHITECTURE] = profile.architecture.to_bytes(2, "big")
        options[Option.NETWORK_INTERFACE] = b"\x01\x03\x00"
        options[Option.MACHINE_ID] = b"\0" + hashlib.md5(mac.encode()).digest()
    if profile.ipxe:
        options[Option.USER_CLASS] = b"iPXE"
        options[Option.IPXE] = _IPXE_FEATURES
    flags = 0 if boot_server else FLAG_BROADCAST
    return pack(Message(Op.REQUEST, xid, mac, 4, flags, ciaddr=ciaddr, options=options))


@dataclass(frozen=True)
class Answer:
    """What one server answered one machine. source: the address that it came from."""

    source: str
    message: Message

    @property
    def server(self) -> str:
        """Option 54, or where the answer came from."""
        return self.message.address(Option.SERVER_ID) or self.source

    @property
    def address(self) -> str:
        """The address that is offered; "" when there is none: a proxy."""
        return "" if self.message.yiaddr == ANY else self.message.yiaddr

    @property
    def vendor(self) -> str:
        """Option 60, as text; "" when it is missing."""
        return self.message.options.get(Option.VENDOR_CLASS, b"").decode("ascii", "replace")

    @property
    def file(self) -> str:
        """The loader: the field `file`, or option 67."""
        raw = self.message.file or self.message.options.get(Option.BOOT_FILE, b"")
        return raw.partition(b"\0")[0].decode("utf-8", "replace")

    @property
    def host(self) -> str:
        """Where the loader is fetched: the URL's host, siaddr, option 66, or "" when none says."""
        if "://" in self.file:
            return urlsplit(self.file).hostname or ""
        if self.message.siaddr != ANY:
            return self.message.siaddr
        raw = self.message.options.get(_TFTP_SERVER, b"") or self.message.sname
        return raw.partition(b"\0")[0].decode("ascii", "replace")

    @property
    def uses_file(self) -> bool:
        """Option 43 says: skip discovery, fetch the file that is named (PXE 2.1, tag 6)."""
        inner = unpack_suboptions(self.message.options.get(Option.VENDOR, b""))
        control = inner.get(_DISCOVERY_CONTROL, b"\0") or b"\0"
        return bool(control[0] & _USE_BOOT_FILE)

    def describe(self) -> str:
        """In one line: who, and what of it matters to a booting machine."""
        words = [self.server if self.server == self.source else f"{self.server} ({self.source})"]
        words.append(f"offers {self.address}" if self.address else "is a proxy")
        if self.file:
            words.append(f"names {self.file}")
        if self.message.siaddr != ANY:
            words.append(f"next-server {self.message.siaddr}")
        for option in (Option.VENDOR_CLASS, _TFTP_SERVER, Option.BOOT_FILE):
            if raw := self.message.options.get(option):
                words.append(f"option {int(option)} {raw.rstrip(bytes(1)).decode('ascii', '?')}")
        for option in (Option.VENDOR, Option.ARCHITECTURE, Option.MACHINE_ID):
            if raw := self.message.options.get(option):
                words.append(f"option {int(option)} {raw.hex()}")
        return ", ".join("".join(c if c.isprintable() else "?" for c in word) for word in words)


@dataclass
class Conversation:
    """The answers to the DISCOVERs of all profiles, told apart by their transaction ids."""

    mac: str
    first_xid: int
    profiles: tuple[Profile, ...] = PROFILES
    answers: dict[Profile, list[Answer]] = field(default_factory=dict)
    boot_server: dict[Profile, list[Answer]] = field(default_factory=dict)
    """What came from port 4011."""

    def discovers(self) -> list[bytes]:
        """The requests to broadcast; the same again is the retransmission."""
        return [
            make_request(profile, self.mac, self._xid(number))
            for number, profile in enumerate(self.profiles)
        ]

    def boot_requests(self, ciaddr: str) -> list[tuple[str, bytes]]:
        """(boot server, request for its port 4011), after the offers have come."""
        asked: list[tuple[str, bytes]] = []
        for number, profile in enumerate(self.profiles):
            for answer in self.answers.get(profile, []):
                if needs_boot_server(profile, answer):
                    request = make_request(profile, self.mac, self._xid(number), ciaddr=ciaddr)
                    asked.append((answer.server, request))
        return asked

    def take(self, data: bytes, source: str, *, boot_server: bool = False) -> bool:
        """A datagram that came; True when it answers one of ours for the first time."""
        try:
            message = unpack(data)
        except WireError:
            return False
        number = (message.xid - self.first_xid) & 0xFFFFFFFF
        if message.op != Op.REPLY or number >= len(self.profiles) or message.mac != self.mac:
            return False
        wanted = MessageType.ACK if boot_server else MessageType.OFFER
        if message.type != wanted:
            return False
        answer = Answer(source, message)
        box = self.boot_server if boot_server else self.answers
        known = box.setdefault(self.profiles[number], [])
        if any(other.server == answer.server for other in known):
            return False
        known.append(answer)
        return True

    def all_answers(self) -> Iterable[Answer]:
        """Every answer to every profile."""
        return (answer for answers in self.answers.values() for answer in answers)

    def _xid(self, number: int) -> int:
        return (self.first_xid + number) & 0xFFFFFFFF


def needs_boot_server(profile: Profile, answer: Answer) -> bool:
    """Whether that firmware asks port 4011 after this offer, as PXE 2.1 and EDK2 do."""
    if answer.address or answer.vendor != "PXEClient" or answer.uses_file or profile.ipxe:
        return False
    # EDK2 takes a proxy's offer without option 43 as one of a BINL server, and asks it
    # again on port 4011 whatever the offer names; BIOS ROMs fetch a file that is named.
    return profile.is_uefi or (profile is BIOS and not answer.file)


def read_frame(frame: bytes) -> tuple[str, int, bytes] | None:
    """(source address, destination port, UDP payload) of an Ethernet frame, None for others.

    VLAN tags are the network card's matter; fragments are left out.
    """
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[14] >> 4 != 4:
        return None
    start = 14 + (frame[14] & 15) * 4
    fragment = int.from_bytes(frame[20:22], "big") & 0x3FFF
    if frame[23] != _IP_UDP or fragment or len(frame) < start + 8:
        return None
    _, port, length = struct.unpack_from("!HHH", frame, start)
    source = ".".join(str(byte) for byte in frame[26:30])
    return source, port, frame[start + 8 : start + length]


def as_options(message: Message) -> Mapping[int, bytes]:
    """The options in which servers that give addresses must agree: mask and router."""
    return {
        option: message.options.get(option, b"") for option in (Option.SUBNET_MASK, Option.ROUTER)
    }
