"""The shell: what the kernel makes of it is tested in a network namespace, the rest without."""

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from rack.namespace import Namespace
from rack.process import wait_for
from server.errors import ServerError
from server.events import Event
from server.protocols.dhcp import Client, Loaders
from server.protocols.dhcp_leases import Lease, LeaseTable
from server.protocols.dhcp_wire import Message, MessageType, Option, pack, unpack
from server.services.dhcp import DhcpLimits, DhcpService, Range, parse_range
from server.services.dhcp_leases import LeaseFile
from server.services.interfaces import list_addresses

SERVER = "10.9.0.1"
MACS = [f"52:54:00:00:00:{number:02x}" for number in range(256)]
LOADERS = Loaders("amd64", bios="/bios", uefi="/uefi", http="/http", ipxe="/ipxe")
RANGE = Range("10.9.1.1", "10.9.1.9")


def find_loaders(client: Client) -> Loaders:
    return LOADERS


def discover(mac: str = MACS[1], kind: MessageType = MessageType.DISCOVER, **fields: Any) -> bytes:
    options: dict[int, bytes] = {
        Option.MESSAGE_TYPE: bytes((kind,)),
        Option.VENDOR_CLASS: b"PXEClient:Arch:00000:UNDI:002001",
    }
    return pack(Message(op=1, xid=5, mac=mac, options=options, **fields))


# without a network


@pytest.mark.parametrize(
    "text",
    ["", "10.9.1.1", "10.9.1.9-10.9.1.1", "10.9.1.1-x", "10.9.1.1-10.9.1", "10.0.0.0-10.9.0.0"],
)
def test_a_range_that_is_none_is_explained(text: str) -> None:
    with pytest.raises(ServerError) as caught:
        parse_range(text)
    assert repr(text) in caught.value.message
    assert caught.value.hint


def test_a_range_is_read() -> None:
    assert parse_range(" 10.9.1.1 - 10.9.1.9 ") == RANGE


@pytest.mark.parametrize(("mode", "addresses"), [("full", None), ("proxy", RANGE)])
def test_mode_and_range_belong_together(mode: Any, addresses: Range | None) -> None:
    loop = asyncio.new_event_loop()
    with pytest.raises(ServerError, match=f"mode {mode!r}"):
        DhcpService(loop, mode=mode, find_loaders=find_loaders, emit=print, addresses=addresses)
    loop.close()


def test_leases_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "state" / "dhcp-leases"
    file = LeaseFile(path)
    table = LeaseTable("10.9.1.1", "10.9.1.9", record=lambda lease: file.record(lease, table))
    assert file.load(table) == 0
    assert table.confirm(MACS[1], "10.9.1.3", 100.0, 0.0)
    file.close()
    with open(path, "a") as text:
        text.write('{"address": "10.9.')  # cut by a crash
    again = LeaseTable("10.9.1.1", "10.9.1.9")
    assert LeaseFile(path).load(again) == 1
    assert again.find(MACS[1]) == Lease("10.9.1.3", MACS[1], 100.0, "bound")
    assert len(path.read_text().splitlines()) == 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_lease_file_does_not_grow_without_end(tmp_path: Path) -> None:
    path = tmp_path / "dhcp-leases"
    file = LeaseFile(path)
    table = LeaseTable("10.9.1.1", "10.9.1.9", record=lambda lease: file.record(lease, table))
    file.load(table)
    most = 0
    for turn in range(2500):
        table.confirm(MACS[1], "10.9.1.3", 100.0, turn)
        if turn % 100 == 0:
            most = max(most, len(path.read_text().splitlines()))
    assert 900 < most <= 1100
    file.close()


def test_a_lease_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dhcp-leases"
    path.mkdir()
    with pytest.raises(ServerError, match=str(path)):
        LeaseFile(path).load(LeaseTable("10.9.1.1", "10.9.1.9"))


def test_the_addresses_of_this_machine_are_listed() -> None:
    loopback = [entry for entry in list_addresses() if entry.name == "lo"]
    assert "127.0.0.1" in {entry.address for entry in loopback}
    assert {str(entry.network.network) for entry in loopback} >= {"127.0.0.0/8"}


def run_on_loopback(
    use: Callable[[DhcpService, socket.socket], None], **options: Any
) -> list[Event]:
    """Start a service on ports of the kernel's choice, let `use` talk to it; its events."""
    events: list[Event] = []
    loop = asyncio.new_event_loop()
    service = DhcpService(
        loop,
        mode="proxy",
        find_loaders=find_loaders,
        emit=events.append,
        address="127.0.0.1",
        ports=(0, 0),
        **options,
    )
    service.bind()
    service.start()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(("127.0.0.1", 0))
            client.settimeout(10)
            use(service, client)
    finally:
        asyncio.run_coroutine_threadsafe(service.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    return events


def test_port_4011_answers_the_port_that_asked() -> None:
    def use(service: DhcpService, client: socket.socket) -> None:
        request = discover(kind=MessageType.REQUEST, ciaddr="127.0.0.1")
        client.sendto(request, ("127.0.0.1", service.ports[1]))
        data, source = client.recvfrom(2048)
        assert source == ("127.0.0.1", service.ports[1])
        assert unpack(data).file == b"/bios"

    events = run_on_loopback(use)
    assert [event.detail["reply"] for event in events] == ["ack"]


def test_who_asks_too_often_is_dropped_and_others_are_not() -> None:
    """Answered: the burst, and not one more while the rate is zero."""

    def use(service: DhcpService, client: socket.socket) -> None:
        request = discover(kind=MessageType.REQUEST, ciaddr="127.0.0.1")
        for _ in range(50):
            client.sendto(request, ("127.0.0.1", service.ports[1]))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.2", 0))
            other.settimeout(10)
            other.sendto(request, ("127.0.0.1", service.ports[1]))
            # The other came last and is answered, so all of the first's were handled.
            assert unpack(other.recv(2048)).file == b"/bios"
        client.setblocking(False)
        answers = 0
        while True:
            try:
                client.recv(2048)
            except BlockingIOError:
                break
            answers += 1
        assert answers == 3

    limits = DhcpLimits(client_rate=0.0, client_burst=3.0)
    assert len(run_on_loopback(use, limits=limits)) == 4


def test_garbage_ends_nothing() -> None:
    def use(service: DhcpService, client: socket.socket) -> None:
        for data in (b"", b"\0" * 300, b"\xff" * 5000, discover()[:250]):
            client.sendto(data, ("127.0.0.1", service.ports[0]))
            client.sendto(data, ("127.0.0.1", service.ports[1]))
        request = discover(kind=MessageType.REQUEST, ciaddr="127.0.0.1")
        client.sendto(request, ("127.0.0.1", service.ports[1]))
        assert unpack(client.recv(2048)).file == b"/bios"

    assert len(run_on_loopback(use)) == 1


# in a network namespace


@pytest.fixture
def network() -> Iterator[Namespace]:
    """`net0` has the server's address and `peer0`, its other end, plays the machines."""
    namespace = Namespace()
    commands = [
        "link set lo up",
        "link add net0 type veth peer name peer0",
        f"address add {SERVER}/16 dev net0",
        "address add 172.20.0.1/24 dev net0",
        "link set net0 up",
        "link set peer0 up",
        "link add net1 type veth peer name peer1",
        "address add 10.8.0.1/16 dev net1",
        "link set net1 up",
        "link set peer1 up",
    ]
    namespace.run(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n")
    yield namespace
    namespace.close()


class Wire:
    """A machine without an address at one end of a cable: broadcasts out, frames in."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        self._raw = namespace.in_network(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        )
        self._raw.bind((interface, 0))
        self._raw.settimeout(10)

    def send(self, data: bytes) -> None:
        udp = b"\x00\x44\x00\x43" + (len(data) + 8).to_bytes(2, "big") + b"\0\0" + data
        head = bytearray(b"\x45\x00" + (len(udp) + 20).to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0")
        head += bytes(4) + b"\xff" * 4
        total = sum(int.from_bytes(head[index : index + 2], "big") for index in range(0, 20, 2))
        head[10:12] = (0xFFFF - (total % 0xFFFF or 0xFFFF)).to_bytes(2, "big")
        self._raw.send(b"\xff" * 6 + bytes.fromhex("525400000001") + b"\x08\0" + bytes(head) + udp)

    def receive(self) -> tuple[str, str, Message]:
        """The next answer of a DHCP server: (source, destination, message)."""
        while True:
            frame = self._raw.recv(4096)
            if frame[23] == 17 and frame[34:36] == b"\x00\x43":
                source, to = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
                return source, to, unpack(frame[42:])

    def close(self) -> None:
        self._raw.close()


class Running:
    """A service in the namespace, in a thread of its own."""

    def __init__(self, namespace: Namespace, **options: Any) -> None:
        self.events: list[Event] = []
        self.loop = asyncio.new_event_loop()
        self.service = DhcpService(
            self.loop, find_loaders=find_loaders, emit=self.events.append, **options
        )
        namespace.in_network(self.service.bind)
        self.loop.call_soon(self.service.start)
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.service.stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.mark.integration
@pytest.mark.parametrize(
    "options", [{}, {"interface": "net0"}, {"address": SERVER}, {"address": "172.20.0.1"}]
)
def test_a_broadcast_is_answered_by_broadcast_from_the_right_address(
    network: Namespace, options: dict[str, str]
) -> None:
    wire = Wire(network, "peer0")
    running = Running(network, mode="proxy", **options)
    try:
        wire.send(discover())
        source, to, message = wire.receive()
    finally:
        running.close()
        wire.close()
    expected = options.get("address", SERVER)
    assert (source, to) == (expected, "255.255.255.255")
    assert message.siaddr == expected
    assert message.yiaddr == "0.0.0.0"


@pytest.mark.integration
@pytest.mark.parametrize("options", [{"interface": "net0"}, {"address": SERVER}])
def test_other_networks_are_left_alone(network: Namespace, options: dict[str, str]) -> None:
    mine, foreign = Wire(network, "peer0"), Wire(network, "peer1")
    running = Running(network, mode="proxy", **options)
    try:
        foreign.send(discover(MACS[9]))
        mine.send(discover(MACS[1]))
        assert mine.receive()[2].mac == MACS[1]
    finally:
        running.close()
        mine.close()
        foreign.close()
    assert [event.node for event in running.events] == [MACS[1]]


@pytest.mark.integration
def test_each_network_is_told_the_address_that_the_server_has_there(network: Namespace) -> None:
    wires = {SERVER: Wire(network, "peer0"), "10.8.0.1": Wire(network, "peer1")}
    running = Running(network, mode="proxy")
    try:
        for address, wire in wires.items():
            wire.send(discover())
            assert wire.receive()[2].siaddr == address
    finally:
        running.close()
        for wire in wires.values():
            wire.close()


@pytest.mark.integration
def test_a_bench_network_is_served_and_remembered_over_a_restart(
    network: Namespace, tmp_path: Path
) -> None:
    given: list[str] = []
    for _ in range(2):
        wire = Wire(network, "peer0")
        running = Running(network, mode="full", addresses=RANGE, state=tmp_path)
        try:
            for mac in (MACS[2], MACS[1]) if given else (MACS[1], MACS[2]):
                wire.send(discover(mac))
                address = wire.receive()[2].yiaddr
                options: dict[int, bytes] = {
                    Option.MESSAGE_TYPE: bytes((MessageType.REQUEST,)),
                    Option.REQUESTED_ADDRESS: socket.inet_aton(address),
                    Option.SERVER_ID: socket.inet_aton(SERVER),
                }
                wire.send(pack(Message(op=1, xid=6, mac=mac, options=options)))
                ack = wire.receive()[2]
                assert (ack.type, ack.yiaddr) == (MessageType.ACK, address)
                assert ack.options[Option.SUBNET_MASK] == bytes((255, 255, 0, 0))
                given.append(address)
        finally:
            running.close()
            wire.close()
    assert given[:2] == given[3:1:-1]
    assert len(set(given)) == 2


@pytest.mark.integration
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "proxy", "address": "10.1.1.1"}, "does not have the address 10.1.1.1"),
        ({"mode": "proxy", "interface": "net7"}, "no such network interface"),
        (
            {"mode": "full", "addresses": Range("10.7.0.1", "10.7.0.9")},
            "no address of this machine is in the network of 10.7.0.1-10.7.0.9",
        ),
        (
            {"mode": "full", "addresses": Range("10.9.255.1", "10.10.0.9")},
            "10.10.0.9 of the range is outside of 10.9.0.0/16",
        ),
        (
            {
                "mode": "full",
                "addresses": Range("10.9.7.1", "10.9.7.9", reserved={MACS[1]: "10.9.0.1"}),
            },
            f"inventory: 10.9.0.1 of {MACS[1]} is this server's own",
        ),
        (
            {
                "mode": "full",
                "addresses": Range("10.9.7.1", "10.9.7.9", reserved={MACS[1]: "10.9.255.255"}),
            },
            f"inventory: 10.9.255.255 of {MACS[1]} is the broadcast address",
        ),
        (
            {
                "mode": "full",
                "addresses": Range(
                    "10.9.7.1", "10.9.7.9", router="10.9.0.254", reserved={MACS[1]: "10.9.0.254"}
                ),
            },
            f"inventory: 10.9.0.254 of {MACS[1]} is the router's",
        ),
    ],
)
def test_what_cannot_be_served_is_said_before_it_starts(
    network: Namespace, options: dict[str, Any], words: str
) -> None:
    loop = asyncio.new_event_loop()
    service = DhcpService(loop, find_loaders=find_loaders, emit=print, **options)
    with pytest.raises(ServerError, match=words) as caught:
        network.in_network(service.bind)
    assert caught.value.hint
    loop.close()


@pytest.mark.integration
def test_another_dhcp_server_on_this_machine_is_named(network: Namespace) -> None:
    holder = network.in_network(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    network.in_network(lambda: holder.bind(("0.0.0.0", 67)))
    loop = asyncio.new_event_loop()
    service = DhcpService(loop, find_loaders=find_loaders, emit=print, mode="proxy")
    with pytest.raises(
        ServerError, match=r"dhcp cannot bind UDP 0\.0\.0\.0:67: the port is in use"
    ):
        network.in_network(service.bind)
    holder.close()
    network.in_network(service.bind)  # nothing was left behind by the first try
    loop.run_until_complete(service.stop())
    loop.close()


@pytest.mark.integration
def test_a_dhcp_client_that_we_did_not_write_gets_renews_and_releases(
    network: Namespace, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text(
        '#!/bin/sh\n[ "$1" = bound ] && busybox ip address add "$ip/16" dev "$interface"\n'
        'echo "$1 $ip $subnet $router $dns $lease" >> "$0.log"\n'
    )
    script.chmod(0o755)
    addresses = Range("10.9.1.1", "10.9.1.1", router="10.9.0.254", dns=(SERVER,), seconds=16)
    machine = Namespace()
    enter = ["nsenter", f"--net=/proc/{network.pid}/ns/net"]
    subprocess.run([*enter, "ip", "link", "set", "peer0", "netns", str(machine.pid)], check=True)
    machine.run(["ip", "link", "set", "peer0", "up"])
    running = Running(network, mode="full", addresses=addresses, interface="net0")
    log = tmp_path / "client.log"
    try:
        client = machine.start(
            "udhcpc",
            ["busybox", "udhcpc", "-f", "-R", "-n", "-i", "peer0", "-s", str(script)],
            log,
        )

        def has(word: str) -> Callable[[], bool]:
            return lambda: word in Path(f"{script}.log").read_text()

        wait_for(lambda: Path(f"{script}.log").exists(), 20, "the script's start")
        wait_for(has("bound 10.9.1.1 255.255.0.0 10.9.0.254 10.9.0.1 16"), 20, "a lease")
        wait_for(has("renew 10.9.1.1"), 30, "a renewal", processes=(client,))
        client.stop()

        def told() -> list[object]:
            return [event.detail["request"] for event in running.events]

        wait_for(lambda: "release" in told(), 20, "the release")
        # a busy machine may let it ask for one thing twice
        assert [word for word, _ in groupby(told())] == ["discover", "request", "release"]
        assert told().count("request") >= 2
    finally:
        running.close()
        machine.close()


def make_discover(mac: bytes, giaddr: bytes = bytes(4)) -> bytes:
    """The head of a BOOTREQUEST (RFC 2131, section 2): only what is asked before parsing."""
    return b"\1\1\6\0" + bytes(20) + giaddr + mac + bytes(210)


class TestShares:
    LISTED = b"\x52\x54\0\0\0\x11"

    @pytest.fixture
    def service(self) -> Iterator[DhcpService]:
        loop = asyncio.new_event_loop()
        yield DhcpService(
            loop,
            mode="proxy",
            find_loaders=find_loaders,
            emit=print,
            limits=DhcpLimits(total_rate=0.0, total_burst=20.0, relay_rate=0.0, relay_burst=10.0),
            is_listed=lambda mac: mac == "52:54:00:00:00:11",
            mac_of={"10.9.0.66": "52:54:00:00:00:66", "10.9.0.11": "52:54:00:00:00:11"}.get,
        )
        loop.close()

    def test_an_invented_relay_has_no_share_of_its_own(self, service: DhcpService) -> None:
        allowed = [
            service._allow(
                make_discover(os.urandom(6), bytes([10, 7, 7, number])), ("10.9.0.66", 67), 0.0
            )
            for number in range(50)
        ]
        assert sum(allowed) == 10
        assert service._allow(make_discover(os.urandom(6)), ("0.0.0.0", 68), 0.0)

    def test_listed_machines_and_broadcasts_have_theirs(self, service: DhcpService) -> None:
        for number in range(100):
            for source in ("0.0.0.0", f"10.7.0.{number}"):
                service._allow(make_discover(os.urandom(6), b"\1\2\3\4"), (source, 67), 0.0)
        assert service._allow(make_discover(self.LISTED), ("0.0.0.0", 68), 0.0)

    def test_whose_timeline_a_message_may_change(self, service: DhcpService) -> None:
        direct, relayed = make_discover(self.LISTED), make_discover(self.LISTED, b"\x0a\7\7\7")
        assert not service._tells(direct, ("10.9.0.66", 68))
        assert service._tells(direct, ("0.0.0.0", 68))
        assert service._tells(direct, ("10.9.0.11", 68))
        assert service._tells(relayed, ("10.9.0.66", 67))
        other = make_discover(b"\x52\x54\0\0\0\x12", b"\x0a\7\7\7")
        assert not service._tells(other, ("10.9.0.11", 67))
