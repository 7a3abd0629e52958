"""The health check against servers that answer, refuse, hang up and say nothing."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from container import healthcheck
from container.healthcheck import CheckError, check_http, check_nbd, check_tftp, find_file
from tests.server.farm import publish
from tests.server.test_serve import Server

GREETING = b"NBDMAGICIHAVEOPT" + struct.pack("!H", 3)


@contextlib.contextmanager
def answering(kind: socket.SocketKind, answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port of loopback behind which `answer` is called once with its socket."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        thread = threading.Thread(target=answer, args=(sock,), daemon=True)
        thread.start()
        yield sock.getsockname()[1]


def tftp_says(packet: bytes) -> Callable[[socket.socket], None]:
    def answer(sock: socket.socket) -> None:
        _, peer = sock.recvfrom(1000)
        sock.sendto(packet, peer)

    return answer


def stream_says(data: bytes) -> Callable[[socket.socket], None]:
    def answer(sock: socket.socket) -> None:
        peer, _ = sock.accept()
        with peer:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(1000):
                pass

    return answer


@pytest.mark.parametrize(
    ("packet", "says"),
    [
        (struct.pack("!HH", 3, 1) + b"abc", "3 bytes of /x"),
        (struct.pack("!HH", 5, 1) + b"no such file\0", "refused /x: no such file"),
    ],
)
def test_tftp_answers(packet: bytes, says: str) -> None:
    with answering(socket.SOCK_DGRAM, tftp_says(packet)) as port:
        assert check_tftp("127.0.0.1", port, "/x") == says


@pytest.mark.parametrize("packet", [b"", b"\0\3", struct.pack("!HH", 4, 1), b"\xff" * 8])
def test_tftp_nonsense(packet: bytes) -> None:
    with (
        answering(socket.SOCK_DGRAM, tftp_says(packet)) as port,
        pytest.raises(CheckError, match="TFTP"),
    ):
        check_tftp("127.0.0.1", port, "/x")


def test_tftp_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthcheck, "TIMEOUT", 0.05)
    with (
        answering(socket.SOCK_DGRAM, lambda sock: None) as port,
        pytest.raises(TimeoutError),
    ):
        check_tftp("127.0.0.1", port, "/x")


def reply(kind: int, data: bytes = b"", option: int = 3) -> bytes:
    return struct.pack("!QIII", 0x3E889045565A9, option, kind, len(data)) + data


def test_nbd_counts_exports() -> None:
    answer = GREETING + reply(2, b"\0\0\0\1a") * 2 + reply(1)
    with answering(socket.SOCK_STREAM, stream_says(answer)) as port:
        assert check_nbd("127.0.0.1", port) == "2 exports"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"NBDMAGIC",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        GREETING,
        GREETING + reply(0x80000001),
        GREETING + reply(2, option=7),
        GREETING + struct.pack("!QIII", 1, 3, 1, 0),
    ],
)
def test_nbd_nonsense(answer: bytes) -> None:
    with (
        answering(socket.SOCK_STREAM, stream_says(answer)) as port,
        pytest.raises(CheckError, match="NBD"),
    ):
        check_nbd("127.0.0.1", port)


@pytest.mark.parametrize(
    ("body", "says"),
    [(b'{"status": "degraded"}', "degraded"), (b'{"status": "ok"}', "ok")],
)
def test_http_answers(body: bytes, says: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    with answering(socket.SOCK_STREAM, stream_says(head + body)) as port:
        assert check_http("127.0.0.1", port) == says


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
    ],
)
def test_http_nonsense(answer: bytes) -> None:
    with (
        answering(socket.SOCK_STREAM, stream_says(answer)) as port,
        pytest.raises(CheckError, match="healthz"),
    ):
        check_http("127.0.0.1", port)


def test_the_file_that_is_asked_for(tmp_path: Path) -> None:
    assert find_file(None) == find_file(tmp_path) == "/ltsp/none/grub/i386-pc/core.0"
    publish(tmp_path, "arm")
    assert find_file(tmp_path) == "/ltsp/arm/grub/i386-pc/core.0"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A real server, and the farm.yaml that names its ports."""
    publish(tmp_path / "store")
    (tmp_path / "lts.conf").write_text("[default]\nGREETING = one\n")
    server = Server(tmp_path)
    (tmp_path / "farm.yaml").write_text(
        f"listen: 127.0.0.1\nstore: store\ntftp: {{port: {server.tftp}}}\n"
        f"nbd: {{port: {server.nbd}}}\nhttp: {{port: {server.http}}}\n"
    )
    server.start()
    try:
        yield server
    finally:
        if server.process is not None:
            server.stop()


def run_check(server: Server, *words: str) -> tuple[int, str]:
    config = str(server.directory / "farm.yaml")
    done = CliRunner().invoke(healthcheck.healthcheck_command, ["--config", config, *words])
    return done.exit_code, done.output


def test_a_real_server_is_healthy_and_a_stopped_one_is_not(server: Server) -> None:
    code, output = run_check(server)
    assert (code, output.splitlines()) == (
        0,
        [
            "tftp: 11 bytes of /ltsp/amd64/grub/i386-pc/core.0",
            f"nbd: {output.split('nbd: ')[1].split(' ')[0]} exports",
            "http: ok",
        ],
    )
    assert run_check(server, "--services", "nbd")[1].startswith("nbd: ")
    assert run_check(server, "--live") == (0, "http: the server's loop turns\n")
    assert run_check(server, "--live", "--services", "nbd,tftp") == (0, "nbd: it greets\n")
    server.stop()
    code, output = run_check(server, "--live")
    assert code == 1
    assert f"http at 127.0.0.1:{server.http}: " in output
    code, output = run_check(server, "--services", "http")
    assert code == 1
    assert f"http at 127.0.0.1:{server.http}: " in output
