"""DHCP: any datagram is answered with a message that can be read back, or with silence."""

import ipaddress
from typing import Final

from fuzz.words import Words
from server.content import Refused
from server.protocols.dhcp import Client, Loaders, Network
from server.protocols.dhcp_leases import LeaseTable
from server.protocols.dhcp_server import DhcpServer, Pool
from server.protocols.dhcp_wire import Message, MessageType, Option, pack, packed, unpack

SERVER: Final = "10.9.0.1"
LOADERS: Final = Loaders("amd64", bios="/bios", uefi="/uefi", http="/http", ipxe="/ipxe")
MAC: Final = "52:54:00:00:00:01"


def _request(kind: MessageType, **options: bytes) -> bytes:
    numbers = {Option[name]: value for name, value in options.items()}
    found = {Option.MESSAGE_TYPE: bytes((kind,)), **numbers}
    return pack(Message(op=1, xid=5, mac=MAC, options={int(k): v for k, v in found.items()}))


_PXE: Final = {"VENDOR_CLASS": b"PXEClient:Arch:00007:UNDI:003016", "ARCHITECTURE": b"\0\7"}
_MESSAGES: Final = (
    _request(MessageType.DISCOVER),
    _request(MessageType.DISCOVER, **_PXE),
    _request(MessageType.REQUEST, REQUESTED_ADDRESS=packed("10.9.1.1"), SERVER_ID=packed(SERVER)),
    _request(MessageType.REQUEST, **_PXE),
    _request(MessageType.RELEASE),
    _request(MessageType.DECLINE, REQUESTED_ADDRESS=packed("10.9.1.1")),
    _request(MessageType.INFORM),
)
SEEDS: Final = (
    *(bytes((mode,)) + one for one in _MESSAGES for mode in (0, 1, 2)),
    b"\x81\0" + len(_MESSAGES[0]).to_bytes(2, "big") + _MESSAGES[0] + b"\1\0\xff" + _MESSAGES[2],
)


def _find_loaders(client: Client) -> Loaders:
    if client.mac.startswith("66:"):
        raise Refused("not in the inventory")
    return LOADERS


def _make(*, full: bool) -> DhcpServer:
    table = LeaseTable("10.9.1.1", "10.9.1.4", reserved={"52:54:00:00:00:09": "10.9.0.9"})
    network = Network(ipaddress.IPv4Network("10.9.0.0/16"), SERVER, (SERVER,), "farm.test")
    return DhcpServer(
        _find_loaders, http_port=8080, pool=Pool(table, network, 3600) if full else None
    )


def check(data: bytes) -> None:
    """data: the mode, and one datagram; or, by its 8th bit, several with their lengths."""
    words = Words(data)
    mode = words.number()
    server = _make(full=bool(mode & 1))
    port = 4011 if mode & 2 else 67
    source = ("10.9.1.1" if mode & 4 else "0.0.0.0", 68)
    now = 1000.0
    if not mode & 128:
        _send(server, words.rest(), now, source, port)
        return
    for _ in range(8):
        if not words:
            return
        now += words.number() * 64
        _send(server, words.take(words.number(2) % 700), now, source, port)


def _send(
    server: DhcpServer, datagram: bytes, now: float, source: tuple[str, int], port: int
) -> None:
    outcome = server.receive(now, datagram, source, port, SERVER)
    for event in outcome.events:
        for value in event.detail.values():
            assert not isinstance(value, str) or value.isprintable(), value
    if outcome.send is None:
        return
    answer, (address, to) = outcome.send
    ipaddress.IPv4Address(address)
    assert 0 < to < 65_536
    message = unpack(answer)
    assert message.op == 2
    assert message.xid == unpack(datagram).xid
    assert len(answer) <= 1500, "it would be cut in two"
    assert message.type in (MessageType.OFFER, MessageType.ACK, MessageType.NAK)
