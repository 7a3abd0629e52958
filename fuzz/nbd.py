"""NBD: any bytes, in any pieces, give well-formed answers, one for each request."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fuzz.words import Words
from server.content import Export
from server.protocols.nbd import Buffer, Granules, Transmission, pack_request
from server.protocols.nbd_handshake import Attached, BlockSizes, Handshake
from server.protocols.nbd_wire import (
    CHUNK,
    CHUNK_DONE,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Command,
    Errno,
    Option,
)

SIZE: Final = 300_001
MINIMUM, COLD, HOLEY, SHORT_TURNS = 1, 2, 4, 8
"""Bits of the first byte: what kind of an export it is."""
IMAGE: Final = memoryview(bytes(range(251)) * 1300)[:SIZE]
HOLES: Final = ((4096, 8192), (200_000, 262_144), (299_000, SIZE))
NAMES: Final = ("/opt/ltsp/amd64", "disk")
EXPORT: Final = Export(NAMES[0], Path("/image"), SIZE, "ab" * 32, "an image")


def _option(number: int, data: bytes = b"") -> bytes:
    return OPTION.pack(OPTION_MAGIC, number, len(data)) + data


def _name(text: str = NAMES[0]) -> bytes:
    return struct.pack(">I", len(text)) + text.encode()


_GO: Final = _option(Option.GO, _name() + struct.pack(">HHH", 2, 3, 2))
_META: Final = _name() + struct.pack(">I", 1) + _name("base:allocation")
_START: Final = struct.pack(">I", 3)
_STREAMS: Final = (
    _START + _GO + pack_request(Command.READ, 1, 0, 4096) + pack_request(Command.DISC),
    _START
    + _option(Option.STRUCTURED_REPLY)
    + _option(Option.LIST_META_CONTEXT, _META)
    + _option(Option.SET_META_CONTEXT, _META)
    + _GO
    + pack_request(Command.READ, 1, 0, 9000)
    + pack_request(Command.READ, 2, 4000, 9000, 4)
    + pack_request(Command.BLOCK_STATUS, 3, 0, SIZE)
    + pack_request(Command.CACHE, 4, 100, 200_000)
    + pack_request(Command.FLUSH, 5),
    _START + _option(Option.LIST) + _option(Option.INFO, _name() + b"\0\0") + _option(Option.ABORT),
    struct.pack(">I", 0) + _option(Option.EXPORT_NAME, b"disk") + pack_request(0, 1, SIZE - 1, 1),
    _START + _option(Option.STARTTLS) + _option(99, b"x" * 40_000) + _GO,
    _START + _GO + pack_request(Command.WRITE, 1, 0, 3) + b"abc" + pack_request(0, 2, 1 << 63, 9),
    _START + _GO + pack_request(Command.TRIM, 1, 0, 9) + pack_request(Command.WRITE_ZEROES, 2),
)


SEEDS: Final = tuple(
    bytes((shape, cut)) + stream for stream in _STREAMS for shape, cut in ((0, 6), (15, 99))
)


def check(data: bytes) -> None:
    """data: how the bytes are cut, of what kind the export is, and then the bytes."""
    words = Words(data)
    shape = words.number()
    cut = 1 + words.number()
    stream = words.rest()
    whole = _run(stream, [len(stream)], shape)
    pieces = _run(stream, [cut] * (len(stream) // cut + 1), shape)
    if not shape & COLD:  # else the answers' order follows the disk
        assert whole == pieces, "how the bytes are cut changes the answers"


def _run(stream: bytes, cuts: Sequence[int], shape: int) -> bytes:
    """All that the server says to a stream in pieces; checked on the way."""
    handshake = Handshake(
        lambda name: EXPORT if name in NAMES else None,
        lambda: NAMES,
        BlockSizes(512, 4096, 65_536) if shape & MINIMUM else None,
    )
    assert len(handshake.greet()) == 18
    transmission: Transmission | None = None
    said: list[bytes] = []
    replies = b""
    taken = b""
    position = 0
    for cut in cuts:
        piece = stream[position : position + cut]
        position += cut
        if transmission is None:
            answer = handshake.receive(piece)
            said.append(answer)
            outcome = handshake.outcome
            if outcome is None:
                continue
            _check_options(b"".join(said), outcome)
            if not isinstance(outcome, Attached):
                return b"".join(said)
            transmission = _attach(outcome, shape)
            piece = outcome.leftover
        taken += piece
        replies += _feed(transmission, piece)
        if transmission.closed is not None:
            break
    if transmission is not None:
        outcome = handshake.outcome
        assert isinstance(outcome, Attached)
        _check_replies(taken, replies, outcome)
    return b"".join(said) + replies


def _attach(outcome: Attached, shape: int) -> Transmission:
    return Transmission(
        IMAGE,
        Granules(SIZE, hot=not shape & COLD, shift=12),
        structured=outcome.structured,
        allocation=outcome.allocation,
        holes=HOLES if shape & HOLEY else (),
        sizes=BlockSizes(512, 4096, 65_536) if shape & MINIMUM else None,
        turn_requests=2 if shape & SHORT_TURNS else 256,
    )


def _feed(transmission: Transmission, piece: bytes) -> bytes:
    """Requests in; replies out, those that waited for the disk too."""
    out = _join(transmission.receive(piece, len(piece)), transmission)
    for _ in range(10_000):
        cold, transmission.cold = transmission.cold, []
        for request in cold:
            error = Errno.EIO if request.offset % 3 == 0 else None
            out += _join(transmission.complete(request, error), transmission)
        if not transmission.more or transmission.closed is not None:
            return out
        out += _join(transmission.receive(b"", 0), transmission)
    raise AssertionError("a turn that never ends")


def _join(buffers: Sequence[Buffer], transmission: Transmission) -> bytes:
    out = b"".join(buffers)
    assert transmission.queued == len(out)
    return out


def _check_options(said: bytes, outcome: object) -> None:
    """Every reply to an option is whole; only EXPORT_NAME's own has another form."""
    position = 0
    while position + OPTION_REPLY.size <= len(said):
        magic, _, _, length = OPTION_REPLY.unpack_from(said, position)
        if magic != OPTION_REPLY_MAGIC:
            break
        position += OPTION_REPLY.size + length
    left = len(said) - position
    assert left in ((0, 10, 134) if isinstance(outcome, Attached) else (0,))


def _check_replies(taken: bytes, replies: bytes, outcome: Attached) -> None:
    """Each request has one reply, whole, with the image's own bytes."""
    wanted = _expect(taken)
    by_cookie = {request[1]: request for request in wanted}
    if not outcome.structured and len(by_cookie) < len(wanted):
        return  # a cookie for two requests: nobody can tell their replies apart
    position = 0
    answered: list[int] = []
    while position < len(replies):
        (magic,) = struct.unpack_from(">I", replies, position)
        if magic == SIMPLE_REPLY_MAGIC:
            assert not outcome.structured
            _, error, cookie = SIMPLE_REPLY.unpack_from(replies, position)
            position += SIMPLE_REPLY.size
            answered.append(cookie)
            command, _, offset, length = by_cookie[cookie]
            if command == Command.READ and error == 0:
                assert replies[position : position + length] == IMAGE[offset : offset + length]
                position += length
            continue
        assert magic == STRUCTURED_REPLY_MAGIC
        assert outcome.structured
        _, flags, kind, cookie, length = CHUNK.unpack_from(replies, position)
        position += CHUNK.size
        body = replies[position : position + length]
        assert len(body) == length
        position += length
        if kind == Chunk.OFFSET_DATA:
            (offset,) = struct.unpack_from(">Q", body)
            assert body[8:] == IMAGE[offset : offset + length - 8]
        elif kind == Chunk.OFFSET_HOLE:
            offset, count = struct.unpack(">QI", body)
            assert any(a <= offset and offset + count <= b for a, b in HOLES)
        if flags & CHUNK_DONE:
            answered.append(cookie)
    assert position == len(replies)
    assert sorted(answered) == sorted(cookie for _, cookie, _, _ in wanted)


def _expect(taken: bytes) -> list[tuple[int, int, int, int]]:
    """The requests of a stream as a client counts them: (command, cookie, offset, length)."""
    found: list[tuple[int, int, int, int]] = []
    position = 0
    while position + REQUEST.size <= len(taken):
        magic, _, command, cookie, offset, length = REQUEST.unpack_from(taken, position)
        position += REQUEST.size
        if magic != REQUEST_MAGIC or command == Command.DISC:
            break
        found.append((command, cookie, offset, length))
        if command == Command.WRITE:
            position += length
    return found
