"""Replies without an end, with real sockets and curl."""

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from server.protocols.http import HttpLimits, Push, Request, Response
from server.services.http import HttpService
from tests.server.services.running import Running

FOLLOW = b"GET /follow HTTP/1.1\r\nHost: h\r\n\r\n"


@dataclass
class Farm:
    """A service whose /follow streams what the test pushes."""

    runner: Running = field(default_factory=Running)
    pushes: dict[int, Push] = field(default_factory=dict)
    service: HttpService | None = None
    heard: int = 0

    def handle(self, request: Request) -> Response:
        if request.path != "/follow":
            return Response(200, b"other\n")

        def subscribe(push: Push) -> Callable[[], None]:
            self.heard += 1
            number = self.heard
            self.pushes[number] = push
            return lambda: self.forget(number)

        return Response(200, b"first\n", "text/event-stream", stream=subscribe)

    def forget(self, number: int) -> None:
        del self.pushes[number]

    def start(self, **limits: float) -> None:
        self.service = HttpService(
            self.runner.loop,
            address="127.0.0.1",
            port=0,
            handle=self.handle,
            emit=lambda event: None,
            limits=HttpLimits(**limits),  # type: ignore[arg-type]
        )
        self.service.bind()
        self.runner.call(self.service.start)

    def connect(self, request: bytes = FOLLOW, source: str = "127.0.0.1") -> socket.socket:
        assert self.service is not None
        sock = socket.create_connection(("127.0.0.1", self.service.port), 20, (source, 0))
        sock.sendall(request)
        return sock

    def push(self, data: bytes) -> None:
        self.runner.call(lambda: [push(data) for push in list(self.pushes.values())])

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Until the loop has come to it."""
        for _ in range(2000):
            if self.runner.call(what):
                return
            self.runner.sleep(0.01)
        raise AssertionError("it did not happen")

    def end(self) -> None:
        assert self.service is not None
        self.runner.stop(self.service)
        self.runner.close()


@pytest.fixture
def farm() -> Iterator[Farm]:
    farm = Farm()
    yield farm
    farm.end()


def read_until(sock: socket.socket, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        more = sock.recv(65536)
        assert more, f"closed after {data!r}"
        data += more
    return data


def read_all(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := sock.recv(65536):
            data += more
    return data


def test_what_is_pushed_arrives_framed(farm: Farm) -> None:
    farm.start()
    with farm.connect() as sock:
        head = read_until(sock, b"first\n")
        assert b"transfer-encoding: chunked" in head.lower()
        assert b"content-length" not in head.lower()
        farm.push(b"data: one\n\n")
        assert b"b\r\ndata: one\n\n\r\n" in read_until(sock, b"one\n\n\r\n")
    farm.wait_for(lambda: not farm.pushes)


def test_curl_reads_a_stream_until_the_server_stops(farm: Farm) -> None:
    farm.start()
    assert farm.service is not None
    url = f"http://127.0.0.1:{farm.service.port}/follow"
    argv = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", "30", url]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as curl:
        farm.wait_for(lambda: bool(farm.pushes))
        farm.push(b"data: two\n\n")
        assert curl.stdout is not None
        assert curl.stdout.readline() == b"first\n"
        assert curl.stdout.readline() == b"data: two\n"
        farm.runner.stop(farm.service)
        assert curl.wait(20) == 0, "curl got the end of the last chunk"
    assert not farm.pushes


def test_http_1_0_gets_it_without_chunks(farm: Farm) -> None:
    farm.start()
    with farm.connect(b"GET /follow HTTP/1.0\r\n\r\n") as sock:
        read_until(sock, b"\r\n\r\nfirst\n")
        farm.push(b"data: x\n\n")
        assert read_until(sock, b"x\n\n") == b"data: x\n\n"


def test_head_follows_nothing(farm: Farm) -> None:
    farm.start()
    with farm.connect(b"HEAD /follow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n") as sock:
        assert read_all(sock).endswith(b"\r\n\r\n")
    assert farm.heard == 0


def test_silence_is_filled_with_comments(farm: Farm) -> None:
    farm.start(heartbeat_seconds=0.0)
    with farm.connect() as sock:
        assert b"\n: " in read_until(sock, b": the server is here\n\n")


def test_more_followers_than_allowed(farm: Farm) -> None:
    farm.start(followers_per_client=2)
    held = [farm.connect() for _ in range(2)]
    for sock in held:
        read_until(sock, b"first\n")
    with farm.connect() as sock:
        answer = read_until(sock, b"follow=1\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 10" in answer
        sock.sendall(b"GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"other" in read_until(sock, b"other\n")
    held.pop().close()
    farm.wait_for(lambda: len(farm.pushes) == 1)
    with farm.connect() as sock:
        assert read_until(sock, b"first\n").startswith(b"HTTP/1.1 200 ")
    held.pop().close()


def test_the_oldest_of_who_has_most_gives_way_to_a_new_follower(farm: Farm) -> None:
    farm.start(followers=3)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(farm.connect()) for _ in range(3)]
        for sock in held:
            read_until(sock, b"first\n")
        newcomer = stack.enter_context(farm.connect(source="127.0.0.2"))
        assert read_until(newcomer, b"first\n").startswith(b"HTTP/1.1 200 ")
        assert read_all(held[0]) == b""
        farm.wait_for(lambda: len(farm.pushes) == 3)
        one_more = stack.enter_context(farm.connect())
        assert read_until(one_more, b"follow=1\n").startswith(b"HTTP/1.1 503 ")


def test_a_slow_follower_is_dropped_and_costs_the_others_nothing(farm: Farm) -> None:
    farm.start(follower_bytes=100_000)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert farm.service is not None
    slow.connect(("127.0.0.1", farm.service.port))
    slow.sendall(FOLLOW)
    with slow, farm.connect() as quick:
        farm.wait_for(lambda: len(farm.pushes) == 2)
        line = b"data: " + b"x" * 9000 + b"\n\n"
        sent = 0
        while len(farm.pushes) == 2:
            assert sent < 100, "it is never dropped"
            farm.push(line)
            read_until(quick, line[-100:] + b"\r\n")
            sent += 1
        assert sent > 10
        farm.push(b"data: still here\n\n")
        read_until(quick, b"still here\n\n")


def test_a_push_beyond_the_bound_in_one_turn_drops_it(farm: Farm) -> None:
    farm.start(follower_bytes=1000)
    with farm.connect() as sock:
        read_until(sock, b"first\n")
        farm.push(b"x" * 1001)
        assert read_all(sock) == b""
    assert not farm.pushes


def test_stopping_does_not_wait_for_a_slow_follower(farm: Farm) -> None:
    farm.start(follower_bytes=10_000_000)
    with farm.connect() as sock:
        read_until(sock, b"first\n")
        farm.push(b"x" * 8_000_000)
        assert farm.service is not None
        farm.runner.stop(farm.service)
        assert farm.service.open_count() == 0
