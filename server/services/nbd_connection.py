"""One NBD client on its socket: negotiates, transmits, waits for what it has to wait for."""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from server.content import Export
from server.fastpath import Reads
from server.protocols.nbd import Buffer, ColdRequest, Transmission
from server.protocols.nbd_handshake import Attached, BlockSizes, Closed, Handshake
from server.protocols.nbd_tap import ReadTap
from server.protocols.nbd_wire import Errno
from server.services.hotloop import HotLoop, Ready
from server.services.limits import NbdLimits
from server.services.mapped import MappedFile
from server.services.ports import avoid_pacing
from server.services.throttle import Throttle

MAX_BUFFERS: Final = 1024
"""IOV_MAX of Linux: most buffers in one sendmsg."""
BULK: Final = 96 * 1024
"""Replies of so many bytes are sent one by one, those of others in between."""
KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
USER_TIMEOUT_MS: Final = 120_000
"""Unacknowledged data for so long means that the node is dead."""


class ConnectionHost(Protocol):
    """What a connection needs of its service."""

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
    def note_reads(self, connection: "Connection", tap: ReadTap) -> None: ...
    def list_exports(self, client: str, /) -> Sequence[str]: ...
    def attached(self, connection: "Connection", export: Export) -> None: ...
    def detached(
        self, connection: "Connection", reason: str, payload: int, requests: int
    ) -> None: ...
    def complain(self, client: str, export: str, message: str, cause: str) -> None: ...


class Connection:
    """One client: negotiates, then transmits; sends what is left when it can."""

    __slots__ = (
        "__weakref__",
        "_after",
        "_blocked",
        "_cold",
        "_continues",
        "_core",
        "_fd",
        "_file",
        "_finish",
        "_handshake",
        "_in_bulk",
        "_lane",
        "_out",
        "_paused",
        "_reading",
        "_ready",
        "_recv_into",
        "_service",
        "_size",
        "_sock",
        "_tap",
        "_throttle",
        "_timer",
        "client",
        "export",
    )

    def __init__(self, service: ConnectionHost, sock: socket.socket, client: str) -> None:
        self.client = client
        self.export: Export | None = None
        self._service = service
        self._sock = sock
        self._fd = sock.fileno()
        self._file: MappedFile | None = None
        self._core: Transmission | None = None
        self._lane: Reads | None = None
        """Answers plain reads, whenever nothing is left over from what came before."""
        self._recv_into: Callable[[bytearray], int] = sock.recv_into
        self._tap = service.make_tap()
        self._throttle = service.throttle
        self._paused = False
        self._continues = False
        self._handshake: Handshake | None = Handshake(
            self._find,
            lambda: service.list_exports(client),
            service.sizes,
        )
        self._out: list[Buffer] = []
        """What the socket has not taken yet."""
        self._ready: list[Buffer] = []
        """What is sent when its turn comes, of `_size` bytes."""
        self._size = 0
        self._after: Callable[[Ready], object] = service.loop.after_reads
        self._in_bulk: Callable[[Ready], object] = service.loop.in_bulk
        self._blocked = False
        self._reading = False
        self._cold = 0
        self._finish: str | None = None
        """Why to hang up once everything is sent."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
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
        """Hang up on a client that is still negotiating, and say why."""
        self._service.complain(self.client, "", reason, "limit")
        self.close(reason)

    def finish(self, reason: str) -> None:
        """Hang up as soon as everything is sent."""
        if self._finish is None:
            self._finish = reason
            self._reclaim()
            seconds = self._service.limits.close_seconds
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._service.loop.call_later(seconds, self.close, reason)
        self._settle()

    @property
    def closed(self) -> bool:
        """Whether it has hung up."""
        return self._fd < 0

    def traffic(self) -> tuple[int, int]:
        """Bytes of the export that were sent, and requests answered, up to now."""
        payload = requests = 0
        for part in (self._core, self._lane):
            if part is not None:
                payload += part.payload
                requests += part.requests
        return payload, requests

    def close(self, reason: str) -> None:
        """Hang up now."""
        if self._fd < 0:
            return
        loop = self._service.loop
        loop.remove_reader(self._fd)
        loop.remove_writer(self._fd)
        self._fd = -1
        self._sock.close()
        if self._timer is not None:
            self._timer.cancel()
        self._out = []
        self._ready = []
        payload, requests = self.traffic()
        if self._tap is not None and self.export is not None:
            self._service.note_reads(self, self._tap)
        self._core = self._lane = self._handshake = self._file = None
        self._service.detached(self, reason, payload, requests)

    def _find(self, name: str) -> Export | None:
        found = self._service.find(name, self.client)
        if found is None:
            return None
        export, self._file = found
        return export

    # Reading.

    def _on_readable(self) -> None:
        core = self._core
        if core is None:
            self._negotiate()
            return
        if self._ready:
            return  # what was asked before is answered first
        if self._reclaim():
            self._settle()
            return
        scratch = self._service.scratch
        try:
            count = self._recv_into(scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        if not count:
            self.finish("the client hung up")
            return
        if self._tap is not None:
            self._note(scratch, count)
        out = core.receive(scratch, count)
        if self._throttle is not None:
            self._pay(self._throttle, core)
        if out:
            self._offer(out, core.queued)
        if core.attention or not out:
            self._settle()

    # The lane.

    def _lead(self) -> None:
        """Let the lane answer from here on, if nothing is left over for Python."""
        lane, core = self._lane, self._core
        if lane is None or core is None or lane.armed or not self._reading:
            return
        if not (self._out or self._ready or self._cold) and core.between_requests:
            lane.arm()

    def _reclaim(self) -> bool:
        """Take back from the lane what it could not send; False when there is nothing."""
        if self._lane is None:
            return False
        self._lane.disarm()
        unsent = self._lane.take_unsent()
        self._send(unsent)
        return bool(unsent)

    def _make_lane(self, core: Transmission, file: MappedFile, structured: bool) -> None:
        # A throttle and a recording want to see each request.
        if core.plain and self._throttle is None and self._tap is None:
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

    def _pay(self, throttle: Throttle, core: Transmission) -> None:
        """Count what the core has just answered; a client that had too much is heard later."""
        wait = throttle.take(self.client, core.queued, self._service.loop.time())
        if wait > 0 and not self._paused:
            self._paused = core.attention = True
            self._service.loop.call_later(wait, self._resume)

    def _resume(self) -> None:
        self._paused = False
        self._settle()

    def _note(self, data: bytes | bytearray, count: int) -> None:
        """Have the reads noted for the recording of a boot."""
        assert self._tap is not None
        self._tap.receive(data, count, time.time())
        self._service.note_reads(self, self._tap)

    def tell_reads(self) -> None:
        """Have the reads told that have waited long enough, though none follow."""
        if self._tap is not None:
            self._service.note_reads(self, self._tap)

    def _negotiate(self) -> None:
        handshake = self._handshake
        if handshake is None:
            return
        try:
            # Little at a time: answers may be longer than questions.
            data = self._sock.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or str(error))
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
        assert self._file is not None  # _find gave the export
        service = self._service
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._handshake = None
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
        self._make_lane(self._core, file, outcome.structured)
        service.attached(self, outcome.export)
        if outcome.leftover:
            if self._tap is not None:
                self._note(outcome.leftover, len(outcome.leftover))
            self._send(self._core.receive(outcome.leftover, len(outcome.leftover)))

    def _continue(self) -> None:
        """The next turn of a client that asked for more than one turn's worth."""
        self._continues = False
        core = self._core
        if core is None or self._fd < 0:
            return
        if core.more and not self._out and not self._ready:
            out = core.receive(b"", 0)
            if self._throttle is not None:
                self._pay(self._throttle, core)
            self._offer(out, core.queued)
        self._settle()

    # Loading.

    def _load(self, core: Transmission) -> None:
        assert self._file is not None
        requests, core.cold = core.cold, []
        self._cold += len(requests)
        for request in requests:
            self._file.load(
                request.offset,
                request.length,
                lambda error, request=request: self._loaded(request, error),  # type: ignore[misc]
            )

    def _loaded(self, request: ColdRequest, error: OSError | None) -> None:
        self._cold -= 1
        core = self._core
        if core is None or self._fd < 0:
            return
        if error is not None and self.export is not None:
            what = f"{self.export.path}: {error.strerror or error}"
            self._service.complain(self.client, self.export.name, what, "unreadable")
        out = core.complete(request, Errno.EIO if error is not None else None)
        if self._throttle is not None:
            self._pay(self._throttle, core)
        self._offer(out, core.queued)
        self._settle()

    # Sending.

    def _offer(self, out: list[Buffer], size: int) -> None:
        """Send replies of `size` bytes when all has been read that is there to be read."""
        if self._out:
            self._out += out
        elif self._ready:
            self._ready += out
            self._size += size
        elif out:
            self._ready = out
            self._size = size
            (self._after if size < BULK else self._in_bulk)(self._put)

    def _put(self) -> None:
        """Send what was offered."""
        out, self._ready = self._ready, []
        if self._out or len(out) > MAX_BUFFERS:
            self._send(out)
        elif out:
            # The usual case: everything fits into the socket.
            try:
                sent = self._sock.sendmsg(out)
            except (BlockingIOError, InterruptedError):
                self._out = out
            except OSError as error:
                self.close(_why(error))
                return
            else:
                if sent == self._size and self._finish is None and not self._attention():
                    self._lead()
                    return
                self._out = _after(out, sent)
        self._settle()

    def _send(self, buffers: list[Buffer]) -> None:
        """Send now what the socket takes, keep the rest as views."""
        if self._out:
            self._out += buffers
            return
        self._out = buffers
        self._flush()

    def _flush(self) -> None:
        # One sendmsg a turn is enough for many small replies; the last may be short.
        while self._out and self._fd >= 0:
            batch = self._out if len(self._out) <= MAX_BUFFERS else self._out[:MAX_BUFFERS]
            try:
                sent = self._sock.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.close(_why(error))
                return
            whole = sent == sum(map(len, batch))
            self._out = _after(self._out, sent)
            if not whole:
                return

    def _attention(self) -> bool:
        return self._core is not None and self._core.attention

    def _on_writable(self) -> None:
        self._flush()
        self._settle()

    def _settle(self) -> None:
        """After anything has happened: start loads, hang up if due, wait for the right thing."""
        if self._fd < 0:
            return
        loop = self._service.loop
        core = self._core
        if core is not None:
            if core.cold:
                self._load(core)
            if core.refused is not None:
                name = self.export.name if self.export is not None else ""
                self._service.complain(self.client, name, core.refused, "refused")
                core.refused = None
            core.attention = core.more
            if core.closed is not None and self._finish is None:
                self.finish(core.closed)
                return
        blocked = bool(self._out)
        idle = not blocked and not self._ready and not self._cold
        more = core is not None and core.more
        if self._finish is not None and idle and not more:
            self.close(self._finish)
            return
        if more and not (blocked or self._ready or self._paused or self._continues):
            self._continues = True
            loop.call_soon(self._continue)
        reading = not (
            blocked
            or more
            or self._paused
            or self._finish is not None
            or self._cold >= self._service.limits.cold_requests
        )
        if reading != self._reading:
            self._reading = reading
            if reading:
                loop.add_reader(self._fd, self._on_readable)
                if self._lane is not None:
                    loop.attach(self._lane)
            else:
                loop.remove_reader(self._fd)
        if blocked != self._blocked:
            self._blocked = blocked
            if blocked:
                loop.add_writer(self._fd, self._on_writable)
            else:
                loop.remove_writer(self._fd)
        self._lead()


def _after(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of buffers when `sent` bytes of them are gone."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            rest = buffers[index:]
            rest[0] = memoryview(buffer)[sent:]
            return rest
        sent -= len(buffer)
    return []


def _why(error: OSError) -> str:
    return error.strerror or str(error)
