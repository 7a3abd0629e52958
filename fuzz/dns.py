"""DNS: any datagram or stream is answered with messages that can be read back, or not at all."""

import ipaddress
from typing import Final

from dnslib import DNSRecord

from fuzz.words import Words
from server.protocols.dns import DnsServer, DnsStream, Zone, make_names

_NAMES: Final = make_names([("node1", "10.9.1.1"), ("api", "10.9.0.20"), ("node1", "10.9.7.1")])
_ZONE: Final = Zone("farm.test", "10.9.0.1", (ipaddress.IPv4Network("10.9.0.0/16"),))
SERVER: Final = DnsServer(_ZONE, lambda: _NAMES)
_QUESTIONS: Final = (
    ("node1.farm.test", "A"),
    ("node1.farm.test", "AAAA"),
    ("farm.test", "SOA"),
    ("farm.test", "NS"),
    ("1.1.9.10.in-addr.arpa", "PTR"),
    ("example.org", "ANY"),
)
_QUERIES: Final = tuple(bytes(DNSRecord.question(*question).pack()) for question in _QUESTIONS)
SEEDS: Final = (
    *(b"\0" + query for query in _QUERIES),
    b"\1" + b"".join(len(query).to_bytes(2, "big") + query for query in _QUERIES),
    b"\0" + _QUERIES[0][:12] + b"\xc0\x0c\0\1\0\1",
    b"\0" + _QUERIES[0][:11] + b"\1" + _QUERIES[0][12:] + b"\0\0\x29\x10\0\0\0\0\0\0\0",
)


def check(data: bytes) -> None:
    """data: one byte that chooses UDP or TCP, then the query or the stream."""
    words = Words(data)
    if words.number() % 2:
        _check_stream(words.rest())
        return
    query = words.rest()
    answer = SERVER.answer(query, udp=True)
    if answer is None:
        return
    assert answer[:2] == query[:2]
    assert answer[2] & 0x80, "no answer but a query: it could be sent round in circles"
    assert len(answer) <= 4096
    DNSRecord.parse(answer)


def _check_stream(data: bytes) -> None:
    stream = DnsStream(SERVER)
    whole = stream.receive(data)
    pieces = DnsStream(SERVER)
    said: bytes | None = b""
    for position in range(0, len(data), 7):
        part = pieces.receive(data[position : position + 7])
        if part is None:
            said = None
            break
        said = (said or b"") + part
    assert whole == said, "how the bytes are cut changes the answers"
    if not whole:
        return
    while whole:
        length = int.from_bytes(whole[:2], "big")
        DNSRecord.parse(whole[2 : 2 + length])
        whole = whole[2 + length :]
