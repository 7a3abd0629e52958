import ipaddress
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.content import Refused
from server.protocols.dhcp import Client, Loaders, Network
from server.protocols.dhcp_leases import LeaseTable
from server.protocols.dhcp_server import DhcpServer, Outcome, Pool
from server.protocols.dhcp_wire import Message, MessageType, Option, pack, packed, unpack

SERVER = "10.9.0.1"
OTHER = "10.9.0.2"
A, B = "52:54:00:00:00:01", "52:54:00:00:00:02"
BROADCAST = ("255.255.255.255", 68)
LOADERS = Loaders("amd64", bios="/bios", uefi="/uefi", http="/http", ipxe="/ipxe")


def find_loaders(client: Client) -> Loaders:
    if client.mac == B:
        raise Refused("not in the inventory")
    return LOADERS


def make(*, full: bool = True, size: int = 2, **options: Any) -> DhcpServer:
    table = LeaseTable("10.9.1.1", f"10.9.1.{size}", **options)
    pool = Pool(table, Network(ipaddress.IPv4Network("10.9.0.0/16")), 3600)
    return DhcpServer(find_loaders, http_port=8080, pool=pool if full else None)


def ask(kind: MessageType, mac: str = A, *, pxe: bool = False, **fields: Any) -> Message:
    options: dict[int, bytes] = {Option.MESSAGE_TYPE: bytes((kind,))}
    for name, option in (("wanted", Option.REQUESTED_ADDRESS), ("server", Option.SERVER_ID)):
        if name in fields:
            options[option] = packed(fields.pop(name))
    if pxe:
        options[Option.VENDOR_CLASS] = b"PXEClient:Arch:00000:UNDI:002001"
        options[Option.ARCHITECTURE] = b"\0\0"
    return Message(op=1, xid=5, mac=mac, options=options, **fields)


def send(
    server: DhcpServer, request: Message | bytes, now: float = 1000.0, port: int = 67
) -> Outcome:
    data = pack(request) if isinstance(request, Message) else request
    return server.receive(now, data, ("0.0.0.0" if port == 67 else "10.9.1.1", 68), port, SERVER)


def test_a_broken_message_is_told_by_whose_it_is() -> None:
    whole = pack(ask(MessageType.DISCOVER))
    cut = whole[:240] + b"\x0c\x0anode"  # option 12 says 10 and has 4, before option 53
    (event,) = send(make(), cut).events
    assert (event.node, event.detail["cause"]) == (A, "malformed")
    assert "option 12" in str(event.detail["message"])


@pytest.mark.parametrize("pxe", [True, False])
def test_a_card_that_no_machine_has_gets_nothing_and_has_no_timeline(pxe: bool) -> None:
    for mac in ("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"):
        server = make()
        outcome = send(server, ask(MessageType.DISCOVER, mac, pxe=pxe))
        assert outcome.send is None
        told = [(event.node, f"{mac} as its card" in str(event.detail)) for event in outcome.events]
        assert told == ([("", True)] if pxe else []), "all sorts of broadcasts arrive there"


def test_firmware_that_gets_no_answer_is_told_of() -> None:
    def tell(position: int, byte: int, *, pxe: bool = True) -> list[tuple[str, str]]:
        data = bytearray(pack(ask(MessageType.DISCOVER, pxe=pxe)))
        data[position] = byte
        events = send(make(), bytes(data)).events
        return [(event.node, str(event.detail["message"])) for event in events]

    ((node, words),) = tell(2, 16)
    assert node == ""
    assert "addresses of 16 bytes is not Ethernet" in words
    ((node, words),) = tell(242, 99)
    assert node == A
    assert "no DHCP message type" in words
    assert tell(2, 16, pxe=False) == tell(242, 99, pxe=False) == []


def test_a_card_of_ieee_802_is_answered_as_such() -> None:
    request = ask(MessageType.DISCOVER, pxe=True, htype=6)
    outcome = send(make(), request)
    assert outcome.send is not None
    assert outcome.send[0][1] == 6, "as it called itself (RFC 1700)"
    assert get(outcome).file == b"/bios"


def test_an_architecture_with_its_bytes_the_other_way_round() -> None:
    vendor = b"PXEClient:Arch:00007:UNDI:003016"
    for raw, file in ((b"\7\0", b"/uefi"), (b"\0\7", b"/uefi"), (b"", b"/uefi"), (b"\0", b"/uefi")):
        request = ask(MessageType.DISCOVER)
        options = {**request.options, Option.VENDOR_CLASS: vendor, Option.ARCHITECTURE: raw}
        assert get(send(make(), replace(request, options=options))).file == file
    options = {**options, Option.VENDOR_CLASS: b"PXEClient", Option.ARCHITECTURE: b"\7\0"}
    (event,) = send(make(full=False), replace(request, options=options)).events
    assert "architecture 1792" in str(event.detail), "what it said, where nothing else says more"


def get(outcome: Outcome) -> Message:
    assert outcome.send is not None
    return unpack(outcome.send[0])


def join(server: DhcpServer, mac: str = A, now: float = 1000.0) -> str:
    address = get(send(server, ask(MessageType.DISCOVER, mac), now)).yiaddr
    request = ask(MessageType.REQUEST, mac, wanted=address, server=SERVER)
    ack = get(send(server, request, now))
    assert (ack.type, ack.yiaddr) == (MessageType.ACK, address)
    return address


def test_a_machine_gets_an_address_and_keeps_it() -> None:
    server = make()
    address = join(server)
    outcome = send(server, ask(MessageType.REQUEST, ciaddr=address), 2000)
    assert get(outcome).type == MessageType.ACK
    assert outcome.send is not None
    assert outcome.send[1] == (address, 68)
    assert join(server, A, 2000) == address


def test_rebooting_with_a_known_address_is_granted_and_with_anothers_refused() -> None:
    server = make()
    mine, other = join(server), join(server, B)
    assert get(send(server, ask(MessageType.REQUEST, wanted=mine))).type == MessageType.ACK
    assert get(send(server, ask(MessageType.REQUEST, wanted=other))).type == MessageType.NAK


def test_rebooting_on_another_network_is_refused_so_that_it_asks_anew() -> None:
    outcome = send(make(), ask(MessageType.REQUEST, wanted="192.168.1.5"))
    assert get(outcome).type == MessageType.NAK
    assert outcome.send is not None
    assert outcome.send[1] == BROADCAST
    assert "192.168.1.5 is not of this network" in str(outcome.events[0].detail["message"])


def test_rebooting_unknown_is_met_with_silence() -> None:
    """RFC 2131, section 4.3.2: no record, no answer."""
    assert send(make(), ask(MessageType.REQUEST, wanted="10.9.1.1")) == Outcome()


def test_a_renewal_that_the_server_has_forgotten_is_taken_over_when_free() -> None:
    server = make()
    assert get(send(server, ask(MessageType.REQUEST, ciaddr="10.9.1.2"))).yiaddr == "10.9.1.2"
    refused = send(server, ask(MessageType.REQUEST, B, ciaddr="10.9.1.2"))
    assert get(refused).type == MessageType.NAK


def test_choosing_another_server_frees_the_offer_and_is_told() -> None:
    server = make(size=1)
    send(server, ask(MessageType.DISCOVER))
    outcome = send(server, ask(MessageType.REQUEST, wanted="10.9.3.3", server=OTHER))
    assert outcome.send is None
    assert f"another DHCP server, {OTHER}" in str(outcome.events[0].detail["message"])
    assert get(send(server, ask(MessageType.DISCOVER, B))).yiaddr == "10.9.1.1"


def test_an_empty_range_is_told() -> None:
    server = make(size=1)
    join(server)
    outcome = send(server, ask(MessageType.DISCOVER, B))
    assert outcome.send is None
    assert "no address is left" in str(outcome.events[0].detail["message"])


def test_decline_sets_an_address_aside_and_is_told() -> None:
    server = make()
    bad = join(server)
    outcome = send(server, ask(MessageType.DECLINE, wanted=bad, server=SERVER))
    assert outcome.send is None
    assert f"{bad} is used by another machine" in str(outcome.events[0].detail["message"])
    assert join(server) != bad


def test_release_frees_the_address_of_its_owner_only() -> None:
    server = make(size=1)
    mine = join(server)
    assert send(server, ask(MessageType.RELEASE, B, ciaddr=mine)) == Outcome()
    assert send(server, ask(MessageType.DISCOVER, B)).send is None
    assert send(server, ask(MessageType.RELEASE, ciaddr=mine)).events[0].detail["address"] == mine
    assert get(send(server, ask(MessageType.DISCOVER, B))).yiaddr == mine


def test_inform_is_answered_to_the_asker_without_a_lease() -> None:
    outcome = send(make(), ask(MessageType.INFORM, ciaddr="10.9.77.1"))
    assert get(outcome).yiaddr == "0.0.0.0"
    assert outcome.send is not None
    assert outcome.send[1] == ("10.9.77.1", 68)
    assert send(make(), ask(MessageType.INFORM)) == Outcome()


def test_a_relay_of_another_network_is_not_served() -> None:
    server = make()
    assert send(server, ask(MessageType.DISCOVER, giaddr="10.8.0.1")) == Outcome()
    dropped = send(server, ask(MessageType.DISCOVER, giaddr="10.8.0.1", pxe=True))
    assert dropped.send is None
    assert dropped.events[0].detail["status"] == "error"
    said = str(dropped.events[0].detail["message"])
    assert said.startswith("its relay 10.8.0.1 is not in 10.9.0.0/16: only there does")
    outcome = send(server, ask(MessageType.DISCOVER, giaddr="10.9.7.1"))
    assert outcome.send is not None
    assert outcome.send[1] == ("10.9.7.1", 67)


def test_a_refused_machine_gets_an_address_on_a_bench_and_no_loader() -> None:
    outcome = send(make(), ask(MessageType.DISCOVER, B, pxe=True))
    assert get(outcome).file == b""
    assert outcome.events[0].detail["message"] == "not in the inventory"


def test_proxy_mode_answers_network_boot_alone_and_gives_no_address() -> None:
    server = make(full=False)
    assert send(server, ask(MessageType.DISCOVER)) == Outcome()
    assert send(server, ask(MessageType.INFORM, ciaddr="10.9.1.1")) == Outcome()
    outcome = send(server, ask(MessageType.DISCOVER, pxe=True))
    assert (get(outcome).yiaddr, get(outcome).file) == ("0.0.0.0", b"/bios")
    event = outcome.events[0]
    assert (event.time, event.node, event.source, event.phase) == (1000.0, A, "dhcp", "dhcp")
    assert event.detail["firmware"] == "x86 BIOS"
    refused = send(server, ask(MessageType.DISCOVER, B, pxe=True))
    assert refused.send is None
    assert refused.events[0].detail["message"] == "not in the inventory"


@pytest.mark.parametrize("full", [True, False])
def test_port_4011_is_the_boot_server_in_both_modes(full: bool) -> None:
    outcome = send(
        make(full=full), ask(MessageType.REQUEST, pxe=True, ciaddr="10.9.1.1"), port=4011
    )
    assert (get(outcome).type, get(outcome).yiaddr) == (MessageType.ACK, "0.0.0.0")
    assert outcome.send is not None
    assert outcome.send[1] == ("10.9.1.1", 68)


def test_port_4011_does_not_answer_who_has_no_address() -> None:
    request = pack(ask(MessageType.REQUEST, pxe=True))
    assert make().receive(0, request, ("0.0.0.0", 68), 4011, SERVER) == Outcome()


@settings(deadline=None)
@given(st.binary(max_size=600), st.sampled_from([67, 4011]), st.booleans())
def test_any_bytes_are_answered_or_dropped(data: bytes, port: int, full: bool) -> None:
    whole = pack(ask(MessageType.DISCOVER, pxe=True))
    for candidate in (data, whole[:240] + data, data[:40] + whole[40:]):
        send(make(full=full), candidate, port=port)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_requests_are_answered_or_dropped(seed: int) -> None:
    """Each byte of a real exchange may be anything."""
    random_ = random.Random(seed)
    server = make(size=9)
    requests = [
        pack(ask(MessageType.DISCOVER, pxe=True)),
        pack(ask(MessageType.REQUEST, wanted="10.9.1.1", server=SERVER)),
        pack(ask(MessageType.DECLINE, wanted="10.9.1.1", server=SERVER)),
        pack(ask(MessageType.RELEASE, ciaddr="10.9.1.1")),
    ]
    for _ in range(200):
        damaged = bytearray(random_.choice(requests))
        for _ in range(random_.randint(1, 8)):
            damaged[random_.randrange(len(damaged))] = random_.randrange(256)
        outcome = send(server, bytes(damaged[: random_.randint(1, len(damaged))]))
        if outcome.send is not None:
            unpack(outcome.send[0])


def worst_request(full: bool) -> Message:
    """The shortest request that is answered with all that there is to say."""
    if full:
        return ask(MessageType.DISCOVER)
    return replace(
        ask(MessageType.DISCOVER),
        options={Option.MESSAGE_TYPE: b"\x01", Option.VENDOR_CLASS: b"PXEClient:Arch:00000"},
    )


@pytest.mark.parametrize("full", [False, True])
def test_it_is_no_amplifier(full: bool) -> None:
    """Bytes out for a byte in, for the shortest request that gets an answer."""
    padded = pack(worst_request(full))
    shortest = padded.rstrip(b"\0")
    outcome = send(make(full=full), shortest)
    assert outcome.send is not None
    assert len(outcome.send[0]) / len(shortest) < 1.3
