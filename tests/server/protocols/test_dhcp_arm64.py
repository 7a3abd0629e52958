"""What an arm64 machine's real firmware sent, and accepted, word for word.

QEMU's `virt` with Debian 12's AAVMF (EDK2 2022.11) and Debian 13's ipxe-arm64.efi, in a network
namespace where `bootfarm serve --dhcp full` was the only server, on 2026-11-30: it came by PXE,
loaded iPXE, and by its script a kernel and an initramfs, which ran.
"""

import ipaddress
from pathlib import Path

from server.protocols.dhcp import Client, Firmware, Loaders, Network, identify
from server.protocols.dhcp_leases import LeaseTable
from server.protocols.dhcp_server import DhcpServer, Pool
from server.protocols.dhcp_wire import Op, unpack
from tests.server.protocols.test_dhcp_captures import read_capture

CAPTURE = Path(__file__).parent / "dhcp" / "arm64" / "aavmf-full.pcap"
SERVER_IP = "10.77.0.1"
LOADER = "/ltsp/arm64/ipxe/ipxe-arm64.efi"
LOADERS = Loaders(
    "arm64", uefi=LOADER, http=LOADER, ipxe="/ltsp/arm64/boot.ipxe", architecture="arm64"
)


def test_firmware_still_gets_the_answers_that_it_took() -> None:
    network = Network(ipaddress.IPv4Network("10.77.0.0/24"))
    table = LeaseTable("10.77.0.100", "10.77.0.150", excluded=(SERVER_IP, "10.77.0.0"))
    server = DhcpServer(lambda client: LOADERS, http_port=8080, pool=Pool(table, network))
    packets = list(read_capture(CAPTURE))
    answers = []
    for packet in packets:
        if unpack(packet.data).op == Op.REQUEST:
            port = packet.to[1]
            outcome = server.receive(packet.time, packet.data, packet.source, port, SERVER_IP)
            if outcome.send is not None:
                answers.append(outcome.send)
    assert answers == [(one.data, one.to) for one in packets if one.source[0] == SERVER_IP]
    assert answers


def test_firmware_and_its_ipxe_are_told_apart() -> None:
    clients: list[Client] = [
        identify(message)
        for packet in read_capture(CAPTURE)
        if (message := unpack(packet.data)).op == Op.REQUEST
    ]
    assert {(one.firmware, one.architecture) for one in clients} == {(Firmware.UEFI, "arm64")}
    assert [one.ipxe for one in clients] == sorted(one.ipxe for one in clients)
    assert {one.ipxe for one in clients} == {False, True}
    assert {one.architectures for one in clients} == {(11,)}
