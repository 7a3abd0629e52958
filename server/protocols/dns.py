"""A small authoritative DNS server: queries in, answers out. dnslib knows the wire.

RFC 1035, RFC 2308 (negative answers), RFC 6891 (EDNS), RFC 7766 (TCP), RFC 8482 (ANY).
It answers for the farm's zone and for the reverse names of the farm's networks,
and refuses everything else; it forwards nothing.
"""

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dnslib import CLASS, EDNS0, NS, OPCODE, PTR, QTYPE, RCODE, RD, RR, SOA, A, DNSHeader, DNSRecord

from server.addresses import is_label

MAX_UDP: Final = 1232
"""Bytes of an answer that pass every network unbroken (DNS flag day 2020)."""
MIN_UDP: Final = 512
"""Bytes that every client takes (RFC 1035, 2.3.4)."""
MAX_QUERY: Final = 512
"""Bytes of a question with its EDNS options; more is no plain query (RFC 1035, section 2.3.4)."""
MAX_EXTRA: Final = 2
"""Additional records of a query: EDNS' OPT (RFC 6891), and a signature (RFC 8945)."""
HEADER: Final = 12
ANY_CLASS: Final = 255
TTL: Final = 30
"""Seconds, where farm.yaml says nothing else."""

_REVERSE: Final = "in-addr.arpa"


@dataclass(frozen=True)
class Zone:
    """What is answered for. name: as `farm.example.org`, lower case, without a final dot.

    server: our address. networks: whose reverse names are ours. label: `<label>.<name>`
    is the server's name. ttl: seconds; a node may come back with another address.
    """

    name: str
    server: str
    networks: tuple[ipaddress.IPv4Network, ...] = ()
    label: str = "boot"
    ttl: int = TTL

    @property
    def server_name(self) -> str:
        """The server's own full name in the zone."""
        return f"{self.label}.{self.name}"


@dataclass(frozen=True)
class Names:
    """Who is in the zone at one moment: label to addresses, and address to label."""

    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def make_names(hosts: Iterable[tuple[str, str]]) -> Names:
    """From (hostname, IPv4 address); the first label of a hostname counts.

    Names that DNS cannot carry are left out. The first name of an address is its reverse name.
    """
    addresses: dict[str, tuple[str, ...]] = {}
    labels: dict[str, str] = {}
    for hostname, address in hosts:
        label = hostname.lower().partition(".")[0]
        if not is_label(label):
            continue
        known = addresses.get(label, ())
        if address not in known and len(known) < 16:
            addresses[label] = (*known, address)
        labels.setdefault(address, label)
    return Names(addresses, labels)


class DnsServer:
    """names: gives the zone's present names; the server's own needs not be among them."""

    def __init__(self, zone: Zone, names: Callable[[], Names]) -> None:
        self._zone = zone
        self._names = names
        self._cuts = [cut for network in zone.networks for cut in reverse_zones(network)]

    def answer(self, query: bytes, *, udp: bool) -> bytes | None:
        """The answer to one message; None for what no answer may be given to.

        An answer that does not fit into UDP comes cut, with TC set: the client asks by TCP.
        """
        if len(query) < HEADER or query[2] & 0x80:
            return None  # too short to have an id, or itself an answer: no loops
        if (query[2] >> 3) & 15 != OPCODE.QUERY:
            return _fail(query, RCODE.NOTIMP)
        if not _is_plain(query):
            return _fail(query, RCODE.FORMERR)
        try:
            request = DNSRecord.parse(query)
        except Exception:  # dnslib raises several kinds on damaged bytes
            return _fail(query, RCODE.FORMERR)
        if len(request.questions) != 1 or not _is_name(request.q.qname.label):
            return _fail(query, RCODE.FORMERR)
        if sum(extra.rtype == QTYPE.OPT for extra in request.ar) > 1:
            return _fail(query, RCODE.FORMERR)  # RFC 6891, section 6.1.1
        reply = self._decide(request)
        edns = next((extra for extra in request.ar if extra.rtype == QTYPE.OPT), None)
        limit = MIN_UDP
        if edns is not None:
            limit = max(MIN_UDP, min(MAX_UDP, int(edns.rclass)))
            version = (edns.ttl >> 16) & 255
            reply.add_ar(EDNS0(udp_len=MAX_UDP, ext_rcode=1 if version else 0))
            if version:  # BADVERS, RFC 6891, section 6.1.3
                reply.rr, reply.auth = [], []
                reply.header.rcode = 0
        data = bytes(reply.pack())
        return data if not udp or len(data) <= limit else bytes(reply.truncate().pack())

    def _decide(self, request: DNSRecord) -> DNSRecord:
        question = request.q
        header = DNSHeader(
            id=request.header.id, qr=1, aa=1, ra=0, rd=request.header.rd, opcode=OPCODE.QUERY
        )
        reply = DNSRecord(header, q=question)
        name = _read_name(question.qname.label)
        zone = self._find_zone(name)
        kind = QTYPE.get(question.qtype)
        if zone is None or question.qclass not in (CLASS.IN, ANY_CLASS):
            header.aa = 0
            header.rcode = RCODE.REFUSED
            return reply
        if kind in ("AXFR", "IXFR"):
            header.rcode = RCODE.REFUSED
            return reply
        records = self._find_records(name, zone)
        if records is None:
            header.rcode = RCODE.NXDOMAIN
        elif kind == "ANY":
            reply.add_answer(
                RR(question.qname, QTYPE.HINFO, ttl=self._zone.ttl, rdata=RD(b"\x07RFC8482\x00"))
            )
        else:
            for record_kind, rdata in records:
                if record_kind == kind:
                    number = getattr(QTYPE, record_kind)
                    reply.add_answer(RR(question.qname, number, ttl=self._zone.ttl, rdata=rdata))
        if not reply.rr:
            reply.add_auth(RR(zone, QTYPE.SOA, ttl=self._zone.ttl, rdata=self._soa()))
        return reply

    def _find_zone(self, name: str) -> str | None:
        """The zone of ours that a name is in; None when it is in none."""
        if name == self._zone.name or name.endswith("." + self._zone.name):
            return self._zone.name
        for cut in self._cuts:
            if name == cut or name.endswith("." + cut):
                return cut
        return None

    def _find_records(self, name: str, zone: str) -> list[tuple[str, object]] | None:
        """All records of a name as (type, data); None when the name does not exist."""
        if name == zone:
            return [("SOA", self._soa()), ("NS", NS(self._zone.server_name))]
        if zone.endswith("." + _REVERSE):
            return self._find_reverse(name)
        label = name.removesuffix("." + zone)
        if name == self._zone.server_name:
            return [("A", A(self._zone.server))]
        addresses = self._names().addresses.get(label)
        return [("A", A(address)) for address in addresses] if addresses else None

    def _find_reverse(self, name: str) -> list[tuple[str, object]] | None:
        parts = name.removesuffix("." + _REVERSE).split(".")
        if any(not part.isdecimal() or len(part) > 3 for part in parts):
            return None
        if len(parts) < 4:
            return []  # between the zone's top and its addresses: nothing there, but it exists
        address = ".".join(reversed(parts))
        if address == self._zone.server:
            return [("PTR", PTR(self._zone.server_name))]
        label = self._names().labels.get(address)
        return [("PTR", PTR(f"{label}.{self._zone.name}"))] if label else None

    def _soa(self) -> SOA:
        # The serial stands still: there are no secondaries to tell.
        times = (1, 3600, 600, 86400, self._zone.ttl)
        return SOA(self._zone.server_name, f"hostmaster.{self._zone.name}", times)


def reverse_zones(network: ipaddress.IPv4Network) -> list[str]:
    """The reverse zones of a network, cut at whole octets as delegation is.

    A network longer than /24 counts as its /24; one of, say, /20 is sixteen zones.
    """
    prefix = min(24, max(8, (network.prefixlen + 7) // 8 * 8))
    if network.prefixlen >= 24:
        cuts = [network.supernet(new_prefix=24)]
    else:
        cuts = list(network.subnets(new_prefix=prefix)) if network.prefixlen >= 8 else []
    octets = prefix // 8
    return [
        ".".join([*reversed(str(cut.network_address).split(".")[:octets]), _REVERSE])
        for cut in cuts
    ]


def _is_plain(query: bytes) -> bool:
    """Whether a message is one question and little more, by its counts and its name alone.

    Reading all records of a message, each with a compressed name of a hundred
    labels, takes long; nobody's query has them. Nor has a question a compressed
    name: there is nothing before it to point at.
    """
    counts = [int.from_bytes(query[at : at + 2], "big") for at in (4, 6, 8, 10)]
    if len(query) > MAX_QUERY or counts[:3] != [1, 0, 0] or counts[3] > MAX_EXTRA:
        return False
    at = HEADER
    while at < len(query) and query[at]:
        if query[at] > 63:
            return False
        at += 1 + query[at]
    if at + 5 > len(query):
        return False
    at += 5
    for _ in range(counts[3]):
        # Not followed: the owner of OPT is the root, the owner of a signature a plain name.
        while at < len(query) and query[at]:
            if query[at] > 63:
                return False
            at += 1 + query[at]
        if at + 11 > len(query):
            return False
        at += 11 + int.from_bytes(query[at + 9 : at + 11], "big")
    return at <= len(query)


def _is_name(labels: Sequence[bytes]) -> bool:
    """Whether labels keep to RFC 1035, section 2.3.4. dnslib reads longer ones, and packs none."""
    return all(len(label) < 64 for label in labels) and sum(map(len, labels)) + len(labels) < 255


def _read_name(labels: Iterable[bytes]) -> str:
    """A name in lower case. A dot inside of a label becomes what no name of ours has."""
    return ".".join(label.decode("latin-1").replace(".", "\0") for label in labels).lower()


def _fail(query: bytes, rcode: int) -> bytes:
    """A header that says what is wrong; nothing of the query but its id and opcode."""
    flags = 0x8000 | (int.from_bytes(query[2:4], "big") & 0x7900) | rcode
    return query[:2] + flags.to_bytes(2, "big") + bytes(8)


class DnsStream:
    """One TCP connection: bytes in, framed answers out (RFC 7766, section 8)."""

    def __init__(self, server: DnsServer, allow: Callable[[], bool] = lambda: True) -> None:
        """allow: whether one more query may be answered now; where not, the connection ends."""
        self._server = server
        self._allow = allow
        self._buffer = b""

    def receive(self, data: bytes) -> bytes | None:
        """What to send for the bytes that came; None when the connection is to be closed."""
        self._buffer += data
        answers = []
        while len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "big")
            if not HEADER <= length <= MAX_QUERY:
                return None
            if len(self._buffer) < 2 + length:
                break
            query, self._buffer = self._buffer[2 : 2 + length], self._buffer[2 + length :]
            if not self._allow():
                return None
            answer = self._server.answer(query, udp=False)
            if answer is None:
                return None
            answers.append(len(answer).to_bytes(2, "big") + answer)
        return b"".join(answers)
