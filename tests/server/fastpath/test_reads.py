"""The lane of NBD's plain reads: the same bytes as the core gives, and all else is Python's."""

import errno
import os
import random
import select
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.fastpath import Poller, Reads
from server.protocols.nbd import Granules, Transmission, pack_request
from server.protocols.nbd_wire import Command

SIZE = 1_000_003
IMAGE = memoryview(random.Random(3).randbytes(SIZE))
FILE = os.memfd_create("image")
os.write(FILE, IMAGE)
READ = Command.READ
TURN_BYTES = 512 * 1024


class Wire:
    """A lane's end of a stream, and its client's."""

    def __init__(self, *, structured: bool = False, room: int = 0, file: int = FILE) -> None:
        self.poller = Poller()
        self.guests: list[Wire] = []
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.settimeout(20)
        if room:
            self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        self.granules = Granules(SIZE, hot=True)
        self.core = Transmission(IMAGE, self.granules, structured=structured)
        """What it is to give."""
        self.file = file
        self.lane = self.make_lane(self.ours.fileno(), structured)
        self.poller.register(self.ours.fileno(), select.EPOLLIN)
        self.poller.attach(self.lane)
        self.lane.arm()

    def make_lane(self, fd: int, structured: bool = False) -> Reads:
        granules = self.granules
        maximum = 32 * 1024 * 1024
        return Reads(
            fd, IMAGE, granules.hot, granules.shift, structured, maximum, TURN_BYTES, self.file
        )

    def __enter__(self) -> "Wire":
        return self

    def invite(self, count: int, request: bytes) -> list["Wire"]:
        """Others on this poller, who have just asked for something."""
        self.guests += [Wire() for _ in range(count)]
        for guest in self.guests:
            self.poller.register(guest.ours.fileno(), select.EPOLLIN)
            self.poller.attach(guest.lane)
            guest.theirs.send(request)
        return self.guests

    def __exit__(self, *error: object) -> None:
        for guest in self.guests:
            guest.__exit__()
        self.poller.close()
        self.ours.close()
        self.theirs.close()

    def wanted(self, data: bytes) -> bytes:
        """The core's answer."""
        out = self.core.receive(data, len(data))
        while self.core.more:
            out += self.core.receive(b"", 0)
        return b"".join(out)

    def told(self) -> bool:
        events = self.poller.poll(0.002)
        assert [fd for fd, _ in events] == [self.ours.fileno()] * len(events)
        return bool(events)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.theirs.recv(count - len(data))
            assert piece
            data += piece
        return data

    def is_quiet(self) -> bool:
        return not select.select([self.theirs], [], [], 0)[0]


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("file", [FILE, -1])
def test_reads_are_answered_as_the_core_answers_them(structured: bool, file: int) -> None:
    """Long ones from the file, short ones from the map: the same."""
    with Wire(structured=structured, file=file) as wire:
        for offset, length in ((0, 1), (0, 131072), (131071, 2), (SIZE - 1, 1), (7, 200_000)):
            request = pack_request(READ, 77 + offset, offset, length)
            wire.theirs.send(request)
            assert not wire.told()
            wanted = wire.wanted(request)
            assert wire.receive(len(wanted)) == wanted
        assert (wire.lane.payload, wire.lane.requests) == (wire.core.payload, 5)
        assert wire.lane.armed


@pytest.mark.parametrize("count", [2, 8, 9, 128])
@pytest.mark.parametrize("structured", [False, True])
def test_several_at_once_are_answered_in_their_order(count: int, structured: bool) -> None:
    with Wire(structured=structured) as wire:
        requests = b"".join(pack_request(READ, n, 1000 * n, 100 + n) for n in range(count))
        wire.theirs.send(requests)
        assert not wire.told()
        wanted = wire.wanted(requests)
        assert wire.receive(len(wanted)) == wanted
        assert wire.lane.requests == count


@pytest.mark.parametrize(
    "odd",
    [
        pack_request(Command.DISC),
        pack_request(Command.FLUSH, 5),
        pack_request(Command.CACHE, 5, 0, 10),
        pack_request(Command.WRITE, 5, 0, 10),
        pack_request(Command.TRIM, 5, 0, 10),
        pack_request(Command.BLOCK_STATUS, 5, 0, 10),
        pack_request(99, 5, 0, 10),
        pack_request(READ, 5, 0, 10, 1),
        pack_request(READ, 5, 0, 0),
        pack_request(READ, 5, 0, SIZE + 1),
        pack_request(READ, 5, SIZE, 1),
        pack_request(READ, 5, SIZE - 1, 2),
        pack_request(READ, 5, (1 << 64) - 1, 2),
        pack_request(READ, 5, 1 << 63, 1),
        pack_request(READ, 5, 0, (1 << 32) - 1),
        b"\0" + pack_request(READ, 5, 0, 10)[1:],
        pack_request(READ, 5, 0, 10)[:27],
        pack_request(READ, 5, 0, 10) + b"\x25",
    ],
)
def test_anything_else_is_kept_whole_for_python(odd: bytes) -> None:
    """With what came before it in the same piece: all or nothing."""
    for data in (odd, pack_request(READ, 1, 0, 10) + odd):
        with Wire() as wire:
            wire.theirs.send(data)
            assert wire.told()
            assert not wire.lane.armed
            assert wire.is_quiet()
            assert wire.lane.take_unsent() == []
            with pytest.raises(RuntimeError, match="recv_into"):
                wire.lane.arm()
            scratch = bytearray(4096)
            assert scratch[: wire.lane.recv_into(scratch)] == data
            with pytest.raises(BlockingIOError):
                wire.lane.recv_into(scratch)
            assert (wire.lane.payload, wire.lane.requests) == (0, 0)
            wire.lane.arm()
            assert not wire.told()


@pytest.mark.parametrize(
    ("offset", "length"), [(262_144, 1), (131_072, 131_073), (200_000, 100_000)]
)
def test_what_is_not_in_memory_is_for_python(offset: int, length: int) -> None:
    with Wire() as wire:
        wire.granules.hot[2] = 0
        wire.theirs.send(pack_request(READ, 1, 393_216, 99))
        assert not wire.told()
        wire.receive(16 + 99)
        wire.theirs.send(pack_request(READ, 1, offset, length))
        assert wire.told()
        wire.lane.recv_into(bytearray(4096))
        wire.granules.hot[2] = 1
        wire.lane.arm()
        wire.theirs.send(pack_request(READ, 1, offset, length))
        assert not wire.told()


def test_more_than_a_turn_is_for_python() -> None:
    """It shares out the turns of a greedy client."""
    with Wire() as wire:
        wire.theirs.send(pack_request(READ, 1, 0, TURN_BYTES) + pack_request(READ, 2, 0, 1))
        assert wire.told()
    with Wire() as wire:
        wire.theirs.send(b"".join(pack_request(READ, n, 0, 60_000) for n in range(9)))
        assert wire.told()


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("room", [1, 4096, 20_000])
@pytest.mark.parametrize("file", [FILE, -1])
@pytest.mark.parametrize(
    "sizes", [[400_000], [150_000, 100_000, 99_000], [70_000] * 6, [300_000, 1], [4_000] * 24]
)
def test_what_the_socket_does_not_take_is_pythons_to_send(
    sizes: list[int], structured: bool, file: int, room: int
) -> None:
    with Wire(structured=structured, room=room, file=file) as wire:
        requests = b"".join(pack_request(READ, n, 50 * n, c) for n, c in enumerate(sizes))
        wire.theirs.send(requests)
        assert wire.told()
        assert not wire.lane.armed
        with pytest.raises(RuntimeError, match="take_unsent"):
            wire.lane.arm()
        wanted = wire.wanted(requests)
        rest = b"".join(wire.lane.take_unsent())
        assert 0 < len(rest) < len(wanted)
        assert wire.receive(len(wanted) - len(rest)) + rest == wanted
        assert wire.is_quiet()
        assert wire.lane.take_unsent() == []
        assert (wire.lane.payload, wire.lane.requests) == (sum(sizes), len(sizes))
        wire.lane.arm()


def test_an_answer_that_waits_for_its_turn_can_be_taken_back() -> None:
    """As before a connection is ended: the lane has nothing under way then."""
    request = pack_request(READ, 1, 0, 200_000)
    with Wire() as wire:
        others = wire.invite(5, request)
        assert wire.poller.poll(0) == []
        sent = [not other.is_quiet() for other in others]
        assert sorted(sent) == [False, True, True, True, True]
        late = others[sent.index(False)]
        late.lane.disarm()
        assert b"".join(late.lane.take_unsent()) == late.wanted(request)
        assert wire.poller.poll(0) == []
        assert late.is_quiet()


def test_a_lane_that_goes_while_its_answer_waits_is_forgotten() -> None:
    request = pack_request(READ, 1, 0, 200_000)
    with Wire() as wire:
        others = wire.invite(9, request)
        assert wire.poller.poll(0) == []
        quiet = [other for other in others if other.is_quiet()]
        assert len(quiet) == 5
        gone, *stay = quiet
        wire.poller.unregister(gone.ours.fileno())
        # More descriptors than there was room for: those that wait keep their order.
        fds = [socket.socketpair() for _ in range(80)]
        wire.poller.register(fds[-1][0].fileno(), select.EPOLLIN)
        wire.poller.attach(wire.make_lane(fds[-1][0].fileno()))
        del gone.lane
        assert wire.poller.poll(0) == []
        assert [other.is_quiet() for other in stay] == [False] * 4
        assert gone.is_quiet()
        for pair in fds:
            for sock in pair:
                sock.close()


def test_short_answers_do_not_wait_for_all_the_long_ones() -> None:
    with Wire() as wire:
        greedy = wire.invite(8, pack_request(READ, 1, 0, 150_000))
        wire.theirs.send(pack_request(READ, 2, 0, 1))
        assert wire.poller.poll(0) == []
        assert sum(not other.is_quiet() for other in greedy) == 1
        assert wire.receive(17)[16:] == IMAGE[:1]
        for _ in range(7):
            wire.poller.poll(0)
        assert not any(other.is_quiet() for other in greedy)


def test_the_end_of_the_stream_and_its_errors_are_pythons() -> None:
    with Wire() as wire:
        wire.theirs.close()
        assert wire.told()
        assert wire.lane.recv_into(bytearray(100)) == 0
    with Wire() as wire:
        wire.theirs.send(pack_request(READ, 1, 0, 200_000))
        wire.theirs.shutdown(socket.SHUT_RD)
        assert wire.told()
        with pytest.raises(BrokenPipeError):
            wire.lane.recv_into(bytearray(100))
        with pytest.raises(BlockingIOError):
            wire.lane.recv_into(bytearray(100))


def test_a_file_cut_short_is_an_error() -> None:
    short = os.memfd_create("short")
    os.write(short, IMAGE[:100_000])
    for offset, left in ((0, 100_000), (100_000, 0)):
        with Wire(file=short) as wire:
            wire.theirs.send(pack_request(READ, 1, offset, 150_000))
            assert wire.told()
            if left:
                # What is left over is Python's to send, which meets the same fate.
                assert len(b"".join(wire.lane.take_unsent())) == 150_000 - left
                continue
            with pytest.raises(OSError, match="Input/output error"):
                wire.lane.recv_into(bytearray(100))
    os.close(short)


def test_where_the_file_system_cannot_the_map_is_sent(tmp_path: Path) -> None:
    request = pack_request(READ, 1, 5, 150_000)
    folder = os.open(tmp_path, os.O_RDONLY)  # sendfile says EINVAL of one
    with Wire(file=folder) as wire:
        wire.theirs.send(request)
        assert wire.told()
        wanted = wire.wanted(request)
        rest = b"".join(wire.lane.take_unsent())
        assert wire.receive(len(wanted) - len(rest)) + rest == wanted
        wire.lane.arm()
        wire.theirs.send(request)
        assert not wire.told()
        assert wire.receive(len(wanted)) == wanted
    os.close(folder)


def test_too_little_room_for_what_was_kept() -> None:
    with Wire() as wire:
        wire.theirs.send(pack_request(Command.FLUSH, 1))
        assert wire.told()
        with pytest.raises(ValueError, match="28 bytes"):
            wire.lane.recv_into(bytearray(27))
        assert wire.lane.recv_into(bytearray(28)) == 28


def test_the_image_is_held_as_long_as_the_lane() -> None:
    data = bytearray(1000)
    hot = bytearray(b"\1")
    lane = Reads(0, memoryview(data), hot, 17, False, 1000, 1000)
    for held in (data, hot):
        with pytest.raises(BufferError):
            held.clear()
    del lane
    data.clear()
    hot.clear()
    with pytest.raises(TypeError):
        Reads(0, b"no view", hot, 17, False, 1000, 1000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shift"):
        Reads(0, memoryview(data), hot, 64, False, 1000, 1000)
    with pytest.raises(OSError, match="descriptor") as caught:
        Reads(-1, memoryview(data), hot, 17, False, 1000, 1000).recv_into(bytearray(1))
    assert caught.value.errno == errno.EBADF


plain = st.builds(
    lambda cookie, offset, length: pack_request(READ, cookie, offset, length),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, SIZE - 1),
    st.integers(1, 3000),
)
odd = st.builds(
    lambda command, offset, length, flags: (
        pack_request(command, 9, offset, length, flags)
        + (b"w" * length if command == Command.WRITE else b"")
    ),
    st.sampled_from([READ, Command.FLUSH, Command.CACHE, Command.WRITE, Command.BLOCK_STATUS, 77]),
    st.one_of(st.just(0), st.integers(SIZE - 200, SIZE + 200), st.integers(0, (1 << 64) - 1)),
    st.integers(0, 400),
    st.sampled_from([0, 0, 1, 4]),
)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.one_of(plain, plain, plain, odd), max_size=40),
    st.lists(st.integers(1, 400), min_size=1, max_size=20),
    st.booleans(),
)
def test_in_whatever_pieces_it_comes_the_answers_are_the_cores(
    requests: list[bytes], cuts: list[int], structured: bool
) -> None:
    """A lane and a core that take turns, as in a connection, and a core alone."""
    stream = b"".join(requests)
    with Wire(structured=structured) as wire:
        mine = Transmission(IMAGE, wire.granules, structured=structured)
        wanted = wire.wanted(stream)
        scratch = bytearray(1 << 16)
        got = b""
        number = 0
        while stream:
            piece, stream = stream[: cuts[number % len(cuts)]], stream[cuts[number % len(cuts)] :]
            number += 1
            wire.theirs.send(piece)
            if wire.told():
                wire.ours.setblocking(True)
                wire.ours.sendall(b"".join(wire.lane.take_unsent()))
                out = mine.receive(scratch, wire.lane.recv_into(scratch))
                while mine.more:
                    out += mine.receive(b"", 0)
                wire.ours.sendall(b"".join(out))
                wire.ours.setblocking(False)
            if not wire.lane.armed and mine.between_requests:
                wire.lane.arm()
            while not wire.is_quiet():
                got += wire.theirs.recv(1 << 20)
        assert got == wanted
        assert wire.lane.payload + mine.payload == wire.core.payload
        assert wire.lane.requests + mine.requests == wire.core.requests
