"""Rules fed by the protocol cores: packets in, events out, into the timeline, to the finding."""

import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from server.content import BytesContent, Content, NotFound, Refused
from server.diagnosis import FarmFacts, Finding, diagnose
from server.events import Event
from server.ltsconf import NodeId
from server.nodes.timelines import Nodes
from server.protocols.dhcp import Client, Loaders, Network
from server.protocols.dhcp_leases import LeaseTable
from server.protocols.dhcp_server import DhcpServer, Pool
from server.protocols.dhcp_wire import Message, MessageType, Op, Option, pack, packed, unpack
from server.protocols.tftp_wire import pack_ack, pack_error, pack_request
from server.services.hotloop import HotLoop
from server.services.tftp import TftpLimits, TftpService
from server.site import UnlistedError
from tests.server.diagnosis.story import BIOS, MAC, UEFI
from tests.server.protocols.dhcp.capture import MAC as CAPTURED
from tests.server.protocols.test_dhcp_captures import read_capture

IP = "127.0.0.1"
SERVER = "10.9.0.1"
CAPTURES = Path(__file__).parents[1] / "protocols" / "dhcp"
OVMF = {"tsize": "0", "blksize": "1468", "windowsize": "4"}
"""What EDK2 asks of TFTP; ROMs for BIOS do not know windows."""
LOADERS = Loaders("amd64", bios=BIOS, uefi=UEFI, http=UEFI, ipxe="/ltsp/amd64/boot.ipxe")


class Loop:
    """Time that passes when it is told to, and nothing else of a loop."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, action: Callable[[], None]) -> "Handle":
        self.due.append((when, action))
        return Handle(self, (when, action))

    @property
    def clock(self) -> "Loop":
        return self

    def add_reader(self, *args: Any) -> None: ...
    def add_edge_reader(self, *args: Any) -> None: ...
    def attach(self, *args: Any) -> None: ...
    def remove_reader(self, *args: Any) -> None: ...

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while ready := sorted((entry for entry in self.due if entry[0] <= end), key=lambda e: e[0]):
            self.due.remove(ready[0])
            self.now = max(self.now, ready[0][0])
            ready[0][1]()
        self.now = end


class Handle:
    def __init__(self, loop: Loop, entry: tuple[float, Callable[[], None]]) -> None:
        self._loop, self._entry = loop, entry

    def cancel(self) -> None:
        if self._entry in self._loop.due:
            self._loop.due.remove(self._entry)


def lookup(path: str, client: str, mac: str | None = None) -> Content:
    if path.endswith("nothing"):
        raise NotFound("there is no image nothing")
    return BytesContent(b"x" * (2000 if path.endswith("cfg") else 200_000))


class Wire:
    """The TFTP service with a time of ours, and a machine that answers only if told to."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.nodes = Nodes(lambda ip: (MAC, None))
        self.service = TftpService(
            cast(HotLoop, self.loop),
            address=IP,
            port=0,
            lookup=lookup,
            emit=self.take,
            limits=TftpLimits(),
        )
        self.service.bind()
        self.machine = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.machine.bind((IP, 0))
        self.sockets = [self.machine]

    def take(self, event: Event) -> None:
        now = 1000.0 + self.loop.now
        self.nodes.record(Event(now, event.node, event.source, event.phase, event.detail))

    def ask(self, path: str, options: dict[str, str] | None = None, *, anew: bool = False) -> None:
        if anew:  # from another port, as firmware does
            self.machine = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.machine.bind((IP, 0))
            self.sockets.append(self.machine)
        packet = pack_request(path, options)
        self.service._on_request(packet, self.machine.getsockname()[:2], IP)

    def answer(self, packet: bytes) -> None:
        """From the machine's port, to the transfer that is going on."""
        link = self.service._links[self.machine.getsockname()[:2]]
        link.on_packet(packet)

    def fetch(self, path: str, options: dict[str, str]) -> None:
        self.ask(path, options, anew=True)
        self.answer(pack_ack(0))
        total = 200_000 // int(options["blksize"]) + 1
        for block in range(int(options.get("windowsize", "1")), total, 4):
            self.answer(pack_ack(block))
        self.answer(pack_ack(total))

    def finding(self, farm: FarmFacts | None = None) -> Finding | None:
        (node,) = self.nodes.nodes()
        return diagnose(node, 1000.0 + self.loop.now, farm or FarmFacts(address=SERVER))

    def close(self) -> None:
        for sock in (*self.sockets, self.service.listener):
            sock.close()
        self.service.cache.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


def rule(finding: Finding | None) -> str | None:
    return finding.rule if finding else None


def test_an_oack_that_nobody_acknowledges(wire: Wire) -> None:
    for _ in range(4):
        wire.ask(UEFI, OVMF, anew=True)
        assert rule(wire.finding()) != "loader-silent"
        wire.loop.advance(10)
    found = wire.finding()
    assert found is not None
    assert found.rule == "tftp-no-ack"
    assert "asked for core.efi four times and never acknowledged our OACK" in found.headline
    assert f"{UEFI} asked for four times; our OACK sent 3 times, no answer" in found.seen


def test_the_same_request_again_is_counted_and_a_first_block_named(wire: Wire) -> None:
    wire.ask(BIOS)
    wire.ask(BIOS)
    wire.loop.advance(10)
    found = wire.finding(FarmFacts(single_port=True))
    assert found is not None
    assert found.rule == "tftp-no-ack"
    assert (
        "asked for core.0 twice and never acknowledged our first block: answers" in found.headline
    )


def test_one_acknowledgement_is_enough_to_know_that_answers_arrive(wire: Wire) -> None:
    wire.ask(UEFI, OVMF)
    wire.answer(pack_ack(0))
    wire.loop.advance(60)
    found = wire.finding()
    assert found is not None
    assert found.rule == "transfer-gave-up"
    assert "no answer for" in found.headline


def test_a_size_probe_is_no_fault(wire: Wire) -> None:
    wire.ask(UEFI, {"tsize": "0"})
    wire.answer(pack_error(8, "User aborted the transfer"))
    assert wire.finding() is None
    wire.ask(UEFI, {"tsize": "0"}, anew=True)  # and one that is just left alone
    wire.fetch(UEFI, {"blksize": "1468", "windowsize": "4"})
    wire.ask("/ltsp/amd64/grub/grub.cfg", anew=True)
    wire.loop.advance(5)
    wire.answer(pack_ack(1))
    assert rule(wire.finding()) not in ("tftp-no-ack", "wrong-loader")


def test_a_loader_for_bios_fetched_as_uefi_fetches(wire: Wire) -> None:
    wire.fetch(BIOS, OVMF)
    found = wire.finding()
    assert found is not None
    assert found.rule == "wrong-loader"
    assert "fetched core.0 but is a UEFI machine" in found.headline


def test_a_loader_for_bios_fetched_as_bios_fetches(wire: Wire) -> None:
    wire.ask(BIOS, {"blksize": "1456", "tsize": "0"})
    wire.answer(pack_ack(0))
    for block in range(1, 200_000 // 1456 + 2):
        wire.answer(pack_ack(block))
    assert wire.finding() is None
    wire.loop.advance(61)
    assert rule(wire.finding()) == "loader-silent"


def test_a_kernel_that_is_not_there(wire: Wire) -> None:
    wire.ask("/ltsp/nothing/grub/i386-pc/core.0")
    assert wire.finding() is None
    wire.ask("/ltsp/amd64/vmlinuz")
    wire.answer(pack_error(0, ""))
    assert wire.finding() is None


def test_a_loader_of_an_image_that_is_not_there() -> None:
    wire = Wire()
    try:
        wire.service._lookup = lambda path, client: lookup("nothing", client)
        wire.ask(BIOS)
        found = wire.finding()
        assert found is not None
        assert found.rule == "file-refused"
        assert (
            found.headline == f"It asked for {BIOS} and did not get it: there is no image nothing."
        )
    finally:
        wire.close()


# DHCP


class Lan:
    """The DHCP core, its events in a timeline."""

    def __init__(self, *, full: bool = False, size: int = 9, loaders: Loaders = LOADERS) -> None:
        table = LeaseTable("10.9.60.1", f"10.9.60.{size}")
        pool = Pool(table, Network(ipaddress.IPv4Network("10.9.0.0/16")))
        self.loaders = loaders
        self.server = DhcpServer(self.find, http_port=8080, pool=pool if full else None)
        self.nodes = Nodes()
        self.farm = FarmFacts(address=SERVER, dhcp="full" if full else "proxy")
        self.now = 1000.0

    def find(self, client: Client) -> Loaders:
        if client.mac.endswith("ff"):
            error = UnlistedError(NodeId(mac=client.mac))
            raise Refused(error.one_line(), error.cause)
        return self.loaders

    def send(self, message: Message | bytes, now: float | None = None) -> None:
        self.now = self.now + 1 if now is None else now
        data = pack(message) if isinstance(message, Message) else message
        outcome = self.server.receive(self.now, data, ("0.0.0.0", 68), 67, SERVER)
        for event in outcome.events:
            self.nodes.record(event)

    def fetch(self, path: str, mac: str) -> None:
        self.nodes.record(Event(self.now, mac, "tftp", "transfer", {"path": path, "status": "ok"}))

    def finding(self, mac: str = MAC) -> Finding | None:
        node = self.nodes.get(mac)
        assert node is not None
        return diagnose(node, self.now, self.farm)


def ask(kind: MessageType, arch: int | None = 0, mac: str = MAC, **addresses: str) -> Message:
    fields: dict[int, bytes] = {Option.MESSAGE_TYPE: bytes((kind,))}
    if arch is not None:
        fields[Option.VENDOR_CLASS] = b"PXEClient:Arch:%05d:UNDI:002001" % arch
        fields[Option.ARCHITECTURE] = arch.to_bytes(2, "big")
    for name, address in addresses.items():
        fields[Option[name]] = packed(address)
    return Message(op=Op.REQUEST, xid=5, mac=mac, options=fields)


def replay(name: str) -> Lan:
    lan = Lan(full=name.endswith("full"))
    for packet in read_capture(CAPTURES / f"{name}.pcap"):
        if unpack(packet.data).op == Op.REQUEST and packet.to[1] == 67:
            lan.send(packet.data, packet.time)
    return lan


@pytest.mark.parametrize(("name", "wrong"), [("ovmf-pxe", BIOS), ("seabios-ipxe-e1000", UEFI)])
def test_captured_firmware_with_the_other_ones_loader(name: str, wrong: str) -> None:
    lan = replay(name)
    assert lan.finding(CAPTURED) is None
    lan.fetch(wrong, CAPTURED)
    assert rule(lan.finding(CAPTURED)) == "wrong-loader"


@pytest.mark.parametrize(("name", "right"), [("ovmf-pxe", UEFI), ("seabios-ipxe-e1000", BIOS)])
def test_captured_firmware_with_its_own_loader(name: str, right: str) -> None:
    lan = replay(name)
    lan.fetch(right, CAPTURED)
    assert lan.finding(CAPTURED) is None


def test_captured_firmware_that_never_asks_for_the_loader() -> None:
    lan = replay("ovmf-pxe")
    lan.now += 60
    assert lan.finding(CAPTURED) is None
    lan.now += 10
    found = lan.finding(CAPTURED)
    assert found is not None
    assert found.rule == "dhcp-ignored-offer"
    assert "/ltsp/amd64/boot.ipxe, and never asked for it" in found.headline


@pytest.mark.parametrize("arch", [6, 10, 27])
def test_an_architecture_without_a_loader(arch: int) -> None:
    lan = Lan()
    lan.send(ask(MessageType.DISCOVER, arch))
    found = lan.finding()
    assert found is not None
    assert found.rule == "unknown-architecture"
    assert found.seen == f"option 93: {arch}"


def test_an_image_of_another_architecture() -> None:
    lan = Lan()
    lan.send(ask(MessageType.DISCOVER, 11))
    found = lan.finding()
    assert found is not None
    assert found.rule == "other-architecture"
    assert "image amd64 is for amd64 machines" in found.seen


def test_a_machine_that_is_not_listed() -> None:
    lan = Lan()
    mac = MAC[:-2] + "ff"
    lan.send(ask(MessageType.DISCOVER, mac=mac))
    assert rule(lan.finding(mac)) == "not-listed"
    lan.send(ask(MessageType.DISCOVER))
    assert lan.finding() is None


def test_an_image_without_a_loader() -> None:
    lan = Lan(loaders=Loaders("amd64", bios=BIOS))
    lan.send(ask(MessageType.DISCOVER, 7))
    assert rule(lan.finding()) == "no-loader-in-image"


def test_nobody_gives_an_address_beside_us() -> None:
    lan = Lan()
    for _ in range(6):
        lan.now += 3
        lan.send(ask(MessageType.DISCOVER))
    assert rule(lan.finding()) == "dhcp-no-address"
    taken = ask(MessageType.REQUEST, REQUESTED_ADDRESS="10.9.0.11", SERVER_ID="10.9.0.3")
    lan.send(taken)
    assert lan.finding() is None
    lan.now += 61
    found = lan.finding()
    assert found is not None
    assert found.rule == "dhcp-ignored-offer"
    assert "does the DHCP server 10.9.0.3 name another server or file" in found.check[1]


def test_a_range_that_is_used_up() -> None:
    lan = Lan(full=True, size=1)
    lan.send(ask(MessageType.DISCOVER, mac="52:54:00:00:00:77"))
    lan.send(ask(MessageType.DISCOVER))
    assert rule(lan.finding()) == "dhcp-pool-empty"


def test_a_second_server_on_a_bench() -> None:
    lan = Lan(full=True)
    lan.send(ask(MessageType.DISCOVER))
    taken = ask(MessageType.REQUEST, REQUESTED_ADDRESS="10.9.0.11", SERVER_ID="10.9.0.3")
    lan.send(taken)
    found = lan.finding()
    assert found is not None
    assert found.rule == "dhcp-two-servers"
    assert "A second DHCP server, 10.9.0.3, is" in found.headline


def test_an_address_that_another_machine_has() -> None:
    lan = Lan(full=True)
    lan.send(ask(MessageType.DISCOVER))
    mine = "10.9.60.1"
    lan.send(ask(MessageType.REQUEST, REQUESTED_ADDRESS=mine, SERVER_ID=SERVER))
    assert lan.finding() is None
    lan.send(ask(MessageType.DECLINE, None, REQUESTED_ADDRESS=mine, SERVER_ID=SERVER))
    found = lan.finding()
    assert found is not None
    assert found.rule == "dhcp-conflict"
    assert "The address 10.9.60.1 that it was given" in found.headline


def test_an_address_of_another_network() -> None:
    lan = Lan(full=True)
    lan.send(ask(MessageType.REQUEST, REQUESTED_ADDRESS="192.168.1.5"))
    assert rule(lan.finding()) == "dhcp-refused"


def test_a_machine_with_a_disk_is_none_of_ours() -> None:
    lan = Lan(full=True)
    lan.send(ask(MessageType.DISCOVER, None))
    lan.now += 1e6
    assert lan.finding() is None
