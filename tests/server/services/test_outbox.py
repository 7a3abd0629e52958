"""An Outbox on a real socket pair, with a loop that is turned by hand."""

import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from server.fastpath import BULK_BYTES
from server.services.outbox import MAX_BUFFERS, Outbox


class Turns:
    """The part of HotLoop that an Outbox uses."""

    def __init__(self) -> None:
        self.short: list[Callable[[], object]] = []
        self.long: list[Callable[[], object]] = []
        self.after_reads = self.short.append
        self.in_bulk = self.long.append

    def turn(self) -> None:
        calls = self.short + self.long
        self.short.clear()
        self.long.clear()
        for call in calls:
            call()


class Line:
    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.turns = Turns()
        self.told: list[OSError | None] = []
        self.outbox = Outbox(self.near, cast(Any, self.turns), self.told.append)

    def receive(self, size: int) -> bytes:
        """Take `size` bytes off the far end, flushing as the loop would."""
        data = b""
        while len(data) < size:
            piece = self.far.recv(min(65536, size - len(data)))
            assert piece
            data += piece
            self.outbox.flush()
        return data


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.near.close()
    line.far.close()


def test_what_is_offered_leaves_in_one_turn(line: Line) -> None:
    line.outbox.offer([b"one", memoryview(b"two")], 6)
    line.outbox.offer([b"three"], 5)
    assert line.outbox.offered
    assert not line.outbox.empty
    assert line.told == []
    line.turns.turn()
    assert line.far.recv(100) == b"onetwothree"
    assert line.told == [None]
    assert line.outbox.empty


def test_long_answers_wait_for_another_turn_than_short_ones(line: Line) -> None:
    line.outbox.offer([bytes(BULK_BYTES - 1)], BULK_BYTES - 1)
    assert (len(line.turns.short), len(line.turns.long)) == (1, 0)
    other = Line()
    other.outbox.offer([bytes(BULK_BYTES)], BULK_BYTES)
    assert (len(other.turns.short), len(other.turns.long)) == (0, 1)
    other.near.close()
    other.far.close()


def test_what_a_full_socket_does_not_take_leaves_first(line: Line) -> None:
    image = bytes(range(256)) * 4096
    line.outbox.offer([b"head", memoryview(image)], 4 + len(image))
    line.turns.turn()
    assert line.outbox.blocked
    assert line.told == [None]
    line.outbox.offer([b"next"], 4)
    assert not line.outbox.offered, "it stands behind what is blocked"
    line.outbox.send([b"last"])
    whole = b"head" + image + b"nextlast"
    assert line.receive(len(whole)) == whole
    assert line.outbox.empty


def test_more_buffers_than_one_call_takes(line: Line) -> None:
    parts: list[bytes | memoryview] = [bytes([number % 256]) for number in range(2 * MAX_BUFFERS)]
    line.outbox.offer(list(parts), len(parts))
    line.turns.turn()
    assert line.receive(len(parts)) == b"".join(parts)


def test_a_broken_socket_is_told(line: Line) -> None:
    line.far.close()
    line.outbox.offer([b"x"], 1)
    line.turns.turn()
    (error,) = line.told
    assert isinstance(error, BrokenPipeError)
    with pytest.raises(BrokenPipeError):
        line.outbox.send([b"x"])


def test_what_is_cleared_is_neither_sent_nor_told(line: Line) -> None:
    line.outbox.offer([b"x"], 1)
    line.outbox.clear()
    line.turns.turn()
    assert line.told == []
    line.far.setblocking(False)
    with pytest.raises(BlockingIOError):
        line.far.recv(1)
