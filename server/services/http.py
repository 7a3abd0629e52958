"""The HTTP service: raw sockets on the loop around protocols.http."""

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from server.events import Emit
from server.protocols.http import HttpLimits, Request, Response
from server.services.http_connection import Connection
from server.services.http_files import refuse
from server.services.http_stream import Followers
from server.services.ports import avoid_pacing, bind_port
from server.services.ratelimit import RateLimit
from server.services.throttle import make_throttle

Handle = Callable[[Request], Response]

SWEEP_SECONDS: Final = 1.0
LOADER_THREADS: Final = 4
_log = logging.getLogger(__name__)


class HttpService:
    """Serves `handle(Request) -> Response` on a TCP port; bind(), start(), stop().

    handle is called in the loop's thread and must not block; what it raises
    becomes a 500 for that client.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        address: str,
        port: int,
        handle: Handle,
        emit: Emit,
        limits: HttpLimits | None = None,
        reuse_port: bool = False,
    ) -> None:
        self.loop = loop
        self.handle = handle
        self.emit = emit
        self.limits = limits or HttpLimits()
        self.followers = Followers(self.limits)
        self.threads = ThreadPoolExecutor(LOADER_THREADS, thread_name_prefix="http-load")
        self.throttle = make_throttle("http", self.limits.bytes_per_second)
        self._complaints = RateLimit(1.0, 5.0)
        self._address = address
        self._port = port
        self._reuse_port = reuse_port
        self._listener: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._per_client: dict[str, int] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._stopped: asyncio.Future[None] | None = None

    @property
    def port(self) -> int:
        """The port that is bound, or was asked for."""
        if self._listener is not None:
            return int(self._listener.getsockname()[1])
        return self._port

    def bind(self) -> None:
        """Take the port. Raises ServerError that says who has it."""
        if self._listener is None:
            self._listener = bind_port(
                "http", "tcp", self._address, self._port, reuse_port=self._reuse_port
            )

    def start(self) -> None:
        """Serve, once bound."""
        if self._listener is None:
            raise RuntimeError("HttpService.bind was not called")
        self.loop.add_reader(self._listener.fileno(), self._accept)
        self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    async def stop(self, seconds: float = 2.0) -> None:
        """Take no new clients, send what is under way for at most `seconds`, hang up."""
        if self._listener is not None:
            self.loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._stopped = self.loop.create_future()
        for connection in list(self._connections):
            connection.finish()
        self._check_stopped()
        try:
            await asyncio.wait_for(self._stopped, seconds)
        except TimeoutError:
            for connection in list(self._connections):
                connection.close("the server is stopping")
        self.threads.shutdown(wait=False, cancel_futures=True)

    def open_count(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def closed(self, connection: Connection) -> None:
        """A connection is over (called by it)."""
        self._connections.discard(connection)
        left = self._per_client.get(connection.client, 0) - 1
        if left > 0:
            self._per_client[connection.client] = left
        else:
            self._per_client.pop(connection.client, None)
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stopped is not None and not self._connections and not self._stopped.done():
            self._stopped.set_result(None)

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(64):
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                self._pause(error)
                return
            sock.setblocking(False)
            client = str(peer[0])
            mine = self._per_client.get(client, 0)
            if len(self._connections) >= self.limits.connections or mine >= self.limits.per_client:
                refuse(sock)
                self._complain(client, mine)
                continue
            self._per_client[client] = mine + 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            avoid_pacing(sock)
            self._connections.add(Connection(self, sock, client))

    def _complain(self, client: str, connections: int) -> None:
        """Say which limit refused a client, at a bounded rate."""
        if self._complaints.allow(client, self.loop.time()):
            name = "per_client" if connections >= self.limits.per_client else "connections"
            limit = getattr(self.limits, name)
            _log.warning("http: %s is refused: limits.%s is %d", client, name, limit)

    def _pause(self, error: OSError) -> None:
        """Out of files or memory: leave the others theirs, and look again in a second."""
        assert self._listener is not None
        _log.error("http cannot accept connections: %s", error.strerror)
        fileno = self._listener.fileno()
        self.loop.remove_reader(fileno)
        self.loop.call_later(1.0, self._resume)

    def _resume(self) -> None:
        if self._stopped is None and self._listener is not None:
            self.loop.add_reader(self._listener.fileno(), self._accept)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self._connections):
            connection.check(now)
        self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)
