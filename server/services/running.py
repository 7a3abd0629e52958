"""The services of this process, as they are made: what is bound, started, stopped and asked."""

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

from server.services.dhcp import DhcpService
from server.services.logs import LogsService
from server.services.nbd import NbdService
from server.services.workers import PooledNbd, WorkerPool


class Service(Protocol):
    """What each service is to the app.

    bind: takes its ports, raises HintedError where one is taken. start: answers from now on.
    stop: answers what is under way within its grace, then closes.
    """

    def bind(self) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> Coroutine[Any, Any, None]: ...


class OnePort(Service, Protocol):
    """A service that listens on one port."""

    @property
    def port(self) -> int: ...


class Running:
    """Services by name, in the order in which they are bound. pool: the worker processes, or None.

    Made first and filled last: what shows services (health, metrics) has this, and
    reads it when it is asked.
    """

    def __init__(self) -> None:
        self.pool: WorkerPool | None = None
        self.services: dict[str, Service] = {}
        self._single: dict[str, OnePort] = {}

    def add(self, name: str, service: OnePort) -> None:
        """Add a service with one port."""
        self.services[name] = self._single[name] = service

    def add_dhcp(self, service: DhcpService) -> None:
        """Add DHCP, which has two ports."""
        self.services["dhcp"] = service

    def add_logs(self, service: LogsService) -> None:
        """Add the receiver of logs, which has a port for each kind."""
        self.services["logs"] = service

    def ports(self) -> dict[str, tuple[int, ...]]:
        """The ports of each service. Of logs: syslog and netconsole, each by its own name."""
        ports: dict[str, tuple[int, ...]] = {}
        for name, service in self.services.items():
            if isinstance(service, LogsService):
                ports |= {kind: (port,) for kind, port in service.ports.items()}
            elif isinstance(service, DhcpService):
                ports[name] = service.ports
            else:
                ports[name] = (self._single[name].port,)
        return ports

    def attached(self) -> Mapping[str, Sequence[str]]:
        """Digest to the clients that are attached to it; {} where NBD is not served."""
        nbd = self.services.get("nbd")
        return nbd.connections() if isinstance(nbd, NbdService | PooledNbd) else {}


def find_owner(error: BaseException) -> str:
    """The service in whose call an exception arose: `owner` of the object that was called.

    From the loop inwards, so that a helper's fault is its caller's: a map that fails
    for an NBD client is NBD's. "server" where no service was called.
    """
    traceback = error.__traceback__
    while traceback is not None:
        owner = getattr(traceback.tb_frame.f_locals.get("self"), "owner", None)
        if isinstance(owner, str):
            return owner
        traceback = traceback.tb_next
    return "server"
