"""What the played machine says is what the server's own core understands; what it hears is read."""

import ipaddress

import pytest

from server.doctor.dhcpclient import (
    BIOS,
    IPXE,
    PLAIN,
    PROFILES,
    UEFI,
    UEFI_HTTP,
    Answer,
    Conversation,
    Profile,
    make_mac,
    make_request,
    needs_boot_server,
    read_frame,
)
from server.protocols.dhcp import Client, Firmware, Loaders, Plan, Reply, answer, identify
from server.protocols.dhcp_wire import Message, MessageType, Op, Option, pack, unpack

MAC = "02:bf:00:00:00:01"
SERVER = "10.9.0.1"
LOADERS = Loaders("amd64", bios="/bios", uefi="/uefi", http="/http", ipxe="/ipxe")


@pytest.mark.parametrize(
    ("profile", "firmware", "ipxe"),
    [
        (BIOS, Firmware.BIOS, False),
        (UEFI, Firmware.UEFI, False),
        (UEFI_HTTP, Firmware.UEFI_HTTP, False),
        (IPXE, Firmware.BIOS, True),
        (PLAIN, None, False),
    ],
)
def test_the_server_understands_each_machine(
    profile: Profile, firmware: Firmware | None, ipxe: bool
) -> None:
    message = unpack(make_request(profile, MAC, 7))
    client = identify(message)
    assert (client.firmware, client.ipxe, client.ipxe_http) == (firmware, ipxe, ipxe)
    assert (message.type, message.mac, message.xid) == (MessageType.DISCOVER, MAC, 7)
    assert message.flags == 0x8000
    assert isinstance(client, Client)
    assert (client.uuid is None) == (profile is PLAIN)


def test_no_request_ever_asks_for_an_address() -> None:
    for profile in PROFILES:
        for request in (
            make_request(profile, MAC, 1),
            make_request(profile, MAC, 1, ciaddr="1.2.3.4"),
        ):
            message = unpack(request)
            assert Option.REQUESTED_ADDRESS not in message.options
            assert Option.SERVER_ID not in message.options
            # REQUEST goes to port 4011 alone, from an address that this machine has.
            assert (message.type == MessageType.REQUEST) == (message.ciaddr == "1.2.3.4")


def talk(conversation: Conversation, plan: Plan) -> None:
    """Each DISCOVER is answered by the server's core; then port 4011."""
    for request in conversation.discovers():
        reply = answer(unpack(request), plan)
        if isinstance(reply, Reply):
            assert conversation.take(pack(reply.message), SERVER)
    for server, request in conversation.boot_requests("10.9.0.9"):
        reply = answer(unpack(request), Plan(server, port=4011, loaders=plan.loaders))
        assert isinstance(reply, Reply)
        assert conversation.take(pack(reply.message), server, boot_server=True)


def test_our_own_proxy_is_understood() -> None:
    conversation = Conversation(MAC, 0xFFFFFFFE)  # ids wrap
    talk(conversation, Plan(SERVER, loaders=LOADERS))
    files = {profile: [a.file for a in found] for profile, found in conversation.answers.items()}
    base = f"http://{SERVER}:8080"
    assert files == {
        BIOS: ["/bios"],
        UEFI: ["/uefi"],
        UEFI_HTTP: [f"{base}/http"],
        IPXE: [f"{base}/ipxe"],
    }
    assert [a.file for a in conversation.boot_server[UEFI]] == ["/uefi"]
    assert set(conversation.boot_server) == {UEFI}
    (bios,) = conversation.answers[BIOS]
    assert bios.uses_file
    assert bios.describe() == (
        "10.9.0.1, is a proxy, names /bios, next-server 10.9.0.1, option 60 PXEClient,"
        f" option 43 060108ff, option 97 {bios.message.options[97].hex()}"
    )
    assert conversation.answers[UEFI_HTTP][0].host == SERVER


def offer(request: bytes, **fields: object) -> bytes:
    asked = unpack(request)
    options = {Option.MESSAGE_TYPE: bytes((MessageType.OFFER,))}
    base = {"op": Op.REPLY, "xid": asked.xid, "mac": asked.mac, "options": options}
    return pack(Message(**{**base, **fields}))  # type: ignore[arg-type]


def test_what_is_not_an_answer_to_us_is_left_alone() -> None:
    conversation = Conversation(MAC, 100)
    request = conversation.discovers()[0]
    assert not conversation.take(b"junk", SERVER)
    assert not conversation.take(request, SERVER)
    assert not conversation.take(offer(request, xid=99), SERVER)
    assert not conversation.take(offer(request, xid=100 + len(PROFILES)), SERVER)
    assert not conversation.take(offer(request, mac="52:54:00:00:00:01"), SERVER)
    assert not conversation.take(offer(request), SERVER, boot_server=True)
    assert conversation.take(offer(request), SERVER)
    assert not conversation.take(offer(request), SERVER), "the answer to a retransmission"
    assert conversation.take(offer(request), "10.9.0.2")
    assert [a.server for a in conversation.answers[BIOS]] == [SERVER, "10.9.0.2"]


@pytest.mark.parametrize(
    ("options", "fields", "host", "file"),
    [
        ({67: b"a.efi\0", 66: b"10.9.0.7\0"}, {}, "10.9.0.7", "a.efi"),
        ({67: b"other"}, {"file": b"core.0", "siaddr": "10.9.0.3"}, "10.9.0.3", "core.0"),
        ({67: b"http://10.9.0.5:80/x"}, {"siaddr": "10.9.0.3"}, "10.9.0.5", "http://10.9.0.5:80/x"),
        ({}, {"file": b"x", "sname": b"tftp"}, "tftp", "x"),
        ({}, {"file": b"x"}, "", "x"),
    ],
)
def test_where_the_loader_is(
    options: dict[int, bytes], fields: dict[str, object], host: str, file: str
) -> None:
    message = Message(op=2, xid=1, mac=MAC, options={53: b"\x02", **options}, **fields)  # type: ignore[arg-type]
    found = Answer(SERVER, unpack(pack(message)))
    assert (found.host, found.file) == (host, file)


def test_uefi_asks_4011_of_a_proxy_and_bios_only_without_a_file() -> None:
    def proxy(file: bytes, options: dict[int, bytes], yiaddr: str = "0.0.0.0") -> Answer:
        base = {53: b"\x02", 60: b"PXEClient"}
        message = Message(2, 1, MAC, yiaddr=yiaddr, file=file, options={**base, **options})
        return Answer(SERVER, message)

    assert needs_boot_server(UEFI, proxy(b"/uefi", {}))
    assert not needs_boot_server(UEFI, proxy(b"/uefi", {43: b"\x06\x01\x08\xff"}))
    assert not needs_boot_server(UEFI, proxy(b"/uefi", {}, "10.9.0.50"))
    assert not needs_boot_server(BIOS, proxy(b"/bios", {}))
    assert needs_boot_server(BIOS, proxy(b"", {}))
    assert not needs_boot_server(IPXE, proxy(b"", {}))


def make_frame(payload: bytes, *, protocol: int = 17, fragment: int = 0, port: int = 68) -> bytes:
    udp = b"\0\x43" + port.to_bytes(2, "big") + (len(payload) + 8).to_bytes(2, "big") + b"\0\0"
    head = bytearray(20)
    head[0], head[9] = 0x45, protocol
    head[6:8] = fragment.to_bytes(2, "big")
    head[12:16] = ipaddress.IPv4Address(SERVER).packed
    return b"\xff" * 12 + b"\x08\0" + bytes(head) + udp + payload + b"padding"


def test_frames() -> None:
    assert read_frame(make_frame(b"hello")) == (SERVER, 68, b"hello")
    assert read_frame(make_frame(b"hello", port=4011)) == (SERVER, 4011, b"hello")
    assert read_frame(make_frame(b"hello", protocol=6)) is None
    assert read_frame(make_frame(b"hello", fragment=5)) is None
    assert read_frame(b"\0" * 60) is None
    whole = make_frame(b"")
    for length in range(42):
        assert read_frame(whole[:length]) is None


def test_the_machine_is_the_same_every_time_and_nobodys() -> None:
    mac = make_mac("seed")
    assert mac == make_mac("seed") != make_mac("other")
    assert int(mac[:2], 16) & 3 == 2, "locally administered, of one machine"
