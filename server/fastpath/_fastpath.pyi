"""What the C of this folder gives. All methods belong to one thread, the loop's, but for
`Sender.run`."""

from typing import Final, final

from typing_extensions import Buffer

# Their meaning stands beside their values, in fastpath.h.
BULK_BYTES: Final[int]
BULK_PER_TURN: Final[int]
MIXED_TURNS: Final[int]
DOWNLOAD_STEP: Final[int]
NBD_REQUEST_MAGIC: Final[int]
NBD_SIMPLE_REPLY_MAGIC: Final[int]
NBD_STRUCTURED_REPLY_MAGIC: Final[int]
NBD_CHUNK_DONE: Final[int]
NBD_CHUNK_OFFSET_DATA: Final[int]
TFTP_OPCODE_ACK: Final[int]

@final
class Poller:
    """epoll(7), with lanes.

    watch_seconds: for so long a poll whose last one found a single event looks again,
    yielding the core, before it sleeps; it gives that up for up to 1,024 polls when it
    was in vain. 0: never.
    """

    watch_seconds: float
    def __init__(self, watch_seconds: float = 0.0) -> None: ...
    @property
    def now(self) -> float:
        """Seconds of CLOCK_MONOTONIC (time.monotonic): when the latest events were found."""
    @property
    def looks(self) -> int:
        """How often it has looked again before it slept."""
    @property
    def finds(self) -> int:
        """How often such a look found an event, within `watch_seconds`."""
    def poll(self, seconds: float, /) -> list[tuple[int, int]]:
        """Serve the lanes, and give the (descriptor, EPOLL* mask) of what is left to others.

        seconds: to wait for that, below 0: for ever. Empty when the time is over, a signal
        came, or lanes alone had something for 10 ms: let others have their turn. Lets other
        threads run. Raises OSError.
        """
    def register(self, fd: int, events: int, /) -> None:
        """As select.epoll's, as the next two. Raises OSError."""
    def modify(self, fd: int, events: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None:
        """A lane of that descriptor goes too, also where it raises OSError (closed before)."""
    def attach(self, lane: Lockstep | Reads, /) -> None:
        """Have a registered descriptor served by its lane. Raises TypeError, ValueError."""
    def close(self) -> None: ...

@final
class Lockstep:
    """A lane: TFTP with a window of one block (RFC 1350) on a connected, non-blocking socket.

    While `armed`, the ACK of `block` is answered by the next block, which is under way
    then. Anything else disarms it and is kept: a packet of up to 512 bytes, an errno.
    """

    def __init__(self, fd: int) -> None: ...
    @property
    def armed(self) -> bool: ...
    @property
    def block(self) -> int:
        """The block under way, counted from 1 without wrapping."""
    @property
    def sent_at(self) -> float:
        """When it was sent, seconds of CLOCK_MONOTONIC; 0 where not by the lane."""
    @property
    def rtt(self) -> float:
        """Seconds of the latest round trip that was measured, of one in eight of the
        lane's own blocks, since it was armed; 0: none was."""
    def arm(self, packets: Buffer, stride: int, base: int, block: int) -> None:
        """Answer from now on. `block` was sent, or is about to be, by the caller.

        packets: DATA packets `stride` bytes apart (the last may be shorter), of which
        the first is block `base`; held until it is armed again, disarmed or gone.
        Raises ValueError, RuntimeError (something is kept that nobody has taken).
        """
    def disarm(self) -> None:
        """Answer nothing, and let go of the packets."""
    def recv(self, most: int, /) -> bytes:
        """The packet that was kept, or the next of the socket, cut at `most` bytes.

        Raises OSError: the error that was kept, or the socket's (BlockingIOError: no packet).
        """

@final
class Reads:
    """A lane: NBD's plain reads on a connected, non-blocking socket (the NBD protocol
    text, "Transmission"), of what is in memory.

    view: the export. hot: a byte for each 2**shift bytes of it, 0 where a disk would have
    to be waited for; read at each request. structured: replies are structured. maximum:
    bytes of a read. turn_bytes: of all reads that one turn may answer. file: a descriptor
    of what the view is a map of, open as long as that; long reads are sent from it, without
    a copy. -1: there is none.

    While `armed`, whole requests are answered, in order, by one call; answers of 96 KiB
    and more wait until the poller has looked at the others. Anything else disarms it and is
    kept: what came, answers that were not sent whole, an errno.
    """

    def __init__(
        self,
        fd: int,
        view: memoryview,
        hot: Buffer,
        shift: int,
        structured: bool,
        maximum: int,
        turn_bytes: int,
        file: int = -1,
    ) -> None: ...
    @property
    def armed(self) -> bool: ...
    @property
    def payload(self) -> int:
        """Bytes of the export in the answers that the lane has given."""
    @property
    def requests(self) -> int:
        """Requests that the lane has answered."""
    def arm(self) -> None:
        """Answer from now on: the next byte from the client begins a request, and all that
        was asked before was sent. Raises RuntimeError where something is kept."""
    def disarm(self) -> None: ...
    def take_unsent(self) -> list[bytes | memoryview]:
        """Answers that the socket did not take, or that wait for their turn; the caller
        sends them before anything else."""
    def recv_into(self, target: Buffer, /) -> int:
        """What was kept, or the next of the socket; the number of bytes, 0 at the end.

        Raises OSError: the error that was kept, or the socket's (BlockingIOError: nothing
        there); ValueError: no room for what was kept (3,584 bytes at most).
        """

@final
class Download:
    """A part of a file, and the connected, non-blocking stream socket that it goes to.

    fd, file: descriptors that stay open as long as a sender has it. offset, length: bytes.
    Raises ValueError.
    """

    def __init__(self, fd: int, file: int, offset: int, length: int) -> None: ...
    @property
    def left(self) -> int:
        """Bytes that the socket has not taken yet; also while a sender has it."""
    @property
    def error(self) -> int:
        """When it was given back: an errno, of the socket's or the file's (ENODATA: the file
        ends before), or 0."""
    @property
    def cold(self) -> bool:
        """When it was given back: a disk has to be waited for, for the next DOWNLOAD_STEP bytes."""

@final
class Sender:
    """Sends downloads by sendfile(2) while their sockets have room, a turn each, in a thread.

    TCP's sockets are corked meanwhile (TCP_CORK, tcp(7)). Raises OSError.
    """

    def __init__(self) -> None: ...
    def fileno(self) -> int:
        """A descriptor that is readable when something was given back."""
    def add(self, download: Download, /) -> None:
        """Have it sent; its socket and file are the sender's until it is given back: with
        nothing left, cold, failed, or because the sender was stopped. To have it back
        before, shut the socket down (shutdown(2)).

        Raises RuntimeError where a sender has it, or it has failed.
        """
    def take(self) -> list[Download]:
        """What was given back since the last time."""
    def run(self) -> None:
        """Send, until it is stopped; the one method that a thread of its own calls. Lets other
        threads run. Raises RuntimeError where it runs already."""
    def stop(self) -> None:
        """Have `run` give everything back, and return."""
