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
from server.fastpath import COMPILED, DOWNLOAD_STEP, Download
from server.protocols.http import (
    FileRange,
    HttpCore,
    HttpLimits,
    Rejected,
    Reply,
    Request,
    Response,
)
from server.services.http_downloads import Downloads
from server.services.http_files import describe, explain, hang_up, is_in_memory, touch
from server.services.http_stream import Followers, Stream
from server.services.throttle import Throttle

RECEIVE_BYTES: Final = 65_536
"""Bytes read at once; a request comes whole as a rule."""
CHUNK_BYTES: Final = 256 * 1024
"""Most of a file in one sendfile from here."""
LONG_BYTES: Final = CHUNK_BYTES
"""A longer file is sent by a thread beside the loop."""
TURN_BYTES: Final = 1024 * 1024
"""After so many bytes the others have their turn."""
TOLD_BYTES: Final = 1024 * 1024
"""Files from this size on make an event at their start, too: a slow one takes minutes."""
LINGER_SECONDS: Final = 1.0
"""What a client still sends is read for so long after the last reply, so that no reset overtakes
that."""
REQUEST_SECONDS: Final = 0.0002
"""What taking in a request costs, beside its answer."""
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
    def downloads(self) -> Downloads: ...
    @property
    def threads(self) -> ThreadPoolExecutor: ...
    @property
    def throttle(self) -> Throttle | None: ...
    @property
    def handle(self) -> Callable[[Request], Response]: ...
    @property
    def dress(self) -> Callable[[Request, Response], Response]: ...
    def closed(self, connection: "Connection", /) -> None: ...
    def heard(self, connection: "Connection", /) -> None: ...
    def idle(self, connection: "Connection", /) -> None: ...
    def must_wait(self, card: str, /) -> bool: ...
    def wait(self, card: str, go: Callable[[], None], /) -> None: ...
    def spend(self, card: str, seconds: float, /) -> None: ...


class Connection:
    """One client's connection: a socket, its core, and the reply under way."""

    owner: Final = "http"

    def __init__(
        self,
        service: ConnectionHost,
        sock: socket.socket,
        client: str,
        *,
        local: bool = False,
        card: str = "",
    ) -> None:
        """local: the client is on this machine, and nothing limits it. card: of `Request`."""
        self.client = client
        self.card = card
        self._local = local
        self._service = service
        self._loop = service.loop
        self._sock = sock
        self._core = HttpCore(client, service.limits, self._loop.time(), card)
        self._queue: deque[bytes | memoryview | FileRange] = deque()
        self._reply: Reply | None = None
        self._began = 0.0
        self._written = 0
        self._file: int | None = None
        self._loading = False
        self._download: Download | None = None
        """What a thread sends; socket and file are its until it gives that back."""
        self._left = 0
        """Bytes of it that had not been sent when that was last looked at."""
        self._held = False
        """A whole request waits, because its machine has had its share of the server's time."""
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
        self._note_progress()
        if self._stream is not None and not self._queue:
            self._stream.flush()
        elif not self._loading and not self._held and now >= self._core.deadline:
            self.close("the client was silent for too long")

    @property
    def _is_waiting(self) -> bool:
        """Whether what is to be sent next is in the hands of a thread, or waits for its time."""
        return self._loading or self._download is not None

    def stalled(self, now: float) -> float:
        """Seconds for which the client has taken nothing of a reply with an end; else 0."""
        if self._reply is None or self._stream is not None or self._loading:
            return 0.0
        return now - self._core.deadline + self._service.limits.stall_seconds

    def close(self, reason: str) -> None:
        """Hang up; the event of a transfer under way says that it failed, and the reason."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        if self._download is None:
            self._sock.close()
            self._close_file()
        else:
            hang_up(self._sock)  # the sender then gives the download back
            self._note_progress()
        if self._stream is not None:
            self._stream.end()
        if self._reply is not None:
            self._tell(reason or "the connection was closed")
            self._reply = None
        self._service.closed(self)

    def _close_file(self) -> None:
        if self._file is not None and not self._loading:
            os.close(self._file)
            self._file = None

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
            self._service.heard(self)
            self._loop.remove_reader(self._sock.fileno())
            self._answer_in_turn(request)
        elif self._core.must_close:
            self.close("")

    def _answer_in_turn(self, request: Request) -> None:
        """Answer a request, once its machine has not had too much of the server's time."""
        if not self._local and self._service.must_wait(self.card):
            self._held = True
            self._service.wait(self.card, functools.partial(self._answer_now, request))
        else:
            self._answer_now(request)

    def _answer_now(self, request: Request) -> None:
        self._held = False
        if self._closed:
            return
        began = time.perf_counter()
        response = self._answer(request)
        self._start(self._core.respond(request, response, self._loop.time(), time.time()))
        self._service.spend(self.card, time.perf_counter() - began + REQUEST_SECONDS)

    def _answer(self, request: Request) -> Response:
        try:
            response = self._service.handle(request)
            if response.stream is None or request.method == "HEAD":
                return response
            given = self._service.followers.admit(self.client, response, local=self._local)
        except Exception:
            _log.exception("%s %s for %s", request.method, request.path[:200], self.client)
            given = Response(500, b"the server failed; its log says why\n", "text/plain")
        return self._service.dress(request, given)

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
        """Whether something is being sent, so that more has to wait; True also after the end."""
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
            while self._queue and budget > 0 and not self._is_waiting:
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
        if self._queue and not self._is_waiting:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock.fileno(), self._write)
            return
        self._stop_writing()
        if not self._queue and self._reply is not None:
            self._done()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())

    def _waits(self, sent: int) -> bool:
        """Count what was sent. True when the client has had too much: the rest is sent later."""
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
        is_head = len(self._queue) > 1 and self._is_long(self._queue[1])
        # One packet with what follows it.
        sent = self._sock.send(part, socket.MSG_MORE if is_head else 0)
        self._progress(sent)
        if sent == len(part):
            self._queue.popleft()
        else:
            self._queue[0] = memoryview(part)[sent:]
        return sent

    def _send_file(self, part: FileRange) -> int:
        if self._file is None:
            self._file = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
        if self._is_long(part):
            self._send_beside(self._file, part)
            return 0
        count = min(CHUNK_BYTES, part.length)
        if not is_in_memory(self._file, part.offset, count):
            self._load(part.offset, count)
            return 0
        sent = os.sendfile(self._sock.fileno(), self._file, part.offset, count)
        if sent == 0:
            raise describe(errno.ENODATA)
        self._progress(sent)
        self._drop_sent(part, sent)
        return sent

    def _drop_sent(self, part: FileRange, sent: int) -> None:
        """Note that `sent` bytes of `part` have left."""
        if sent == part.length:
            self._queue.popleft()
            self._close_file()
        else:
            self._queue[0] = FileRange(part.path, part.offset + sent, part.length - sent)

    # Beside the loop

    def _is_long(self, part: bytes | memoryview | FileRange) -> bool:
        # A throttle has to count while bytes leave.
        return (
            COMPILED
            and isinstance(part, FileRange)
            and part.length > LONG_BYTES
            and self._service.throttle is None
        )

    def _send_beside(self, file: int, part: FileRange) -> None:
        """Have the rest of a file sent by a thread that does nothing else."""
        self._stop_writing()
        download = Download(self._sock.fileno(), file, part.offset, part.length)
        self._service.downloads.send(download, functools.partial(self._sent_beside, part))
        self._download, self._left = download, part.length

    def _note_progress(self) -> None:
        """Note how much of a download the client has taken meanwhile."""
        if self._download is not None and (left := self._download.left) < self._left:
            self._progress(self._left - left)
            self._left = left

    def _sent_beside(self, part: FileRange) -> None:
        """A sender has given a download back."""
        self._note_progress()
        download, self._download = self._download, None
        assert download is not None
        if self._closed:
            self._sock.close()
            self._close_file()
            return
        self._drop_sent(part, part.length - download.left)
        if download.error:
            self.close(explain(describe(download.error)))
        elif download.cold:
            offset = part.offset + part.length - download.left
            self._load(offset, min(DOWNLOAD_STEP, download.left))
        elif download.left:
            self.close("the server is stopping")
        else:
            self._write()

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
        self._service.idle(self)
        self._loop.add_reader(self._sock.fileno(), self._readable)
        if self._core.has_input:
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
            why = f": {reply.why}" if reply.why else ""
            detail["message"] = failure or f"answered with {reply.status}{why}"
            detail["cause"] = "hung_up" if failure else _CAUSES.get(reply.status, "refused")
        self._emit(detail)

    def _emit(self, detail: Mapping[str, str | int | float | bool]) -> None:
        self._service.emit(Event(time.time(), self.client, "http", "transfer", detail))
