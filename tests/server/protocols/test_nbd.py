"""NBD's transmission phase, against a reply parser and a model of its own."""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.nbd import Buffer, Granules, Transmission, pack_request
from server.protocols.nbd_handshake import BlockSizes
from server.protocols.nbd_wire import Errno

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS, RESIZE = range(9)
DF, REQ_ONE = 4, 8
EPERM, EIO, EINVAL = 1, 5, 22
SIZE = 300_000
IMAGE = random.Random(1).randbytes(SIZE)


def make(
    *,
    image: bytes = IMAGE,
    hot: bool = True,
    structured: bool = False,
    allocation: bool = False,
    holes: list[tuple[int, int]] | None = None,
    sizes: BlockSizes | None = None,
    turn_requests: int = 10**6,
    turn_bytes: int = 10**12,
) -> Transmission:
    return Transmission(
        memoryview(image),
        Granules(len(image), hot=hot, shift=12),
        structured=structured,
        allocation=allocation,
        holes=holes or [],
        sizes=sizes,
        turn_requests=turn_requests,
        turn_bytes=turn_bytes,
    )


def feed(core: Transmission, data: bytes) -> bytes:
    return join(core, core.receive(data, len(data)))


def join(core: Transmission, buffers: list[Buffer]) -> bytes:
    joined = b"".join(buffers)
    assert core.queued == len(joined)
    return joined


@dataclass
class Chunk:
    cookie: int
    done: bool
    kind: int
    body: bytes


def parse_chunks(data: bytes) -> Iterator[Chunk]:
    while data:
        magic, flags, kind, cookie, length = struct.unpack(">IHHQI", data[:20])
        assert magic == 0x668E33EF
        assert len(data) >= 20 + length
        yield Chunk(cookie, bool(flags & 1), kind, data[20 : 20 + length])
        data = data[20 + length :]


def parse_error(chunk: Chunk) -> tuple[int, str]:
    assert chunk.kind == 0x8001
    assert chunk.done
    error, length = struct.unpack(">IH", chunk.body[:6])
    assert len(chunk.body) == 6 + length
    return error, chunk.body[6:].decode()


def simple(cookie: int, error: int = 0) -> bytes:
    return struct.pack(">IIQ", 0x67446698, error, cookie)


def test_pipelined_reads_answered_in_order_without_copies() -> None:
    core = make()
    requests = pack_request(READ, 7, 0, 100) + pack_request(READ, 2**64 - 1, SIZE - 5, 5)
    buffers = core.receive(requests, len(requests))
    assert b"".join(buffers) == simple(7) + IMAGE[:100] + simple(2**64 - 1) + IMAGE[-5:]
    views = [buffer for buffer in buffers if isinstance(buffer, memoryview)]
    assert [view.obj for view in views] == [IMAGE, IMAGE]
    assert core.payload == 105
    assert core.requests == 2
    assert not core.attention


def test_structured_read_is_one_chunk_with_its_offset() -> None:
    core = make(structured=True)
    answer = feed(core, pack_request(READ, 9, 1234, 4096))
    assert answer == (
        struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, 9, 4104, 1234) + IMAGE[1234 : 1234 + 4096]
    )


def test_reads_only_what_it_is_given() -> None:
    core = make()
    data = bytearray(pack_request(READ, 1, 0, 1) + pack_request(READ, 2, 0, 1))
    assert b"".join(core.receive(data, 28)) == simple(1) + IMAGE[:1]
    data[:] = bytes(len(data))  # the shell uses its buffer anew
    assert core.receive(b"", 0) == []


def test_a_part_of_a_request_survives_the_buffer() -> None:
    core = make()
    data = bytearray(pack_request(READ, 5, 10, 3))
    assert core.receive(data, 20) == []
    rest = bytes(data[20:])
    data[:] = bytes(28)
    assert feed(core, rest) == simple(5) + IMAGE[10:13]


REFUSED = [
    (pack_request(READ, 1, SIZE - 1, 2), EINVAL, "past the end of the export (300000 bytes)"),
    (pack_request(READ, 1, 2**64 - 1, 1), EINVAL, "past the end"),
    (pack_request(READ, 1, 0, 0), EINVAL, "nothing is asked for"),
    (pack_request(READ, 1, 0, 70_000), EINVAL, "longer than the limit of 65536 bytes"),
    (pack_request(READ, 1, 0, 1, flags=2), EINVAL, "flags 0x2"),
    (pack_request(READ, 1, 0, 1, flags=0x8000), EINVAL, "flags 0x8000"),
    (pack_request(TRIM, 1, 0, 10), EPERM, "TRIM of 10 bytes at 0: the export is read-only"),
    (pack_request(ZEROES, 1, 0, 10), EPERM, "read-only"),
    (pack_request(WRITE, 1, 0, 5) + b"abcde", EPERM, "read-only"),
    (pack_request(WRITE, 1, 2**63, 0), EPERM, "read-only"),
    (pack_request(FLUSH, 1, 1, 0), EINVAL, "must be 0"),
    (pack_request(FLUSH, 1, 0, 1), EINVAL, "must be 0"),
    (pack_request(CACHE, 1, SIZE, 1), EINVAL, "past the end"),
    (pack_request(CACHE, 1, 0, 0), EINVAL, "nothing"),
    (pack_request(STATUS, 1, 0, 10), EINVAL, "no metadata context"),
    (pack_request(RESIZE, 1, 0, 10), EINVAL, "unknown command 8"),
    (pack_request(0xFFFF, 1, 0, 10), EINVAL, "unknown command 65535"),
]


@pytest.mark.parametrize(("request_", "error", "message"), REFUSED)
@pytest.mark.parametrize("structured", [False, True])
def test_refusals_name_their_reason_and_keep_the_connection(
    request_: bytes, error: int, message: str, structured: bool
) -> None:
    core = make(structured=structured, sizes=BlockSizes(maximum=65536))
    answer = feed(core, request_)
    if structured:
        (chunk,) = parse_chunks(answer)
        got, text = parse_error(chunk)
        assert got == error
        assert message in text
    else:
        assert answer == simple(1, error)
    assert core.attention
    assert core.refused is not None
    assert message in core.refused
    assert core.closed is None
    after = feed(core, pack_request(READ, 2, 0, 1))
    assert after.endswith(IMAGE[:1])


def test_df_without_structured_replies_is_refused() -> None:
    assert feed(make(), pack_request(READ, 1, 0, 8, flags=DF)) == simple(1, EINVAL)
    answer = feed(make(structured=True), pack_request(READ, 1, 0, 8, flags=DF))
    (chunk,) = parse_chunks(answer)
    assert chunk.body[8:] == IMAGE[:8]


def test_minimum_block() -> None:
    image = IMAGE[:1000]
    core = make(image=image, sizes=BlockSizes(minimum=512))
    assert feed(core, pack_request(READ, 1, 1, 512)) == simple(1, EINVAL)
    assert feed(core, pack_request(READ, 1, 0, 511)) == simple(1, EINVAL)
    assert feed(core, pack_request(READ, 1, 0, 512)) == simple(1) + image[:512]
    # The end of an export that is no multiple can be read all the same.
    assert feed(core, pack_request(READ, 1, 512, 488)) == simple(1) + image[512:]


@pytest.mark.parametrize("structured", [False, True])
def test_flush_and_cache_succeed(structured: bool) -> None:
    core = make(structured=structured)
    answer = feed(core, pack_request(FLUSH, 3) + pack_request(CACHE, 4, 10, 100_000))
    if structured:
        done = [struct.pack(">IHHQI", 0x668E33EF, 1, 0, cookie, 0) for cookie in (3, 4)]
        assert answer == b"".join(done)
    else:
        assert answer == simple(3) + simple(4)
    assert core.payload == 0


def test_a_long_write_is_drained_in_pieces() -> None:
    core = make()
    length = 2**32 - 1
    assert feed(core, pack_request(WRITE, 1, 0, length)) == simple(1, EPERM)
    piece = bytes(1 << 20)
    for _ in range(length >> 20):
        assert core.receive(piece, len(piece)) == []
    rest = bytes(length & ((1 << 20) - 1))
    assert feed(core, rest + pack_request(READ, 2, 0, 4)) == simple(2) + IMAGE[:4]


def test_disconnect_closes_and_ignores_what_follows() -> None:
    core = make()
    assert feed(core, pack_request(READ, 1, 0, 1) + pack_request(DISC) + b"more" * 20) == (
        simple(1) + IMAGE[:1]
    )
    assert core.closed == ""
    assert feed(core, pack_request(READ, 1, 0, 1)) == b""


def test_garbage_closes_with_a_reason() -> None:
    core = make()
    assert feed(core, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n") == b""
    assert core.closed == "not a request: magic 0x47455420"


def test_64_bit_offsets() -> None:
    size = 1 << 40
    core = make(structured=True, allocation=True, holes=[(0, SIZE)])
    core.size = size  # only the arithmetic: nothing is read
    (chunk,) = parse_chunks(feed(core, pack_request(STATUS, 1, size - 2**31, 2**31)))
    assert chunk.body == struct.pack(">III", 1, 2**31, 0)
    (chunk,) = parse_chunks(feed(core, pack_request(READ, 1, size, 1)))
    assert parse_error(chunk)[0] == EINVAL


class TestTurns:
    def test_requests_a_turn(self) -> None:
        core = make(turn_requests=3)
        requests = b"".join(pack_request(READ, n, n, 1) for n in range(8)) + b"\x25\x60"
        turns = [core.receive(requests, len(requests))]
        while core.more:
            assert core.attention
            turns.append(core.receive(b"", 0))
        assert [len(turn) for turn in turns] == [6, 6, 4]
        joined = b"".join(b"".join(turn) for turn in turns)
        assert joined == b"".join(simple(n) + IMAGE[n : n + 1] for n in range(8))
        # The part of a request at the end is still there.
        assert feed(core, pack_request(READ, 9, 0, 1)[2:]) == simple(9) + IMAGE[:1]

    def test_bytes_a_turn(self) -> None:
        core = make(turn_bytes=10_000)
        requests = b"".join(pack_request(READ, n, 0, 6000) for n in range(5))
        sizes = [len(feed(core, requests))]
        while core.more:
            sizes.append(len(join(core, core.receive(b"", 0))))
        assert sizes == [2 * 6016, 2 * 6016, 6016]

    def test_a_drained_payload_does_not_confuse_turns(self) -> None:
        core = make(turn_requests=1)
        data = pack_request(WRITE, 1, 0, 40) + bytes(40) + pack_request(READ, 2, 0, 1)
        answer = feed(core, data)
        while core.more:
            answer += join(core, core.receive(b"", 0))
        assert answer == simple(1, EPERM) + simple(2) + IMAGE[:1]


class TestHoles:
    HOLES = ((0, 8192), (20_000, 30_000), (290_000, SIZE))

    def make(self) -> Transmission:
        image = bytearray(IMAGE)
        for start, end in self.HOLES:
            image[start:end] = bytes(end - start)
        return make(image=bytes(image), structured=True, allocation=True, holes=list(self.HOLES))

    def test_status_of_everything(self) -> None:
        (chunk,) = parse_chunks(feed(self.make(), pack_request(STATUS, 1, 0, SIZE)))
        assert (chunk.kind, chunk.done) == (5, True)
        words = struct.unpack(">11I", chunk.body)
        assert words == (1, 8192, 3, 11808, 0, 10_000, 3, 260_000, 0, 10_000, 3)

    def test_status_of_one_extent(self) -> None:
        core = self.make()
        (chunk,) = parse_chunks(feed(core, pack_request(STATUS, 1, 100, SIZE - 100, REQ_ONE)))
        assert chunk.body == struct.pack(">III", 1, 8092, 3)

    def test_a_hole_costs_no_payload(self) -> None:
        core = self.make()
        (chunk,) = parse_chunks(feed(core, pack_request(READ, 1, 4096, 4096)))
        assert (chunk.kind, chunk.done) == (2, True)
        assert chunk.body == struct.pack(">QI", 4096, 4096)
        assert core.payload == 0

    def test_df_gives_one_chunk(self) -> None:
        core = self.make()
        (chunk,) = parse_chunks(feed(core, pack_request(READ, 1, 8000, 400, DF)))
        assert chunk.body[8:] == bytes(192) + IMAGE[8192:8400]

    @given(st.integers(0, SIZE - 1), st.integers(1, SIZE))
    def test_chunks_make_up_the_data(self, offset: int, length: int) -> None:
        length = min(length, SIZE - offset)
        core = self.make()
        got: dict[int, bytes] = {}
        chunks = list(parse_chunks(feed(core, pack_request(READ, 1, offset, length))))
        assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        for chunk in chunks:
            (start,) = struct.unpack(">Q", chunk.body[:8])
            if chunk.kind == 2:
                got[start] = bytes(struct.unpack(">I", chunk.body[8:])[0])
            else:
                assert chunk.kind == 1
                got[start] = chunk.body[8:]
        position = offset
        for start in sorted(got):
            assert start == position
            position += len(got[start])
        model = bytearray(IMAGE)
        for start, end in self.HOLES:
            model[start:end] = bytes(end - start)
        assert b"".join(got[start] for start in sorted(got)) == model[offset : offset + length]


class TestCold:
    def test_cold_reads_wait_and_hot_ones_pass(self) -> None:
        core = make(hot=False)
        core._granules.hot[2] = 1
        answer = feed(core, pack_request(READ, 1, 0, 5000) + pack_request(READ, 2, 8192, 4096))
        assert answer == simple(2) + IMAGE[8192:12288]
        assert core.attention
        (request,) = core.cold
        assert core._granules.cold(request.offset, request.length) == [0, 1]
        assert join(core, core.complete(request)) == simple(1) + IMAGE[:5000]
        assert core.payload == 5000 + 4096

    @pytest.mark.parametrize("structured", [False, True])
    def test_a_read_that_cannot_be_loaded_is_an_io_error(self, structured: bool) -> None:
        core = make(hot=False, structured=structured)
        feed(core, pack_request(READ, 1, 0, 5000))
        answer = join(core, core.complete(core.cold[0], Errno.EIO))
        if structured:
            (chunk,) = parse_chunks(answer)
            error, text = parse_error(chunk)
            assert error == EIO
            assert "READ of 5000 bytes at 0" in text
        else:
            assert answer == simple(1, EIO)
        assert core.payload == 0

    def test_cache_loads_and_sends_nothing(self) -> None:
        core = make(hot=False)
        assert feed(core, pack_request(CACHE, 1, 0, 5000)) == b""
        assert join(core, core.complete(core.cold[0])) == simple(1)
        assert core.payload == 0

    def test_holes_need_no_loading(self) -> None:
        core = make(hot=False, structured=True, holes=[(0, 8192)])
        (chunk,) = parse_chunks(feed(core, pack_request(READ, 1, 0, 8192)))
        assert chunk.kind == 2
        assert core.cold == []


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, int]:
    command = draw(st.sampled_from([READ, READ, READ, WRITE, FLUSH, TRIM, CACHE, STATUS, 99]))
    offset = draw(st.one_of(st.integers(0, SIZE), st.integers(0, 2**64 - 1)))
    length = draw(st.one_of(st.integers(0, 5000), st.integers(0, 2**32 - 1)))
    if command == WRITE:
        length = min(length, 5000)
    cookie = draw(st.integers(0, 2**64 - 1))
    flags = draw(st.sampled_from([0, 0, 0, 1, DF, REQ_ONE, 0xFFFF]))
    payload = bytes(length) if command == WRITE else b""
    return pack_request(command, cookie, offset, length, flags) + payload, cookie


@given(st.lists(requests(), max_size=12), st.booleans(), st.integers(1, 4), st.data())
def test_every_request_gets_its_answer_however_it_arrives(
    asked: list[tuple[bytes, int]], structured: bool, turn: int, data: st.DataObject
) -> None:
    stream = b"".join(request for request, _ in asked)
    whole = make(structured=structured, allocation=structured)
    expected = feed(whole, stream)
    core = make(structured=structured, allocation=structured, turn_requests=turn)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    got = b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += feed(core, stream[start:end])
        while core.more:
            got += join(core, core.receive(b"", 0))
    assert got == expected
    if structured:
        # Fire-and-forget is not there: each cookie ends once, in order.
        ends = [chunk.cookie for chunk in parse_chunks(got) if chunk.done]
        assert ends == [cookie for _, cookie in asked]


@given(st.lists(requests(), max_size=4))
def test_byte_by_byte(asked: list[tuple[bytes, int]]) -> None:
    stream = b"".join(request for request, _ in asked)
    whole, single = make(), make()
    expected = feed(whole, stream)
    assert b"".join(feed(single, bytes([byte])) for byte in stream) == expected


@given(st.lists(st.binary(max_size=80), max_size=6), st.booleans())
def test_no_bytes_make_it_raise(pieces: list[bytes], structured: bool) -> None:
    core = make(structured=structured)
    for piece in pieces:
        feed(core, piece)


def test_granules() -> None:
    granules = Granules(4096 * 3 + 1, hot=False, shift=12)
    assert len(granules.hot) == 4
    granules.hot[1] = 1
    assert granules.is_hot(4096, 4096)
    assert not granules.is_hot(4095, 2)
    assert not granules.is_hot(4096, 4097)
    assert granules.cold(0, 4096 * 3 + 1) == [0, 2, 3]
