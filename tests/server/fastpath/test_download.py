"""Downloads: parts of files to sockets, by a thread in C."""

import errno
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.fastpath import DOWNLOAD_STEP, Download, Sender
from tests.cold import write_cold

DATA = random.Random(7).randbytes(3 * DOWNLOAD_STEP + 12_345)
SECONDS = 20.0
"""Most that anything here may take."""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


class Threaded:
    """A sender, and the thread that it runs in."""

    def __init__(self) -> None:
        self.sender = Sender()
        self.thread = threading.Thread(target=self.sender.run)
        self.thread.start()

    def take(self, count: int = 1) -> list[Download]:
        """What is given back, when it is so many."""
        taken: list[Download] = []
        while len(taken) < count:
            assert select.select([self.sender], [], [], SECONDS)[0], "nothing was given back"
            taken += self.sender.take()
        return taken

    def stop(self) -> None:
        self.sender.stop()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture
def threaded() -> Iterator[Threaded]:
    one = Threaded()
    yield one
    one.stop()


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours and the client's end of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    theirs.settimeout(SECONDS)
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


Wire = tuple[socket.socket, socket.socket]


def read(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, "hung up"
        data += piece
    return bytes(data)


def wait_until_begun(download: Download) -> None:
    """The kernel may have handed bytes on before the sender has counted them."""
    while download.left == len(DATA):
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, len(DATA)), (1, 1), (DOWNLOAD_STEP - 1, 2), (5, 0), (12_345, 70_000)]
)
def test_a_part_is_sent_and_given_back(
    threaded: Threaded, wire: Wire, file: int, offset: int, length: int
) -> None:
    ours, theirs = wire
    download = Download(ours.fileno(), file, offset, length)
    threaded.sender.add(download)
    assert read(theirs, length) == DATA[offset : offset + length]
    assert threaded.take() == [download]
    assert (download.left, download.error, download.cold) == (0, 0, False)
    ours.send(b"the next reply")
    assert read(theirs, 14) == b"the next reply"


def test_more_than_a_turn_is_sent(threaded: Threaded, wire: Wire, tmp_path: Path) -> None:
    data = DATA * 4
    (tmp_path / "long").write_bytes(data)
    fd = os.open(tmp_path / "long", os.O_RDONLY)
    ours, theirs = wire
    threaded.sender.add(Download(ours.fileno(), fd, 0, len(data)))
    assert read(theirs, len(data)) == data
    threaded.take()
    os.close(fd)


def test_what_the_client_does_not_read_waits(threaded: Threaded, wire: Wire, file: int) -> None:
    ours, theirs = wire
    for sock, option in ((ours, socket.SO_SNDBUF), (theirs, socket.SO_RCVBUF)):
        sock.setsockopt(socket.SOL_SOCKET, option, 65_536)
    download = Download(ours.fileno(), file, 0, len(DATA))
    threaded.sender.add(download)
    wait_until_begun(download)
    assert download.left > 0
    assert threaded.sender.take() == []
    assert read(theirs, len(DATA)) == DATA
    assert threaded.take() == [download]


def test_a_socket_that_is_shut_down_comes_back(threaded: Threaded, wire: Wire, file: int) -> None:
    ours, _ = wire
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    download = Download(ours.fileno(), file, 0, len(DATA))
    threaded.sender.add(download)
    wait_until_begun(download)
    ours.shutdown(socket.SHUT_RDWR)
    assert threaded.take() == [download]
    assert download.error == errno.EPIPE
    assert download.left > 0
    with pytest.raises(RuntimeError, match="failed"):
        threaded.sender.add(download)


def test_a_client_that_resets_is_told(threaded: Threaded, wire: Wire, file: int) -> None:
    ours, theirs = wire
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    download = Download(ours.fileno(), file, 0, len(DATA))
    threaded.sender.add(download)
    theirs.recv(1)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    assert threaded.take() == [download]
    assert download.error in (errno.ECONNRESET, errno.EPIPE)


def test_a_file_that_ends_before_its_part(threaded: Threaded, wire: Wire, file: int) -> None:
    ours, theirs = wire
    download = Download(ours.fileno(), file, 0, len(DATA) + 1)
    threaded.sender.add(download)
    assert read(theirs, len(DATA)) == DATA
    assert threaded.take() == [download]
    assert (download.error, download.left) == (errno.ENODATA, 1)


def test_a_part_that_a_disk_has_to_be_waited_for(
    threaded: Threaded, wire: Wire, tmp_path: Path
) -> None:
    """What is in memory is sent; then it is Python's to read the next step.

    A disk may answer before it is asked a second time: how often it comes back is left open.
    """
    ours, theirs = wire
    data = DATA[: len(DATA) // 4096 * 4096]
    write_cold(tmp_path / "cold", data)
    file = os.open(tmp_path / "cold", os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # and nothing is read ahead
    os.pread(file, DOWNLOAD_STEP, 0)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(read(theirs, len(data))))
    reader.start()
    download = Download(ours.fileno(), file, 0, len(data))
    threaded.sender.add(download)
    while threaded.take() == [download] and download.cold:
        offset = len(data) - download.left
        assert offset >= DOWNLOAD_STEP
        os.pread(file, DOWNLOAD_STEP, offset)
        threaded.sender.add(download)
    reader.join(SECONDS)
    assert received == [data]
    os.close(file)
    assert (download.left, download.error) == (0, 0)


def test_many_at_once(threaded: Threaded, file: int) -> None:
    pairs = [socket.socketpair() for _ in range(200)]
    for number, (ours, theirs) in enumerate(pairs):
        ours.setblocking(False)
        theirs.settimeout(SECONDS)
        threaded.sender.add(Download(ours.fileno(), file, number, 20_000))
    for number, (_, theirs) in enumerate(pairs):
        assert read(theirs, 20_000) == DATA[number : number + 20_000]
    assert len(threaded.take(200)) == 200
    for pair in pairs:
        for sock in pair:
            sock.close()


def test_one_that_stands_still_holds_up_nobody(threaded: Threaded, wire: Wire, file: int) -> None:
    stuck, _ = socket.socketpair()
    stuck.setblocking(False)
    threaded.sender.add(Download(stuck.fileno(), file, 0, len(DATA)))
    ours, theirs = wire
    download = Download(ours.fileno(), file, 0, len(DATA))
    threaded.sender.add(download)
    assert read(theirs, len(DATA)) == DATA
    assert threaded.take() == [download]
    stuck.close()


def test_it_is_sent_while_python_computes(
    threaded: Threaded, wire: Wire, file: int, tmp_path: Path
) -> None:
    """Nobody gives the interpreter's lock away here, and the client is a process of its own."""
    ours, theirs = wire
    theirs.setblocking(True)
    with (tmp_path / "received").open("wb") as received:
        client = subprocess.Popen(["cat"], stdin=theirs.fileno(), stdout=received)
    theirs.close()
    download = Download(ours.fileno(), file, 0, len(DATA))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        threaded.sender.add(download)
        end = time.monotonic() + SECONDS
        while download.left and time.monotonic() < end:
            pass
        assert download.left == 0
    finally:
        sys.setswitchinterval(before)
    threaded.take()
    ours.shutdown(socket.SHUT_WR)
    assert client.wait(SECONDS) == 0
    assert (tmp_path / "received").read_bytes() == DATA


def test_stopped_with_some_under_way(wire: Wire, file: int) -> None:
    one = Threaded()
    ours, _ = wire
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    download = Download(ours.fileno(), file, 0, len(DATA))
    one.sender.add(download)
    wait_until_begun(download)
    one.stop()
    assert one.sender.take() == [download]
    assert (download.error, download.cold) == (0, False)
    assert 0 < download.left < len(DATA)


def test_a_descriptor_that_cannot_be_polled_comes_back(threaded: Threaded, file: int) -> None:
    download = Download(file, file, 0, 5)
    threaded.sender.add(download)
    assert threaded.take() == [download]
    assert download.error == errno.EPERM


def test_a_sender_that_never_ran_lets_go(wire: Wire, file: int) -> None:
    sender = Sender()
    download = Download(wire[0].fileno(), file, 0, 5)
    references = sys.getrefcount(download)
    sender.add(download)
    assert sys.getrefcount(download) == references + 1
    del sender
    assert sys.getrefcount(download) == references


def test_what_is_asked_wrongly_is_refused(threaded: Threaded, wire: Wire, file: int) -> None:
    with pytest.raises(TypeError, match="not a Download"):
        threaded.sender.add(3)  # type: ignore[arg-type]
    for offset, length in ((-1, 1), (1, 1 << 63), ((1 << 63) - 1, 1)):
        with pytest.raises(ValueError, match="no part of a file"):
            Download(3, file, offset, length)
    stuck, _ = socket.socketpair()
    stuck.setblocking(False)
    download = Download(stuck.fileno(), file, 0, len(DATA))
    threaded.sender.add(download)
    with pytest.raises(RuntimeError, match="a sender has it"):
        threaded.sender.add(download)
    with pytest.raises(RuntimeError, match="runs already"):
        threaded.sender.run()
    stuck.close()
