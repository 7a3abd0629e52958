"""Faults of the path: full-size packets, fragments, clocks."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from server.doctor import path
from server.doctor.path import check_clock, check_mtu, fetch_block, probe_mtu
from server.doctor.target import Survey
from server.doctor.verdict import Level
from server.protocols.tftp_wire import Opcode, pack_error, pack_oack, parse_request
from server.services.limits import TftpLimits
from server.services.tftp import TftpService
from tests.server.doctor.site import FakeSite
from tests.server.services.running import running


@contextlib.contextmanager
def narrow(largest: int) -> Iterator[int]:
    """A TFTP server behind a path that loses DATA of more than `largest` bytes; its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        blksizes: dict[object, int] = {}

        def serve() -> None:
            while True:
                packet, peer = sock.recvfrom(65536)
                if packet == b"end":
                    return
                opcode = int.from_bytes(packet[:2], "big")
                if opcode == Opcode.RRQ:
                    options = parse_request(packet).options
                    blksizes[peer] = int(options["blksize"])
                    sock.sendto(pack_oack(options), peer)
                elif packet == b"\0\4\0\0" and blksizes[peer] <= largest:
                    sock.sendto(b"\0\3\0\1" + bytes(blksizes[peer]), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(sock.getsockname()[1])
        finally:
            sock.sendto(b"end", sock.getsockname())
            thread.join()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "BLOCK_SECONDS", 0.25)
    monkeypatch.setattr(path, "TRIES", 2)


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (65464, []),
        (8000, ["mtu.fragments"]),
        (1468, ["mtu.fragments"]),
        (1467, ["mtu.path"]),
        (511, ["mtu.unknown"]),
    ],
)
def test_blocks_that_are_lost(
    site: FakeSite, hasty: None, largest: int, expected: list[str]
) -> None:
    with narrow(largest) as port:
        site.target = replace(site.target, tftp_port=port)
        assert site.ids(check_mtu) == expected


def test_a_path_of_less_than_ethernets(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "probe_mtu", lambda host, port: 1499)
    (verdict,) = site.look(check_mtu)
    assert (verdict.id, verdict.words) == ("mtu.small", "it takes 1499 bytes")
    monkeypatch.setattr(path, "probe_mtu", lambda host, port: 1500)
    assert site.ids(check_mtu) == []


def test_a_server_that_grants_no_large_blocks_sends_no_fragments(site: FakeSite) -> None:
    limits = TftpLimits(max_blksize=1428)
    with running(
        lambda loop: TftpService(
            loop,
            address="127.0.0.1",
            port=0,
            lookup=site.lookup,
            emit=lambda event: None,
            limits=limits,
        )
    ) as service:
        site.target = replace(site.target, tftp_port=service.port)
        assert site.ids(check_mtu) == []


@pytest.mark.parametrize(
    "oack", [b"\0\6", b"\0\6tsize\0005\0", b"\0\6blksize\0x\0", b"\0\6blksize", b"\0\5\0\1no\0"]
)
def test_an_oack_without_a_blksize(oack: bytes) -> None:
    assert path._read_blksize(oack) == 0
    assert path._read_blksize(b"\0\6tsize\0005\0blksize\x00512\0") == 512


def test_without_tftp_nothing_is_tried(site: FakeSite) -> None:
    assert site.ids(check_mtu, Survey()) == ["mtu.unknown"]


def test_loopback_takes_much() -> None:
    assert probe_mtu("127.0.0.1", 9) in (65535, 65536)


def test_a_refusal_is_no_block(site: FakeSite) -> None:
    assert not fetch_block("127.0.0.1", site.target.tftp_port, "/nothing", 512)
    assert pack_error(0, "x")[:2] == b"\0\5"


@pytest.mark.parametrize(
    ("ahead", "expected", "words"),
    [
        (0.0, [], "the server's clock is 0."),
        (100.0, ["clock.server"], "ahead"),
        (-100.0, ["clock.server"], "behind"),
    ],
)
def test_the_servers_clock(site: FakeSite, ahead: float, expected: list[str], words: str) -> None:
    survey = site.survey()
    if ahead:
        site.pages["/api/time"] = f"{site.target.clock() + ahead:.3f}\n".encode()
    (verdict,) = site.look(check_clock, survey)
    assert [verdict.id] == (expected or ["clock.ok"])
    assert words in verdict.words
    assert survey.server_offset is not None
    assert abs(survey.server_offset - ahead) < 10
    assert (verdict.level is Level.WARN) == bool(ahead)


def test_a_server_that_tells_no_time(site: FakeSite) -> None:
    site.pages["/api/time"] = b"<html>"
    assert site.ids(check_clock) == ["clock.unknown"]
    assert site.ids(check_clock, Survey()) == ["clock.unknown"]
