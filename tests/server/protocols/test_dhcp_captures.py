"""What real firmware sent, and accepted: see dhcp/capture.py for how it was taken.

Each capture holds a boot that went as far as the loader. The requests must be
understood, and our answers must still be, byte by byte, those that the firmware took.
"""

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rack.network import SERVER_IP
from server.protocols.dhcp import Client, Firmware, Loaders, Network, identify
from server.protocols.dhcp_leases import LeaseTable
from server.protocols.dhcp_server import DhcpServer, Pool
from server.protocols.dhcp_wire import MessageType, Op, unpack
from tests.server.protocols.dhcp.capture import CASES, MAC, UUID

CAPTURES = sorted((Path(__file__).parent / "dhcp").glob("*.pcap"))


@dataclass(frozen=True)
class Packet:
    time: float
    source: tuple[str, int]
    to: tuple[str, int]
    data: bytes


def read_capture(path: Path) -> Iterator[Packet]:
    raw = path.read_bytes()
    assert raw[:4] == b"\xd4\xc3\xb2\xa1"
    position = 24
    while position < len(raw):
        seconds, micros, length, _ = struct.unpack_from("<IIII", raw, position)
        frame = raw[position + 16 : position + 16 + length]
        position += 16 + length
        start = 14 + (frame[14] & 15) * 4
        ports = struct.unpack_from("!HHH", frame, start)
        addresses = [".".join(map(str, frame[at : at + 4])) for at in (26, 30)]
        yield Packet(
            seconds + micros / 1e6,
            (addresses[0], ports[0]),
            (addresses[1], ports[1]),
            frame[start + 8 : start + ports[2]],
        )


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_firmware_still_gets_the_answers_that_it_took(path: Path) -> None:
    case = CASES[path.stem]

    def find_loaders(client: Client) -> Loaders:
        assert (client.mac, client.uuid) == (MAC, UUID)
        return case.loaders

    network = Network(ipaddress.IPv4Network("10.9.0.0/16"))
    table = LeaseTable("10.9.60.1", "10.9.60.9", excluded=(SERVER_IP, "", "10.9.0.0"))
    pool = Pool(table, network) if case.full else None
    server = DhcpServer(find_loaders, http_port=8080, pool=pool)
    packets = list(read_capture(path))
    ours = [packet for packet in packets if packet.source[0] == SERVER_IP]
    answers = []
    for packet in packets:
        port = packet.to[1]
        if unpack(packet.data).op == Op.REQUEST and port in (67, 4011):
            outcome = server.receive(packet.time, packet.data, packet.source, port, SERVER_IP)
            if outcome.send is not None:
                answers.append(outcome.send)
    assert answers == [(packet.data, packet.to) for packet in ours]
    assert answers


@pytest.mark.parametrize(
    ("name", "clients"),
    [
        ("seabios-ipxe", {(Firmware.BIOS, True)}),
        ("seabios-ipxe-e1000", {(Firmware.BIOS, True)}),
        ("ovmf-pxe", {(Firmware.UEFI, False), (Firmware.UEFI, True)}),
        ("ovmf-http", {(Firmware.UEFI_HTTP, False), (Firmware.UEFI, True)}),
        ("ovmf-ipxe", {(Firmware.UEFI, True)}),
    ],
)
def test_firmware_is_told_apart(name: str, clients: set[tuple[Firmware, bool]]) -> None:
    """One boot may be two clients: the firmware, then the iPXE that it loaded."""
    seen = set()
    for packet in read_capture(Path(__file__).parent / "dhcp" / f"{name}.pcap"):
        message = unpack(packet.data)
        if message.op == Op.REQUEST:
            client = identify(message)
            assert client.ipxe_http == client.ipxe
            seen.add((client.firmware, client.ipxe))
    assert seen == clients


def test_uefi_asks_port_4011_with_the_address_that_it_took() -> None:
    path = Path(__file__).parent / "dhcp" / "ovmf-pxe.pcap"
    asked = [packet for packet in read_capture(path) if packet.to == (SERVER_IP, 4011)]
    assert asked
    for packet in asked:
        message = unpack(packet.data)
        assert message.type == MessageType.REQUEST
        assert message.ciaddr == packet.source[0]
