"""The poller: epoll's own promises, and that lanes keep nobody else from their turn."""

import os
import select
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.fastpath import Lockstep, Poller
from tests.server.fastpath.lanes import STRIDE, Wire, ack, make_packets

FOLDER = Path(__file__).resolve().parents[3] / "server" / "fastpath"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


Pair = tuple[socket.socket, socket.socket]


def test_the_sources_compile_without_a_warning(tmp_path: Path) -> None:
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fanalyzer", "-fPIC", "-shared"]
    include = f"-I{sysconfig.get_path('include')}"
    sources = sorted(FOLDER.glob("*.c"))
    argv = ["gcc", *flags, include, "-o", f"{tmp_path}/module.so", *map(str, sources)]
    subprocess.run(argv, check=True)


def test_tells_what_epoll_tells(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    fd = ours.fileno()
    poller.register(fd, select.EPOLLIN | select.EPOLLOUT)
    assert poller.poll(1.0) == [(fd, select.EPOLLOUT)]
    theirs.send(b"x")
    assert poller.poll(1.0) == [(fd, select.EPOLLIN | select.EPOLLOUT)]
    poller.modify(fd, select.EPOLLIN)
    assert poller.poll(-1) == [(fd, select.EPOLLIN)]
    poller.unregister(fd)
    assert poller.poll(0) == []


def test_waits_as_long_as_it_is_told_and_not_less(poller: Poller) -> None:
    began = time.monotonic()
    assert poller.poll(0.0205) == []
    assert time.monotonic() - began >= 0.0205
    assert poller.now >= began + 0.0205


def test_errors_are_the_systems(poller: Poller, pair: Pair) -> None:
    fd = pair[0].fileno()
    with pytest.raises(FileNotFoundError):
        poller.modify(fd, select.EPOLLIN)
    poller.register(fd, select.EPOLLIN)
    with pytest.raises(FileExistsError):
        poller.register(fd, select.EPOLLIN)
    with pytest.raises(OSError, match="descriptor"):
        poller.unregister(-1)
    poller.close()
    with pytest.raises(OSError, match="descriptor"):
        poller.poll(0)


def test_a_signal_ends_the_wait_and_is_handled(poller: Poller) -> None:
    class HeardError(Exception):
        pass

    def hear(number: int, frame: object) -> None:
        raise HeardError

    waits_in = Path(f"/proc/self/task/{threading.get_native_id()}/wchan")

    def interrupt() -> None:
        end = time.monotonic() + 2  # for a kernel that tells nobody where its threads wait
        while "ep_" not in waits_in.read_text() and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, hear)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(HeardError):
            poller.poll(20)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("lane", [None, 3, object(), Lockstep])
def test_only_lanes_are_attached(poller: Poller, lane: object) -> None:
    with pytest.raises(TypeError, match="not a lane"):
        poller.attach(lane)  # type: ignore[arg-type]


def test_no_lane_without_a_descriptor(poller: Poller) -> None:
    with pytest.raises(ValueError, match="descriptor"):
        poller.attach(Lockstep(-1))


def test_unregistered_lane_is_forgotten_also_when_its_socket_is_closed(poller: Poller) -> None:
    """Or it would answer on the next socket that gets the number."""
    with Wire(poller) as wire:
        fd = wire.ours.fileno()
        wire.lane.arm(make_packets(1, 4), STRIDE, 1, 1)
        wire.ours.close()
        with pytest.raises(OSError, match="descriptor"):
            poller.unregister(fd)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, theirs:
            assert fd in (ours.fileno(), theirs.fileno())
            mine, its = (ours, theirs) if ours.fileno() == fd else (theirs, ours)
            poller.register(fd, select.EPOLLIN)
            its.send(ack(1))
            assert poller.poll(1.0) == [(fd, select.EPOLLIN)]
            assert mine.recv(9) == ack(1)


def test_busy_lanes_let_others_have_their_turn(poller: Poller) -> None:
    """A client that asks again at once, for ever: the poll ends all the same."""
    with Wire(poller) as wire:
        wire.lane.arm(make_packets(1, 60_000), STRIDE, 1, 1)
        wire.theirs.settimeout(20)
        ended = threading.Event()

        def ask() -> None:
            block = 1
            while not ended.is_set() and block < 59_999:
                wire.theirs.send(ack(block))
                wire.theirs.recv(STRIDE)
                block += 1

        client = threading.Thread(target=ask)
        client.start()
        try:
            while wire.lane.block < 2:
                assert poller.poll(20) == []
            first = wire.lane.block
            assert poller.poll(20) == []
            assert wire.lane.block > first
        finally:
            ended.set()
            while client.is_alive():
                poller.poll(0.01)
            client.join()


def test_others_events_are_told_beside_a_lanes(poller: Poller, pair: Pair) -> None:
    ours, theirs = pair
    with Wire(poller) as wire:
        wire.lane.arm(make_packets(1, 4), STRIDE, 1, 1)
        poller.register(ours.fileno(), select.EPOLLIN)
        wire.theirs.send(ack(1))
        theirs.send(b"x")
        assert poller.poll(20) == [(ours.fileno(), select.EPOLLIN)]
        assert wire.lane.block == 2
        assert wire.theirs.recv(STRIDE)[:4] == b"\0\3\0\2"


def test_looks_again_while_a_single_client_asks_at_once(pair: Pair) -> None:
    ours, theirs = pair
    poller = Poller(20.0)
    poller.register(ours.fileno(), select.EPOLLIN)
    theirs.send(b"x")
    assert len(poller.poll(20)) == 1
    assert poller.looks == 0
    assert len(poller.poll(20)) == 1
    assert (poller.looks, poller.finds) == (1, 1)
    ours.recv(1)
    poller.watch_seconds = 1e-6
    for _ in range(6):
        poller.poll(0.001)
    # In vain once, and then not for some time; nor is it after a wait that found nothing.
    assert (poller.looks, poller.finds) == (2, 1)
    poller.close()
