"""NBD's transmission phase, server side, sans-IO, for a read-only export in memory.

`Transmission` takes requests and gives replies as lists of buffers, headers and
slices of the export's own view taking turns, so that many replies leave by one
sendmsg and no payload is copied. Which parts of the export may be touched
without waiting for a disk is told by a map (`hot`); reads of other parts wait
in `cold` until the shell has loaded them and calls `complete`.

Where a connection has a lane (server/fastpath/reads.c), that answers plain reads of what
is in memory before they come here; what it leaves comes here as it was sent.

The protocol text is doc/proto.md of the NetworkBlockDevice project.
"""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.protocols.nbd_handshake import CONTEXT_ID, BlockSizes
from server.protocols.nbd_wire import (
    CHUNK_DONE,
    DATA_CHUNK,
    HOLE_CHUNK,
    REQUEST,
    REQUEST_MAGIC,
    STATE_HOLE,
    STATE_ZERO,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Command,
    CommandFlag,
    Errno,
    pack_block_status,
    pack_done,
    pack_error,
    pack_simple_reply,
)

Buffer = bytes | memoryview

MAX_EXTENTS: Final = 1024
"""Most extents in one answer to BLOCK_STATUS."""
_REQUEST_SIZE: Final = REQUEST.size
_DF: Final = int(CommandFlag.DF)
# Plain numbers: comparing with a member of an IntEnum costs a look-up each time.
_READ: Final = int(Command.READ)
_WRITE: Final = int(Command.WRITE)
_DISC: Final = int(Command.DISC)
_FLUSH: Final = int(Command.FLUSH)
_CACHE: Final = int(Command.CACHE)
_BLOCK_STATUS: Final = int(Command.BLOCK_STATUS)
_DATA: Final = int(Chunk.OFFSET_DATA)
_DATA_HEAD: Final = 8
"""What a data chunk's length counts beside the data: the offset."""


class Granules:
    """Which parts of an export are in memory: one byte a granule of 2**shift bytes.

    hot[i] is 1 where granule i may be touched without waiting.
    """

    SHIFT: Final = 17

    __slots__ = ("hot", "shift")

    def __init__(self, size: int, *, hot: bool, shift: int = SHIFT) -> None:
        self.shift = shift
        count = (size + (1 << shift) - 1) >> shift
        self.hot = bytearray(b"\1" * count if hot else count)

    def is_hot(self, offset: int, length: int) -> bool:
        """Whether the whole range is in memory. length: at least 1."""
        last = (offset + length - 1) >> self.shift
        return self.hot.find(0, offset >> self.shift, last + 1) < 0

    def cold(self, offset: int, length: int) -> list[int]:
        """The granules of a range that are not in memory."""
        first, last = offset >> self.shift, (offset + length - 1) >> self.shift
        return [index for index in range(first, last + 1) if not self.hot[index]]


@dataclass(frozen=True, slots=True)
class ColdRequest:
    """A read (or a CACHE) of a part that has first to be loaded."""

    command: int
    flags: int
    cookie: int
    offset: int
    length: int


class Transmission:
    """One connection after its negotiation.

    view: the whole export. granules: which of it is in memory (shared between
    connections, changed by the shell). holes: (start, end) in bytes of ranges
    that read as zeroes without being stored, sorted, apart from each other.
    """

    __slots__ = (
        "_allocation",
        "_drain",
        "_granules",
        "_hole_starts",
        "_holes",
        "_rest",
        "_sizes",
        "_structured",
        "_turn_bytes",
        "_turn_requests",
        "_view",
        "closed",
        "cold",
        "more",
        "payload",
        "plain",
        "queued",
        "refused",
        "requests",
        "size",
    )

    def __init__(
        self,
        view: memoryview,
        granules: Granules,
        *,
        structured: bool = False,
        allocation: bool = False,
        holes: Sequence[tuple[int, int]] = (),
        sizes: BlockSizes | None = None,
        turn_requests: int = 256,
        turn_bytes: int = 1024 * 1024,
    ) -> None:
        self.size = len(view)
        self.cold: list[ColdRequest] = []
        """Requests that wait for a load; the shell takes them from here."""
        self.closed: str | None = None
        """Why the connection is over; "" when the client said goodbye."""
        self.more = False
        """True while whole requests wait for the next turn: call receive(b"", 0)."""
        self.queued = 0
        """Bytes in the buffers that the last call gave."""
        self.payload = 0
        """Bytes of the export sent so far."""
        self.requests = 0
        self.refused: str | None = None
        """The last refused request, in words; the shell may take and clear it."""
        self.plain = not holes and (sizes or BlockSizes()).minimum <= 1
        """Whether a read within bounds, of what is in memory, has one answer that depends on
        nothing else: a lane may give it."""
        self._view = view
        self._granules = granules
        self._structured = structured
        self._allocation = allocation
        self._holes = holes
        self._hole_starts = [start for start, _ in holes]
        self._sizes = sizes or BlockSizes()
        self._turn_requests = turn_requests
        self._turn_bytes = turn_bytes
        self._rest = b""
        self._drain = 0

    def receive(self, data: bytes | bytearray, end: int) -> list[Buffer]:
        """Take data[:end] from the client, give the replies to send, in order.

        Works through at most a turn's worth of requests; `more` tells that
        some are left. After `closed` is set nothing is read any more.
        """
        if self._rest:
            data = self._rest + data[:end]
            end = len(data)
            self._rest = b""
        position = 0
        out: list[Buffer] = []
        queued = count = 0
        while True:
            if self._drain:
                position, stop = self._drain_payload(position, end)
                if stop:
                    break
            if end - position < _REQUEST_SIZE or self.closed is not None:
                break
            if count >= self._turn_requests or queued >= self._turn_bytes:
                self.more = True
                self._rest = bytes(data[position:end])
                self.queued = queued
                self.requests += count
                return out
            reply = self._answer(*REQUEST.unpack_from(data, position))
            position += _REQUEST_SIZE
            count += 1
            out += reply
            queued += sum(map(len, reply))
        if position < end and self.closed is None:
            self._rest = bytes(data[position:end])
        self.more = False
        self.queued = queued
        self.requests += count
        return out

    @property
    def attention(self) -> bool:
        """Whether something of `cold`, `closed`, `more`, `refused` is to be looked at."""
        return bool(self.cold or self.more or self.closed is not None or self.refused is not None)

    @property
    def between_requests(self) -> bool:
        """Whether all that has come was answered, or waits in `cold`: the next byte
        from the client begins a request."""
        return not (self._rest or self._drain or self.more) and self.closed is None

    def complete(self, request: ColdRequest, error: Errno | None = None) -> list[Buffer]:
        """Answer a request of `cold` once its part was loaded, or could not be."""
        if error is not None:
            what = _describe(request.command, request.offset, request.length)
            out = self._error(request.cookie, error, f"{what}: the server cannot read the image")
        elif request.command == _CACHE:
            out = self._ok(request.cookie)
        else:
            out = self._data(request.flags, request.cookie, request.offset, request.length)
        self.queued = sum(map(len, out))
        return out

    def _drain_payload(self, position: int, end: int) -> tuple[int, bool]:
        """Skip the payload of a refused write; True when the data ends first."""
        skipped = min(self._drain, end - position)
        self._drain -= skipped
        return position + skipped, self._drain > 0

    def _answer(
        self, magic: int, flags: int, command: int, cookie: int, offset: int, length: int
    ) -> list[Buffer]:
        """The reply to one request; none where it waits in `cold`, or the connection is over."""
        if magic != REQUEST_MAGIC:
            self.closed = f"not a request: magic {magic:#x}"
            return []
        if command == _DISC:
            self.closed = ""
            return []
        if command == _WRITE:
            # Nothing of it is kept, so any length may be drained.
            self._drain = length
        refusal = self._validate(flags, command, offset, length)
        if refusal is not None:
            error, why = refusal
            self.refused = f"{_describe(command, offset, length)}: {why}"
            return self._error(cookie, error, self.refused)
        if command == _FLUSH:
            return self._ok(cookie)
        if command == _BLOCK_STATUS:
            extents = self._extents(offset, length, one=bool(flags & CommandFlag.REQ_ONE))
            return [pack_block_status(cookie, CONTEXT_ID, extents)]
        # READ or CACHE: holes need no loading.
        if (self._holes and self._is_hole(offset, length)) or self._granules.is_hot(offset, length):
            if command == _CACHE:
                return self._ok(cookie)
            return self._data(flags, cookie, offset, length)
        self.cold.append(ColdRequest(command, flags, cookie, offset, length))
        return []

    def _validate(
        self, flags: int, command: int, offset: int, length: int
    ) -> tuple[Errno, str] | None:
        """None for a request to be obeyed, else the error and its reason."""
        if command in _WRITING:
            return Errno.EPERM, "the export is read-only"
        allowed = _FLAGS.get(command)
        if allowed is None:
            return Errno.EINVAL, f"unknown command {command}"
        if flags & ~(allowed if self._structured else allowed & ~_DF):
            return Errno.EINVAL, f"flags {flags:#x} are not for this command"
        if command == _FLUSH:
            if offset or length:
                return Errno.EINVAL, "offset and length of a flush must be 0"
            return None
        if command == _BLOCK_STATUS and not self._allocation:
            return Errno.EINVAL, "no metadata context was negotiated"
        if length == 0:
            return Errno.EINVAL, "nothing is asked for"
        if offset + length > self.size:
            return Errno.EINVAL, f"past the end of the export ({self.size} bytes)"
        minimum = self._sizes.minimum
        if minimum > 1 and (
            offset % minimum or (length % minimum and offset + length != self.size)
        ):
            return Errno.EINVAL, f"not a multiple of the minimum block of {minimum} bytes"
        if command == _READ and length > self._sizes.maximum:
            return Errno.EINVAL, f"longer than the limit of {self._sizes.maximum} bytes"
        return None

    def _data(self, flags: int, cookie: int, offset: int, length: int) -> list[Buffer]:
        """The reply to a read, with holes as holes where the client knows them."""
        view = self._view
        if not self._structured:
            self.payload += length
            return [pack_simple_reply(cookie), view[offset : offset + length]]
        if not self._holes:
            self.payload += length
            head = DATA_CHUNK.pack(
                STRUCTURED_REPLY_MAGIC, CHUNK_DONE, _DATA, cookie, length + _DATA_HEAD, offset
            )
            return [head, view[offset : offset + length]]
        parts = self._parts(offset, length)
        if flags & _DF and len(parts) > 1:
            parts = [(offset, length, False)]
        out: list[Buffer] = []
        for index, (start, count, hole) in enumerate(parts):
            done = CHUNK_DONE if index == len(parts) - 1 else 0
            if hole:
                kind = Chunk.OFFSET_HOLE
                out.append(
                    HOLE_CHUNK.pack(STRUCTURED_REPLY_MAGIC, done, kind, cookie, 12, start, count)
                )
                continue
            size = count + _DATA_HEAD
            out.append(DATA_CHUNK.pack(STRUCTURED_REPLY_MAGIC, done, _DATA, cookie, size, start))
            out.append(view[start : start + count])
            self.payload += count
        return out

    def _parts(self, offset: int, length: int) -> list[tuple[int, int, bool]]:
        """(start, length, is a hole) of a range, in order; few when there are many."""
        end = offset + length
        parts: list[tuple[int, int, bool]] = []
        position = offset
        index = max(bisect_right(self._hole_starts, offset) - 1, 0)
        while position < end and index < len(self._holes) and len(parts) < MAX_EXTENTS:
            start, stop = self._holes[index]
            index += 1
            if stop <= position:
                continue
            if start >= end:
                break
            if start > position:
                parts.append((position, start - position, False))
                position = start
            stop = min(stop, end)
            parts.append((position, stop - position, True))
            position = stop
        if position < end:
            parts.append((position, end - position, False))
        return parts

    def _is_hole(self, offset: int, length: int) -> bool:
        if not self._structured:
            return False
        parts = self._parts(offset, length)
        return len(parts) == 1 and parts[0][2]

    def _extents(self, offset: int, length: int, *, one: bool) -> list[tuple[int, int]]:
        parts = self._parts(offset, length)
        parts = parts[: 1 if one else MAX_EXTENTS]
        return [(count, STATE_HOLE | STATE_ZERO if hole else 0) for _, count, hole in parts]

    def _ok(self, cookie: int) -> list[Buffer]:
        return [pack_done(cookie) if self._structured else pack_simple_reply(cookie)]

    def _error(self, cookie: int, error: Errno, message: str) -> list[Buffer]:
        if self._structured:
            return [pack_error(cookie, error, message)]
        return [pack_simple_reply(cookie, error)]


_WRITING: Final[frozenset[int]] = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})
_FLAGS: Final[dict[int, int]] = {
    # Plain numbers: ~ of an IntFlag knows only the flags that have names.
    # FUA has no meaning for them, and does no harm: some clients set it on everything.
    Command.READ: int(CommandFlag.DF | CommandFlag.FUA),
    Command.FLUSH: int(CommandFlag.FUA),
    Command.CACHE: int(CommandFlag.FUA),
    Command.BLOCK_STATUS: int(CommandFlag.REQ_ONE | CommandFlag.FUA),
}


def _describe(command: int, offset: int, length: int) -> str:
    try:
        name = Command(command).name
    except ValueError:
        name = f"command {command}"
    return f"{name} of {length} bytes at {offset}"


def pack_request(
    command: int, cookie: int = 0, offset: int = 0, length: int = 0, flags: int = 0
) -> bytes:
    """A client's request, for tests and the simulator."""
    return struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, cookie, offset, length)
