"""DNS over UDP and TCP: sockets around the core."""

import asyncio
import socket
from dataclasses import dataclass
from typing import Final

from server.errors import ServerError
from server.protocols.dns import MAX_QUERY, DnsServer, DnsStream
from server.services.gate import SPARE, Gate, IsKnown, nobody
from server.services.ports import bind_port
from server.services.ratelimit import RateLimit

__all__ = ["DnsLimits", "DnsService"]

RECEIVE_BUFFER: Final = 1024 * 1024
"""Bytes of queries that wait: a flood is read off it, and not in place of what came with it."""
ANY_PORT_TRIES: Final = 16
"""With port 0: how many of the kernel's choices for UDP are tried for TCP, too."""
_TURN: Final = 16
"""Queries after which others have their turn."""
_READ: Final = 2048
"""Bytes of a connection that are read in one turn: some dozens of queries."""


@dataclass(frozen=True)
class DnsLimits:
    """client: answers a second and at once, by address; more is dropped, over TCP hung up on.

    strangers_rate: to all addresses together that the inventory does not name.
    Beyond what an address may have, all together get four times that.
    connections: over TCP, in all (the one that was silent longest
    gives way to a new one); idle_seconds: how long one may say nothing.
    unsent: bytes of answers that a client has not taken; with more it is cut off.
    """

    client_rate: float = 50.0
    client_burst: float = 200.0
    strangers_rate: float = 1000.0
    connections: int = 64
    per_client: int = 4
    idle_seconds: float = 10.0
    unsent: int = 65536


class DnsService:
    """Answers on one port, UDP and TCP. All methods belong to the loop's thread."""

    owner: Final = "dns"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        address: str,
        server: DnsServer,
        port: int = 53,
        limits: DnsLimits | None = None,
        is_known: IsKnown = nobody,
    ) -> None:
        self._loop = loop
        self._address = address
        self._port = port
        self._server = server
        self._limits = limits or DnsLimits()
        self._is_known = is_known
        rate, strangers = self._limits.client_rate, self._limits.strangers_rate
        self._gate = Gate(
            RateLimit(rate, self._limits.client_burst),
            RateLimit(strangers, strangers),
            RateLimit(SPARE * rate, SPARE * rate / 2),
        )
        self._udp: socket.socket | None = None
        self._tcp: socket.socket | None = None
        self._connections: dict[_Connection, None] = {}
        """The one that was silent longest comes first."""

    @property
    def port(self) -> int:
        """The port that is bound, or was asked for."""
        return int(self._udp.getsockname()[1]) if self._udp is not None else self._port

    def bind(self) -> None:
        """Take the port, UDP and TCP. Raises ServerError that says who has it.

        Port 0 is any that is free for both: the kernel names one that is free for UDP.
        """
        tries = ANY_PORT_TRIES if self._port == 0 else 1
        for left in reversed(range(tries)):
            try:
                self._bind_both()
                return
            except ServerError:
                if left == 0:
                    raise

    def _bind_both(self) -> None:
        self._udp = bind_port("dns", "udp", self._address, self._port)
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        try:
            self._tcp = bind_port("dns", "tcp", self._address, self.port)
        except ServerError:
            self._udp.close()
            self._udp = None
            raise

    def start(self) -> None:
        """Serve, once bound."""
        assert self._udp is not None
        assert self._tcp is not None
        self._loop.add_reader(self._udp.fileno(), self._read, self._udp)
        self._loop.add_reader(self._tcp.fileno(), self._accept, self._tcp)

    async def stop(self) -> None:
        """Stop at once."""
        for connection in list(self._connections):
            connection.close()
        for sock in (self._udp, self._tcp):
            if sock is not None:
                self._loop.remove_reader(sock.fileno())
                sock.close()
        self._udp = self._tcp = None

    def forget(self, connection: "_Connection") -> None:
        """Drop a connection that is over (called by it)."""
        self._connections.pop(connection, None)

    def heard(self, connection: "_Connection") -> None:
        """A connection has asked something (called by it): it gives way after the others."""
        self._connections.pop(connection, None)
        self._connections[connection] = None

    def allow(self, client: str) -> bool:
        """Whether one more query of this address is answered now."""
        return self._gate.allow(client, self._loop.time(), known=self._is_known(client))

    def _read(self, sock: socket.socket) -> None:
        for _ in range(_TURN):
            try:
                data, client = sock.recvfrom(MAX_QUERY + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error for an earlier answer
            if len(data) > MAX_QUERY or not self.allow(client[0]):
                continue
            answer = self._server.answer(data, udp=True)
            if answer is not None:
                try:
                    sock.sendto(answer, client)
                except OSError:
                    pass  # the client asks again

    def _accept(self, sock: socket.socket) -> None:
        try:
            fresh, client = sock.accept()
        except OSError:
            return
        fresh.setblocking(False)
        mine = sum(connection.client == client[0] for connection in self._connections)
        if mine >= self._limits.per_client:
            fresh.close()
            return
        if len(self._connections) >= self._limits.connections:
            others = self._connections
            strangers = (other for other in others if not self._is_known(other.client))
            next(strangers, next(iter(others))).close()
        stream = DnsStream(self._server, lambda: self.allow(client[0]))
        connection = _Connection(self, self._loop, fresh, client[0], stream, self._limits)
        self._connections[connection] = None


class _Connection:
    """One client over TCP."""

    owner: Final = "dns"

    def __init__(
        self,
        service: DnsService,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        client: str,
        stream: DnsStream,
        limits: DnsLimits,
    ) -> None:
        self.client = client
        self._service = service
        self._loop = loop
        self._sock = sock
        self._stream = stream
        self._limits = limits
        self._unsent = b""
        self._timer = loop.call_later(limits.idle_seconds, self.close)
        loop.add_reader(sock.fileno(), self._read)

    def close(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._service.forget(self)

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        answers = self._stream.receive(data) if data else None
        if answers is None or len(self._unsent) + len(answers) > self._limits.unsent:
            self.close()
            return
        if answers:
            self._timer.cancel()
            self._timer = self._loop.call_later(self._limits.idle_seconds, self.close)
            self._service.heard(self)
            self._unsent += answers
            self._write()

    def _write(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.close()
            return
        self._unsent = self._unsent[sent:]
        if self._unsent:
            self._loop.add_writer(self._sock.fileno(), self._write)
        else:
            self._loop.remove_writer(self._sock.fileno())
