"""The HTTP service with real sockets, and with curl as the client that we did not write."""

import asyncio
import contextlib
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from server.errors import ServerError
from server.events import Event
from server.protocols.http import FileRange, HttpLimits, Request, Response
from server.services.gate import nobody
from server.services.http import HttpService

BIG = 8 * 1024 * 1024


class Running:
    """A service on a loop in a thread of its own."""

    def __init__(
        self,
        handle: Callable[[Request], Response],
        limits: HttpLimits,
        *,
        is_known: Callable[[str], bool] = nobody,
        spare_local: bool = False,
    ) -> None:
        self.events: list[Event] = []
        self.loop = asyncio.new_event_loop()
        self.service = HttpService(
            self.loop,
            address="127.0.0.1",
            port=0,
            handle=handle,
            emit=self.events.append,
            limits=limits,
            is_known=is_known,
            spare_local=spare_local,
        )
        self.service.bind()
        self.loop.call_soon(self.service.start)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.service.port), 10, (source, 0))

    def stop(self) -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(self.service.stop(), self.loop)

    def end(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.stop().result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Until the loop has come to it."""
        for _ in range(1000):
            if what():
                return
            done = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), self.loop)
            done.result(10)
        raise AssertionError("it did not happen")


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(BIG))
    return path


@pytest.fixture
def run(big: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def handle(request: Request) -> Response:
        match request.path:
            case "/big":
                return Response(200, FileRange(big, 0, BIG), etag='"e"', transfer="/big")
            case "/short":
                return Response(200, FileRange(big, 0, BIG + 1), transfer="/short")
            case "/gone":
                return Response(200, FileRange(big.parent / "gone", 0, 5), transfer="/gone")
            case "/fails":
                raise RuntimeError("a bug")
            case "/echo":
                return Response(200, request.body)
            case _:
                return Response(404, b"no\n", transfer=request.path)

    def start(**limits: float) -> Running:
        running.append(Running(handle, HttpLimits(**limits)))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for one in running:
        one.end()


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "20", *arguments], capture_output=True
    )


def receive_all(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            data += chunk
    return data


def test_a_file_whole_and_in_ranges(run: Callable[..., Running], big: Path) -> None:
    server = run()
    data = big.read_bytes()
    assert curl(f"{server.url}/big").stdout == data
    assert curl("--range", "1000-1999", f"{server.url}/big").stdout == data[1000:2000]
    assert curl("--range", "-7", f"{server.url}/big").stdout == data[-7:]
    assert curl("--fail", "--range", f"{BIG}-", f"{server.url}/big").returncode == 22
    assert b"Content-Length: 8388608" in curl("--head", f"{server.url}/big").stdout
    unchanged = curl("-H", 'If-None-Match: "e"', "-w", "%{http_code}", f"{server.url}/big")
    assert unchanged.stdout == b"304"


def test_a_download_is_resumed(run: Callable[..., Running], big: Path, tmp_path: Path) -> None:
    server = run()
    part = tmp_path / "part"
    part.write_bytes(big.read_bytes()[: BIG // 3])
    assert curl("--continue-at", "-", "-o", str(part), f"{server.url}/big").returncode == 0
    assert part.read_bytes() == big.read_bytes()


def test_many_requests_over_one_connection(run: Callable[..., Running]) -> None:
    server = run()
    urls = [f"{server.url}/big" for _ in range(5)]
    done = curl("-w", "%{num_connects} ", "-o", "/dev/null", *" -o /dev/null ".join(urls).split())
    assert done.stdout.split() == [b"1", b"0", b"0", b"0", b"0"]


def test_pipelined_requests_come_back_in_order(run: Callable[..., Running]) -> None:
    server = run()
    request = b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n%d"
    last = b"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1\r\n\r\n9"
    with server.connect() as sock:
        sock.sendall(b"".join(request % number for number in range(9)) + last)
        answer = receive_all(sock)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 ")[1:]]
    assert bodies == [b"%d" % number for number in range(10)]


def test_bytes_one_by_one(run: Callable[..., Running]) -> None:
    server = run()
    with server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /other HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert receive_all(sock).startswith(b"HTTP/1.1 404 ")


def test_clients_at_once_get_their_own(run: Callable[..., Running], big: Path) -> None:
    server = run()
    whole = hashlib.sha256(big.read_bytes()).digest()
    results: list[bytes] = []

    def fetch() -> None:
        results.append(hashlib.sha256(curl(f"{server.url}/big").stdout).digest())

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [whole] * 8


def test_what_was_sent_is_told(run: Callable[..., Running]) -> None:
    server = run()
    curl(f"{server.url}/big")
    curl(f"{server.url}/other")
    server.wait_for(lambda: len(server.events) == 3)
    begun, first, second = (event.detail for event in server.events)
    assert begun == {"file": "/big", "bytes": 0, "size": BIG, "status": "start"}
    assert (first["file"], first["bytes"], first["status"]) == ("/big", BIG, "ok")
    assert (second["file"], second["status"]) == ("/other", "error")
    assert server.events[0].node == "127.0.0.1"


def test_a_client_that_leaves_is_told_of(run: Callable[..., Running]) -> None:
    server = run()
    with server.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        sock.recv(100)
    server.wait_for(lambda: len(server.events) == 2)
    assert server.events[1].detail["status"] == "error"
    assert 0 < int(server.events[1].detail["bytes"]) < BIG
    server.wait_for(lambda: server.service.open_count() == 0)


@pytest.mark.parametrize("path", ["/short", "/gone"])
def test_a_file_that_is_not_what_it_was_ends_the_connection(
    run: Callable[..., Running], path: str
) -> None:
    server = run()
    assert curl(f"{server.url}{path}").returncode == 18, "curl: transfer closed early"
    server.wait_for(lambda: bool(server.events) and server.events[-1].detail["status"] == "error")
    assert curl("-w", "%{http_code}", "-o", "/dev/null", f"{server.url}/big").stdout == b"200"


def test_a_bug_costs_its_client_only(run: Callable[..., Running]) -> None:
    server = run()
    assert curl("-w", "%{http_code}", "-o", "/dev/null", f"{server.url}/fails").stdout == b"500"
    assert curl("-w", "%{http_code}", "-o", "/dev/null", f"{server.url}/big").stdout == b"200"


def test_too_large_a_body_is_refused_in_words(run: Callable[..., Running]) -> None:
    server = run()
    with server.connect() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        sock.sendall(b"x" * 100_000)
        answer = receive_all(sock)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"more than 4096 bytes" in answer


def test_more_connections_than_allowed(run: Callable[..., Running]) -> None:
    server = run(per_client=3)
    held = [server.connect() for _ in range(3)]
    server.wait_for(lambda: server.service.open_count() == 3)
    with server.connect() as sock:
        assert receive_all(sock).startswith(b"HTTP/1.1 503 ")
    held.pop().close()
    server.wait_for(lambda: server.service.open_count() == 2)
    assert curl("-w", "%{http_code}", "-o", "/dev/null", f"{server.url}/big").stdout == b"200"
    for sock in held:
        sock.close()


def ask(sock: socket.socket, path: str = "/") -> bytes:
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\nx"):
        piece = sock.recv(4096)
        assert piece, answer
        answer += piece
    return answer


def test_who_sent_no_whole_request_gives_way_then_who_waits_between_two() -> None:
    server = Running(
        lambda request: Response(200, b"x"),
        HttpLimits(connections=4),
        is_known=lambda client: client == "127.0.0.9",
    )
    try:
        with contextlib.ExitStack() as stack:
            known, idle, silent, half = (
                stack.enter_context(server.connect(source))
                for source in ("127.0.0.9", "127.0.0.1", "127.0.0.1", "127.0.0.1")
            )
            half.sendall(b"GET / HTTP/1.1\r\n")
            assert ask(idle).startswith(b"HTTP/1.1 200 ")
            fresh = [stack.enter_context(server.connect("127.0.0.2")) for _ in range(3)]
            assert ask(fresh[2]).startswith(b"HTTP/1.1 200 ")
            assert receive_all(silent) == b""
            assert receive_all(half) == b""
            assert receive_all(fresh[0]) == b""
            assert ask(idle).startswith(b"HTTP/1.1 200 ")
            assert ask(known).startswith(b"HTTP/1.1 200 ")
            assert ask(fresh[1]).startswith(b"HTTP/1.1 200 ")
            last = stack.enter_context(server.connect("127.0.0.3"))
            assert ask(last).startswith(b"HTTP/1.1 200 ")
            assert receive_all(fresh[2]) == b""
            assert ask(known).startswith(b"HTTP/1.1 200 ")
    finally:
        server.end()


def is_whole(sock: socket.socket) -> bool:
    """Whether a reply that has begun to come is all there."""
    size = 10
    try:
        while size < BIG and (data := sock.recv(1 << 20)):
            size += len(data)
    except ConnectionResetError:
        pass
    return size >= BIG


def test_where_all_are_being_answered_the_machine_that_has_most_gives_way() -> None:
    server = Running(
        lambda request: Response(200, b"x" * BIG),
        HttpLimits(connections=4),
        is_known=lambda client: client == "127.0.0.9",
    )
    try:
        with contextlib.ExitStack() as stack:

            def open_unread(source: str) -> socket.socket:
                sock = stack.enter_context(server.connect(source))
                sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                assert sock.recv(10) == b"HTTP/1.1 2"
                return sock

            known = open_unread("127.0.0.9")
            greedy = [open_unread("127.0.0.2") for _ in range(3)]
            open_unread("127.0.0.3")
            server.wait_for(lambda: server.service.open_count() == 4)
            open_unread("127.0.0.4")
            server.wait_for(lambda: server.service.open_count() == 4)
            refused = stack.enter_context(server.connect("127.0.0.3"))
            assert receive_all(refused).startswith(b"HTTP/1.1 503 ")
            assert [is_whole(sock) for sock in greedy] == [False, False, True]
            assert is_whole(known)
    finally:
        server.end()


def test_known_machines_do_not_push_each_other_out_while_others_have_more() -> None:
    server = Running(
        lambda request: Response(200, b"x" * BIG),
        HttpLimits(connections=4),
        is_known=lambda client: client in ("127.0.0.8", "127.0.0.9"),
    )
    try:
        with contextlib.ExitStack() as stack:
            silent = stack.enter_context(server.connect("127.0.0.9"))
            for _ in range(3):
                sock = stack.enter_context(server.connect("127.0.0.2"))
                sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                assert sock.recv(10) == b"HTTP/1.1 2"
            newcomer = stack.enter_context(server.connect("127.0.0.8"))
            for sock in (silent, newcomer):
                sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                assert sock.recv(10) == b"HTTP/1.1 2"
                assert is_whole(sock)
    finally:
        server.end()


def test_this_machines_own_clients_are_never_refused() -> None:
    limits = HttpLimits(connections=1, per_client=1, loop_share=1e-9, burst_seconds=0.0)
    server = Running(lambda request: Response(200, b"x"), limits, spare_local=True)
    try:
        with server.connect() as first, server.connect() as second:
            for sock in (first, second, first, second):
                assert ask(sock).startswith(b"HTTP/1.1 200 ")
    finally:
        server.end()


def test_who_has_had_its_share_of_the_loop_waits_and_nobody_else_does() -> None:
    limits = HttpLimits(loop_share=1e-6, burst_seconds=0.0001)
    server = Running(lambda request: Response(200, b"x"), limits)
    try:
        with server.connect("127.0.0.2") as greedy, server.connect("127.0.0.3") as other:
            assert ask(greedy).startswith(b"HTTP/1.1 200 ")
            greedy.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert ask(other).startswith(b"HTTP/1.1 200 ")
            greedy.settimeout(0.3)
            with pytest.raises(TimeoutError):
                greedy.recv(1)
    finally:
        server.end()


def test_who_says_nothing_is_hung_up_on(run: Callable[..., Running]) -> None:
    server = run(idle_seconds=0.1, request_seconds=0.1, stall_seconds=0.1)
    with server.connect() as silent, server.connect() as slow, server.connect() as stalled:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.sendall(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        assert receive_all(silent) == b""
        assert receive_all(slow) == b""
        server.wait_for(lambda: server.service.open_count() == 0)


def test_stop_sends_what_is_under_way(run: Callable[..., Running]) -> None:
    server = run()
    with server.connect() as sock, server.connect() as idle:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        begin = sock.recv(10)
        stopped = server.stop()
        assert receive_all(idle) == b""
        assert len(begin + receive_all(sock)) > BIG
        stopped.result(10)


def test_a_port_that_is_taken_names_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        loop = asyncio.new_event_loop()
        service = HttpService(
            loop,
            address="127.0.0.1",
            port=taken.getsockname()[1],
            handle=lambda request: Response(204),
            emit=lambda event: None,
        )
        with pytest.raises(ServerError, match=f"pid {os.getpid()}") as caught:
            service.bind()
        loop.close()
    assert "http cannot bind TCP 127.0.0.1:" in caught.value.message
    assert caught.value.hint


def test_bytes_a_second_of_one_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = os.urandom(900_000)
    (tmp_path / "file").write_bytes(data)
    rate = 600_000.0
    body = FileRange(tmp_path / "file", 0, len(data))
    running = Running(lambda request: Response(200, body), HttpLimits(bytes_per_second=rate))
    try:
        began = time.monotonic()
        for _ in range(2):
            done = subprocess.run(["curl", "-sS", running.url], capture_output=True, check=True)
            assert done.stdout == data
        # The last piece may be ahead of its time.
        assert time.monotonic() - began >= (2 * len(data) - 300_000 - rate) / rate
    finally:
        running.end()
    told = [r.getMessage() for r in caplog.records if "bytes_per_second" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("http: 127.0.0.1 wants more than http.limits.bytes_per_second")


def test_a_refused_client_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    running = Running(lambda request: Response(200, b"x"), HttpLimits(per_client=1))
    try:
        with running.connect(), running.connect() as second:
            assert second.recv(100) is not None
            running.wait_for(lambda: any("is refused" in r.getMessage() for r in caplog.records))
    finally:
        running.end()
    assert "http: 127.0.0.1 is refused: limits.per_client is 1" in caplog.text
