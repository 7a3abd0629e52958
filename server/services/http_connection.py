"""One HTTP client on its socket: requests in, replies out; files go out by sendfile."""

import asyncio
import errno
import functools
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from server.events import Emit, Event
from server.protocols.http import (
    FileRange,
    HttpCore,
    HttpLimits,
    Rejected,
    Reply,
    Request,
    Response,
)
from server.services.http_files import explain, is_in_memory, touch
from server.services.http_stream import Followers, Stream
from server.services.throttle import Throttle

RECEIVE_BYTES: Final = 65_536
CHUNK_BYTES: Final = 256 * 1024
"""Most of a file in one sendfile, and what is loaded at once when it is not in memory."""
TURN_BYTES: Final = 1024 * 1024
"""After so many bytes the others have their turn."""
TOLD_BYTES: Final = 1024 * 1024
"""Files from this size on are told of when they begin, too: a slow one takes minutes."""
LINGER_SECONDS: Final = 1.0
FOLLOWER_BUFFER: Final = 65_536
"""SO_SNDBUF of a reply without an end: what the kernel holds for a slow follower."""
_log = logging.getLogger(__name__)
_CAUSES = {403: "refused", 404: "not_found", 416: "malformed", 500: "server", 503: "limit"}


class ConnectionHost(Protocol):
    """What a connection needs of its service."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def limits(self) -> HttpLimits: ...
    @property
    def emit(self) -> Emit: ...
    @property
    def followers(self) -> Followers: ...
    @property
    def threads(self) -> ThreadPoolExecutor: ...
    @property
    def throttle(self) -> Throttle | None: ...
    @property
    def handle(self) -> Callable[[Request], Response]: ...
    def closed(self, connection: "Connection", /) -> None: ...


class Connection:
    """One client's connection: a socket, its core, and the reply under way."""

    def __init__(self, service: ConnectionHost, sock: socket.socket, client: str) -> None:
        self.client = client
        self._service = service
        self._loop = service.loop
        self._sock = sock
        self._core = HttpCore(client, service.limits, self._loop.time())
        self._queue: deque[bytes | memoryview | FileRange] = deque()
        self._reply: Reply | None = None
        self._began = 0.0
        self._written = 0
        self._file: int | None = None
        self._file_range: FileRange | None = None
        self._loading = False
        self._writing = False
        self._closed = False
        self._finishing = False
        self._stream: Stream | None = None
        self._loop.add_reader(sock.fileno(), self._readable)

    # Ends

    def finish(self) -> None:
        """Send what is under way, then close; a reply without an end ends now."""
        self._finishing = True
        if self._stream is not None:
            self._stream.end()
            if not self._queue:
                self._queue.append(self._core.end_stream())
                self._write()
        if self._reply is None or self._stream is not None:
            self.close("")

    def check(self, now: float) -> None:
        """Hang up when the client has been silent for too long."""
        if self._stream is not None and not self._queue:
            self._stream.flush()
        elif not self._loading and now >= self._core.deadline:
            self.close("the client was silent for too long")

    def close(self, reason: str) -> None:
        """Hang up; a transfer under way is told of as failed, with the reason."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._close_file()
        if self._stream is not None:
            self._stream.end()
        if self._reply is not None:
            self._tell(reason or "the connection was closed")
            self._reply = None
        self._service.closed(self)

    def _close_file(self) -> None:
        if self._file is not None and not self._loading:
            os.close(self._file)
            self._file = self._file_range = None

    # In

    def _readable(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or "the connection broke")
            return
        try:
            self._core.receive_data(data, self._loop.time())
        except Rejected as rejected:
            self._start(self._core.reject(rejected, self._loop.time(), time.time()))
            return
        self._next()

    def _next(self) -> None:
        """Answer the next request that has come in whole."""
        now = self._loop.time()
        try:
            request, interim = self._core.next_request()
        except Rejected as rejected:
            self._start(self._core.reject(rejected, now, time.time()))
            return
        if interim:
            self._queue.append(interim)
            self._write()
        if request is not None:
            response = self._answer(request)
            self._start(self._core.respond(request, response, now, time.time()))
        elif self._core.must_close:
            self.close("")

    def _answer(self, request: Request) -> Response:
        try:
            response = self._service.handle(request)
            if response.stream is not None and request.method != "HEAD":
                return self._service.followers.admit(self.client, response)
            return response
        except Exception:
            _log.exception("%s %s for %s", request.method, request.path[:200], self.client)
            return Response(500, b"the server failed; its log says why\n", "text/plain")

    # Out

    def _start(self, reply: Reply) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._reply = reply
        self._began = time.time()
        self._written = 0
        self._queue.extend(reply.parts)
        if reply.transfer and reply.status < 400 and reply.length >= TOLD_BYTES:
            self._emit(
                {"file": reply.transfer, "bytes": 0, "size": reply.length, "status": "start"}
            )
        if reply.stream is not None:
            self._loop.add_reader(self._sock.fileno(), self._discard)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FOLLOWER_BUFFER)
            self._stream = Stream(self._service.followers, self)
            self._stream.begin(reply.stream)
        self._write()

    # A reply without an end: what its Stream asks of the connection

    @property
    def now(self) -> float:
        """The loop's clock."""
        return self._loop.time()

    def is_busy(self) -> bool:
        """Whether something is being sent, so that more must wait; also when it is over."""
        return bool(self._queue) or self._closed

    def send_more(self, data: bytes) -> None:
        """Send further bytes."""
        self._queue.append(self._core.pack_more(data, self._loop.time()))
        self._write()

    def call_soon(self, action: Callable[[], None]) -> None:
        """Have something done in the loop's next turn."""
        self._loop.call_soon(action)

    def _write(self) -> None:
        budget = TURN_BYTES
        try:
            while self._queue and budget > 0 and not self._loading:
                part = self._queue[0]
                sent = self._send_file(part) if isinstance(part, FileRange) else self._send(part)
                budget -= sent
                if self._service.throttle is not None and self._waits(sent):
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.close(explain(error))
            return
        if self._queue and not self._loading:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock.fileno(), self._write)
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())
        if not self._queue and self._reply is not None:
            self._done()

    def _waits(self, sent: int) -> bool:
        """Count what was sent; True when the client has had too much: the rest comes later."""
        assert self._service.throttle is not None
        wait = self._service.throttle.take(self.client, sent, self._loop.time())
        if wait > 0 and self._queue:
            self._loading = True
            self._loop.call_later(wait, self._go_on)
        return self._loading

    def _go_on(self) -> None:
        self._loading = False
        if self._closed:
            self._close_file()
        else:
            self._core.progressed(self._loop.time())
            self._write()

    def _send(self, part: bytes | memoryview) -> int:
        sent = self._sock.send(part)
        self._progress(sent)
        if sent == len(part):
            self._queue.popleft()
        else:
            self._queue[0] = memoryview(part)[sent:]
        return sent

    def _send_file(self, part: FileRange) -> int:
        if self._file is None:
            self._file = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
            self._file_range = part
            os.posix_fadvise(self._file, part.offset, part.length, os.POSIX_FADV_WILLNEED)
        count = min(CHUNK_BYTES, part.length)
        if not is_in_memory(self._file, part.offset, count):
            self._load(part.offset, count)
            return 0
        sent = os.sendfile(self._sock.fileno(), self._file, part.offset, count)
        if sent == 0:
            raise OSError(errno.EIO, "the file is shorter than it was")
        self._progress(sent)
        if sent == part.length:
            self._queue.popleft()
            self._close_file()
        else:
            self._queue[0] = FileRange(part.path, part.offset + sent, part.length - sent)
        return sent

    def _progress(self, sent: int) -> None:
        self._written += sent
        self._core.progressed(self._loop.time())

    def _load(self, offset: int, count: int) -> None:
        """Read a part of the file in a thread, so that a slow disk holds up this client only."""
        assert self._file is not None
        self._loading = True
        future = self._loop.run_in_executor(
            self._service.threads, functools.partial(touch, self._file, offset, count)
        )
        future.add_done_callback(self._loaded)

    def _loaded(self, future: "asyncio.Future[None]") -> None:
        self._loading = False
        if self._closed:
            self._close_file()
            return
        error = None if future.cancelled() else future.exception()
        if isinstance(error, OSError):
            self.close(explain(error))
            return
        self._write()

    def _done(self) -> None:
        if self._stream is not None:
            self._stream.flush()
            return
        self._tell("")
        self._reply = None
        if self._core.must_close:
            self._linger()
            return
        if not self._core.sent(self._loop.time()) or self._finishing:
            self.close("")
            return
        self._loop.add_reader(self._sock.fileno(), self._readable)
        # What was sent ahead (pipelining) is answered in a turn of its own.
        self._loop.call_soon(self._next_unless_closed)

    def _linger(self) -> None:
        """Let a client whose request was refused read why: closing at once would reset it."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close("")
            return
        self._loop.add_reader(self._sock.fileno(), self._discard)
        self._loop.call_later(LINGER_SECONDS, self.close, "")

    def _discard(self) -> None:
        try:
            if self._sock.recv(RECEIVE_BYTES):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass  # as good as closed
        self.close("")

    def _next_unless_closed(self) -> None:
        if not self._closed and not self._core.replying:
            self._next()

    def _tell(self, failure: str) -> None:
        reply = self._reply
        if reply is None or not reply.transfer:
            return
        detail: dict[str, str | int | float | bool] = {
            "file": reply.transfer,
            "bytes": min(self._written, reply.length),
            "seconds": round(time.time() - self._began, 3),
            "status": "ok",
        }
        if failure or reply.status >= 400:
            detail["status"] = "error"
            detail["message"] = failure or f"answered with {reply.status}"
            detail["cause"] = "hung_up" if failure else _CAUSES.get(reply.status, "refused")
        self._emit(detail)

    def _emit(self, detail: Mapping[str, str | int | float | bool]) -> None:
        self._service.emit(Event(time.time(), self.client, "http", "transfer", detail))
