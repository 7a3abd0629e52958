"""Long files of the HTTP service, sent beside its loop: with curl, wget, and bad clients."""

import asyncio
import hashlib
import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from server.protocols.http import FileRange, HttpLimits, Request, Response
from server.services.hotloop import HotLoop
from server.services.http import HttpService
from server.services.http_connection import LONG_BYTES
from tests.cold import write_cold
from tests.server.services.running import Seen, running

BIG = 24 * 1024 * 1024 + 7
"""More than a socket's buffers take at once."""
GET_BIG = b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("http") / "big"
    path.write_bytes(random.Random(3).randbytes(BIG))
    return path


@pytest.fixture
def seen() -> Seen:
    return Seen()


Start = Callable[..., HttpService]


@pytest.fixture
def serve(big: Path, seen: Seen) -> Iterator[Start]:
    """Starts a service with limits: /big, /small, and files of the test's own directory."""
    with ExitStack() as stack:

        def start(directory: Path | None = None, **limits: float) -> HttpService:
            def handle(request: Request) -> Response:
                if request.path == "/big":
                    body = FileRange(big, 0, BIG)
                    return Response(200, body, etag='"e"', transfer="/big")
                if directory is not None and (path := directory / request.path[1:]).is_file():
                    body = FileRange(path, 0, path.stat().st_size)
                    return Response(200, body, transfer=request.path)
                return Response(200, b"small\n")

            def make(loop: HotLoop) -> HttpService:
                return HttpService(
                    loop,
                    address="127.0.0.1",
                    port=0,
                    handle=handle,
                    emit=seen.emit,
                    limits=HttpLimits(**limits),  # type: ignore[arg-type]
                )

            return stack.enter_context(running(make))

        yield start


def url(service: HttpService, path: str = "/big") -> str:
    return f"http://127.0.0.1:{service.port}{path}"


def connect(service: HttpService, source: str = "127.0.0.1", buffer: int = 0) -> socket.socket:
    """buffer: bytes that the client's kernel takes for it; 0: as many as it wants."""
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(20)
    sock.bind((source, 0))
    sock.connect(("127.0.0.1", service.port))
    return sock


@contextmanager
def asking(service: HttpService) -> Iterator[socket.socket]:
    """A client that has asked for the long file, and reads slowly if at all."""
    with connect(service, buffer=65_536) as sock:
        sock.sendall(GET_BIG)
        assert sock.recv(10) == b"HTTP/1.1 2"
        yield sock


def read_reply(sock: socket.socket, pause: Callable[[int], None] = lambda size: None) -> bytes:
    """The body of one reply of known length. pause: called as it grows, with its size so far."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(1)
        assert piece, data
        data += piece
    length = int(data.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    body = bytearray()
    while len(body) < length:
        piece = sock.recv(min(1 << 20, length - len(body)))
        assert piece, f"hung up after {len(body)} of {length}"
        body += piece
        pause(len(body))
    return bytes(body)


def read_rest(sock: socket.socket) -> int:
    """Bytes until the connection ends."""
    size = 0
    try:
        while piece := sock.recv(1 << 20):
            size += len(piece)
    except ConnectionResetError:
        pass
    return size


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    argv = ["curl", "--silent", "--show-error", "--max-time", "50", *arguments]
    return subprocess.run(argv, capture_output=True)


def test_curl_and_wget_get_the_whole_file_and_its_ranges(
    serve: Start, seen: Seen, big: Path, tmp_path: Path
) -> None:
    service = serve()
    data = big.read_bytes()
    assert curl(url(service)).stdout == data
    assert curl("-r", f"1000000-{BIG - 5}", url(service)).stdout == data[1_000_000 : BIG - 4]
    part = tmp_path / "part"
    part.write_bytes(data[: BIG // 3])
    subprocess.run(["busybox", "wget", "-q", "-c", "-O", part, url(service)], check=True)
    assert part.read_bytes() == data
    whole = {"file": "/big", "bytes": BIG, "status": "ok"}
    assert seen.wait_status("ok").items() >= whole.items()


def test_what_is_around_the_limit_comes_whole(serve: Start, tmp_path: Path) -> None:
    for size in (LONG_BYTES - 1, LONG_BYTES, LONG_BYTES + 1, 3 * LONG_BYTES):
        (tmp_path / str(size)).write_bytes(os.urandom(size))
    service = serve(tmp_path)
    for path in tmp_path.iterdir():
        assert curl(url(service, f"/{path.name}")).stdout == path.read_bytes()


def test_replies_that_are_no_long_file_are_as_ever(serve: Start) -> None:
    service = serve()
    head = curl("--head", url(service)).stdout
    assert f"Content-Length: {BIG}".encode() in head
    code = ("-w", "%{http_code}", "-o", "/dev/null")
    assert curl(*code, "-r", f"{BIG}-", url(service)).stdout == b"416"
    assert curl(*code, "-H", 'If-None-Match: "e"', url(service)).stdout == b"304"
    other = ("-r", "5-9", "-H", 'If-Range: "other"')
    assert curl(*code, *other, url(service)).stdout == b"200"
    assert len(curl("-r", "5-9", "-H", 'If-Range: "e"', url(service)).stdout) == 5


def test_many_at_once_get_their_own(serve: Start, big: Path, tmp_path: Path) -> None:
    service = serve()
    whole = hashlib.sha256(big.read_bytes()).hexdigest()
    script = f"curl -sS --max-time 50 {url(service)} | sha256sum"
    clients = [
        subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(24)
    ]
    assert {client.communicate()[0].split()[0] for client in clients} == {whole}


def test_one_connection_asks_again_and_again(serve: Start, big: Path) -> None:
    """Long and short by turns, asked one after the other, then all at once (pipelining)."""
    service = serve()
    data = big.read_bytes()
    with connect(service) as sock:
        for _ in range(3):
            sock.sendall(GET_BIG)
            assert read_reply(sock) == data
            sock.sendall(b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n")
            assert read_reply(sock) == b"small\n"
        sock.sendall((GET_BIG + b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n") * 3)
        for _ in range(3):
            assert read_reply(sock) == data
            assert read_reply(sock) == b"small\n"


def test_short_replies_go_on_beside_long_ones(serve: Start, seen: Seen) -> None:
    """Thousands over kept connections, while others fetch the long file over and over."""
    service = serve(loop_share=1.0, burst_seconds=60.0)
    stop = threading.Event()
    fetched: list[int] = []

    def fetch() -> None:
        with connect(service, "127.0.0.2") as sock:
            while not stop.is_set():
                sock.sendall(GET_BIG)
                fetched.append(len(read_reply(sock)))

    fetchers = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in fetchers:
        thread.start()
    try:
        with ExitStack() as stack:
            socks = [stack.enter_context(connect(service)) for _ in range(10)]
            for _ in range(200):
                for sock in socks:
                    sock.sendall(b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n")
                assert [read_reply(sock) for sock in socks] == [b"small\n"] * 10
    finally:
        stop.set()
        for thread in fetchers:
            thread.join()
    assert set(fetched) == {BIG}
    ended = [event.detail for event in seen.events if event.detail["status"] == "ok"]
    assert [detail["bytes"] for detail in ended] == [BIG] * len(fetched)


def test_a_slow_reader_gets_all_however_long_it_takes(serve: Start, big: Path) -> None:
    """It rests after each quarter, for longer in all than a client may stand still."""
    service = serve(stall_seconds=3.0)
    rests = [BIG * quarter // 4 for quarter in (1, 2, 3)]

    def pause(size: int) -> None:
        if rests and size > rests[0]:
            del rests[0]
            time.sleep(1.2)

    with connect(service, buffer=65_536) as sock:
        sock.sendall(GET_BIG)
        assert read_reply(sock, pause) == big.read_bytes()
    assert not rests


def test_who_reads_nothing_is_hung_up_on(serve: Start, seen: Seen) -> None:
    service = serve(stall_seconds=0.1)
    with asking(service) as sock:
        ended = seen.wait_status("error")
        assert read_rest(sock) < BIG
    assert ended["message"] == "the client was silent for too long"
    assert 0 < int(ended["bytes"]) < BIG
    assert ended["cause"] == "hung_up"


def test_a_client_that_vanishes_is_told(serve: Start, seen: Seen) -> None:
    service = serve()
    with asking(service):
        pass
    ended = seen.wait_status("error")
    assert ended["message"] == "the client closed the connection before the end"
    assert 0 < int(ended["bytes"]) < BIG
    assert len(curl(url(service)).stdout) == BIG


def test_a_file_that_is_cut_short_ends_the_connection(
    serve: Start, seen: Seen, tmp_path: Path
) -> None:
    service = serve(tmp_path)
    path = tmp_path / "shrinks"
    path.write_bytes(bytes(BIG))
    with connect(service, buffer=65_536) as sock:
        sock.sendall(b"GET /shrinks HTTP/1.1\r\nHost: h\r\n\r\n")
        first = len(sock.recv(1000))
        os.truncate(path, LONG_BYTES)
        assert first + read_rest(sock) < BIG
    assert seen.wait_status("error")["message"] == "the file is shorter than it was"


def test_a_file_that_is_not_in_memory_comes_whole(serve: Start, tmp_path: Path) -> None:
    data = os.urandom(5 * 1024 * 1024 + 3 * 4096)
    path = tmp_path / "cold"
    service = serve(tmp_path)
    for _ in range(2):
        write_cold(path, data)
        assert curl(url(service, "/cold")).stdout == data


def test_one_that_gives_way_is_hung_up_on(serve: Start, seen: Seen) -> None:
    service = serve(connections=3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(asking(service))
        other = stack.enter_context(connect(service, "127.0.0.2"))
        other.sendall(b"GET /small HTTP/1.1\r\nHost: h\r\n\r\n")
        assert read_reply(other) == b"small\n"
        ended = seen.wait_status("error")
    assert "gave way" in str(ended["message"])


def test_what_is_under_way_when_the_server_stops_is_sent(big: Path, serve: Start) -> None:
    service = serve()
    received: list[bytes] = []
    with connect(service) as sock:
        sock.sendall(GET_BIG)
        assert sock.recv(1, socket.MSG_PEEK) == b"H"
        reader = threading.Thread(target=lambda: received.append(read_reply(sock)))
        reader.start()
        asyncio.run_coroutine_threadsafe(service.stop(20), service.loop).result(30)
        reader.join(20)
    assert received == [big.read_bytes()]


def test_who_does_not_read_does_not_hold_up_the_end(serve: Start, seen: Seen) -> None:
    service = serve()
    with asking(service) as sock:
        assert "http-send" in {thread.name for thread in threading.enumerate()}
        asyncio.run_coroutine_threadsafe(service.stop(0.1), service.loop).result(30)
        assert read_rest(sock) < BIG
    assert "http-send" not in {thread.name for thread in threading.enumerate()}
    assert seen.wait_status("error")["message"] == "the server is stopping"
    assert service.open_count() == 0
