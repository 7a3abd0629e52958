"""The receivers with real sockets; util-linux's logger is the client that we did not write."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from server.errors import ServerError
from server.protocols.logs import LogLine
from server.services.logs import LogLimits, LogsService
from tests.server.services.running import Running


class Receiver:
    def __init__(self) -> None:
        self.runner = Running()
        self.seen: list[tuple[str, str, LogLine]] = []
        self.service: LogsService | None = None

    def start(self, limits: LogLimits | None = None) -> None:
        self.service = LogsService(
            self.runner.loop,
            address="127.0.0.1",
            ports={"syslog": 0, "netconsole": 0},
            take=lambda client, kind, lines: self.seen.extend((client, kind, one) for one in lines),
            limits=limits,
        )
        self.service.bind()
        self.runner.call(self.service.start)

    def port(self, kind: str) -> int:
        assert self.service is not None
        return self.service.ports[kind]

    def send(self, kind: str, *datagrams: bytes, source: str = "127.0.0.1") -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 0))
            for data in datagrams:
                sock.sendto(data, ("127.0.0.1", self.port(kind)))

    def wait(self, count: int) -> list[str]:
        for _ in range(1000):
            if len(self.seen) >= count:
                break
            self.runner.sleep(0.01)
        return [line.text for _, _, line in self.seen]

    def end(self) -> None:
        if self.service is not None:
            self.runner.stop(self.service)
        self.runner.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.end()


@pytest.mark.skipif(shutil.which("logger") is None, reason="logger (bsdutils) is not installed")
@pytest.mark.parametrize("format_", ["--rfc3164", "--rfc5424"])
def test_logger(receiver: Receiver, format_: str) -> None:
    receiver.start()
    argv = ["logger", "--udp", "--server", "127.0.0.1", "--port", str(receiver.port("syslog"))]
    subprocess.run([*argv, format_, "-p", "daemon.err", "-t", "kubelet", "no such pod"], check=True)
    assert receiver.wait(1) == ["kubelet: no such pod"]
    client, kind, line = receiver.seen[0]
    assert (client, kind, line.severity) == ("127.0.0.1", "syslog", 3)


def test_each_port_has_its_language(receiver: Receiver) -> None:
    receiver.start()
    receiver.send("netconsole", b"4,1,2000000,-;from a kernel", source="127.0.0.9")
    receiver.send("syslog", b"<12>from a daemon")
    assert sorted(receiver.wait(2)) == ["[    2.000000] from a kernel", "from a daemon"]
    assert {(client, kind) for client, kind, _ in receiver.seen} == {
        ("127.0.0.9", "netconsole"),
        ("127.0.0.1", "syslog"),
    }


def test_one_address_is_bounded_and_told_of_what_was_left_out(receiver: Receiver) -> None:
    receiver.start(LogLimits(client_rate=20.0, client_burst=5.0))
    receiver.send("syslog", *(b"<14>line %d" % number for number in range(30)))
    receiver.send("syslog", b"<14>of another", source="127.0.0.2")
    receiver.wait(6)
    assert [line.text for client, _, line in receiver.seen if client == "127.0.0.2"]
    assert len([one for one in receiver.seen if one[0] == "127.0.0.1"]) < 15
    while not any("too many" in text for text in receiver.wait(0)):
        receiver.send("syslog", b"<14>later")
        receiver.runner.sleep(0.05)
    assert any("bootfarm: " in text and "left out" in text for text in receiver.wait(0))


def test_all_together_are_bounded(receiver: Receiver) -> None:
    receiver.start(LogLimits(rate=0.0, burst=3.0))
    for number in range(10):
        receiver.send("syslog", b"<14>x", source=f"127.0.0.{number + 1}")
    receiver.wait(3)
    receiver.runner.sleep(0.05)
    assert len(receiver.seen) == 3


def test_nothing_is_answered(receiver: Receiver) -> None:
    receiver.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"<14>x", ("127.0.0.1", receiver.port("syslog")))
        receiver.wait(1)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        loop = asyncio.new_event_loop()
        service = LogsService(
            loop,
            address="127.0.0.1",
            ports={"syslog": taken.getsockname()[1]},
            take=lambda client, kind, lines: None,
        )
        with pytest.raises(ServerError, match="syslog cannot bind UDP"):
            service.bind()
        loop.close()


def test_a_sender_that_was_never_seen_costs_the_others_nothing() -> None:
    taken: list[str] = []
    loop = asyncio.new_event_loop()
    service = LogsService(
        loop,
        address="127.0.0.1",
        ports={},
        take=lambda client, kind, lines: taken.append(client),
        limits=LogLimits(rate=0.0, burst=3.0),
        is_seen=lambda client: client != "10.9.9.9",
        is_known=lambda client: client == "10.9.0.1",
    )
    for client in ("10.9.9.9",) * 50 + ("10.9.0.2",) * 50 + ("10.9.0.1",) * 4:
        service._receive("syslog", b"<6>words", client)
    assert taken == ["10.9.0.2"] * 3 + ["10.9.0.1"] * 4
    loop.close()
