"""A data-path worker: a process that serves TFTP and NBD on sockets it was given.

It knows what its parent tells it: a catalog, replaced as a whole. It ends when
the parent says so, or is gone; signals meant for the parent it ignores.
"""

import asyncio
import ctypes
import pickle
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from server.content import Content, Export
from server.dumps import refuse_dumps
from server.events import Emit, Event
from server.services.hotloop import HotLoop
from server.services.limits import NbdLimits, TftpLimits
from server.services.nbd import NbdService
from server.services.pipe import Pipe
from server.services.tftp import TftpService

EVENT_DELAY: Final = 0.02
"""Seconds; events are sent to the parent in batches this far apart."""
STOP_SECONDS: Final = 10.0
"""For what a worker's services have under way, and then for its last events."""
_PR_SET_NAME: Final = 15


class Catalog(Protocol):
    """What a worker serves. It is pickled in the parent, and then belongs to the worker.

    open: called in the worker before anything else; emit goes to the parent's door.
    The others are those of BootTree and may not raise anything but what is said there.
    """

    def open(self, emit: Emit) -> None: ...
    def lookup(self, path: str, client_ip: str) -> Content: ...
    def export(self, name: str, client_ip: str) -> Export | None: ...
    def list_exports(self, client_ip: str) -> Sequence[str]: ...
    def is_known(self, client_ip: str) -> bool: ...
    def card(self, client_ip: str) -> str: ...


@dataclass(frozen=True)
class TftpPart:
    """TFTP in a worker. fd: its socket, bound."""

    fd: int
    limits: TftpLimits
    single_port: bool


@dataclass(frozen=True)
class NbdPart:
    """NBD in a worker. fd: the listening socket, shared with the other workers."""

    fd: int
    limits: NbdLimits
    record: bool = False
    spare_local: bool = False


@dataclass(frozen=True)
class Start:
    """The first message to a worker."""

    number: int
    catalog: bytes
    """Pickled, so that it is packed once for all workers."""
    tftp: TftpPart | None
    nbd: NbdPart | None


@dataclass(frozen=True)
class Replace:
    """A new catalog, pickled; what was attached before stays attached."""

    catalog: bytes


@dataclass(frozen=True)
class Stop:
    """End transfers and connections, then exit."""


@dataclass(frozen=True)
class Ready:
    """The worker's answer to Start."""


@dataclass(frozen=True)
class Events:
    """What the worker's services saw."""

    events: list[Event]


class Worker:
    """The inside of a worker process."""

    def __init__(self, loop: HotLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._catalog: Catalog | None = None
        self._services: list[TftpService | NbdService] = []
        self._events: list[Event] = []
        self._done = loop.create_future()
        self._pipe = Pipe(loop, sock, self._on_message, self._finish)

    async def run(self) -> None:
        """Serve until the parent says stop, or is gone."""
        await self._done
        stops = [asyncio.ensure_future(service.stop()) for service in self._services]
        if stops:
            await asyncio.wait(stops, timeout=STOP_SECONDS)
        self._send_events()
        await asyncio.wait_for(self._pipe.drain(), STOP_SECONDS)
        self._pipe.close()

    def _on_message(self, message: Any) -> None:
        match message:
            case Start():
                try:
                    self._start(message)
                except Exception as error:
                    self._done.set_exception(error)  # the process ends with it
                    return
                self._pipe.send(Ready())
            case Replace():
                self._replace(message.catalog)
            case Stop():
                self._finish()
            case _:
                raise TypeError(f"no message for a worker: {message!r}")

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _start(self, start: Start) -> None:
        _set_name(f"bootfarm-{start.number}")
        self._replace(start.catalog)
        if start.tftp is not None:
            self._services.append(
                TftpService(
                    self._loop,
                    address="",
                    port=0,
                    lookup=lambda path, client: self.catalog.lookup(path, client),
                    emit=self._emit,
                    limits=start.tftp.limits,
                    single_port=start.tftp.single_port,
                    listener=_take(start.tftp.fd),
                    is_known=lambda client: self.catalog.is_known(client),
                )
            )
        if start.nbd is not None:
            self._services.append(
                NbdService(
                    self._loop,
                    address="",
                    port=0,
                    exports=lambda name, client: self.catalog.export(name, client),
                    list_exports=lambda client: self.catalog.list_exports(client),
                    emit=self._emit,
                    limits=start.nbd.limits,
                    listener=_take(start.nbd.fd),
                    is_known=lambda client: self.catalog.is_known(client),
                    card=lambda client: self.catalog.card(client),
                    spare_local=start.nbd.spare_local,
                    record=start.nbd.record,
                )
            )
        for service in self._services:
            service.bind()
            service.start()

    @property
    def catalog(self) -> Catalog:
        """The present catalog. Raises RuntimeError before Start."""
        if self._catalog is None:
            raise RuntimeError("the worker was not started")
        return self._catalog

    def _replace(self, pickled: bytes) -> None:
        catalog: Catalog = pickle.loads(pickled)
        catalog.open(self._emit)
        self._catalog = catalog

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) == 1:
            self._loop.call_later(EVENT_DELAY, self._send_events)

    def _send_events(self) -> None:
        if self._events:
            self._pipe.send(Events(self._events))
            self._events = []


def _take(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


def _set_name(name: str) -> None:
    """What `ps` and `top` show."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def main(fd: int) -> None:
    """Be a worker whose parent is at the other end of a socket."""
    refuse_dumps()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, HotLoop)
        await Worker(loop, socket.socket(fileno=fd)).run()

    with asyncio.Runner(loop_factory=HotLoop) as runner:
        runner.run(run())
