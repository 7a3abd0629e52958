"""The HTTP service: raw sockets on the loop around protocols.http."""

import asyncio
import heapq
import itertools
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from server.events import Emit
from server.protocols.http import HttpLimits, Request, Response
from server.services.gate import IsKnown, nobody
from server.services.http_connection import Connection
from server.services.http_downloads import Downloads
from server.services.http_files import refuse
from server.services.http_stream import Followers
from server.services.pace import Pace, Turns
from server.services.ports import avoid_pacing, bind_port, is_local
from server.services.ratelimit import RateLimit
from server.services.throttle import make_throttle

Handle = Callable[[Request], Response]

SWEEP_SECONDS: Final = 1.0
"""Between two looks at the connections' deadlines."""
STALLED_SECONDS: Final = 5.0
"""Who takes nothing of its reply for so long gives way where there is no room."""
LOOKED_AT: Final = 64
"""Most connections that are looked at to find one that gives way."""
KNOWN_HOLDERS: Final = 8
"""Machines with the most connections that are looked at for one that the inventory has not."""
FAIR_SHARE: Final = 8
"""A machine with more than this part of all connections takes no place of a stalled one."""
LOADER_THREADS: Final = 4
"""Threads that read what is not in memory: so many clients wait for a disk at once."""
_log = logging.getLogger(__name__)


class HttpService:
    """Serves `handle(Request) -> Response` on a TCP port; bind(), start(), stop().

    handle is called in the loop's thread and must not block; what it raises
    becomes a 500 for that client. is_known, card, spare_local: as of NbdService.
    dress: puts what the service itself refuses into the words that the path's clients read.
    """

    owner: Final = "http"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        address: str,
        port: int,
        handle: Handle,
        emit: Emit,
        limits: HttpLimits | None = None,
        is_known: IsKnown = nobody,
        card: Callable[[str], str] = str,
        spare_local: bool = False,
        dress: Callable[[Request, Response], Response] = lambda request, response: response,
    ) -> None:
        self.loop = loop
        self.handle = handle
        self.dress = dress
        self.emit = emit
        self.limits = limits or HttpLimits()
        self.followers = Followers(self.limits)
        self.threads = ThreadPoolExecutor(LOADER_THREADS, thread_name_prefix="http-load")
        self.downloads = Downloads(loop)
        self.throttle = make_throttle("http", self.limits.bytes_per_second)
        self._complaints = RateLimit(1.0, 5.0)
        self._pace = Pace(self.limits.loop_share, self.limits.burst_seconds)
        self._turns = Turns(loop, self._pace)
        self._is_known = is_known
        self._card = card
        self._spare_local = spare_local
        # Connections in the order in which they give way: the oldest first, in each of these.
        self._unheard: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}
        self._stalled: dict[Connection, None] = {}
        self._address = address
        self._port = port
        self._listener: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._cards: dict[str, dict[Connection, None]] = {}
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
            self._listener = bind_port("http", "tcp", self._address, self._port)

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
        await self.downloads.stop()
        self.threads.shutdown(wait=False, cancel_futures=True)

    def open_count(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def closed(self, connection: Connection) -> None:
        """A connection is over (called by it)."""
        self._connections.discard(connection)
        if (mine := self._cards.get(connection.card)) is not None:
            mine.pop(connection, None)
            if not mine:
                del self._cards[connection.card]
        self.heard(connection)
        left = self._per_client.get(connection.client, 0) - 1
        if left > 0:
            self._per_client[connection.client] = left
        else:
            self._per_client.pop(connection.client, None)
        self._check_stopped()

    def heard(self, connection: Connection) -> None:
        """A connection has sent a whole request (called by it)."""
        self._unheard.pop(connection, None)
        self._idle.pop(connection, None)
        self._stalled.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        """A connection has had its reply, and may ask again (called by it)."""
        self._stalled.pop(connection, None)
        self._idle[connection] = None

    def must_wait(self, card: str) -> bool:
        """Whether a machine's request waits, because the machine has had its share of the loop's
        time."""
        return self._turns.must_wait(card)

    def wait(self, card: str, go: Callable[[], None]) -> None:
        """Have `go` called when it is the machine's turn."""
        self._turns.wait(card, go)

    def spend(self, card: str, seconds: float) -> None:
        """Count loop time that an answer to a machine took (called by the connection)."""
        self._pace.spend(card, seconds, self.loop.time())

    def _make_room(self, client: str) -> bool:
        """Hang up on a connection that nothing is under way for, else on the oldest of the
        unknown machine that has most, if that is more than the newcomer has; on a known
        machine's only for a known one, and last. False when there is none."""
        known: Connection | None = None
        groups = [self._unheard, self._idle]
        # A client that does not take its replies does not get another connection for one of them.
        if len(self._cards.get(self._card(client), ())) <= self.limits.connections // FAIR_SHARE:
            groups.append(self._stalled)
        for group in groups:
            for connection in itertools.islice(group, LOOKED_AT):
                if not self._is_known(connection.client):
                    connection.close("gave way to a new connection (limits.connections)")
                    return True
                known = known or connection
        if self._take_surplus(client):
            return True
        if known is not None and self._is_known(client):
            known.close("gave way to a new connection (limits.connections)")
            return True
        return False

    def _take_surplus(self, client: str) -> bool:
        mine = len(self._cards.get(self._card(client), ()))
        for held in heapq.nlargest(KNOWN_HOLDERS, self._cards.values(), key=len):
            if len(held) <= mine:
                return False
            oldest = next(iter(held))
            if not self._is_known(oldest.client):
                oldest.close("gave way to a machine with fewer connections (limits.connections)")
                return True
        return False

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
            local = self._spare_local and is_local(sock, client)
            limits = self.limits
            if not local and (
                mine >= limits.per_client
                or (len(self._connections) >= limits.connections and not self._make_room(client))
            ):
                refuse(sock)
                self._complain(client, mine)
                continue
            self._per_client[client] = mine + 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            avoid_pacing(sock)
            card = self._card(client)
            connection = Connection(self, sock, client, local=local, card=card)
            self._connections.add(connection)
            self._cards.setdefault(card, {})[connection] = None
            self._unheard[connection] = None

    def _complain(self, client: str, connections: int) -> None:
        """Say which limit refused a client, at a bounded rate."""
        if self._complaints.allow(client, self.loop.time()):
            name = "per_client" if connections >= self.limits.per_client else "connections"
            limit = getattr(self.limits, name)
            _log.warning("http: %s is refused: limits.%s is %d", client, name, limit)

    def _pause(self, error: OSError) -> None:
        """Files or memory ran out: leave the others theirs, and accept again in a second."""
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
        stalled = (one for one in self._connections if one.stalled(now) > STALLED_SECONDS)
        slowest = sorted(stalled, key=lambda one: one.stalled(now), reverse=True)
        self._stalled = dict.fromkeys(slowest)
        self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)
