import asyncio
import ipaddress
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Literal

import pytest
from dnslib import DNSRecord

from server.errors import ServerError
from server.protocols.dns import DnsServer, Zone, make_names
from server.services import dns
from server.services.dns import DnsLimits, DnsService
from server.services.ports import bind_port

ZONE = Zone("farm.test", "10.9.0.1", (ipaddress.IPv4Network("10.9.0.0/16"),))
NAMES = make_names([("node1", "10.9.1.1")])
QUERY = bytes(DNSRecord.question("node1.farm.test").pack())
FRAMED = len(QUERY).to_bytes(2, "big") + QUERY
LIMITS = DnsLimits(client_rate=0.0, client_burst=3.0, per_client=2)


@pytest.fixture
def service() -> Iterator[DnsService]:
    loop = asyncio.new_event_loop()
    service = DnsService(
        loop,
        address="127.0.0.1",
        port=0,
        server=DnsServer(ZONE, lambda: NAMES),
        limits=LIMITS,
    )
    service.bind()
    service.start()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield service
    asyncio.run_coroutine_threadsafe(service.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def read_frame(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as stream:
        return stream.read(int.from_bytes(stream.read(2), "big"))


def test_any_port_is_one_that_is_free_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's choice for UDP may be somebody's TCP port: then another one is taken."""
    loop = asyncio.new_event_loop()
    service = DnsService(
        loop, address="127.0.0.1", port=0, server=DnsServer(ZONE, lambda: NAMES), limits=LIMITS
    )
    taken: list[socket.socket] = []

    def bind(name: str, kind: Literal["tcp", "udp"], address: str, port: int) -> socket.socket:
        if kind == "tcp" and not taken:
            taken.append(bind_port("other", "tcp", address, port))
        return bind_port(name, kind, address, port)

    monkeypatch.setattr(dns, "bind_port", bind)
    service.bind()
    assert service.port not in (0, taken[0].getsockname()[1])
    asyncio.run(service.stop())
    with pytest.raises(ServerError, match="in use"):
        DnsService(
            loop,
            address="127.0.0.1",
            port=taken[0].getsockname()[1],
            server=DnsServer(ZONE, lambda: NAMES),
            limits=LIMITS,
        ).bind()
    taken[0].close()
    loop.close()


def test_udp(service: DnsService) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(QUERY, ("127.0.0.1", service.port))
        assert str(DNSRecord.parse(sock.recv(2048)).rr[0].rdata) == "10.9.1.1"


def test_tcp_on_the_same_port_answers_one_after_the_other(service: DnsService) -> None:
    with socket.create_connection(("127.0.0.1", service.port), 10) as sock:
        for _ in range(2):
            sock.sendall(FRAMED)
            assert str(DNSRecord.parse(read_frame(sock)).rr[0].rdata) == "10.9.1.1"


def test_udp_is_limited_by_address(service: DnsService) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(20):
            sock.sendto(QUERY, ("127.0.0.1", service.port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.2", 0))
            other.settimeout(10)
            other.sendto(QUERY, ("127.0.0.1", service.port))
            assert other.recv(2048)  # it came last: all before it were handled
        sock.setblocking(False)
        answers = 0
        while True:
            try:
                sock.recv(2048)
            except BlockingIOError:
                break
            answers += 1
        assert answers == 3


def test_connections_are_limited_by_address(service: DnsService) -> None:
    place = ("127.0.0.1", service.port)
    with socket.create_connection(place, 10) as one, socket.create_connection(place, 10) as two:
        for sock in (one, two):
            sock.sendall(FRAMED)
            assert read_frame(sock)
        with socket.create_connection(place, 10) as third:
            assert third.recv(1) == b""


def test_garbage_closes_its_own_connection_only(service: DnsService) -> None:
    place = ("127.0.0.1", service.port)
    with socket.create_connection(place, 10) as bad, socket.create_connection(place, 10) as good:
        bad.sendall(b"\xff\xff\xff")
        assert bad.recv(1) == b""
        good.sendall(FRAMED)
        assert read_frame(good)


def test_a_port_in_use_is_explained(service: DnsService) -> None:
    second = DnsService(
        asyncio.new_event_loop(),
        address="127.0.0.1",
        port=service.port,
        server=DnsServer(ZONE, lambda: NAMES),
    )
    with pytest.raises(ServerError, match="dns cannot bind UDP"):
        second.bind()


@pytest.mark.integration
def test_a_resolver_that_we_did_not_write_finds_names_both_ways(service: DnsService) -> None:
    place = f"127.0.0.1:{service.port}"
    for name, expected in (("node1.farm.test", "10.9.1.1"), ("10.9.1.1", "node1.farm.test")):
        done = subprocess.run(
            ["busybox", "nslookup", name, place], capture_output=True, text=True, timeout=30
        )
        assert expected in done.stdout.partition("\n\n")[2], done
