import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.dhcp import (
    Firmware,
    Grant,
    Loaders,
    Network,
    Plan,
    Reply,
    Silence,
    answer,
    identify,
    route,
)
from server.protocols.dhcp_wire import (
    Message,
    MessageType,
    Option,
    pack,
    unpack,
    unpack_suboptions,
)

SERVER = "10.9.0.1"
MAC = "52:54:00:ca:97:01"
UUID = bytes.fromhex("0067452301ab89de4c8f0123456789abcd")
LOADERS = Loaders(
    "amd64",
    bios="/ltsp/amd64/grub/i386-pc/core.0",
    uefi="/ltsp/amd64/grub/x86_64-efi/core.efi",
    http="/ltsp/amd64/grub/x86_64-efi/core.efi",
    ipxe="/ltsp/amd64/boot.ipxe",
)
PLAN = Plan(SERVER, loaders=LOADERS)
BOOT_SERVER = replace(PLAN, port=4011)
GRANT = Grant(
    "10.9.1.7",
    3600,
    Network(
        ipaddress.IPv4Network("10.9.0.0/16"), "10.9.0.254", ("10.9.0.1", "10.9.0.2"), "farm.test"
    ),
    "node7",
)
FULL = replace(PLAN, grant=GRANT)
IPXE: dict[int, bytes] = {Option.USER_CLASS: b"iPXE", Option.IPXE: b"\x13\x01\x01\xff"}


def ask(
    kind: MessageType = MessageType.DISCOVER,
    architecture: int | None = None,
    vendor: str = "PXEClient",
    extra: Mapping[Any, bytes] | None = None,
    **fields: Any,
) -> Message:
    options: dict[int, bytes] = {Option.MESSAGE_TYPE: bytes((kind,))}
    if architecture is not None:
        options[Option.VENDOR_CLASS] = f"{vendor}:Arch:{architecture:05}:UNDI:003001".encode()
        options[Option.ARCHITECTURE] = architecture.to_bytes(2, "big")
        options[Option.NETWORK_INTERFACE] = b"\x01\x03\x01"
        options[Option.MACHINE_ID] = UUID
    options.update(extra or {})
    return Message(op=1, xid=99, mac=MAC, flags=0x8000, options=options, **fields)


def get_reply(request: Message, plan: Plan = PLAN) -> Reply:
    decision = answer(request, plan)
    assert isinstance(decision, Reply), decision
    assert unpack(pack(decision.message)) == decision.message
    return decision


def get_silence(request: Message, plan: Plan = PLAN) -> Silence:
    decision = answer(request, plan)
    assert isinstance(decision, Silence), decision
    return decision


# proxyDHCP


def test_bios_is_told_the_file_in_the_offer_and_to_skip_discovery() -> None:
    message = get_reply(ask(architecture=0)).message
    assert message.type == MessageType.OFFER
    assert message.file == b"/ltsp/amd64/grub/i386-pc/core.0"
    assert (message.siaddr, message.yiaddr, message.ciaddr) == (SERVER, "0.0.0.0", "0.0.0.0")
    assert message.options[Option.VENDOR_CLASS] == b"PXEClient"
    assert message.options[Option.SERVER_ID] == bytes((10, 9, 0, 1))
    assert message.options[Option.MACHINE_ID] == UUID
    assert message.options[Option.VENDOR] == b"\x06\x01\x08\xff"
    assert (message.xid, message.mac, message.flags) == (99, MAC, 0x8000)


@pytest.mark.parametrize("architecture", [7, 9])
def test_uefi_is_given_no_option_43_so_that_it_asks_port_4011(architecture: int) -> None:
    offer = get_reply(ask(architecture=architecture)).message
    assert Option.VENDOR not in offer.options
    assert offer.options[Option.VENDOR_CLASS] == b"PXEClient"
    request = ask(MessageType.REQUEST, architecture, ciaddr="10.9.1.7")
    ack = get_reply(request, BOOT_SERVER).message
    assert ack.type == MessageType.ACK
    assert ack.file == b"/ltsp/amd64/grub/x86_64-efi/core.efi"
    assert (ack.siaddr, ack.ciaddr, ack.yiaddr) == (SERVER, "10.9.1.7", "0.0.0.0")


def test_http_boot_is_told_a_uri_in_option_67_and_its_own_class() -> None:
    message = get_reply(ask(architecture=16, vendor="HTTPClient")).message
    assert message.options[Option.VENDOR_CLASS] == b"HTTPClient"
    uri = b"http://10.9.0.1:8080/ltsp/amd64/grub/x86_64-efi/core.efi"
    assert message.options[Option.BOOT_FILE] == uri
    assert message.file == b""
    assert Option.VENDOR not in message.options


def test_http_boot_without_an_http_server_is_silence_that_is_told() -> None:
    silence = get_silence(ask(architecture=16, vendor="HTTPClient"), replace(PLAN, http_port=None))
    assert "choose PXE in the firmware" in silence.reason
    assert silence.detail["status"] == "error"


@pytest.mark.parametrize("architecture", [0, 7])
@pytest.mark.parametrize("user_class", [b"iPXE", b"\x04iPXE"])
def test_ipxe_with_http_gets_the_script(architecture: int, user_class: bytes) -> None:
    message = get_reply(
        ask(architecture=architecture, extra={**IPXE, Option.USER_CLASS: user_class})
    ).message
    assert message.file == b"http://10.9.0.1:8080/ltsp/amd64/boot.ipxe"


def test_ipxe_is_known_by_option_175_alone() -> None:
    message = get_reply(ask(architecture=0, extra={Option.IPXE: b"\x13\x01\x01"})).message
    assert message.file.endswith(b"boot.ipxe")


@pytest.mark.parametrize(
    "extra",
    [
        {Option.USER_CLASS: b"iPXE"},
        {**IPXE, Option.IPXE: b"\x13\x01\x00"},
        {Option.IPXE: b"\x15\x01\x01"},
    ],
)
def test_ipxe_without_http_gets_the_loader_of_its_firmware(extra: dict[int, bytes]) -> None:
    assert (
        get_reply(ask(architecture=0, extra=extra)).message.file
        == b"/ltsp/amd64/grub/i386-pc/core.0"
    )


@pytest.mark.parametrize(
    ("architecture", "vendor", "words"),
    [
        (11, "PXEClient", "UEFI ARM 64-bit"),
        (6, "PXEClient", "UEFI IA32"),
        (19, "HTTPClient", "UEFI ARM 64-bit HTTP boot"),
        (0, "HTTPClient", "x86 BIOS"),
        (16, "PXEClient", "UEFI x64 HTTP boot"),
        (4711, "PXEClient", "architecture 4711"),
    ],
)
def test_other_firmware_gets_no_loader_and_a_line_that_says_so(
    architecture: int, vendor: str, words: str
) -> None:
    silence = get_silence(ask(architecture=architecture, vendor=vendor))
    assert silence.reason.startswith(f"no loader for {words}: ")
    assert silence.detail["message"] == silence.reason
    assert silence.detail["status"] == "error"
    assert silence.detail["architecture"] == architecture


def test_the_first_bootable_of_several_architectures_counts() -> None:
    extra = {Option.ARCHITECTURE: b"\x00\x0b\x00\x07\x00\x00"}
    assert get_reply(ask(architecture=7, extra=extra)).message.file.endswith(b"core.efi")


@pytest.mark.parametrize("raw", [b"", b"\0"])
def test_a_rom_without_option_93_is_known_by_its_class(raw: bytes) -> None:
    request = ask(architecture=7)
    options = {**request.options, Option.ARCHITECTURE: raw}
    assert identify(replace(request, options=options)).firmware is Firmware.UEFI


def test_an_unlisted_machine_is_refused_in_the_operators_words() -> None:
    plan = Plan(SERVER, refusal="not in the inventory")
    silence = get_silence(ask(architecture=0), plan)
    assert silence.reason == "not in the inventory"
    assert silence.detail["message"] == "not in the inventory"


@pytest.mark.parametrize("kind", list(MessageType))
@pytest.mark.parametrize("port", [67, 4011])
def test_what_does_not_boot_from_the_network_is_left_to_others(
    kind: MessageType, port: int
) -> None:
    silence = get_silence(ask(kind), replace(PLAN, port=port))
    assert not silence.detail


def test_the_request_to_the_sites_server_is_not_answered_but_its_address_is_seen() -> None:
    chosen = {
        Option.REQUESTED_ADDRESS: bytes((10, 9, 1, 7)),
        Option.SERVER_ID: bytes((10, 9, 0, 2)),
    }
    silence = get_silence(ask(MessageType.REQUEST, 7, extra=chosen))
    assert silence.detail["address"] == "10.9.1.7"
    assert silence.detail["dhcp_server"] == "10.9.0.2"


def test_a_boot_item_is_echoed_to_bios() -> None:
    extra = {Option.VENDOR: b"\x47\x04\x80\x00\x00\x00\xff"}
    request = ask(MessageType.REQUEST, 0, extra=extra, ciaddr="10.9.1.7")
    ack = get_reply(request, BOOT_SERVER).message
    assert unpack_suboptions(ack.options[Option.VENDOR]) == {6: b"\x08", 71: b"\x80\0\0\0"}


@pytest.mark.parametrize("kind", [MessageType.DISCOVER, MessageType.OFFER, MessageType.RELEASE])
def test_port_4011_answers_requests_only(kind: MessageType) -> None:
    get_silence(ask(kind, 0), BOOT_SERVER)


def test_a_reply_is_never_answered() -> None:
    get_silence(replace(ask(architecture=0), op=2))


@given(
    kind=st.sampled_from(MessageType),
    architecture=st.one_of(st.none(), st.integers(0, 30)),
    vendor=st.sampled_from(["PXEClient", "HTTPClient"]),
    port=st.sampled_from([67, 4011]),
    extra=st.dictionaries(
        st.sampled_from([12, 43, 50, 54, 55, 60, 61, 77, 82, 93, 97, 175]),
        st.binary(max_size=40),
    ),
    ciaddr=st.sampled_from(["0.0.0.0", "10.9.1.7"]),
)
def test_proxy_mode_gives_no_address_and_no_network_on_any_request(
    kind: MessageType,
    architecture: int | None,
    vendor: str,
    port: int,
    extra: dict[int, bytes],
    ciaddr: str,
) -> None:
    request = ask(kind, architecture, vendor, extra, ciaddr=ciaddr)
    decision = answer(request, replace(PLAN, port=port))
    if isinstance(decision, Reply):
        assert decision.message.yiaddr == "0.0.0.0"
        assert not {1, 3, 6, 15, 28, 51, 58, 59} & set(decision.message.options)
        reply, whole = pack(decision.message), pack(request)
        assert len(reply) <= len(whole) + 120


# machine id


def test_the_machine_id_is_smbios_order() -> None:
    assert identify(ask(architecture=0)).uuid == "01234567-89ab-4cde-8f01-23456789abcd"


@pytest.mark.parametrize("raw", [b"", b"\0", b"\0" * 17, b"\0" + b"\xff" * 16, b"\1" + UUID[1:]])
def test_a_machine_id_that_is_none_does_not_stop_the_boot(raw: bytes) -> None:
    reply = get_reply(ask(architecture=0, extra={Option.MACHINE_ID: raw}))
    assert "uuid" not in reply.detail
    assert reply.message.options[Option.MACHINE_ID] == raw


# full mode


def test_full_mode_gives_address_network_and_loader_in_one_offer() -> None:
    reply = get_reply(ask(architecture=7), FULL)
    message = reply.message
    assert message.type == MessageType.OFFER
    assert (message.yiaddr, message.siaddr) == ("10.9.1.7", SERVER)
    assert message.file.endswith(b"core.efi")
    options = message.options
    assert options[Option.SUBNET_MASK] == bytes((255, 255, 0, 0))
    assert options[Option.BROADCAST_ADDRESS] == bytes((10, 9, 255, 255))
    assert options[Option.ROUTER] == bytes((10, 9, 0, 254))
    assert options[Option.DNS] == bytes((10, 9, 0, 1, 10, 9, 0, 2))
    assert options[Option.DOMAIN] == b"farm.test"
    assert options[Option.HOSTNAME] == b"node7"
    assert int.from_bytes(options[Option.LEASE_SECONDS], "big") == 3600
    assert int.from_bytes(options[Option.RENEWAL_SECONDS], "big") == 1800
    assert int.from_bytes(options[Option.REBINDING_SECONDS], "big") == 3150
    # An address with class PXEClient would send UEFI to port 4011 first.
    assert Option.VENDOR_CLASS not in options
    assert reply.detail["address"] == "10.9.1.7"


def test_full_mode_names_the_class_to_http_boot_which_wants_it() -> None:
    message = get_reply(ask(architecture=16, vendor="HTTPClient"), FULL).message
    assert message.options[Option.VENDOR_CLASS] == b"HTTPClient"
    assert message.options[Option.BOOT_FILE].startswith(b"http://10.9.0.1:8080/")


def test_full_mode_tells_ipxe_not_to_wait_for_proxies() -> None:
    message = get_reply(ask(architecture=0, extra=IPXE), FULL).message
    assert unpack_suboptions(message.options[Option.IPXE]) == {0xB0: b"\x01"}


def test_full_mode_serves_a_machine_that_does_not_boot_from_the_network() -> None:
    reply = get_reply(ask(MessageType.REQUEST), FULL)
    assert reply.message.type == MessageType.ACK
    assert (reply.message.file, reply.message.siaddr) == (b"", "0.0.0.0")
    assert reply.detail["status"] == "ok"


def test_full_mode_gives_an_address_without_a_loader_and_says_so() -> None:
    reply = get_reply(ask(architecture=11), FULL)
    assert reply.message.yiaddr == "10.9.1.7"
    assert reply.message.file == b""
    assert reply.detail["status"] == "error"
    assert "UEFI ARM 64-bit" in str(reply.detail["message"])


def test_an_answer_to_inform_holds_no_lease() -> None:
    plan = replace(PLAN, grant=replace(GRANT, address="", seconds=0))
    message = get_reply(ask(MessageType.INFORM, ciaddr="10.9.1.7"), plan).message
    assert message.type == MessageType.ACK
    assert (message.yiaddr, message.ciaddr) == ("0.0.0.0", "10.9.1.7")
    assert not {51, 58, 59} & set(message.options)
    assert message.options[Option.SUBNET_MASK] == bytes((255, 255, 0, 0))


def test_a_refusal_says_why() -> None:
    plan = replace(PLAN, nak="10.8.0.1 is not of this network")
    reply = get_reply(ask(MessageType.REQUEST, giaddr="10.9.7.1"), plan)
    assert reply.message.type == MessageType.NAK
    assert reply.message.options[Option.MESSAGE] == b"10.8.0.1 is not of this network"
    assert reply.message.flags & 0x8000
    assert reply.detail["status"] == "error"


def test_a_file_name_longer_than_the_field_goes_into_option_67() -> None:
    loaders = replace(LOADERS, bios="/" + "x" * 130)
    message = get_reply(ask(architecture=0), replace(PLAN, loaders=loaders)).message
    assert message.file == b""
    assert message.options[Option.BOOT_FILE] == b"/" + b"x" * 130 + b"\0"


# where replies go


@pytest.mark.parametrize(
    ("fields", "plan", "expected"),
    [
        ({}, PLAN, ("255.255.255.255", 68)),
        ({"giaddr": "10.8.0.1"}, PLAN, ("10.8.0.1", 67)),
        ({"ciaddr": "10.9.1.7"}, FULL, ("10.9.1.7", 68)),
        ({"ciaddr": "10.9.1.7"}, replace(PLAN, nak="no"), ("255.255.255.255", 68)),
        ({"ciaddr": "10.9.1.7"}, BOOT_SERVER, ("10.9.1.7", 1234)),
    ],
)
def test_where_a_reply_goes(fields: dict[str, Any], plan: Plan, expected: tuple[str, int]) -> None:
    kind = MessageType.DISCOVER if plan is PLAN else MessageType.REQUEST
    request = ask(kind, 0, **fields)
    reply = get_reply(request, plan).message
    assert route(request, reply, ("10.9.1.7", 1234), plan.port) == expected


def test_relay_information_is_echoed_last() -> None:
    request = ask(architecture=7, extra={Option.RELAY_AGENT: b"\x01\x02ab"}, giaddr="10.8.0.1")
    reply = get_reply(request)
    assert list(reply.message.options)[-1] == Option.RELAY_AGENT
    assert reply.message.options[Option.RELAY_AGENT] == b"\x01\x02ab"
    assert reply.message.giaddr == "10.8.0.1"
    assert reply.detail["relay"] == "10.8.0.1"


def test_an_arm64_machine_is_given_its_own_loaders_alone() -> None:
    arm = Loaders("arm64", uefi="/arm.efi", http="/arm.efi", ipxe="/arm", architecture="arm64")
    plan = replace(PLAN, loaders=arm)
    assert get_reply(ask(architecture=11), plan).message.file == b"/arm.efi"
    http = get_reply(ask(architecture=19, vendor="HTTPClient"), plan).message
    assert http.options[Option.BOOT_FILE] == b"http://10.9.0.1:8080/arm.efi"
    card = get_reply(ask(architecture=11, extra=IPXE), plan).message
    assert card.file == b"http://10.9.0.1:8080/arm"
    for architecture, other in ((11, PLAN), (7, plan), (0, plan)):
        silence = answer(ask(architecture=architecture), other)
        assert isinstance(silence, Silence)
        assert silence.detail["cause"] == "architecture"
    full = get_reply(ask(architecture=11), replace(plan, grant=GRANT)).message
    assert (full.file, full.yiaddr) == (b"/arm.efi", "10.9.1.7")
