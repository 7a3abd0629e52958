"""nbdroot's handshake, compiled as it is, against servers that are honest and that lie."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "imagebuild/rootfs/usr/src/bootfarm"
MAIN = """
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include "handshake.h"

int main(int argc, char **argv)
{
	static struct export export;
	struct target target = {.server = argv[1], .name = argv[argc - 1]};

	target.address.sin_family = AF_INET;
	target.address.sin_port = htons((uint16_t)atoi(argv[2]));
	inet_pton(AF_INET, argv[1], &target.address.sin_addr);
	if (open_export(&target, &export) < 0)
		return errno;
	printf("%llu %u", (unsigned long long)export.size, (unsigned)export.flags);
	return 0;
}
"""
GREETING = b"NBDMAGICIHAVEOPT\0\3"
GO = 7
ACK, INFO, UNSUPPORTED = 1, 3, 0x80000001
SECONDS = 2


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handshake")
    (folder / "main.c").write_text(MAIN)
    program = folder / "client"
    flags = ["-O1", "-g", "-fsanitize=address,undefined", f"-DWHOLE_HANDSHAKE_SECONDS={SECONDS}"]
    names = ("clock.c", "handshake.c", "log.c")
    sources = [folder / "main.c", *(SOURCES / name for name in names)]
    subprocess.run(["gcc", *flags, "-I", SOURCES, "-o", program, *sources], check=True)
    return program


def reply(kind: int, data: bytes = b"", option: int = GO) -> bytes:
    return struct.pack(">QIII", 0x0003E889045565A9, option, kind, len(data)) + data


def export(size: int, flags: int = 3) -> bytes:
    return reply(INFO, struct.pack(">HQH", 0, size, flags))


@contextmanager
def lying(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that greets as NBD has it, reads the option, then does as it likes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            sock, _ = listener.accept()
            with sock:
                try:
                    sock.sendall(GREETING)
                    sock.recv(4, socket.MSG_WAITALL)
                    head = sock.recv(16, socket.MSG_WAITALL)
                    sock.recv(int.from_bytes(head[12:], "big"), socket.MSG_WAITALL)
                    serve(sock)
                except OSError:
                    return  # the client has had enough

        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def attach(client: Path, port: int, name: str = "root") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [client, "127.0.0.1", str(port), name], capture_output=True, text=True, timeout=50
    )


def repeat(data: bytes) -> Callable[[socket.socket], None]:
    """Sends it for ever."""

    def serve(sock: socket.socket) -> None:
        while True:
            sock.sendall(data)

    return serve


def once(data: bytes) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass

    return serve


@pytest.mark.parametrize(
    "piece",
    [export(8192), reply(INFO, struct.pack(">H", 9)), reply(INFO, bytes(60_000)), reply(2)],
    ids=["size", "unknown", "large", "other kind"],
)
def test_replies_without_an_end(client: Path, piece: bytes) -> None:
    with lying(repeat(piece)) as port:
        done = attach(client, port)
    assert done.returncode == errno.EPROTO, done.stderr
    assert "more than 16 replies about export root" in done.stderr


def test_bytes_that_drip(client: Path) -> None:
    def drip(sock: socket.socket) -> None:
        sock.sendall(reply(INFO, bytes(60_000))[:20])
        while True:
            sock.sendall(b"\0")
            time.sleep(0.05)

    with lying(drip) as port:
        done = attach(client, port)
    assert done.returncode == errno.ETIMEDOUT, done.stderr


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (reply(ACK), errno.EPROTO),
        (export(8192, 3)[:-1], errno.ECONNRESET),
        (export(8192) + reply(ACK, option=1), errno.EPROTO),
        (b"\0" * 20, errno.EPROTO),
        (struct.pack(">QIII", 0x0003E889045565A9, GO, INFO, 1 << 31), errno.EPROTO),
        (export(4095) + reply(ACK), errno.EINVAL),
        (export((1 << 64) - 1) + reply(ACK) + b"\0" * 16, errno.EIO),
        (reply(0x80000006, b"no such export"), errno.ENOENT),
        (reply(0x80000002), errno.EACCES),
        (reply(UNSUPPORTED) + b"\0" * 9, errno.ENOENT),
    ],
    ids=[
        *("no size", "cut", "other option", "other magic", "long", "short export", "no data"),
        *("unknown", "refused", "old and cut"),
    ],
)
def test_answers_that_are_none(client: Path, data: bytes, problem: int) -> None:
    with lying(once(data)) as port:
        done = attach(client, port)
    assert done.returncode == problem, (os.strerror(done.returncode), done.stderr)


def test_a_server_that_we_did_not_write(client: Path, tmp_path: Path) -> None:
    assert shutil.which("qemu-nbd")
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(3 * 4096))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    pid = tmp_path / "pid"
    words = ["--fork", f"--pid-file={pid}", "--read-only", "--format=raw", "--bind=127.0.0.1"]
    subprocess.run(["qemu-nbd", *words, f"--port={port}", "--export-name=root", disk], check=True)
    done = attach(client, port)
    assert done.returncode == 0, done.stderr
    size, flags = done.stdout.split()
    assert int(size) == disk.stat().st_size
    assert int(flags) & 3 == 3
