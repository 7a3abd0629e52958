"""Rules for what comes before Linux: DHCP, the boot loader, the menu."""

from typing import Final

from imagebuild.architecture import ARCHITECTURES
from server.diagnosis.case import Case, Entry, count_of, name_count
from server.diagnosis.expectation import EXPECTATIONS
from server.diagnosis.rule import Rule, Values
from server.nodes.phases import is_core
from server.quantities import name_span

_FIRMWARE: Final = [one for each in ARCHITECTURES.values() for one in each.firmware]
_BIOS_LOADERS: Final = tuple(
    name for one in _FIRMWARE if one.is_bios for name in (one.grub.core, one.ipxe_file)
)
_BOOTED: Final = frozenset(number for one in _FIRMWARE for number in (*one.pxe, *one.http))
_NAMES: Final = ", ".join(one.name for one in _FIRMWARE)
_CODES: Final = ", ".join(str(number) for number in sorted(_BOOTED))


def _file_of(entry: Entry) -> str:
    detail = entry["detail"]
    path = str(detail.get("path") or detail.get("file") or "")
    return path.rpartition("/")[2]


def _failed_dhcp(case: Case, cause: str) -> str | None:
    """The words of the last DHCP exchange, where it failed for that cause."""
    return case.error_in("dhcp") if case.cause_in("dhcp") == cause else None


def _wrong_loader(case: Case) -> Values | None:
    fetched = [
        entry
        for entry in case.find(phase="loader")
        if is_core(_file_of(entry)) and entry["detail"].get("status", "ok") == "ok"
    ]
    if not fetched:
        return None
    file = _file_of(fetched[0])
    is_bios = file in _BIOS_LOADERS
    architecture = case.boot.facts.get("architecture")
    if isinstance(architecture, int):
        if (architecture == 0) == is_bios:
            return None
        told = "which its DHCP request said (option 93)"
    elif is_bios and "windowsize=" in str(fetched[0]["detail"].get("options", "")):
        told = "as its TFTP request shows (UEFI alone asks for windows)"
    else:
        return None
    times = sum(count_of(entry) for entry in fetched if _file_of(entry) == file)
    return {
        "file": file,
        "machine": "UEFI" if is_bios else "BIOS",
        "right": "core.efi (or snponly.efi)" if is_bios else "core.0 (or undionly.kpxe)",
        "told": told,
        "times": name_count(times),
        "since": fetched[0]["time"],
    }


def _unknown_architecture(case: Case) -> Values | None:
    architecture = case.boot.facts.get("architecture")
    if architecture in _BOOTED or _failed_dhcp(case, "no_loader") is None:
        return None
    return {"kind": case.boot.facts.get("firmware", "unknown firmware"), "code": architecture}


def _other_architecture(case: Case) -> Values | None:
    for phase in ("menu", "dhcp"):
        if case.cause_in(phase) == "architecture" and (text := case.error_in(phase)) is not None:
            return {"what": text}
    return None


def _no_loader_in_image(case: Case) -> Values | None:
    text = _failed_dhcp(case, "no_loader")
    if text is None or case.boot.facts.get("architecture") not in _BOOTED:
        return None
    return {"what": text}


def _not_listed(case: Case) -> Values | None:
    return None if _failed_dhcp(case, "not_listed") is None else {}


def _no_image(case: Case) -> Values | None:
    text = _failed_dhcp(case, "no_image")
    return None if text is None else {"what": text}


def _pool_empty(case: Case) -> Values | None:
    return None if _failed_dhcp(case, "no_address") is None else {}


def _two_servers(case: Case) -> Values | None:
    if _failed_dhcp(case, "other_server") is None:
        return None
    return {"other": case.boot.facts.get("dhcp_server", "unknown")}


def _conflict(case: Case) -> Values | None:
    if _failed_dhcp(case, "address_in_use") is None:
        return None
    return {"address": case.boot.facts.get("address", "unknown")}


def _dhcp_refused(case: Case) -> Values | None:
    text = _failed_dhcp(case, "refused")
    return None if text is None else {"what": text}


def _no_address(case: Case) -> Values | None:
    """The machine took no address.

    Asked beside another DHCP server only: its lease would show there.
    """
    if case.farm.dhcp != "proxy" or case.last != "dhcp" or "address" in case.boot.facts:
        return None
    asked = sum(
        count_of(entry)
        for entry in case.find(phase="dhcp")
        if entry["detail"].get("request") == "discover"
    )
    if asked < 3 or case.heard - case.boot.started < 5:
        return None
    return {"times": name_count(asked)}


def _ignored_offer(case: Case) -> Values | None:
    if case.last != "dhcp" or not case.is_stalled or case.error_in("dhcp") is not None:
        return None
    loader = next(
        (
            entry["detail"]["loader"]
            for entry in case.find(phase="dhcp")
            if "loader" in entry["detail"]
        ),
        "",
    )
    if not loader:
        return None
    server = case.boot.facts.get("dhcp_server")
    return {
        "loader": loader,
        "quiet": name_span(case.quiet),
        "site": f"the DHCP server {server}" if server else "the site's DHCP server",
    }


def _loader_silent(case: Case) -> Values | None:
    if case.last != "loader" or not case.is_stalled:
        return None
    for entry in case.find(phase="loader"):
        if is_core(_file_of(entry)) and entry["detail"].get("status", "ok") == "ok":
            file = _file_of(entry)
            return {
                "file": file,
                "kind": "BIOS" if file in _BIOS_LOADERS else "UEFI",
                "quiet": name_span(case.quiet),
                "limit": f"{EXPECTATIONS['loader'].seconds:.0f}",
            }
    return None


def _image_nowhere(case: Case) -> Values | None:
    for phase in ("menu", "root"):
        if case.cause_in(phase) == "no_image":
            return {"what": case.error_in(phase), "phase": phase}
    return None


def _held(case: Case) -> Values | None:
    if case.last != "menu":
        return None
    newest = next(case.find(source="plan", phase="menu"), None)
    if newest is None or newest["detail"].get("status") != "start":
        return None
    return {"since": newest["time"]}


def _refused(case: Case) -> Values | None:
    return {} if case.cause_in("menu") == "not_listed" else None


def _menu_refused(case: Case) -> Values | None:
    text = case.error_in("menu")
    return None if text is None else {"what": text or "no reason given"}


def _unknown_name(case: Case) -> Values | None:
    newest = next(case.find(source="plan", phase="menu"), None)
    detail = newest["detail"] if newest is not None else {}
    if newest is None or not detail.get("unknown_image"):
        return None
    return {
        "asked": detail["unknown_image"],
        "given": detail.get("image") or "another",
        "since": newest["time"],
    }


RULES: Final = (
    Rule(
        id="wrong-loader",
        phase="loader",
        severity="error",
        when="The boot loader of the other firmware was fetched whole. The machine's firmware is"
        " known from option 93 of its DHCP request, or, for UEFI, by the windowsize that it asks"
        " of TFTP.",
        headline="It fetched {file} but is a {machine} machine: option 93 (the client's"
        " architecture) was ignored by the site's DHCP.",
        expected="{right}, the loader for {machine}",
        seen="{file} fetched {times} by a {machine} machine, {told}",
        check=(
            "in the site's DHCP server choose the file name by option 93: `bootfarm dhcp-config`"
            " prints that for dnsmasq, ISC dhcpd and Kea",
            "or leave the file name out there and let this server name it: `--dhcp proxy`",
            "or set the machine's firmware to the other mode (UEFI or legacy BIOS)",
        ),
        match=_wrong_loader,
    ),
    Rule(
        id="unknown-architecture",
        phase="dhcp",
        severity="error",
        when="A DHCP request came from firmware for which no image has a loader, as 32-bit UEFI.",
        headline="This machine is {kind}: no image is for such machines, so it gets no loader.",
        expected=f"{_NAMES}, or UEFI HTTP boot (option 93: {_CODES})",
        seen="option 93: {code}",
        check=(
            "is that the machine you meant? Its kind is what its firmware says of itself",
            "on an x86-64 machine set the firmware from 32-bit UEFI to UEFI x64 or legacy BIOS",
        ),
        match=_unknown_architecture,
    ),
    Rule(
        id="other-architecture",
        phase="menu",
        severity="error",
        when="The image that lts.conf or farm.yaml names for the machine is for machines of another"
        " architecture, as one for amd64 on an arm64 machine.",
        headline="It would be given an image for another kind of machine, and so gets none.",
        expected="an image for the machine's architecture",
        seen="{what}",
        check=(
            "`bootfarm images list` shows the images; `images show NAME` each one's architecture",
            "lts.conf: name one for its architecture in IMAGE, in a section that is for it",
            "farm.yaml: `default_image: {{amd64: NAME, arm64: NAME}}`, one for each",
        ),
        match=_other_architecture,
    ),
    Rule(
        id="no-loader-in-image",
        phase="dhcp",
        severity="error",
        when="The image that the machine boots holds no loader for its firmware.",
        headline="The image that this machine boots holds no boot loader for its firmware.",
        expected="a loader of the image",
        seen="{what}",
        check=(
            "build the image again with this version of bootfarm",
            "or choose another boot mode in the firmware (PXE instead of HTTP boot)",
        ),
        match=_no_loader_in_image,
    ),
    Rule(
        id="not-listed",
        phase="dhcp",
        severity="error",
        when="farm.yaml says `unlisted: refuse`, and the machine's MAC is not in the inventory.",
        headline="{node} is not in the inventory, and farm.yaml lets only listed machines boot.",
        expected="a MAC of the inventory",
        seen="{node}, which is not there",
        check=(
            'add the machine to the inventory: `- {{mac: "{node}", hostname: …}}`',
            "a machine with several cards: list the one that it boots from, or all",
            "or set `unlisted: boot` in farm.yaml",
        ),
        match=_not_listed,
    ),
    Rule(
        id="no-image",
        phase="dhcp",
        severity="error",
        when="DHCP could name no loader, for there is no image to take it from.",
        headline="There is no image for this machine.",
        expected="an image in the store",
        seen="{what}",
        check=(
            "`bootfarm images list` shows what the store has",
            "build or import one; set default_image in farm.yaml if there are several",
        ),
        match=_no_image,
    ),
    Rule(
        id="dhcp-pool-empty",
        phase="dhcp",
        severity="error",
        when="`--dhcp full` has no address left.",
        headline="No address is left in the DHCP range.",
        expected="a free address",
        seen="all addresses of the range are leased",
        check=("make --dhcp-range larger", "or wait until leases of machines that left end"),
        match=_pool_empty,
    ),
    Rule(
        id="dhcp-two-servers",
        phase="dhcp",
        severity="error",
        when="With `--dhcp full` the machine took the address of another server.",
        headline="A second DHCP server, {other}, is on this network, and the machine took its"
        " address.",
        expected="this server as the only one that gives addresses (`--dhcp full`)",
        seen="an address of {other} taken",
        check=("use `--dhcp proxy` beside it", "or switch that server off"),
        match=_two_servers,
    ),
    Rule(
        id="dhcp-conflict",
        phase="dhcp",
        severity="error",
        when="The machine declined its address, for another machine answers to it.",
        headline="The address {address} that it was given is used by another machine.",
        expected="an address that nobody uses",
        seen="DHCPDECLINE of {address}",
        check=(
            "find who has it: `arping {address}`",
            "take addresses that were set by hand out of --dhcp-range",
        ),
        match=_conflict,
    ),
    Rule(
        id="dhcp-refused",
        phase="dhcp",
        severity="error",
        when="The machine asked for an address that is not its own (DHCPNAK).",
        headline="It asked for an address that it may not have here.",
        expected="a request for an address of this network",
        seen="{what}",
        check=(
            "firmware asks anew by itself: wait for its next try",
            "two machines with the same MAC (a cloned virtual machine)?",
        ),
        match=_dhcp_refused,
    ),
    Rule(
        id="dhcp-no-address",
        phase="dhcp",
        severity="error",
        when="Beside another DHCP server (`--dhcp proxy`): three requests or more for an address,"
        " and none taken.",
        headline="It asked {times} for an address, and no DHCP server gave it one.",
        expected="an address of the site's DHCP server, which this server does not give"
        " (`--dhcp proxy`)",
        seen="DHCPDISCOVER {times}, and no DHCPREQUEST",
        check=(
            "does the site's DHCP server run, with free addresses, on this network?",
            "relay (ip helper-address) to it from this VLAN",
            "a bench without one: `--dhcp full --dhcp-range A-B`",
        ),
        match=_no_address,
    ),
    Rule(
        id="dhcp-ignored-offer",
        phase="dhcp",
        severity="stalled",
        when="DHCP named a loader, and the machine did not ask this server for it.",
        headline="It was told to fetch {loader}, and never asked for it.",
        expected="a request for {loader} (TFTP: UDP {tftp_port}; HTTP: TCP {http_port})",
        seen="nothing for {quiet}",
        check=(
            "a firewall between it and {server}: UDP {tftp_port}, TCP {http_port}",
            "does {site} name another server or file (next-server, filename, options 66 and 67)?"
            " Firmware obeys that one",
            "the machine's screen: what does it say it fetches, and from where?",
        ),
        match=_ignored_offer,
    ),
    Rule(
        id="loader-silent",
        phase="loader",
        severity="stalled",
        when="The loader was fetched whole, and nothing was asked for after it.",
        headline="It fetched {file} and then said nothing more: {file} is for {kind}.",
        expected="a request for the loader's modules and the menu within {limit} s",
        seen="nothing for {quiet}",
        check=(
            "does the machine boot by {kind}? If not, its DHCP names the wrong loader",
            "Secure Boot must be off for a loader without signature",
            "the machine's screen: GRUB or iPXE say what they miss",
        ),
        match=_loader_silent,
    ),
    Rule(
        id="image-nowhere",
        phase="root",
        severity="error",
        when="lts.conf's IMAGE, or farm.yaml's default_image, leads to no image of the store.",
        headline="No image can be chosen for it: {what}",
        expected="an IMAGE that the store has",
        seen="{what}",
        check=(
            "`bootfarm lts explain` shows where this machine's IMAGE comes from",
            "`bootfarm images list` shows what the store has",
            "the machine asks again in 30 seconds by itself",
        ),
        match=_image_nowhere,
    ),
    Rule(
        id="held-at-menu",
        phase="menu",
        severity="stalled",
        when="farm.yaml says `unlisted: menu`, and the machine's MAC is not in the inventory.",
        headline="{node} is not in the inventory: it waits at its boot menu for a person.",
        expected="a MAC of the inventory, or somebody who chooses at the machine's console",
        seen="{node}, which is not there",
        check=(
            "press b at the machine's console: it boots the default image once",
            "or add the machine to the inventory: `- {{mac: {node}, hostname: …}}`; the menu asks"
            " again every 30 seconds",
            "or set `unlisted: boot` in farm.yaml",
        ),
        match=_held,
    ),
    Rule(
        id="not-listed-menu",
        phase="menu",
        severity="error",
        when="farm.yaml says `unlisted: refuse`, another DHCP server named a loader for the"
        " machine all the same, and its MAC is not in the inventory.",
        headline="{node} is not in the inventory, and farm.yaml lets only listed machines boot.",
        expected="a MAC of the inventory",
        seen="{node}, which is not there, asked for its menu",
        check=(
            "add the machine to the inventory: `- {{mac: {node}, hostname: …}}`",
            "a machine behind a router: its address also in address_map of farm.yaml",
            "or set `unlisted: boot` in farm.yaml",
        ),
        match=_refused,
    ),
    Rule(
        id="menu-refused",
        phase="menu",
        severity="error",
        when="The menu that it got only says what is wrong, or it got none.",
        headline="It got no menu to boot from: {what}",
        expected="a menu (grub.cfg or boot.ipxe)",
        seen="{what}",
        check=(
            "mend what the line says: lts.conf (KERNEL_CMDLINE, template), farm.yaml (cmdline)",
            "`bootfarm lts check` and `bootfarm lts resolve` with this machine's MAC",
            "the machine asks again in 30 seconds by itself",
        ),
        match=_menu_refused,
    ),
    Rule(
        id="image-name-unknown",
        phase="menu",
        severity="note",
        when="The path of its menu names an image that the store has not: IMAGE or default_image"
        " said which one it gets.",
        headline="It asked below /ltsp/{asked}/, an image that the store has not, and was given"
        " {given}.",
        expected="a path with the name of an image of the store",
        seen="/ltsp/{asked}/",
        check=(
            "`filename` of the site's DHCP server: `bootfarm dhcp-config` prints it",
            "was the image renamed or removed? `bootfarm images list`",
            "if {given} is what it shall boot, the name is all that is wrong",
        ),
        match=_unknown_name,
        stays=True,
    ),
)
