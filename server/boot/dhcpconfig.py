"""What the site's DHCP server must say so that machines boot from here."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from imagebuild.architecture import ARCHITECTURES, DEFAULT, Firmware
from imagebuild.store.manifest import is_image_name
from server.addresses import explain_no_host, parse_ip
from server.boot.loaders import IPXE_SCRIPT
from server.boot.templates import render as render_template
from server.errors import ServerError
from server.farm.inventory import Inventory

KINDS = ("isc", "dnsmasq", "kea")


@dataclass(frozen=True)
class DhcpSettings:
    """One subnet with its boot server. lease_time: seconds, 0 for ever.

    name: the image for amd64; others: images for further architectures, by architecture.

    http_port: where iPXE fetches its script, and UEFI HTTP Boot its loader, from the boot
    server. grub: name GRUB for all firmware, rather than iPXE.

    range: first and last address for machines without a static lease.
    interface: the card to serve on; None leaves that to the rest of the configuration.
    bind: (dnsmasq) be the whole configuration, without DNS, bound to `interface` alone.
    """

    server: str
    subnet: ipaddress.IPv4Network
    range: tuple[str, str] | None = None
    name: str = DEFAULT
    others: Mapping[str, str] = field(default_factory=dict)
    router: str | None = None
    dns: tuple[str, ...] = ()
    domain: str = "example.org"
    interface: str | None = None
    bind: bool = False
    lease_time: int = 0
    http_port: int = 8080
    grub: bool = False
    inventory: Inventory = field(default_factory=Inventory)


def parse_subnet(text: str) -> ipaddress.IPv4Network:
    """A subnet written as `10.9.0.0/16`; ServerError for anything else."""
    try:
        return ipaddress.IPv4Network(text, strict=False)
    except ValueError as error:
        raise ServerError(f"--subnet {text!r}: {error}", hint="as 10.9.0.0/16") from None


def parse_range(text: str, subnet: ipaddress.IPv4Network) -> tuple[str, str]:
    """`FIRST-LAST` within the subnet; ServerError otherwise."""
    first, dash, last = text.partition("-")
    low, high = parse_ip(first), parse_ip(last)
    if not dash or low is None or high is None:
        raise ServerError(f"--range {text!r} is not a range", hint="as 10.9.200.0-10.9.250.254")
    for ip in (low, high):
        if ipaddress.IPv4Address(ip) not in subnet:
            raise ServerError(f"--range: {ip} is not in {subnet}", hint="give the right --subnet")
    if ipaddress.IPv4Address(low) > ipaddress.IPv4Address(high):
        raise ServerError(f"--range {text!r} ends before it begins", hint="smaller address first")
    return low, high


def render(kind: str, settings: DhcpSettings) -> str:
    """The configuration for one kind of server (KINDS).

    Raises ServerError for settings that no server would take, each naming its flag.
    """
    if kind not in KINDS:
        raise ServerError(f"no DHCP server {kind!r} is known", hint=f"known: {', '.join(KINDS)}")
    _check(settings)
    usual = _files_of(DEFAULT, settings.name, settings)
    return render_template(
        f"dhcp/{kind}.j2",
        s=settings,
        bios=usual.bios,
        uefi=usual.uefi,
        http=usual.http,
        script=usual.script,
        others=[_files_of(one, name, settings) for one, name in sorted(settings.others.items())],
        machines=settings.inventory.machines,
    )


def check_address(flag: str, value: str) -> None:
    """Raise ServerError for what is no machine's address."""
    if (ip := parse_ip(value)) is None:
        raise ServerError(f"{flag} {value!r} is not an IPv4 address", hint="as 10.9.0.2")
    if why := explain_no_host(ip):
        raise ServerError(f"{flag} {ip} {why}", hint="as 10.9.0.2")


@dataclass(frozen=True)
class Files:
    """What firmware of one architecture fetches. pxe, only_http: numbers of option 93, and those
    by which a PXE client never calls itself. bios: "" where there is none."""

    architecture: str
    pxe: tuple[int, ...]
    only_http: tuple[int, ...]
    bios: str
    uefi: str
    http: str
    script: str


def _files_of(architecture: str, name: str, settings: DhcpSettings) -> Files:
    base = f"/ltsp/{name}"
    url = f"http://{settings.server}:{settings.http_port}{base}"
    table = ARCHITECTURES[architecture]

    def path(firmware: Firmware | None) -> str:
        if firmware is None:
            return ""
        wants_grub = settings.grub or not firmware.ipxe
        return f"{base}/{firmware.grub_path if wants_grub else firmware.ipxe_path}"

    uefi = table.uefi
    return Files(
        architecture=architecture,
        pxe=uefi.pxe,
        only_http=tuple(number for number in uefi.http if number not in uefi.pxe),
        bios=path(table.bios),
        uefi=path(uefi),
        http=f"{url}/{uefi.ipxe_path}" if uefi.ipxe else "",
        script=f"{url}/{IPXE_SCRIPT}",
    )


def _check(settings: DhcpSettings) -> None:
    for flag, value in (
        ("--server", settings.server),
        ("--router", settings.router),
        *(("--dns", address) for address in settings.dns),
    ):
        if value is None:
            continue
        check_address(flag, value)
    if not is_image_name(settings.name):
        raise ServerError(f"--name {settings.name!r} is not an image name", hint="as amd64")
    for architecture, name in settings.others.items():
        flag = f"--name-for {architecture}={name}"
        if architecture not in ARCHITECTURES or architecture == DEFAULT:
            known = [one for one in ARCHITECTURES if one != DEFAULT]
            raise ServerError(
                f"{flag}: {architecture!r} is none of the further architectures",
                hint=f"{' or '.join(known)}; --name is for {DEFAULT}",
            )
        if not is_image_name(name):
            raise ServerError(f"{flag}: {name!r} is not an image name", hint="as arm64=arm64")
    for flag, word in (("--domain", settings.domain), ("--interface", settings.interface)):
        if word is not None and not (word and all(c.isalnum() or c in ".-_@:" for c in word)):
            raise ServerError(
                f"{flag} {word!r} is not a name", hint="letters, digits, dots, dashes"
            )
    if settings.bind and settings.interface is None:
        raise ServerError("binding wants an interface", hint="--interface NIC")
    taken = {
        settings.server: "the boot server's (--server)",
        settings.router or "": "the router's (--router)",
        **dict.fromkeys(settings.dns, "a name server's (--dns)"),
        str(settings.subnet.network_address): "the network's",
        str(settings.subnet.broadcast_address): "the broadcast address",
    }
    for machine in settings.inventory.machines:
        if machine.ip and machine.ip in taken:
            raise ServerError(
                f"inventory: {machine.ip} of {machine.mac} is {taken[machine.ip]}",
                hint="give the machine an address of its own",
            )
        if machine.ip and ipaddress.IPv4Address(machine.ip) not in settings.subnet:
            raise ServerError(
                f"inventory: {machine.ip} of {machine.mac} is not in {settings.subnet}",
                hint="give the right --subnet, or one inventory for each subnet",
            )
    if settings.range is not None:
        low, high = (ipaddress.IPv4Address(ip) for ip in settings.range)
        for ip, whose in taken.items():
            if ip and low <= ipaddress.IPv4Address(ip) <= high:
                raise ServerError(
                    f"--range holds {ip}, which is {whose}", hint="give a range without it"
                )
    if settings.router and ipaddress.IPv4Address(settings.router) not in settings.subnet:
        raise ServerError(
            f"--router {settings.router} is not in {settings.subnet}: no machine could reach it",
            hint="give the right --subnet",
        )
