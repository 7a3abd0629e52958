"""What the answers to a PXE client mean: pure, from a conversation to verdicts."""

import posixpath
from collections.abc import Iterator
from typing import Final

from imagebuild.architecture import ARCHITECTURES, Firmware
from server.doctor.dhcpclient import (
    BIOS,
    IPXE,
    OTHERS,
    PLAIN,
    Answer,
    Conversation,
    Profile,
    as_options,
    needs_boot_server,
)
from server.doctor.findings import found
from server.doctor.verdict import Verdict, good

_BIOS_LOADERS: Final = (".0", ".kpxe", ".kkpxe", ".kkkpxe", ".pxe", ".bios", ".lkrn", ".com")
_GRUB: Final = ("core.0", "core.efi", "grubx64.efi", "grubnetx64.efi", "shimx64.efi")
_IPXE_LOADERS: Final = ("undionly.", "snponly.", "ipxe.", "snp.")


def judge(conversation: Conversation, server: str) -> Iterator[Verdict]:
    """Verdicts on everything that was answered. server: the address that is checked."""
    if not any(conversation.all_answers()):
        asked = ", ".join(profile.name for profile in conversation.profiles)
        yield found("dhcp.silent", "network", f"asked as {asked}: nobody answered")
        return
    yield from _judge_addresses(conversation)
    for profile in conversation.profiles:
        if profile is not PLAIN:
            yield from _judge_loader(conversation, profile, server)


def find_loader(conversation: Conversation, profile: Profile) -> Answer | None:
    """The answer whose loader that firmware would fetch; proxies come before other servers."""
    givers = _loader_givers(conversation, profile)
    return next((answer for answer in givers if not answer.address), givers[0] if givers else None)


def _judge_addresses(conversation: Conversation) -> Iterator[Verdict]:
    givers: dict[str, Answer] = {}
    for answer in conversation.all_answers():
        if answer.address:
            givers.setdefault(answer.server, answer)
    names = ", ".join(sorted(givers))
    if not givers:
        others = ", ".join(sorted({answer.server for answer in conversation.all_answers()}))
        yield found("dhcp.no-address", "network", f"only {others} answered, with no address")
    elif len(givers) == 1:
        (answer,) = givers.values()
        yield good("dhcp", "address", answer.describe())
    else:
        yield found("dhcp.two-servers", "network", f"{names} give addresses")
        if len({tuple(as_options(answer.message).items()) for answer in givers.values()}) > 1:
            words = "; ".join(_describe_network(answer) for answer in givers.values())
            yield found("dhcp.contradiction", "network", words)
    for answer in conversation.answers.get(PLAIN, []):
        if not answer.address:
            yield found("dhcp.proxy-to-all", answer.server, answer.describe())


def _describe_network(answer: Answer) -> str:
    mask, router = (
        ".".join(str(byte) for byte in raw) or "none" for raw in as_options(answer.message).values()
    )
    return f"{answer.server}: mask {mask}, router {router}"


def _loader_givers(conversation: Conversation, profile: Profile) -> list[Answer]:
    """Answers that name a loader, those of port 4011 in place of the offers before them."""
    later = {answer.server: answer for answer in conversation.boot_server.get(profile, [])}
    givers = []
    for answer in conversation.answers.get(profile, []):
        if needs_boot_server(profile, answer):
            if answer.server not in later:
                continue
            answer = later[answer.server]
        if answer.file and (not profile.is_http or answer.file.startswith("http")):
            givers.append(answer)
    return givers


def _judge_loader(conversation: Conversation, profile: Profile, server: str) -> Iterator[Verdict]:
    answered = {answer.server for answer in conversation.boot_server.get(profile, [])}
    for answer in conversation.answers.get(profile, []):
        if needs_boot_server(profile, answer) and answer.server not in answered:
            yield found("dhcp.port-4011", profile.name, f"{answer.describe()}; 4011 is silent")
    givers = _loader_givers(conversation, profile)
    chosen = find_loader(conversation, profile)
    if chosen is None:
        id_ = "dhcp.no-http-boot" if profile.is_http else "dhcp.no-loader"
        # Whether it should have one is known when the images are (tree.py).
        if profile is not IPXE and profile not in OTHERS:
            seen = [answer.describe() for answer in conversation.answers.get(profile, [])]
            yield found(id_, profile.name, "; ".join(seen) or "nobody answered")
        return
    if len(givers) > 1:
        same = len({(answer.host, answer.file) for answer in givers}) == 1
        words = "; ".join(answer.describe() for answer in givers)
        yield found("dhcp.two-loaders" if same else "dhcp.loaders-differ", profile.name, words)
    faults = list(_judge_chosen(conversation, profile, chosen, server))
    yield from faults or [good("dhcp", profile.name, chosen.describe())]


def _judge_chosen(
    conversation: Conversation, profile: Profile, chosen: Answer, server: str
) -> Iterator[Verdict]:
    name, words = posixpath.basename(chosen.file), chosen.describe()
    if profile is IPXE:
        if name.startswith(_IPXE_LOADERS) and not name.endswith(".ipxe"):
            yield found("dhcp.ipxe-loop", profile.name, words)
            return
    elif _kind(name) not in ("", "BIOS" if profile is BIOS else "UEFI"):
        yield found("dhcp.wrong-loader", profile.name, f"{name} is for {_kind(name)}: {words}")
    elif (theirs := _firmware_of(chosen.file)) is not None and not _is_for(theirs, profile):
        yield found("dhcp.wrong-loader", profile.name, f"{name} is for {theirs.name}: {words}")
    if profile.is_http and not chosen.vendor.startswith("HTTPClient"):
        yield found("dhcp.http-class", profile.name, words)
    if not chosen.host:
        yield found("dhcp.no-next-server", profile.name, words)
    elif chosen.host != server and chosen.host.replace(".", "").isdecimal():  # else it is a name
        yield found("dhcp.other-server", profile.name, f"{server} is checked: {words}")
    by_proxy = not chosen.address and any(
        answer.address and answer.server != chosen.server
        for answer in conversation.answers.get(profile, [])
    )
    if by_proxy and name in _GRUB:
        yield found("dhcp.grub-by-proxy", profile.name, words)


def _firmware_of(file: str) -> Firmware | None:
    """The UEFI that a loader of a boot tree is for, by its path; None when that does not tell."""
    for architecture in ARCHITECTURES.values():
        firmware = architecture.uefi
        if file.endswith((f"/{firmware.grub_path}", f"/{firmware.ipxe_path or firmware.name}")):
            return firmware
    return None


def _is_for(firmware: Firmware, profile: Profile) -> bool:
    return profile.architecture in (*firmware.pxe, *firmware.http)


def _kind(name: str) -> str:
    """The firmware that a loader is for, by its name; "" when the name does not tell."""
    lower = name.lower()
    if lower.endswith(".efi"):
        return "UEFI"
    return "BIOS" if lower.endswith(_BIOS_LOADERS) else ""
