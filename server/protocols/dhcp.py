"""DHCP decided: from a machine's message to the answer for it; pure functions, one in, one out.

RFC 2131 (DHCP), PXE 2.1 (proxyDHCP on ports 67 and 4011), RFC 4578 (options 93,
94, 97), UEFI 2.5 section 24.7 (HTTP boot). docs/dhcp.md has the deviations.
"""

import ipaddress
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from imagebuild import architecture as table
from server.protocols.dhcp_wire import (
    ANY,
    BROADCAST,
    CLIENT_PORT,
    FLAG_BROADCAST,
    PXE_PORT,
    SERVER_PORT,
    Message,
    MessageType,
    Op,
    Option,
    pack_addresses,
    pack_suboptions,
    packed,
    unpack_suboptions,
)

Detail = dict[str, str | int | float | bool]

ARCHITECTURES: Final = {
    0: "x86 BIOS",
    1: "NEC PC-98",
    2: "Itanium",
    3: "DEC Alpha",
    4: "Arc x86",
    5: "Intel Lean Client",
    6: "UEFI IA32",
    7: "UEFI x64",
    8: "UEFI Xscale",
    9: "UEFI x64 (EBC)",
    10: "UEFI ARM 32-bit",
    11: "UEFI ARM 64-bit",
    12: "PowerPC Open Firmware",
    13: "PowerPC ePAPR",
    14: "POWER OPAL",
    15: "UEFI IA32 HTTP boot",
    16: "UEFI x64 HTTP boot",
    17: "UEFI EBC HTTP boot",
    18: "UEFI ARM 32-bit HTTP boot",
    19: "UEFI ARM 64-bit HTTP boot",
    20: "x86 BIOS HTTP boot",
    21: "ARM 32-bit U-Boot",
    22: "ARM 64-bit U-Boot",
    25: "UEFI RISC-V 32-bit",
    27: "UEFI RISC-V 64-bit",
}
"""IANA, Processor Architecture Types (option 93)."""

_BOOTED: Final = ", ".join(f.name for one in table.ARCHITECTURES.values() for f in one.firmware)
_VENDOR_ARCH: Final = re.compile(rb"^(?:PXE|HTTP)Client:Arch:(\d{5})")

# Suboptions of option 43 (PXE 2.1, table 2-1) and of iPXE's option 175.
_DISCOVERY_CONTROL: Final = 6
_BOOT_ITEM: Final = 71
_USE_BOOT_FILE: Final = 8
_IPXE_HTTP: Final = 0x13
_IPXE_NO_PROXY: Final = 0xB0


class Firmware(Enum):
    """The kinds of network boot for which there is a loader, of whatever architecture."""

    BIOS = "BIOS"
    UEFI = "UEFI"
    UEFI_HTTP = "UEFI HTTP boot"


@dataclass(frozen=True)
class Client:
    """What a DHCP client says of itself.

    vendor: "PXEClient", "HTTPClient" or "" (no network boot). architectures:
    option 93, the client's favourite first. uuid: of SMBIOS (option 97), None
    when it sends none. ipxe_http: it is iPXE and has HTTP compiled in.
    """

    mac: str
    vendor: str = ""
    architectures: tuple[int, ...] = ()
    uuid: str | None = None
    ipxe: bool = False
    ipxe_http: bool = False
    hostname: str = ""

    @property
    def firmware(self) -> Firmware | None:
        """How the first of its architectures that can be booted boots."""
        return next((how for _, how in self._list()), None)

    @property
    def architecture(self) -> str:
        """The machine's by Debian's name, as amd64; "" where it does not tell one that boots."""
        names = {name for name, _ in self._list()}
        return names.pop() if len(names) == 1 else ""

    def firmware_for(self, architecture: str) -> Firmware | None:
        """How it boots an image for that architecture, if it does."""
        return next((how for name, how in self._list() if name == architecture), None)

    def _list(self) -> Iterator[tuple[str, Firmware]]:
        """What of its architectures can be booted, and how."""
        is_http = self.vendor == "HTTPClient"
        for number in self.architectures:
            if (found := table.find_firmware(number, http=is_http)) is not None:
                plain = Firmware.BIOS if found[1].is_bios else Firmware.UEFI
                yield found[0].name, Firmware.UEFI_HTTP if is_http else plain

    @property
    def kind(self) -> str:
        """The machine's kind in words."""
        name = " or ".join(
            ARCHITECTURES.get(number, f"architecture {number}") for number in self.architectures
        )
        return (name or "unknown firmware") + (" (iPXE)" if self.ipxe else "")


@dataclass(frozen=True)
class Loaders:
    """Where one image has its loaders in the boot tree; "" where it has none.

    bios, uefi: fetched over TFTP. http: UEFI's own HTTP boot. ipxe: iPXE's script, over HTTP.
    architecture: the image's; machines of another are given none of them.
    """

    image: str
    bios: str = ""
    uefi: str = ""
    http: str = ""
    ipxe: str = ""
    architecture: str = table.DEFAULT


@dataclass(frozen=True)
class Network:
    """What full mode tells a machine about the network."""

    subnet: ipaddress.IPv4Network
    router: str = ""
    dns: tuple[str, ...] = ()
    domain: str = ""
    ntp: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grant:
    """Full mode's answer about addresses. address: "" in answer to DHCPINFORM."""

    address: str
    seconds: int
    network: Network
    hostname: str = ""


@dataclass(frozen=True)
class Plan:
    """All that the answer to one message follows from, the message itself aside.

    server: our address, as the client reaches it. port: where the message came
    in (67 or 4011). http_port: of the boot tree, None when HTTP is not served.
    loaders: None for a machine that shall get none; `refusal` says why, `cause` in one word.
    grant, nak, silence: what full mode decided about the address; in proxy mode
    all three are empty, and no address is ever given. cause: of a refusal or a silence, one
    of server.causes' for dhcp. rival: the other DHCP server whose address was taken.
    """

    server: str
    port: int = SERVER_PORT
    http_port: int | None = 8080
    loaders: Loaders | None = None
    refusal: str = ""
    grant: Grant | None = None
    nak: str = ""
    silence: str = ""
    cause: str = ""
    rival: str = ""


@dataclass(frozen=True)
class Reply:
    """The message to send and what to tell about it. detail: see docs/dhcp.md, Events."""

    message: Message
    detail: Detail = field(default_factory=dict)


@dataclass(frozen=True)
class Silence:
    """No answer. detail: empty when nobody needs to hear about it."""

    reason: str
    detail: Detail = field(default_factory=dict)


def identify(request: Message) -> Client:
    """What the options say of the machine; what is malformed counts as not said."""
    options = request.options
    vendor_class = options.get(Option.VENDOR_CLASS, b"")
    vendor = next(
        (name for name in ("PXEClient", "HTTPClient") if vendor_class.startswith(name.encode())), ""
    )
    ipxe_options = unpack_suboptions(options.get(Option.IPXE, b""))
    # iPXE writes option 77 as bare text, not as RFC 3004's counted strings;
    # other clients that chain it are configured either way.
    user_class = options.get(Option.USER_CLASS, b"")
    ipxe = user_class in (b"iPXE", b"\x04iPXE") or Option.IPXE in options
    hostname = options.get(Option.HOSTNAME, b"").decode("ascii", "replace")
    return Client(
        mac=request.mac,
        vendor=vendor,
        architectures=_read_architectures(options, vendor_class) if vendor else (),
        uuid=_read_uuid(options.get(Option.MACHINE_ID, b"")),
        ipxe=ipxe,
        ipxe_http=ipxe_options.get(_IPXE_HTTP, b"\0") != b"\0",
        hostname=hostname if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}", hostname) else "",
    )


def _read_architectures(options: Mapping[int, bytes], vendor_class: bytes) -> tuple[int, ...]:
    raw = options.get(Option.ARCHITECTURE, b"")
    told = tuple(
        int.from_bytes(raw[index : index + 2], "big") for index in range(0, len(raw) - 1, 2)
    )
    if any(number in ARCHITECTURES for number in told):
        return told
    # Quirk: PXE ROMs older than RFC 4578 (Intel Boot Agent before 4.0, cards of
    # about 2000) send the architecture in option 60 only; where option 93 has its bytes
    # the other way round, option 60 has it in digits, too.
    match = _VENDOR_ARCH.match(vendor_class)
    return (int(match[1]),) if match else told


def _read_uuid(raw: bytes) -> str | None:
    # Quirk: some BIOS PXE ROMs send option 97 empty or of all ones, and expect to boot.
    if len(raw) != 17 or raw[0] != 0 or raw[1:] in (b"\0" * 16, b"\xff" * 16):
        return None
    return str(uuid.UUID(bytes_le=raw[1:]))


def choose_loader(client: Client, loaders: Loaders, plan: Plan) -> str:
    """The path (TFTP) or URL that this firmware is to fetch; "" when there is none."""
    firmware = client.firmware_for(loaders.architecture)
    if firmware is None:
        return ""
    base = "" if plan.http_port is None else f"http://{plan.server}:{plan.http_port}"
    if firmware is Firmware.UEFI_HTTP:
        return base and loaders.http and base + loaders.http
    if client.ipxe and client.ipxe_http and base and loaders.ipxe:
        return base + loaders.ipxe
    return loaders.bios if firmware is Firmware.BIOS else loaders.uefi


def answer(request: Message, plan: Plan) -> Reply | Silence:
    """Decide what one request is answered with; pure."""
    client = identify(request)
    detail = _describe(client, request, plan)
    if request.op != Op.REQUEST:
        return Silence("not a request")
    if plan.silence:
        detail.update(status="error", message=plan.silence, cause=plan.cause)
        if plan.rival:
            detail.update(dhcp_server=plan.rival)
        return Silence(plan.silence, detail)
    if plan.nak:
        detail.update(status="error", message=plan.nak, reply="nak", cause="refused")
        return Reply(_refuse(request, plan), detail)
    loader, missing = "", _no_loader(plan.refusal, plan.cause)
    if client.vendor:
        loader, missing = _find_loader(client, plan)
    if plan.grant is not None:
        return _answer_full(request, client, plan, loader, missing, detail)
    return _answer_proxy(request, client, plan, loader, missing, detail)


def _find_loader(client: Client, plan: Plan) -> tuple[str, Detail]:
    """The loader, or "" and what to tell of that."""
    if plan.loaders is None:
        refusal = plan.refusal or "no image is served to this machine"
        return "", _no_loader(refusal, plan.cause or "no_image")
    if loader := choose_loader(client, plan.loaders, plan):
        return loader, {}
    reason = f"no loader for {client.kind}: {_remedy(client, plan.loaders)}"
    other = client.firmware and not client.firmware_for(plan.loaders.architecture)
    return "", _no_loader(reason, "architecture" if other else "no_loader")


def _no_loader(reason: str, cause: str) -> Detail:
    return {"status": "error", "message": reason, "cause": cause}


def _remedy(client: Client, loaders: Loaders) -> str:
    if client.firmware is None:
        return f"images are for machines that boot by {_BOOTED} or UEFI HTTP"
    if not client.firmware_for(loaders.architecture):
        return f"image {loaders.image} is for {loaders.architecture} machines"
    if client.firmware is Firmware.UEFI_HTTP:
        return f"image {loaders.image} has none for HTTP boot: choose PXE in the firmware"
    return f"image {loaders.image} holds none: build it again with this version of bootfarm"


def _answer_proxy(
    request: Message, client: Client, plan: Plan, loader: str, missing: Detail, detail: Detail
) -> Reply | Silence:
    if not client.vendor:
        return Silence("does not boot from the network")
    kind = request.type
    if plan.port == PXE_PORT:
        if kind not in (MessageType.REQUEST, MessageType.INFORM):
            return Silence(f"{kind.name} on port {PXE_PORT} is not for a boot server")
        reply = MessageType.ACK
    elif kind == MessageType.DISCOVER:
        reply = MessageType.OFFER
    else:
        # Its REQUEST to the site's DHCP server names the address that it took.
        chosen = request.address(Option.REQUESTED_ADDRESS)
        server = request.address(Option.SERVER_ID)
        if kind == MessageType.REQUEST and chosen and server:
            return Silence("took an address of the site's DHCP", _seen(detail, chosen, server))
        return Silence(f"{kind.name} is for the server that gives addresses")
    if not loader:
        return Silence(str(missing["message"]), {**detail, **missing})
    message = _reply(request, plan, reply, _boot_options(request, client, loader), loader)
    detail.update(reply=reply.name.lower(), loader=loader, status="ok")
    return Reply(message, detail)


def _seen(detail: Detail, chosen: str, server: str) -> Detail:
    return {**detail, "status": "ok", "address": chosen, "dhcp_server": server}


def _answer_full(
    request: Message, client: Client, plan: Plan, loader: str, missing: Detail, detail: Detail
) -> Reply:
    assert plan.grant is not None
    reply = MessageType.OFFER if request.type == MessageType.DISCOVER else MessageType.ACK
    options = _network_options(plan.grant)
    if client.vendor == "HTTPClient" and loader:
        options[Option.VENDOR_CLASS] = b"HTTPClient"
    if client.ipxe:
        # iPXE waits for proxyDHCP offers unless it is told that there are none.
        options[Option.IPXE] = bytes((_IPXE_NO_PROXY, 1, 1))
    if Option.MACHINE_ID in request.options and client.vendor:
        options[Option.MACHINE_ID] = request.options[Option.MACHINE_ID]
    message = _reply(request, plan, reply, options, loader, address=plan.grant.address)
    detail.update(reply=reply.name.lower(), address=plan.grant.address or request.ciaddr)
    if loader:
        detail.update(loader=loader)
    if client.vendor and not loader:
        detail.update(missing)
    else:
        detail.update(status="ok")
    return Reply(message, detail)


def _boot_options(request: Message, client: Client, loader: str) -> dict[int, bytes]:
    """What makes an offer one of proxyDHCP, by firmware."""
    options: dict[int, bytes] = {Option.VENDOR_CLASS: client.vendor.encode()}
    if Option.MACHINE_ID in request.options:
        # RFC 4578, section 2.3: echoed as it came, malformed or not.
        options[Option.MACHINE_ID] = request.options[Option.MACHINE_ID]
    if client.firmware is Firmware.BIOS:
        # "Skip discovery, fetch the file that is named here" (PXE 2.1, table 2-1, tag 6).
        # Quirk: not for UEFI. Several UEFI builds drop an offer that says so (seen by
        # the authors of pixiecore and dnsmasq); with no option 43 at all, every known
        # one asks port 4011 and takes the file from there (EDK2: "BINL offer").
        inner = {_DISCOVERY_CONTROL: bytes((_USE_BOOT_FILE,))}
        asked = unpack_suboptions(request.options.get(Option.VENDOR, b""))
        if _BOOT_ITEM in asked and len(asked[_BOOT_ITEM]) == 4:
            inner[_BOOT_ITEM] = asked[_BOOT_ITEM]
        options[Option.VENDOR] = pack_suboptions(inner)
    return options


def _network_options(grant: Grant) -> dict[int, bytes]:
    network = grant.network
    options: dict[int, bytes] = {}
    if grant.address:
        for option, seconds in (
            (Option.LEASE_SECONDS, grant.seconds),
            (Option.RENEWAL_SECONDS, grant.seconds // 2),
            (Option.REBINDING_SECONDS, grant.seconds * 7 // 8),
        ):
            options[option] = seconds.to_bytes(4, "big")
    options[Option.SUBNET_MASK] = network.subnet.netmask.packed
    options[Option.BROADCAST_ADDRESS] = network.subnet.broadcast_address.packed
    if network.router:
        options[Option.ROUTER] = packed(network.router)
    if network.dns:
        options[Option.DNS] = pack_addresses(network.dns)
    if network.domain:
        options[Option.DOMAIN] = network.domain.encode()
    if network.ntp:
        options[Option.NTP] = pack_addresses(network.ntp)
    if grant.hostname:
        options[Option.HOSTNAME] = grant.hostname.encode()
    return options


def _reply(
    request: Message,
    plan: Plan,
    kind: MessageType,
    options: Mapping[int, bytes],
    loader: str,
    address: str = "",
) -> Message:
    head: dict[int, bytes] = {
        Option.MESSAGE_TYPE: bytes((kind,)),
        Option.SERVER_ID: packed(plan.server),
    }
    file = loader.encode()
    tail: dict[int, bytes] = {}
    if file.startswith(b"http://") and options.get(Option.VENDOR_CLASS) == b"HTTPClient":
        # UEFI 2.5, section 24.7.3.1: a URI goes into option 67.
        file, tail = b"", {Option.BOOT_FILE: file}
    elif len(file) > 127:
        file, tail = b"", {Option.BOOT_FILE: file + b"\0"}
    if Option.RELAY_AGENT in request.options:
        tail[Option.RELAY_AGENT] = request.options[Option.RELAY_AGENT]  # RFC 3046, section 2.2
    return Message(
        op=Op.REPLY,
        xid=request.xid,
        htype=request.htype,
        mac=request.mac,
        flags=request.flags,
        ciaddr=request.ciaddr if kind == MessageType.ACK else ANY,
        yiaddr=address or ANY,
        siaddr=plan.server if loader else ANY,
        giaddr=request.giaddr,
        file=file,
        options={**head, **options, **tail},
    )


def _refuse(request: Message, plan: Plan) -> Message:
    """DHCPNAK (RFC 2131, section 4.3.2)."""
    options: dict[int, bytes] = {
        Option.MESSAGE_TYPE: bytes((MessageType.NAK,)),
        Option.SERVER_ID: packed(plan.server),
        Option.MESSAGE: plan.nak.encode()[:255],
    }
    if Option.RELAY_AGENT in request.options:
        options[Option.RELAY_AGENT] = request.options[Option.RELAY_AGENT]
    flags = request.flags | (FLAG_BROADCAST if request.giaddr != ANY else 0)
    return Message(
        op=Op.REPLY,
        xid=request.xid,
        htype=request.htype,
        mac=request.mac,
        flags=flags,
        giaddr=request.giaddr,
        options=options,
    )


def route(request: Message, reply: Message, source: tuple[str, int], port: int) -> tuple[str, int]:
    """Where the reply goes (RFC 2131, section 4.1): address and port.

    A client without an address is answered by broadcast whatever its flag says:
    unicast to it would need a raw socket or an ARP entry.
    """
    if port == PXE_PORT:
        return source
    if request.giaddr != ANY:
        return request.giaddr, SERVER_PORT
    if request.ciaddr != ANY and reply.type != MessageType.NAK:
        return request.ciaddr, CLIENT_PORT
    return BROADCAST, CLIENT_PORT


def _describe(client: Client, request: Message, plan: Plan) -> Detail:
    detail: Detail = {"request": request.type.name.lower(), "port": plan.port}
    if client.vendor:
        detail["firmware"] = client.kind
        if client.architectures:
            detail["architecture"] = client.architectures[0]
    if client.uuid:
        detail["uuid"] = client.uuid
    if request.giaddr != ANY:
        detail["relay"] = request.giaddr
    if request.ciaddr != ANY:
        detail["address"] = request.ciaddr
    if plan.loaders is not None and client.vendor:
        detail["image"] = plan.loaders.image
    return detail
