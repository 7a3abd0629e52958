import ipaddress
from typing import Any

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.dns import DnsServer, DnsStream, Names, Zone, make_names, reverse_zones

ZONE = Zone("farm.test", "10.9.0.1", (ipaddress.IPv4Network("10.9.0.0/16"),))
HOSTS = [
    ("node1", "10.9.1.1"),
    ("node2.farm.test", "10.9.1.2"),
    ("NODE3", "10.9.1.3"),
    ("api", "10.9.0.20"),
    ("bad_name", "10.9.1.4"),
    ("node1", "10.9.7.1"),
]


def make(names: Names | None = None) -> DnsServer:
    found = names if names is not None else make_names(HOSTS)
    return DnsServer(ZONE, lambda: found)


def ask(name: str, kind: str = "A", *, server: DnsServer | None = None, **options: Any) -> Any:
    query = DNSRecord.question(name, kind)
    answer = (server or make()).answer(bytes(query.pack()), udp=True)
    assert answer is not None
    reply = DNSRecord.parse(answer)
    assert reply.header.id == query.header.id
    assert (reply.header.qr, reply.header.ra) == (1, 0)
    return reply


def values(reply: Any) -> list[str]:
    return sorted(str(record.rdata) for record in reply.rr)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("node1.farm.test", "A", ["10.9.1.1", "10.9.7.1"]),
        ("node2.farm.test", "A", ["10.9.1.2"]),
        ("NoDe3.FARM.test", "A", ["10.9.1.3"]),
        ("api.farm.test", "A", ["10.9.0.20"]),
        ("boot.farm.test", "A", ["10.9.0.1"]),
        ("farm.test", "NS", ["boot.farm.test."]),
        ("1.1.9.10.in-addr.arpa", "PTR", ["node1.farm.test."]),
        ("1.7.9.10.in-addr.arpa", "PTR", ["node1.farm.test."]),
        ("1.0.9.10.in-addr.arpa", "PTR", ["boot.farm.test."]),
        ("9.10.in-addr.arpa", "NS", ["boot.farm.test."]),
    ],
)
def test_names_of_the_farm(name: str, kind: str, expected: list[str]) -> None:
    reply = ask(name, kind)
    assert values(reply) == expected
    assert (reply.header.rcode, reply.header.aa) == (RCODE.NOERROR, 1)


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        ("node9.farm.test", "A", "NXDOMAIN"),
        ("x.node1.farm.test", "A", "NXDOMAIN"),
        ("bad_name.farm.test", "A", "NXDOMAIN"),
        ("node1.farm.test", "AAAA", "NOERROR"),
        ("farm.test", "A", "NOERROR"),
        ("9.9.9.10.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("999.1.9.10.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("1.1.1.9.10.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("x.9.10.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("1.9.10.in-addr.arpa", "PTR", "NOERROR"),
    ],
)
def test_what_is_not_there_is_denied_with_the_soa(name: str, kind: str, rcode: str) -> None:
    reply = ask(name, kind)
    assert RCODE[reply.header.rcode] == rcode
    assert (reply.rr, reply.header.aa) == ([], 1)
    assert [QTYPE[record.rtype] for record in reply.auth] == ["SOA"]
    assert reply.auth[0].ttl == 30


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("example.org", "A"),
        ("test", "A"),
        ("xfarm.test", "A"),
        (".", "NS"),
        ("1.1.8.10.in-addr.arpa", "PTR"),
        ("in-addr.arpa", "PTR"),
        ("farm.test", "AXFR"),
    ],
)
def test_foreign_names_and_transfers_are_refused(name: str, kind: str) -> None:
    reply = ask(name, kind)
    assert (RCODE[reply.header.rcode], reply.rr, reply.auth) == ("REFUSED", [], [])


@pytest.mark.parametrize(
    ("label", "allowed"),
    [(b"n de1", {"NXDOMAIN"}), (b"x.bo1", {"NXDOMAIN"}), (b"n\x00\xff.1", {"NXDOMAIN", "FORMERR"})],
)
def test_odd_labels_are_names_that_do_not_exist(label: bytes, allowed: set[str]) -> None:
    query = DNSRecord.question("node1.farm.test").pack().replace(b"node1", label)
    reply = DNSRecord.parse(make().answer(bytes(query), udp=True))
    assert RCODE[reply.header.rcode] in allowed


def test_a_dot_inside_of_a_label_does_not_make_a_name_of_ours() -> None:
    query = DNSRecord.question("node1xfarm.test").pack().replace(b"node1xfarm", b"node1.farm")
    reply = DNSRecord.parse(make().answer(bytes(query), udp=True))
    assert RCODE[reply.header.rcode] == "REFUSED"


def test_any_is_answered_with_next_to_nothing() -> None:
    reply = ask("node1.farm.test", "ANY")
    assert [QTYPE[record.rtype] for record in reply.rr] == ["HINFO"]


def test_the_other_classes_are_refused() -> None:
    query = bytearray(DNSRecord.question("node1.farm.test").pack())
    query[-1] = 3  # CHAOS
    reply = DNSRecord.parse(make().answer(bytes(query), udp=True))
    assert RCODE[reply.header.rcode] == "REFUSED"


def test_edns_is_answered_with_edns_and_an_unknown_version_refused() -> None:
    for version, extended in ((0, 0), (1, 1)):
        query = DNSRecord.question("node1.farm.test")
        query.add_ar(EDNS0(udp_len=4096, version=version))
        reply = DNSRecord.parse(make().answer(bytes(query.pack()), udp=True))
        assert [QTYPE[extra.rtype] for extra in reply.ar] == ["OPT"]
        assert reply.ar[0].ttl >> 24 == extended
        assert bool(reply.rr) == (version == 0)


def test_a_query_with_two_opt_records_is_malformed() -> None:
    query = DNSRecord.question("node1.farm.test")
    query.add_ar(EDNS0(udp_len=4096), EDNS0(udp_len=1232))  # RFC 6891, section 6.1.1
    reply = make().answer(bytes(query.pack()), udp=True)
    assert reply is not None
    assert RCODE[DNSRecord.parse(reply).header.rcode] == "FORMERR"


def test_an_answer_that_does_not_fit_is_cut_over_udp_and_whole_over_tcp() -> None:
    names = Names({"many": tuple(f"10.9.2.{number}" for number in range(60))})
    query = bytes(DNSRecord.question("many.farm.test").pack())
    cut = make(names).answer(query, udp=True)
    whole = make(names).answer(query, udp=False)
    assert cut is not None
    assert whole is not None
    assert len(cut) <= 512
    assert (DNSRecord.parse(cut).header.tc, DNSRecord.parse(cut).rr) == (1, [])
    assert len(DNSRecord.parse(whole).rr) == 60


@pytest.mark.parametrize(
    ("flags", "counts", "expected"),
    [
        (b"\x80\x00", b"\0\1", None),  # an answer: answering it would be a loop
        (b"\x10\x00", b"\0\1", RCODE.NOTIMP),  # STATUS
        (b"\x28\x00", b"\0\1", RCODE.NOTIMP),  # UPDATE
        (b"\0\0", b"\0\0", RCODE.FORMERR),
        (b"\0\0", b"\0\2", RCODE.FORMERR),
    ],
)
def test_other_messages(flags: bytes, counts: bytes, expected: int | None) -> None:
    query = bytearray(DNSRecord.question("node1.farm.test").pack())
    query[2:4] = flags
    query[4:6] = counts
    answer = make().answer(bytes(query), udp=True)
    if expected is None:
        assert answer is None
    else:
        assert answer is not None
        assert (answer[:2], answer[2] & 0x80, answer[3] & 15) == (bytes(query[:2]), 0x80, expected)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_answered_or_dropped(data: bytes, udp: bool) -> None:
    head = bytes(DNSRecord.question("node1.farm.test").pack())
    for candidate in (data, head[:12] + data, head + data):
        answer = make().answer(candidate, udp=udp)
        if answer is not None:
            assert answer[:2] == candidate[:2]
            assert answer[2] & 0x80


@given(st.sampled_from(["node1", "node9", "boot", "node2"]), st.sampled_from(["A", "ANY", "MX"]))
def test_it_is_a_weak_amplifier_at_most(label: str, kind: str) -> None:
    """Bytes out for a byte in; the rate limit by address does the rest."""
    query = bytes(DNSRecord.question(f"{label}.farm.test", kind).pack())
    answer = make().answer(query, udp=True)
    assert answer is not None
    assert len(answer) < 3 * len(query)


def test_tcp_frames_byte_by_byte_and_several_at_once() -> None:
    queries = [bytes(DNSRecord.question(f"node{n}.farm.test").pack()) for n in (1, 2)]
    framed = b"".join(len(query).to_bytes(2, "big") + query for query in queries)
    whole = DnsStream(make()).receive(framed)
    stream, pieces = DnsStream(make()), b""
    for index in range(len(framed)):
        piece = stream.receive(framed[index : index + 1])
        assert piece is not None
        pieces += piece
    assert whole == pieces
    assert whole is not None
    length = int.from_bytes(whole[:2], "big")
    assert values(DNSRecord.parse(whole[2 : 2 + length])) == ["10.9.1.1", "10.9.7.1"]


@pytest.mark.parametrize("data", [b"\x00\x05", b"\xff\xff", b"\x00\x0c" + b"\x80" * 12])
def test_tcp_that_is_no_query_is_closed(data: bytes) -> None:
    assert DnsStream(make()).receive(data) is None


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
        ("10.9.0.0/16", ["9.10.in-addr.arpa"]),
        ("10.9.2.0/23", ["2.9.10.in-addr.arpa", "3.9.10.in-addr.arpa"]),
        ("10.9.2.64/26", ["2.9.10.in-addr.arpa"]),
        ("0.0.0.0/0", []),
    ],
)
def test_reverse_zones_are_cut_at_octets(network: str, expected: list[str]) -> None:
    assert reverse_zones(ipaddress.IPv4Network(network)) == expected


def make_bomb(counts: tuple[int, int, int, int], tail: bytes) -> bytes:
    """A query by RFC 1035, section 4.1: one long name, and what may point at it."""
    name = b"".join(b"\x01a" for _ in range(120)) + b"\0"
    head = b"\x12\x34\1\0" + b"".join(count.to_bytes(2, "big") for count in counts)
    return head + name + b"\0\1\0\1" + tail


@pytest.mark.parametrize(
    "query",
    [
        make_bomb((666, 0, 0, 0), b"\xc0\x0c\0\1\0\1" * 665),
        make_bomb((1, 40, 0, 0), b"\xc0\x0c\0\2\0\1\0\0\0\1\0\2\xc0\x0c" * 40),
        make_bomb((1, 0, 40, 0), b"\xc0\x0c\0\x0f\0\1\0\0\0\1\0\4\0\1\xc0\x0c" * 40),
        make_bomb((1, 0, 0, 40), b"\xc0\x0c\0\2\0\1\0\0\0\1\0\2\xc0\x0c" * 40),
        make_bomb((1, 0, 0, 1), b"\xc0\x0c\0\2\0\1\0\0\0\1\0\2\xc0\x0c"),
        make_bomb((0, 0, 0, 0), b""),
        make_bomb((1, 0, 0, 0), b"")[:-3],
        b"\x12\x34\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1",
    ],
    ids=["questions", "answers", "authority", "extra", "pointer", "none", "cut", "to itself"],
)
def test_what_is_no_plain_query_is_refused_before_it_is_read(
    query: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(data: bytes) -> DNSRecord:
        raise AssertionError("it was read")

    monkeypatch.setattr(DNSRecord, "parse", parse)
    server = DnsServer(Zone("farm.test", "10.9.0.1"), Names)
    answer = server.answer(query, udp=False)
    assert answer == b"\x12\x34\x81\1" + bytes(8)  # FORMERR, and the id


def test_a_stream_ends_where_no_more_may_be_asked() -> None:
    query = bytes(DNSRecord.question("boot.farm.test").pack())
    allowed = iter([True, True, False])
    stream = DnsStream(DnsServer(Zone("farm.test", "10.9.0.1"), Names), lambda: next(allowed))
    framed = len(query).to_bytes(2, "big") + query
    assert stream.receive(framed)
    assert stream.receive(framed)
    assert stream.receive(framed) is None
