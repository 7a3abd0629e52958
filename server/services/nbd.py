"""NBD over TCP: a shell of raw non-blocking sockets around the protocol cores."""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from server.content import Export
from server.events import Emit, Event
from server.protocols.nbd import Buffer, ColdRequest, Transmission
from server.protocols.nbd_handshake import Attached, BlockSizes, Closed, Handshake
from server.protocols.nbd_wire import Errno
from server.services.mapped import MapCache, MappedFile
from server.services.ports import bind_port, raise_file_limit
from server.services.ratelimit import RateLimit

__all__ = ["Export", "NbdLimits", "NbdService"]

RECEIVE_BYTES: Final = 16 * 1024
MAX_BUFFERS: Final = 1024
"""IOV_MAX of Linux: most buffers in one sendmsg."""
KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
USER_TIMEOUT_MS: Final = 120_000
"""Unacknowledged data for so long means that the node is dead."""
ACCEPT_PAUSE: Final = 0.2


@dataclass(frozen=True)
class NbdLimits:
    """What one server grants.

    connections: in all; per_client: of one address; handshakes: that have not
    chosen an export yet (the oldest is dropped for a new one);
    handshake_seconds: for the whole negotiation. turn_requests, turn_bytes:
    what one connection gets done before the others have theirs.
    cold_requests: that may wait for the disk, by connection.
    """

    connections: int = 8192
    per_client: int = 64
    handshakes: int = 512
    handshake_seconds: float = 20.0
    turn_requests: int = 256
    turn_bytes: int = 1024 * 1024
    cold_requests: int = 128
    close_seconds: float = 5.0
    send_buffer: int = 0
    """SO_SNDBUF in bytes; 0 leaves it to the kernel."""
    events_per_second: float = 1.0
    """Of refusals and errors, by client."""


class NbdService:
    """Serves exports to whoever connects. All methods belong to the loop's thread.

    exports: (name as the client wrote it, client IP) -> Export, or None.
    list_exports: client IP -> the names that it may see.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        address: str,
        port: int,
        exports: Callable[[str, str], Export | None],
        list_exports: Callable[[str], Sequence[str]],
        emit: Emit,
        limits: NbdLimits | None = None,
        reuse_port: bool = False,
        listener: socket.socket | None = None,
    ) -> None:
        self.loop = loop
        self.limits = limits or NbdLimits()
        self.exports = exports
        self.list_exports = list_exports
        self.maps = MapCache(loop)
        self.scratch = bytearray(RECEIVE_BYTES)
        self.sizes = BlockSizes()
        self._address = address
        self._port = port
        self._emit = emit
        self._reuse_port = reuse_port
        self._listener = listener
        self._connections: set[_Connection] = set()
        self._handshakes: dict[_Connection, None] = {}
        self._per_client: dict[str, int] = {}
        limit = self.limits.events_per_second
        self._complaints = RateLimit(limit, max(5.0, 5 * limit))
        self._stopped: asyncio.Future[None] | None = None

    @property
    def port(self) -> int:
        """The port that is bound, or was asked for."""
        if self._listener is not None:
            return int(self._listener.getsockname()[1])
        return self._port

    @property
    def listener(self) -> socket.socket:
        """The listening socket, for workers that share it."""
        if self._listener is None:
            raise RuntimeError("NbdService.bind was not called")
        return self._listener

    def bind(self) -> None:
        """Take the port. Raises ServerError that says who has it."""
        if self._listener is None:
            self._listener = bind_port(
                "nbd", "tcp", self._address, self._port, reuse_port=self._reuse_port
            )

    def start(self) -> None:
        """Serve, once bound."""
        raise_file_limit()
        self.loop.add_reader(self.listener.fileno(), self._accept)

    async def stop(self) -> None:
        """Take no new clients, send what is on its way, hang up. Bounded by close_seconds.

        Nodes reconnect to the server's successor: that is what their client does.
        """
        if self._listener is not None:
            self.loop.remove_reader(self._listener.fileno())
            self._listener.close()
        self._stopped = self.loop.create_future()
        for connection in list(self._connections):
            connection.finish("the server is stopping")
        self._check_stopped()
        try:
            await asyncio.wait_for(self._stopped, self.limits.close_seconds)
        except TimeoutError:
            for connection in list(self._connections):
                connection.close("the server is stopping")
        self.maps.close()

    def connections(self) -> Mapping[str, list[str]]:
        """Digest -> client IPs that have an export of it open, once for each connection."""
        found: dict[str, list[str]] = {}
        for connection in self._connections:
            if connection.export is not None:
                found.setdefault(connection.export.digest, []).append(connection.client)
        return found

    def open_count(self) -> int:
        """How many connections there are, attached or not."""
        return len(self._connections)

    # What the connections call.

    def find(self, name: str, client: str) -> tuple[Export, MappedFile] | None:
        """An export that can be read, with its map."""
        export = self.exports(name, client)
        if export is None:
            self.complain(client, name, "no such export")
            return None
        try:
            file = self.maps.open(export.path)
        except OSError as error:
            self.complain(client, name, f"cannot open {export.path}: {error.strerror or error}")
            return None
        if file.size < export.size:
            short = f"{export.path} has {file.size} bytes, not {export.size}"
            self.complain(client, name, short)
            return None
        return export, file

    def attached(self, connection: "_Connection", export: Export) -> None:
        self._handshakes.pop(connection, None)
        self._report(connection.client, "attach", _detail(export, 0))

    def detached(self, connection: "_Connection", reason: str, payload: int) -> None:
        self._connections.discard(connection)
        self._handshakes.pop(connection, None)
        left = self._per_client.get(connection.client, 0) - 1
        if left > 0:
            self._per_client[connection.client] = left
        else:
            self._per_client.pop(connection.client, None)
        if connection.export is not None:
            detail = _detail(connection.export, payload)
            if reason:
                detail["message"] = reason
            self._report(connection.client, "detach", detail)
        self._check_stopped()

    def complain(self, client: str, export: str, message: str) -> None:
        """Tell of something refused or wrong, at a bounded rate for each client."""
        if self._complaints.allow(client, self.loop.time()):
            self._report(client, "error", {"export": export, "status": "error", "message": message})

    def _report(
        self, client: str, phase: str, detail: Mapping[str, str | int | float | bool]
    ) -> None:
        self._emit(Event(time.time(), client, "nbd", phase, detail))

    def _check_stopped(self) -> None:
        if self._stopped is not None and not self._connections and not self._stopped.done():
            self._stopped.set_result(None)

    def _accept(self) -> None:
        # One a turn: with workers, the others get theirs.
        try:
            sock, peer = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError as error:
            self._pause_accepting(error)
            return
        client = str(peer[0])
        limits = self.limits
        if self._per_client.get(client, 0) >= limits.per_client:
            sock.close()
            self.complain(client, "", f"more than {limits.per_client} connections")
            return
        if len(self._handshakes) >= limits.handshakes:
            oldest = next(iter(self._handshakes))
            oldest.close("gave way to a new connection")
        if len(self._connections) >= limits.connections:
            sock.close()
            self.complain(client, "", f"the server has its {limits.connections} connections")
            return
        connection = _Connection(self, sock, client)
        self._connections.add(connection)
        self._handshakes[connection] = None
        self._per_client[client] = self._per_client.get(client, 0) + 1
        connection.start()

    def _pause_accepting(self, error: OSError) -> None:
        """Out of files or memory: leave the others their work, try again soon."""
        self.complain("", "", f"cannot accept connections: {error.strerror}")
        if self._handshakes:
            next(iter(self._handshakes)).close("the server is out of files")
        self.loop.remove_reader(self.listener.fileno())
        self.loop.call_later(ACCEPT_PAUSE, self._resume_accepting)

    def _resume_accepting(self) -> None:
        if self._stopped is None:
            self.loop.add_reader(self.listener.fileno(), self._accept)


class _Connection:
    """One client: negotiates, then transmits; sends what is left when it can."""

    __slots__ = (
        "__weakref__",
        "_blocked",
        "_cold",
        "_core",
        "_fd",
        "_file",
        "_finish",
        "_handshake",
        "_out",
        "_reading",
        "_service",
        "_sock",
        "_timer",
        "client",
        "export",
    )

    def __init__(self, service: NbdService, sock: socket.socket, client: str) -> None:
        self.client = client
        self.export: Export | None = None
        self._service = service
        self._sock = sock
        self._fd = sock.fileno()
        self._file: MappedFile | None = None
        self._core: Transmission | None = None
        self._handshake: Handshake | None = Handshake(
            self._find,
            lambda: service.list_exports(client),
            service.sizes,
        )
        self._out: list[Buffer] = []
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
            if service.limits.send_buffer:
                self._sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDBUF, service.limits.send_buffer
                )
        except OSError as error:  # gone already
            self.close(str(error))
            return
        seconds = service.limits.handshake_seconds
        self._timer = service.loop.call_later(
            seconds, self.close, f"chose no export in {seconds:g} s"
        )
        assert self._handshake is not None
        self._send([self._handshake.greet()])
        self._settle()

    def finish(self, reason: str) -> None:
        """Hang up as soon as everything is sent."""
        if self._finish is None:
            self._finish = reason
            seconds = self._service.limits.close_seconds
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._service.loop.call_later(seconds, self.close, reason)
        self._settle()

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
        payload = self._core.payload if self._core is not None else 0
        self._core = self._handshake = self._file = None
        self._service.detached(self, reason, payload)

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
        scratch = self._service.scratch
        try:
            count = self._sock.recv_into(scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        if not count:
            self.finish("the client hung up")
            return
        out = core.receive(scratch, count)
        if out and not self._out and len(out) <= MAX_BUFFERS:
            # The usual case: everything fits into the socket.
            try:
                sent = self._sock.sendmsg(out)
            except (BlockingIOError, InterruptedError):
                self._out = out
            except OSError as error:
                self.close(_why(error))
                return
            else:
                if sent != core.queued:
                    self._out = _after(out, sent)
                elif not core.attention:
                    return
        elif out:
            self._send(out)
        self._settle()

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
                self._service.complain(self.client, handshake.wanted or "", outcome.reason)
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
        service.attached(self, outcome.export)
        if outcome.leftover:
            self._send(self._core.receive(outcome.leftover, len(outcome.leftover)))

    def _continue(self) -> None:
        """The next turn of a client that asked for more than one turn's worth."""
        core = self._core
        if core is None or self._fd < 0:
            return
        if core.more and not self._out:
            self._send(core.receive(b"", 0))
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
            self._service.complain(self.client, self.export.name, what)
        self._send(core.complete(request, Errno.EIO if error is not None else None))
        self._settle()

    # Sending.

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
                self._service.complain(self.client, name, core.refused)
                core.refused = None
            core.attention = core.more
            if core.closed is not None and self._finish is None:
                self.finish(core.closed)
                return
        blocked = bool(self._out)
        more = core is not None and core.more
        if self._finish is not None and not blocked and not self._cold and not more:
            self.close(self._finish)
            return
        if more and not blocked:
            loop.call_soon(self._continue)
        reading = not (
            blocked
            or more
            or self._finish is not None
            or self._cold >= self._service.limits.cold_requests
        )
        if reading != self._reading:
            self._reading = reading
            if reading:
                loop.add_reader(self._fd, self._on_readable)
            else:
                loop.remove_reader(self._fd)
        if blocked != self._blocked:
            self._blocked = blocked
            if blocked:
                loop.add_writer(self._fd, self._on_writable)
            else:
                loop.remove_writer(self._fd)


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


def _detail(export: Export, payload: int) -> dict[str, str | int | float | bool]:
    return {"export": export.name, "digest": export.digest, "bytes": payload}
