"""One NBD client on its socket: negotiates, transmits, waits for what it has to wait for."""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Protocol

from server.content import Export
from server.fastpath import COMPILED, Reads
from server.protocols.nbd import Buffer, ColdRequest, Transmission
from server.protocols.nbd_handshake import Attached, BlockSizes, Closed, Handshake
from server.protocols.nbd_tap import ReadTap
from server.protocols.nbd_wire import Errno
from server.services.hotloop import HotLoop
from server.services.limits import NbdLimits
from server.services.mapped import MappedFile
from server.services.outbox import Outbox
from server.services.ports import avoid_pacing
from server.services.throttle import Throttle

KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
"""Seconds of silence before the first probe, between probes, and how many are lost: a dead node
is noticed after a minute and a half."""
USER_TIMEOUT_MS: Final = 120_000
"""Milliseconds; unacknowledged data for so long means that the node is dead."""
NEGOTIATION_BYTES: Final = 4096
"""Bytes read at once while negotiating: little, for answers may be longer than questions."""


class State(Enum):
    """Where a connection stands. It only moves down this list, and may skip steps."""

    NEGOTIATING = "negotiating"
    """It chooses an export (protocol text, "Fixed newstyle negotiation")."""
    SERVING = "serving"
    """It reads the export ("Transmission"). Which of reading, sending, loading and waiting for
    its share it does just now follows from what there is to do: `_watch`."""
    FINISHING = "finishing"
    """Nothing more is read; what was asked for is answered, and then it is hung up on."""
    CLOSED = "closed"


class ConnectionHost(Protocol):
    """What a connection needs of its service.

    scratch: one buffer for the reads of all connections, never kept over a turn.
    find: the export of that name for that client, and its mapped file; None: unknown.
    make_tap, report_reads: a recorder of the first reads (`serve --record-boot`), or None.
    attached, detached: an export is open, is closed (payload: bytes that were read).
    complain: a refusal for log and timeline, with its cause (`server/causes.py`).
    """

    @property
    def loop(self) -> HotLoop: ...
    @property
    def limits(self) -> NbdLimits: ...
    @property
    def scratch(self) -> bytearray: ...
    @property
    def sizes(self) -> BlockSizes: ...
    @property
    def throttle(self) -> Throttle | None: ...
    def find(self, name: str, client: str) -> tuple[Export, MappedFile] | None: ...
    def make_tap(self) -> ReadTap | None: ...
    def report_reads(self, connection: "Connection", tap: ReadTap) -> None: ...
    def list_exports(self, client: str, /) -> Sequence[str]: ...
    def attached(self, connection: "Connection", export: Export) -> None: ...
    def detached(
        self, connection: "Connection", reason: str, payload: int, requests: int
    ) -> None: ...
    def complain(self, client: str, export: str, message: str, cause: str) -> None: ...


class Connection:
    """One client, from its greeting until it is hung up on; `state` says where it stands.

    While SERVING, requests go one of two ways: the lane (`_lane`, in C) answers plain reads
    whenever nothing is left over from what came before; all else the core (`_core`) answers.
    """

    owner: Final = "nbd"

    __slots__ = (
        "__weakref__",
        "_cold",
        "_core",
        "_fd",
        "_file",
        "_finish_reason",
        "_handshake",
        "_lane",
        "_outbox",
        "_paused",
        "_reading",
        "_recv_into",
        "_service",
        "_sock",
        "_tap",
        "_throttle",
        "_timer",
        "_turn_due",
        "_writing",
        "client",
        "export",
        "state",
    )

    def __init__(self, service: ConnectionHost, sock: socket.socket, client: str) -> None:
        self.client = client
        self.export: Export | None = None
        self.state = State.NEGOTIATING
        self._service = service
        self._sock = sock
        self._fd = sock.fileno()
        self._outbox = Outbox(sock, service.loop, self._on_sent)
        self._timer: asyncio.TimerHandle | None = None
        """Ends a negotiation, or a finish, that takes too long."""
        self._finish_reason = ""
        """Why it is FINISHING."""
        # Negotiating.
        self._handshake: Handshake | None = Handshake(
            self._find,
            lambda: service.list_exports(client),
            service.sizes,
        )
        # Serving, and finishing what was served.
        self._file: MappedFile | None = None
        self._core: Transmission | None = None
        self._lane: Reads | None = None
        self._recv_into: Callable[[bytearray], int] = sock.recv_into
        """The socket's, or the lane's, which may have kept what it read."""
        self._cold = 0
        """Requests that wait for the disk."""
        self._turn_due = False
        """The loop will call for the next turn of what was asked at once."""
        self._throttle = service.throttle
        self._paused = False
        """It had more than its share (limits.bytes_per_second)."""
        self._tap = service.make_tap()
        # What the loop calls for.
        self._reading = False
        self._writing = False

    def start(self) -> None:
        """Greet the client, and let it choose an export."""
        service = self._service
        self._sock.setblocking(False)
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE:
                self._sock.setsockopt(socket.IPPROTO_TCP, option, value)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
            avoid_pacing(self._sock)
            if service.limits.send_buffer:
                self._sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDBUF, service.limits.send_buffer
                )
        except OSError as error:  # gone already
            self.close(str(error))
            return
        seconds = service.limits.handshake_seconds
        self._timer = service.loop.call_later(
            seconds, self.give_way, f"chose no export in {seconds:g} s (limits.handshake_seconds)"
        )
        assert self._handshake is not None
        self._send([self._handshake.greet()])
        self._settle()

    def give_way(self, reason: str) -> None:
        """Hang up at once, and report why: the client takes a place that another needs."""
        self._service.complain(self.client, "", reason, "limit")
        self.close(reason)

    def finish(self, reason: str) -> None:
        """Hang up as soon as all that was asked for is answered."""
        self._begin_finish(reason)
        self._settle()

    @property
    def closed(self) -> bool:
        """Whether it has hung up."""
        return self.state is State.CLOSED

    def traffic(self) -> tuple[int, int]:
        """Bytes of the export that were sent, and requests answered, up to now."""
        payload = requests = 0
        for part in (self._core, self._lane):
            if part is not None:
                payload += part.payload
                requests += part.requests
        return payload, requests

    def report_reads(self) -> None:
        """Report the reads that have waited long enough, though none follow."""
        if self._tap is not None:
            self._service.report_reads(self, self._tap)

    def close(self, reason: str) -> None:
        """Hang up now."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        loop = self._service.loop
        loop.remove_reader(self._fd)
        loop.remove_writer(self._fd)
        self._sock.close()
        self._stop_timer()
        self._outbox.clear()
        payload, requests = self.traffic()
        if self._tap is not None and self.export is not None:
            self._service.report_reads(self, self._tap)
        self._core = self._lane = self._handshake = self._file = None
        # A bound method of the lane would keep the file's map alive as long as this connection.
        self._recv_into = self._sock.recv_into
        self._service.detached(self, reason, payload, requests)

    def _begin_finish(self, reason: str) -> None:
        if self.state not in (State.NEGOTIATING, State.SERVING):
            return
        self._take_back()
        if self.closed:
            return  # the socket was broken
        self.state = State.FINISHING
        self._finish_reason = reason
        self._stop_timer()
        seconds = self._service.limits.close_seconds
        self._timer = self._service.loop.call_later(seconds, self.close, reason)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Negotiating.

    def _find(self, name: str) -> Export | None:
        found = self._service.find(name, self.client)
        if found is None:
            return None
        export, self._file = found
        return export

    def _on_options(self) -> None:
        """Bytes have come from a client that is NEGOTIATING."""
        handshake = self._handshake
        if handshake is None:
            return
        try:
            data = self._sock.recv(NEGOTIATION_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(_describe(error))
            return
        if not data:
            self.close("the client hung up while negotiating")
            return
        self._send([handshake.receive(data)])
        outcome = handshake.outcome
        if isinstance(outcome, Closed):
            if outcome.error:
                wanted = handshake.wanted or ""
                self._service.complain(self.client, wanted, outcome.reason, "malformed")
            self.finish(outcome.reason)
            return
        if isinstance(outcome, Attached):
            self._attach(outcome)
        self._settle()

    def _attach(self, outcome: Attached) -> None:
        """The client has chosen: from here on it is SERVING."""
        if self.state is State.CLOSED:
            return  # the client hung up before it had the last answer
        assert self._file is not None  # _find gave the export
        service = self._service
        self._stop_timer()
        self._handshake = None
        self.state = State.SERVING
        self.export = outcome.export
        file = self._file
        size = outcome.export.size
        self._core = Transmission(
            file.view[:size],
            file.granules,
            structured=outcome.structured,
            allocation=outcome.allocation,
            holes=[(start, min(end, size)) for start, end in file.holes if start < size],
            sizes=service.sizes,
            turn_requests=service.limits.turn_requests,
            turn_bytes=service.limits.turn_bytes,
        )
        if self._reading:
            service.loop.add_reader(self._fd, self._on_requests)
        self._make_lane(self._core, file, outcome.structured)
        service.attached(self, outcome.export)
        if outcome.leftover:
            if self._tap is not None:
                self._record(self._tap, outcome.leftover, len(outcome.leftover))
            self._send(self._core.receive(outcome.leftover, len(outcome.leftover)))

    # Serving.

    def _on_requests(self) -> None:
        """Bytes have come from a client that is SERVING, and the lane has left them."""
        core = self._core
        if core is None or self._outbox.offered:
            return  # what was asked before is answered first
        if self._take_back():
            self._settle()
            return
        scratch = self._service.scratch
        try:
            count = self._recv_into(scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(_describe(error))
            return
        if not count:
            self.finish("the client hung up")
            return
        if self._tap is not None:
            self._record(self._tap, scratch, count)
        out = core.receive(scratch, count)
        self._answer(core, out)
        if core.attention or self._paused or not out:
            self._settle()

    def _answer(self, core: Transmission, out: list[Buffer]) -> None:
        """Send what the core has just given; a client that had too much is heard later."""
        if self._throttle is not None:
            wait = self._throttle.take(self.client, core.queued, self._service.loop.time())
            if wait > 0 and not self._paused:
                self._paused = True
                self._service.loop.call_later(wait, self._resume)
        self._outbox.offer(out, core.queued)

    def _resume(self) -> None:
        """The client's share suffices again: go on."""
        self._paused = False
        self._settle()

    def _take_turn(self) -> None:
        """The next turn of a client that asked for more than one turn's worth at once."""
        self._turn_due = False
        core = self._core
        if core is not None and core.more and self._outbox.empty:
            self._answer(core, core.receive(b"", 0))
        self._settle()

    def _record(self, tap: ReadTap, data: bytes | bytearray, count: int) -> None:
        """Have the reads among data[:count] noted for the recording of a boot."""
        tap.receive(data, count, time.time())
        self._service.report_reads(self, tap)

    # The lane.

    def _make_lane(self, core: Transmission, file: MappedFile, structured: bool) -> None:
        # A throttle and a recording have to see each request.
        if COMPILED and core.plain and self._throttle is None and self._tap is None:
            self._lane = Reads(
                self._fd,
                file.view[: core.size],
                file.granules.hot,
                file.granules.shift,
                structured,
                self._service.sizes.maximum,
                self._service.limits.turn_bytes,
                file.fd,
            )
            self._recv_into = self._lane.recv_into
            if self._reading:
                self._service.loop.attach(self._lane)

    def _hand_over(self) -> None:
        """Let the lane answer from here on, if nothing is left over for the core."""
        lane, core = self._lane, self._core
        if lane is None or core is None or lane.armed or not self._reading:
            return
        if self._outbox.empty and not self._cold and core.between_requests:
            lane.arm()

    def _take_back(self) -> bool:
        """Take from the lane what it could not send; False when there is nothing."""
        if self._lane is None:
            return False
        self._lane.disarm()
        unsent = self._lane.take_unsent()
        if unsent:
            self._send(unsent)
        return bool(unsent)

    # Loading.

    def _load(self, core: Transmission) -> None:
        assert self._file is not None
        requests, core.cold = core.cold, []
        self._cold += len(requests)
        for request in requests:
            self._file.load(
                request.offset,
                request.length,
                lambda error, request=request: self._on_loaded(request, error),  # type: ignore[misc]
            )

    def _on_loaded(self, request: ColdRequest, error: OSError | None) -> None:
        self._cold -= 1
        core = self._core
        if core is None:
            return
        if error is not None and self.export is not None:
            what = f"{self.export.path}: {_describe(error)}"
            self._service.complain(self.client, self.export.name, what, "unreadable")
        self._answer(core, core.complete(request, Errno.EIO if error is not None else None))
        self._settle()

    # Sending.

    def _send(self, buffers: list[Buffer]) -> None:
        """Send now what the socket takes; a broken one is closed."""
        try:
            self._outbox.send(buffers)
        except OSError as error:
            self.close(_describe(error))

    def _on_sent(self, error: OSError | None) -> None:
        """What was offered has left, or as much of it as the socket took."""
        core = self._core
        if error is not None:
            self.close(_describe(error))
        elif (
            core is None
            or core.attention
            or self._outbox.blocked
            or self.state is not State.SERVING
        ):
            self._settle()
        else:
            self._hand_over()  # the usual case: nothing else is left to do

    def _on_writable(self) -> None:
        try:
            self._outbox.flush()
        except OSError as error:
            self.close(_describe(error))
        self._settle()

    # What comes next.

    def _settle(self) -> None:
        """After anything has happened: go to the next state, or wait for the right thing."""
        if self._core is not None:
            self._tend(self._core)
        if self.state is State.CLOSED:
            return
        more = self._core is not None and self._core.more
        if self.state is State.FINISHING and self._outbox.empty and not (self._cold or more):
            self.close(self._finish_reason)
            return
        if more and self._outbox.empty and not (self._paused or self._turn_due):
            self._turn_due = True
            self._service.loop.call_soon(self._take_turn)
        self._watch(more=more)
        self._hand_over()

    def _tend(self, core: Transmission) -> None:
        """See to what the core has left for its shell: loads, complaints, the end."""
        if core.cold:
            self._load(core)
        if core.refused is not None:
            name = self.export.name if self.export is not None else ""
            self._service.complain(self.client, name, core.refused, "refused")
            core.refused = None
        if core.closed is not None:
            self._begin_finish(core.closed)

    def _watch(self, *, more: bool) -> None:
        """Ask the loop for what the connection waits for: bytes from the client, room to send, both
        or neither.

        more: requests of the last bytes wait for their turn.
        """
        loop = self._service.loop
        writing = self._outbox.blocked
        reading = not (
            self.state is State.FINISHING
            or writing
            or more
            or self._paused
            or self._cold >= self._service.limits.cold_requests
        )
        if reading != self._reading:
            self._reading = reading
            if reading:
                serving = self.state is State.SERVING
                loop.add_reader(self._fd, self._on_requests if serving else self._on_options)
                if self._lane is not None:
                    loop.attach(self._lane)
            else:
                loop.remove_reader(self._fd)
        if writing != self._writing:
            self._writing = writing
            if writing:
                loop.add_writer(self._fd, self._on_writable)
            else:
                loop.remove_writer(self._fd)


def _describe(error: OSError) -> str:
    return error.strerror or str(error)
