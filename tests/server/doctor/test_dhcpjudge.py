"""Each fault of a site's DHCP, as packets, and the verdict on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from server.doctor.dhcpclient import (
    BIOS,
    IPXE,
    OTHERS,
    PLAIN,
    PROFILES,
    UEFI,
    UEFI_HTTP,
    Conversation,
    Profile,
)
from server.doctor.dhcpjudge import find_loader, judge
from server.doctor.verdict import Level
from server.protocols.dhcp import Plan
from server.protocols.dhcp_wire import Message, MessageType, Op, pack, packed
from tests.server.doctor.test_dhcpclient import LOADERS, MAC, SERVER, talk

SITE = "10.9.0.2"
MASK = bytes((255, 255, 0, 0))


def answer(conversation: Conversation, source: str, profile: Profile, **fields: Any) -> None:
    """One offer to one machine (from port 4011: boot_server=True)."""
    boot_server = fields.pop("boot_server", False)
    options = {
        53: bytes((MessageType.ACK if boot_server else MessageType.OFFER,)),
        54: packed(source),
        **fields.pop("options", {}),
    }
    xid = conversation.first_xid + PROFILES.index(profile)
    message = Message(Op.REPLY, xid, MAC, options=options, **fields)
    assert conversation.take(pack(message), source, boot_server=boot_server)


def gives(conversation: Conversation, source: str = SITE, **fields: Any) -> None:
    """A server that gives every machine an address."""
    options = {1: MASK, 3: packed(source), **fields.pop("options", {})}
    for profile in PROFILES:
        answer(conversation, source, profile, yiaddr="10.9.0.50", options=options, **fields)


PROXY = {60: b"PXEClient", 43: b"\x06\x01\x08\xff"}


def names(
    conversation: Conversation, profile: Profile, file: str, source: str = SERVER, **fields: Any
) -> None:
    """A proxy that names a loader to one kind of machine."""
    fields = {"options": PROXY, "siaddr": SERVER, "file": file.encode(), **fields}
    answer(conversation, source, profile, **fields)


def ids(conversation: Conversation, *, but: Sequence[str] = ("dhcp.ok",)) -> list[tuple[str, str]]:
    """(id, subject) of what was found, without what every case has."""
    return [(v.id, v.subject) for v in judge(conversation, SERVER) if v.id not in but]


@pytest.fixture
def site() -> Conversation:
    """A site that gives addresses, beside a proxy that is as it should be."""
    conversation = Conversation(MAC, 1000)
    gives(conversation)
    return conversation


def whole(conversation: Conversation, *, but: Profile | None = None) -> Conversation:
    """The proxy's right answers to all machines, or all but one."""
    files = {BIOS: "/b/undionly.kpxe", UEFI: "/b/snponly.efi", IPXE: f"http://{SERVER}/boot.ipxe"}
    for profile, file in files.items():
        if profile is not but:
            names(conversation, profile, file)
    if but is not UEFI_HTTP:
        url = f"http://{SERVER}:8080/b/snponly.efi".encode()
        options = {60: b"HTTPClient", 67: url}
        answer(conversation, SERVER, UEFI_HTTP, options=options)
    return conversation


def test_a_site_as_it_should_be(site: Conversation) -> None:
    verdicts = list(judge(whole(site), SERVER))
    assert {v.level for v in verdicts} == {Level.OK}
    subjects = ["address", "BIOS", "UEFI x64", "UEFI HTTP boot", "iPXE"]
    assert [v.subject for v in verdicts] == subjects
    assert verdicts[0].words.startswith("10.9.0.2, offers 10.9.0.50")


def test_our_own_proxy_beside_a_site_is_well(site: Conversation) -> None:
    loaders = LOADERS
    talk_only = Conversation(MAC, 1000)
    talk(talk_only, Plan(SERVER, loaders=loaders))
    for profile, found in talk_only.answers.items():
        site.answers[profile] += found
    site.boot_server = talk_only.boot_server
    assert ids(site) == []


def test_silent() -> None:
    (verdict,) = judge(Conversation(MAC, 1), SERVER)
    assert verdict.id == "dhcp.silent"
    assert "BIOS, UEFI x64, UEFI HTTP boot, iPXE, plain machine" in verdict.words
    assert verdict.remedy


def test_no_address() -> None:
    assert ("dhcp.no-address", "network") in ids(whole(Conversation(MAC, 1000)))


def test_two_servers_that_agree(site: Conversation) -> None:
    gives(site, "10.9.0.3", options={3: packed(SITE)})
    assert ids(whole(site)) == [("dhcp.two-servers", "network")]


@pytest.mark.parametrize(
    "options", [{3: packed("10.9.0.9")}, {1: bytes((255, 255, 255, 0))}, {3: b""}]
)
def test_two_servers_that_contradict_each_other(
    site: Conversation, options: Mapping[int, bytes]
) -> None:
    gives(site, "10.9.0.3", options={3: packed(SITE), **options})
    expected = [("dhcp.two-servers", "network"), ("dhcp.contradiction", "network")]
    assert ids(whole(site)) == expected


def test_a_proxy_that_answers_everybody(site: Conversation) -> None:
    names(whole(site), PLAIN, "")
    assert ids(site) == [("dhcp.proxy-to-all", SERVER)]


@pytest.mark.parametrize("profile", [BIOS, UEFI])
def test_no_loader(site: Conversation, profile: Profile) -> None:
    assert ids(whole(site, but=profile)) == [("dhcp.no-loader", profile.name)]
    assert find_loader(site, profile) is None


def test_no_http_boot_is_a_warning(site: Conversation) -> None:
    assert ids(whole(site, but=UEFI_HTTP)) == [("dhcp.no-http-boot", "UEFI HTTP boot")]


def test_ipxe_without_an_answer_of_its_own_is_nothing_to_tell(site: Conversation) -> None:
    assert ids(whole(site, but=IPXE)) == []


def test_a_tftp_path_is_nothing_for_http_boot(site: Conversation) -> None:
    names(whole(site, but=UEFI_HTTP), UEFI_HTTP, "/b/snponly.efi")
    assert ids(site) == [("dhcp.no-http-boot", "UEFI HTTP boot")]


def test_port_4011_is_silent(site: Conversation) -> None:
    names(whole(site, but=UEFI), UEFI, "/b/snponly.efi", options={60: b"PXEClient"})
    found = ids(site)
    assert found == [("dhcp.port-4011", "UEFI x64"), ("dhcp.no-loader", "UEFI x64")]
    answer(site, SERVER, UEFI, boot_server=True, file=b"/b/snponly.efi", siaddr=SERVER)
    assert ids(site) == []


def test_two_that_name_the_same(site: Conversation) -> None:
    names(whole(site), BIOS, "/b/undionly.kpxe", source="10.9.0.3")
    assert ids(site) == [("dhcp.two-loaders", "BIOS")]


@pytest.mark.parametrize(
    ("file", "siaddr"), [("/pxelinux.0", SERVER), ("/b/undionly.kpxe", "10.9.0.3")]
)
def test_two_that_name_different_ones(site: Conversation, file: str, siaddr: str) -> None:
    names(whole(site), BIOS, file, source="10.9.0.3", siaddr=siaddr)
    assert ids(site) == [("dhcp.loaders-differ", "BIOS")]


@pytest.mark.parametrize(
    ("profile", "file"),
    [(BIOS, "/b/snponly.efi"), (UEFI, "/b/undionly.kpxe"), (UEFI, "/grub/i386-pc/core.0")],
)
def test_a_loader_for_another_firmware(site: Conversation, profile: Profile, file: str) -> None:
    names(whole(site, but=profile), profile, file)
    assert ("dhcp.wrong-loader", profile.name) in ids(site)


def test_a_loader_whose_name_says_nothing_is_not_judged(site: Conversation) -> None:
    names(whole(site, but=BIOS), BIOS, "/loader")
    assert ids(site) == []


def test_a_loader_at_another_server(site: Conversation) -> None:
    names(whole(site, but=BIOS), BIOS, "/b/undionly.kpxe", siaddr="10.9.0.77")
    assert ids(site) == [("dhcp.other-server", "BIOS")]


def test_a_server_by_name_is_not_judged(site: Conversation) -> None:
    options = {**PROXY, 66: b"tftp.example.org"}
    names(whole(site, but=BIOS), BIOS, "/b/undionly.kpxe", siaddr="0.0.0.0", options=options)
    assert ids(site) == []


def test_no_next_server(site: Conversation) -> None:
    names(whole(site, but=BIOS), BIOS, "/b/undionly.kpxe", siaddr="0.0.0.0")
    assert ids(site) == [("dhcp.no-next-server", "BIOS")]


def test_http_boot_without_the_class(site: Conversation) -> None:
    url = f"http://{SERVER}:8080/b/snponly.efi".encode()
    answer(whole(site, but=UEFI_HTTP), SERVER, UEFI_HTTP, options={67: url})
    assert ids(site) == [("dhcp.http-class", "UEFI HTTP boot")]


@pytest.mark.parametrize(("profile", "name"), [(BIOS, "core.0"), (UEFI, "core.efi")])
def test_grub_by_proxy(site: Conversation, profile: Profile, name: str) -> None:
    names(whole(site, but=profile), profile, f"/ltsp/amd64/grub/x/{name}")
    assert ids(site) == [("dhcp.grub-by-proxy", profile.name)]


def test_grub_by_the_server_that_gives_addresses_is_well() -> None:
    conversation = Conversation(MAC, 1000)
    gives(conversation, file=b"/ltsp/amd64/grub/i386-pc/core.0", siaddr=SERVER)
    found = ids(conversation)
    assert ("dhcp.wrong-loader", "UEFI x64") in found
    assert not any(subject in ("BIOS", "iPXE") for _, subject in found)


def test_ipxe_told_to_load_ipxe(site: Conversation) -> None:
    names(whole(site, but=IPXE), IPXE, "/b/undionly.kpxe")
    assert ids(site) == [("dhcp.ipxe-loop", "iPXE")]


def test_a_proxy_is_heard_before_the_server_that_gives_addresses(site: Conversation) -> None:
    names(site, BIOS, "/b/undionly.kpxe")
    other = Conversation(MAC, 1000)
    gives(other, file=b"/from-the-site", siaddr=SITE)
    other.answers[BIOS] += [a for a in site.answers[BIOS] if not a.address]
    found = find_loader(other, BIOS)
    assert found is not None
    assert found.file == "/b/undionly.kpxe"


ARM, ARM_HTTP = OTHERS


def test_firmware_of_another_architecture_that_nobody_serves_is_no_fault(
    site: Conversation,
) -> None:
    assert {profile.architecture for profile in OTHERS} == {11, 19}
    assert ids(whole(site)) == []


def test_an_arm64_machine_that_is_served(site: Conversation) -> None:
    names(whole(site), ARM, "/ltsp/arm64/ipxe/ipxe-arm64.efi")
    url = f"http://{SERVER}:8080/ltsp/arm64/ipxe/ipxe-arm64.efi".encode()
    answer(site, SERVER, ARM_HTTP, options={60: b"HTTPClient", 67: url})
    verdicts = [
        verdict for verdict in judge(site, SERVER) if verdict.subject.startswith("UEFI arm")
    ]
    assert [(verdict.level, verdict.subject) for verdict in verdicts] == [
        (Level.OK, "UEFI arm64"),
        (Level.OK, "UEFI arm64 HTTP boot"),
    ]


def test_an_arm64_machine_that_is_named_the_loader_of_another(site: Conversation) -> None:
    names(whole(site), ARM, "/ltsp/amd64/ipxe/snponly.efi")
    assert ids(site) == [("dhcp.wrong-loader", "UEFI arm64")]
    (verdict,) = (verdict for verdict in judge(site, SERVER) if verdict.id == "dhcp.wrong-loader")
    assert "snponly.efi is for UEFI x64" in verdict.words
