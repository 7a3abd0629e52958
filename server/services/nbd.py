"""NBD over TCP: a shell of raw non-blocking sockets around the protocol cores."""

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from server.content import Export
from server.events import Emit, Event
from server.protocols.nbd_handshake import BlockSizes
from server.protocols.nbd_tap import ReadTap, pack_reads
from server.services.gate import IsKnown, nobody
from server.services.hotloop import HotLoop
from server.services.limits import NbdLimits
from server.services.mapped import MapCache, MappedFile
from server.services.nbd_connection import Connection
from server.services.nbd_room import LOOKED_AT, Room
from server.services.ports import bind_port, is_local, raise_file_limit
from server.services.ratelimit import RateLimit
from server.services.throttle import make_throttle

__all__ = ["Export", "NbdLimits", "NbdService"]

RECEIVE_BYTES: Final = 16 * 1024
"""Bytes of requests read at once: 585 of them."""
ACCEPT_PAUSE: Final = 0.2
"""Seconds until it is tried again, where no file descriptor was to be had."""
TRAFFIC_SECONDS: Final = 2.0
"""Between two events that tell what all connections moved."""
READS_TOLD: Final = 256
"""Recorded reads of one connection that make one event."""
READS_SECONDS: Final = 0.5
"""Seconds after which fewer make one, too."""


class NbdService:
    """Serves exports to whoever connects. All methods belong to the loop's thread.

    exports: (name as the client wrote it, client IP) -> Export, or None.
    list_exports: client IP -> the names that it may see. record: tell of each read.
    is_known: of which addresses the operator knows that there is a machine: they
    give way last. card: client IP -> what tells machines apart that have many
    addresses. spare_local: this machine's own clients (the probes) have no limits.
    """

    owner: Final = "nbd"

    def __init__(
        self,
        loop: HotLoop,
        *,
        address: str,
        port: int,
        exports: Callable[[str, str], Export | None],
        list_exports: Callable[[str], Sequence[str]],
        emit: Emit,
        limits: NbdLimits | None = None,
        listener: socket.socket | None = None,
        record: bool = False,
        is_known: IsKnown = nobody,
        card: Callable[[str], str] = str,
        spare_local: bool = False,
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
        self._listener = listener
        self._connections: set[Connection] = set()
        self._handshakes: dict[Connection, None] = {}
        self._per_client: dict[str, int] = {}
        self._room = Room(is_known, card)
        self._is_known = is_known
        self._spare_local = spare_local
        limit = self.limits.events_per_second
        self._complaints = RateLimit(limit, max(5.0, 5 * limit))
        self._stopped: asyncio.Future[None] | None = None
        self.throttle = make_throttle("nbd", self.limits.bytes_per_second)
        self._record = record
        self._past = (0, 0)
        self._told = (0, 0)
        self._traffic_timer: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port that is bound, or was asked for."""
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
            self._listener = bind_port("nbd", "tcp", self._address, self._port)
        self._port = int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Serve, once bound."""
        raise_file_limit()
        self.loop.add_reader(self.listener.fileno(), self._accept)
        self._traffic_timer = self.loop.call_later(TRAFFIC_SECONDS, self._tell_traffic)

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
        if self._traffic_timer is not None:
            self._tell_traffic()
            self._traffic_timer.cancel()
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
            self.complain(client, name, "no such export", "not_found")
            return None
        try:
            file = self.maps.open(export.path)
        except OSError as error:
            why = f"cannot open {export.path}: {error.strerror or error}"
            self.complain(client, name, why, "unreadable")
            return None
        if file.size < export.size:
            short = f"{export.path} has {file.size} bytes, not {export.size}"
            self.complain(client, name, short, "unreadable")
            return None
        return export, file

    def attached(self, connection: Connection, export: Export) -> None:
        """A connection has chosen an export (called by it)."""
        self._handshakes.pop(connection, None)
        self._room.add(connection)
        self._report(connection.client, "attach", _detail(export, 0))

    def detached(self, connection: Connection, reason: str, payload: int, requests: int) -> None:
        """A connection is over (called by it).

        reason: "" for a usual end; payload, requests: what it was sent.
        """
        self._past = (self._past[0] + payload, self._past[1] + requests)
        self._connections.discard(connection)
        self._handshakes.pop(connection, None)
        self._room.remove(connection)
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

    def make_tap(self) -> ReadTap | None:
        """A recorder of a new connection's reads; None where boots are not recorded."""
        return ReadTap() if self._record else None

    def report_reads(self, connection: Connection, tap: ReadTap) -> None:
        """Emit the reads that were noted, once they are many, or old, or the client has gone."""
        if not tap.reads or connection.export is None:
            return
        waited = time.time() - tap.began
        if len(tap.reads) < READS_TOLD and waited < READS_SECONDS and not connection.closed:
            return
        zero = tap.began
        detail: dict[str, str | int | float | bool] = {
            "export": connection.export.name,
            "size": connection.export.size,
            "connection": id(connection),
            "zero": zero,
            "reads": pack_reads(tap.take(), zero),
        }
        self._report(connection.client, "reads", detail)

    def complain(self, client: str, export: str, message: str, cause: str) -> None:
        """Report something refused or wrong, at a bounded rate for each client."""
        if self._complaints.allow(client, self.loop.time()):
            detail = {"export": export, "status": "error", "message": message, "cause": cause}
            self._report(client, "error", detail)

    def _report(
        self, client: str, phase: str, detail: Mapping[str, str | int | float | bool]
    ) -> None:
        self._emit(Event(time.time(), client, "nbd", phase, detail))

    def _tell_traffic(self) -> None:
        """Emit what all connections moved since the last time; a connection may last for months."""
        size, requests = self._past
        for connection in self._connections:
            connection.report_reads()
            more = connection.traffic()
            size += more[0]
            requests += more[1]
        if (size, requests) != self._told:
            detail = {"bytes": size - self._told[0], "requests": requests - self._told[1]}
            self._told = (size, requests)
            self._report("", "traffic", detail)
        self._traffic_timer = self.loop.call_later(TRAFFIC_SECONDS, self._tell_traffic)

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
        if not (self._spare_local and is_local(sock, client)):
            refusal = self._refuse(client)
            if refusal:
                sock.close()
                self.complain(client, "", refusal, "limit")
                return
        connection = Connection(self, sock, client)
        self._connections.add(connection)
        self._handshakes[connection] = None
        self._per_client[client] = self._per_client.get(client, 0) + 1
        connection.start()

    def _refuse(self, client: str) -> str:
        """Why a new client is hung up on.

        "" where there is room, perhaps because an unproven one gave way.
        """
        limits = self.limits
        if self._per_client.get(client, 0) >= limits.per_client:
            mine = next((one for one in self._handshakes if one.client == client), None)
            if mine is None:
                return f"more than {limits.per_client} connections (limits.per_client)"
            mine.give_way(
                "gave way to a new connection of the same address: there are"
                f" {limits.per_client} (limits.per_client)"
            )
        if len(self._handshakes) >= limits.handshakes:
            self._oldest_handshake().give_way(
                f"gave way to a new connection: {limits.handshakes} clients had not chosen an"
                " export (limits.handshakes)"
            )
        if len(self._connections) >= limits.connections:
            full = f"the server has its {limits.connections} connections (limits.connections)"
            other = self._room.find(client)
            if other is None and self._handshakes:
                other = self._oldest_handshake()
            if other is None:
                return full
            other.give_way(f"gave way to a new connection: {full}")
        return ""

    def _oldest_handshake(self) -> Connection:
        """The oldest connection that has not chosen an export; an unknown machine's before a known
        one's."""
        first = itertools.islice(self._handshakes, LOOKED_AT)
        strangers = (other for other in first if not self._is_known(other.client))
        return next(strangers, next(iter(self._handshakes)))

    def _pause_accepting(self, error: OSError) -> None:
        """Files or memory ran out: leave the others their work, and accept again soon."""
        self.complain("", "", f"cannot accept connections: {error.strerror}", "network")
        if self._handshakes:
            next(iter(self._handshakes)).close("the server is out of files")
        self.loop.remove_reader(self.listener.fileno())
        self.loop.call_later(ACCEPT_PAUSE, self._resume_accepting)

    def _resume_accepting(self) -> None:
        if self._stopped is None:
            self.loop.add_reader(self.listener.fileno(), self._accept)


def _detail(export: Export, payload: int) -> dict[str, str | int | float | bool]:
    return {"export": export.name, "digest": export.digest, "bytes": payload}
