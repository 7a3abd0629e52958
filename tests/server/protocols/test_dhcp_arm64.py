"""What an arm64 machine's real firmware sent, and accepted, word for word.

QEMU's `virt` with Debian 12's AAVMF (EDK2 2022.11) and Debian 13's ipxe-arm64.efi, in a network
namespace where `bootfarm serve --dhcp full` was the only server, on 2026-11-30: it came by PXE,
and once more by UEFI HTTP Boot, loaded iPXE, and by its script a kernel and an initramfs, which
ran.
"""

import ipaddress
from pathlib import Path

import pytest

from server.protocols.dhcp import Client, Firmware, Loaders, Network, identify
from server.protocols.dhcp_leases import LeaseTable
from server.protocols.dhcp_server import DhcpServer, Pool
from server.protocols.dhcp_wire import Op, unpack
from tests.server.protocols.test_dhcp_captures import read_capture

CAPTURES = Path(__file__).parent / "dhcp" / "arm64"
SERVER_IP = "10.77.0.1"
LOADER = "/ltsp/arm64/ipxe/ipxe-arm64.efi"
LOADERS = Loaders(
    "arm64", uefi=LOADER, http=LOADER, ipxe="/ltsp/arm64/boot.ipxe", architecture="arm64"
)


@pytest.mark.parametrize("name", ["aavmf-full", "aavmf-http-full"])
def test_firmware_still_gets_the_answers_that_it_took(name: str) -> None:
    network = Network(ipaddress.IPv4Network("10.77.0.0/24"))
    table = LeaseTable("10.77.0.100", "10.77.0.150", excluded=(SERVER_IP, "10.77.0.0"))
    server = DhcpServer(lambda client: LOADERS, http_port=8080, pool=Pool(table, network))
    packets = list(read_capture(CAPTURES / f"{name}.pcap"))
    answers = []
    for packet in packets:
        if unpack(packet.data).op == Op.REQUEST:
            port = packet.to[1]
            outcome = server.receive(packet.time, packet.data, packet.source, port, SERVER_IP)
            if outcome.send is not None:
                answers.append(outcome.send)
    assert answers == [(one.data, one.to) for one in packets if one.source[0] == SERVER_IP]
    assert answers


@pytest.mark.parametrize(
    ("name", "firmware", "number"),
    [("aavmf-full", Firmware.UEFI, 11), ("aavmf-http-full", Firmware.UEFI_HTTP, 19)],
)
def test_firmware_and_its_ipxe_are_told_apart(name: str, firmware: Firmware, number: int) -> None:
    clients: list[Client] = [
        identify(message)
        for packet in read_capture(CAPTURES / f"{name}.pcap")
        if (message := unpack(packet.data)).op == Op.REQUEST
    ]
    assert [(one.ipxe, one.firmware, one.architectures) for one in clients] == [
        *[(False, firmware, (number,))] * 2,
        *[(True, Firmware.UEFI, (11,))] * 2,
    ]
    assert {one.architecture for one in clients} == {"arm64"}
