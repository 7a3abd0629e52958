"""Receives syslog and netconsole over UDP: bounded, limited by address, answering nothing."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from server.protocols.logs import LogLine, parse_netconsole, parse_syslog
from server.services.gate import Gate, IsKnown, nobody
from server.services.ports import bind_port
from server.services.ratelimit import RateLimit

_TURN: Final = 16
"""Datagrams after which others have their turn."""
_READ: Final = 8192
"""Bytes of a datagram that are read; a line of syslog has 1,024 (RFC 3164, 4.1)."""
_PARSERS: Final = {"syslog": parse_syslog, "netconsole": parse_netconsole}
PART: Final = 256
"""Bytes of a datagram that cost as much as a short line."""

Take = Callable[[str, str, list[LogLine]], None]
"""(client IP, "syslog" or "netconsole", lines)."""


@dataclass(frozen=True)
class LogLimits:
    """Lines a second and at once, of one address and in all; more is dropped.

    A datagram counts as one line, and as one more for each PART bytes of it:
    looking for secrets in it takes time by its length. In all: of machines that
    the inventory does not name; what those that it names may is theirs. A kernel
    that boots or panics sends a thousand lines at once.
    """

    client_rate: float = 100.0
    client_burst: float = 4000.0
    rate: float = 500.0
    burst: float = 8000.0
    receive_buffer: int = 4 * 1024 * 1024


class LogsService:
    """Hands lines to `take`, in the loop's thread. ports: of syslog and netconsole, as wanted."""

    owner: Final = "logs"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        address: str,
        ports: Mapping[str, int],
        take: Take,
        limits: LogLimits | None = None,
        is_seen: Callable[[str], bool] = lambda client: True,
        is_known: IsKnown = nobody,
    ) -> None:
        """is_seen: whether lines of an address would be kept. is_known: as of NbdService."""
        self._loop = loop
        self._address = address
        self._wanted = dict(ports)
        self._take = take
        self._limits = limits or LogLimits()
        self._gate = Gate(
            RateLimit(self._limits.client_rate, self._limits.client_burst),
            RateLimit(self._limits.rate, self._limits.burst),
        )
        self._is_seen = is_seen
        self._is_known = is_known
        self._dropped: dict[str, int] = {}
        self._sockets: dict[str, socket.socket] = {}

    @property
    def ports(self) -> dict[str, int]:
        """The ports that are bound, or were asked for."""
        bound = {kind: int(sock.getsockname()[1]) for kind, sock in self._sockets.items()}
        return self._wanted | bound

    def bind(self) -> None:
        """Take the ports. Raises ServerError that says who has one."""
        for kind, port in self._wanted.items():
            if kind not in self._sockets:
                sock = bind_port(kind, "udp", self._address, port)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._limits.receive_buffer)
                self._sockets[kind] = sock

    def start(self) -> None:
        """Receive, once bound."""
        for kind, sock in self._sockets.items():
            self._loop.add_reader(sock.fileno(), self._read, kind, sock)

    async def stop(self) -> None:
        """Stop at once."""
        for sock in self._sockets.values():
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    def _read(self, kind: str, sock: socket.socket) -> None:
        for _ in range(_TURN):
            try:
                data, client = sock.recvfrom(_READ)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            self._receive(kind, data, str(client[0]))

    def _receive(self, kind: str, data: bytes, client: str) -> None:
        if not self._is_seen(client):
            return  # a forged sender costs no node its lines
        cost = 1.0 + len(data) // PART
        known = self._is_known(client)
        if not self._gate.allow(client, self._loop.time(), known=known, cost=cost):
            if client in self._dropped or len(self._dropped) < 1000:
                self._dropped[client] = self._dropped.get(client, 0) + 1
            return
        lines = _PARSERS[kind](data)
        if (missed := self._dropped.pop(client, 0)) and lines:
            words = f"bootfarm: {missed} datagrams before this were too many, and left out"
            lines.insert(0, LogLine(words, 4))
        if lines:
            self._take(client, kind, lines)
