"""Bytes that leave for a byte that came in with a forged source.

`python -m bench.amplification` prints them.

Whoever forges a request's source makes this server send to somebody who never
asked and never answers. Each case below is one such request, chosen as the worst
that its service answers; the protocol cores say what leaves, to the last
retransmission, on a clock of their own. `--live` sends the TFTP cases to a
service on loopback as well, and counts what comes.

Bytes are UDP payload, as such factors are usually told, and whole IP packets (28 more each).
"""

import ipaddress
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from dnslib import EDNS0, DNSRecord

from server.protocols.dhcp import Client, Loaders, Network
from server.protocols.dhcp_leases import LeaseTable
from server.protocols.dhcp_server import DhcpServer, Pool
from server.protocols.dhcp_wire import PXE_PORT, Message, MessageType, Option, pack
from server.protocols.dns import DnsServer, Names, Zone
from server.protocols.tftp import NEVER, Transfer, negotiate
from server.protocols.tftp_wire import ErrorCode, pack_ack, pack_error, pack_request, parse_request

HEADERS: Final = 28
"""Of IP and UDP, in each packet."""
SERVER: Final = "10.9.0.1"
VICTIM: Final = "10.9.0.66"
SIZE: Final = 30_000_000
"""Of the file asked for: an initramfs."""
PATH: Final = "/ltsp/a/vmlinuz"


@dataclass(frozen=True)
class Case:
    """One forged request. sent: its bytes; answers: the bytes of each packet that left."""

    service: str
    name: str
    sent: int
    answers: tuple[int, ...]

    @property
    def factor(self) -> float:
        """UDP payload out for a byte in."""
        return sum(self.answers) / self.sent

    @property
    def ip_factor(self) -> float:
        """The same in whole IP packets."""
        return (sum(self.answers) + HEADERS * len(self.answers)) / (self.sent + HEADERS)


TFTP_CASES: Final[Mapping[str, Mapping[str, str]]] = {
    "without options": {},
    "options that nobody knows": {"x": "1"},
    "tsize": {"tsize": "0"},
    "all options, the largest values": {
        "blksize": "65464",
        "windowsize": "64",
        "tsize": "0",
        "timeout": "255",
    },
    "timeout 1": {"timeout": "1"},
}


def measure_tftp(options: Mapping[str, str], size: int = SIZE) -> Case:
    """One request, and everything that leaves until the server gives its client up."""
    request = pack_request(PATH, options)
    transfer = Transfer(size, negotiate(parse_request(request).options, size))
    now, answers = 0.0, []
    transfer.start(now)
    answers.append(_size_of(transfer))
    while transfer.outcome is None and transfer.deadline != NEVER:
        now = transfer.deadline
        if transfer.timeout(now):
            answers.append(_size_of(transfer))
    if transfer.farewell:
        answers.append(len(transfer.farewell))
    name = next((name for name, known in TFTP_CASES.items() if known == options), "other options")
    return Case("TFTP", name, len(request), tuple(answers))


def _size_of(transfer: Transfer) -> int:
    """Bytes of what the transfer says to send now; several blocks count as one packet each."""
    if transfer.first == 0:
        return len(transfer.oack)
    blocks = range(transfer.first, transfer.first + transfer.count)
    return sum(
        4 + min(transfer.blksize, transfer.size - (block - 1) * transfer.blksize)
        for block in blocks
    )


def measure_tftp_error() -> Case:
    """A request that is refused, with the longest words that the server has for it."""
    message = "image amd64@0123456789ab has no grub loader: build it again"
    answer = pack_error(ErrorCode.NOT_FOUND, message)
    return Case(
        "TFTP", "a file that is not there", len(pack_request("/ltsp/a/grub/x")), (len(answer),)
    )


def measure_dhcp() -> Iterator[Case]:
    """The shortest requests that are answered, as relays and clients may send them."""
    loaders = Loaders(
        "amd64",
        bios="/ltsp/amd64/ipxe/undionly.kpxe",
        uefi="/ltsp/amd64/ipxe/snponly.efi",
        http="/ltsp/amd64/ipxe/snponly.efi",
        ipxe="/ltsp/amd64/boot.ipxe",
    )

    def find_loaders(client: Client) -> Loaders:
        return loaders

    vendors = {"BIOS": b"PXEClient:Arch:00000", "UEFI": b"PXEClient:Arch:00007"}
    vendors["UEFI HTTP boot"] = b"HTTPClient:Arch:00016"
    proxy = DhcpServer(find_loaders, http_port=8080)
    for name, vendor in vendors.items():
        yield _ask_dhcp(proxy, f"proxy, {name}, relayed", 67, vendor, MessageType.DISCOVER)
    for name, vendor in list(vendors.items())[:2]:
        yield _ask_dhcp(proxy, f"proxy, {name}, port 4011", PXE_PORT, vendor, MessageType.REQUEST)
    subnet = ipaddress.IPv4Network("10.9.0.0/16")
    dns = ("10.9.0.2", "10.9.0.3")
    network = Network(subnet, "10.9.0.254", dns, "farm.example.org", dns)
    pool = Pool(LeaseTable("10.9.1.1", "10.9.1.9"), network)
    full = DhcpServer(find_loaders, http_port=8080, pool=pool)
    for name, vendor in (("no network boot", b""), *vendors.items()):
        yield _ask_dhcp(full, f"full, {name}, relayed", 67, vendor, MessageType.DISCOVER)


def _ask_dhcp(server: DhcpServer, name: str, port: int, vendor: bytes, kind: MessageType) -> Case:
    options: dict[int, bytes] = {Option.MESSAGE_TYPE: bytes((kind,))}
    if vendor:
        options[Option.VENDOR_CLASS] = vendor
    mac = f"52:54:00:00:01:{len(vendor):02x}"
    message = Message(1, 1, mac, options=options)
    if port == PXE_PORT:
        message = replace(message, ciaddr=VICTIM)
    else:
        message = replace(message, giaddr=VICTIM)
    request = pack(message).rstrip(b"\0")
    outcome = server.receive(0.0, request, (VICTIM, 67), port, SERVER)
    answers = (len(outcome.send[0]),) if outcome.send else ()
    return Case("DHCP", name, len(request), answers)


def measure_dns() -> Iterator[Case]:
    """Queries of each kind for each kind of name."""
    names = Names(
        {"n": ("10.9.0.11",), "many": tuple(f"10.9.0.{number}" for number in range(16))},
        {"10.9.0.11": "n"},
    )
    zone = Zone("farm.example.org", SERVER, (ipaddress.IPv4Network("10.9.0.0/16"),))
    server = DnsServer(zone, lambda: names)
    questions = (
        ("n.farm.example.org", "A", "a node"),
        ("n.farm.example.org", "ANY", "ANY"),
        ("farm.example.org", "NS", "the zone's server"),
        ("x.farm.example.org", "A", "a name that there is not"),
        ("9.10.in-addr.arpa", "A", "a reverse zone's top"),
        ("example.net", "A", "another zone"),
        ("many.farm.example.org", "A", "a name with 16 addresses"),
    )
    for name, kind, words in questions:
        for edns in (False, True):
            query = DNSRecord.question(name, kind)
            if edns:
                query.add_ar(EDNS0(udp_len=4096))
            data = bytes(query.pack())
            answer = server.answer(data, udp=True) or b""
            yield Case("DNS", f"{words}{', EDNS' if edns else ''}", len(data), (len(answer),))


def measure_forged_ack() -> Case:
    """An ACK with a forged source, for a transfer that a forged request began.

    It must come to the transfer's port: known with single_port, else one of
    some 28,000 that the kernel chose.
    """
    transfer = Transfer(SIZE, negotiate({"blksize": "65464", "windowsize": "64"}, SIZE))
    transfer.start(0.0)
    assert transfer.receive(pack_ack(0), 0.1)
    answers = (transfer.blksize + 4,) * transfer.count
    return Case("TFTP", "each forged ACK to the right port", 4, answers)


def measure() -> list[Case]:
    """Every case of a single forged packet; forged ACKs are told of by `main`."""
    cases = [measure_tftp(options) for options in TFTP_CASES.values()]
    return [*cases, measure_tftp_error(), *measure_dhcp(), *measure_dns()]


def measure_live(seconds: float = 10.0) -> list[Case]:
    """The TFTP cases in real time: a service on loopback, clients that never answer."""
    import asyncio
    import threading

    from server.content import BytesContent
    from server.services.hotloop import HotLoop
    from server.services.tftp import TftpService

    loop = HotLoop()
    service = TftpService(
        loop,
        address="127.0.0.1",
        port=0,
        lookup=lambda path, client: BytesContent(bytes(100_000)),
        emit=lambda event: None,
    )
    service.bind()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    loop.call_soon_threadsafe(service.start)
    victims: list[tuple[str, int, socket.socket]] = []
    for name, options in TFTP_CASES.items():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        request = pack_request(PATH, options)
        sock.sendto(request, ("127.0.0.1", service.port))
        victims.append((name, len(request), sock))
    time.sleep(seconds)
    cases = []
    for name, sent, sock in victims:
        answers = []
        while True:
            try:
                answers.append(len(sock.recv(65536)))
            except BlockingIOError:
                break
        sock.close()
        cases.append(Case("TFTP live", name, sent, tuple(answers)))
    asyncio.run_coroutine_threadsafe(service.stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    return cases


def render(cases: list[Case]) -> str:
    """A table in Markdown."""
    heads = ("service", "forged request", "bytes in", "packets out", "bytes out", "out : in")
    lines = [f"| {' | '.join(heads)} | with IP headers |", "|---|---|---|---|---|---|---|"]
    for case in cases:
        cells = (
            case.service,
            case.name,
            str(case.sent),
            str(len(case.answers)),
            str(sum(case.answers)),
            f"{case.factor:.1f}",
            f"{case.ip_factor:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table; with --live the measured cases, too."""
    cases = [*measure(), measure_forged_ack()]
    if "--live" in sys.argv[1:]:
        print("sending to a service on loopback, 10 s", file=sys.stderr)
        cases += measure_live()
    print(time.strftime("%Y-%m-%d"))
    print(render(cases))


if __name__ == "__main__":
    main()
