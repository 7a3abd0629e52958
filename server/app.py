"""The running server: binds everything first, then serves until it is told to stop."""

import asyncio
import dataclasses
import functools
import logging
import signal
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from imagebuild.inuse import InUse, read_in_use, write_in_use
from server.boottree import Site
from server.catalog import SiteCatalog, warm_up
from server.config import Config, apply_limits
from server.errors import ServerError
from server.events import Event
from server.identity import Identifier, make_identifier
from server.loaders import make_find_loaders
from server.ltsconf.template import shared_checker, shared_renderer
from server.nodes import Nodes
from server.protocols.http import HttpLimits
from server.secretsource import SecretsSource
from server.services.dhcp import DhcpService, Range, parse_range
from server.services.http import HttpService
from server.services.nbd import NbdLimits, NbdService
from server.services.ratelimit import RateLimit
from server.services.tftp import TftpLimits, TftpService
from server.services.workers import PooledNbd, WorkerPool
from server.sources import LtsConfSource, Sources, StoreSource
from server.web.routes import Web, handle

STOP_SECONDS = 4.0
"""What is under way may take so long after SIGTERM."""
POLL_SECONDS = 1.0
WORKERS_POLL_SECONDS = 0.1
SAVE_SECONDS = 2.0
SAVE_AT_ONCE = 200
IN_USE_SECONDS = 1.0
BEACONS_PER_SECOND = 10.0
_log = logging.getLogger(__name__)

T = TypeVar("T")
L = TypeVar("L", TftpLimits, NbdLimits)


class Service(Protocol):
    """What each service is to the app."""

    def bind(self) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> Coroutine[Any, Any, None]: ...


class OnePort(Service, Protocol):
    """A service that listens on one port."""

    @property
    def port(self) -> int: ...


class App:
    """One server process. `run` binds, says so, serves, and returns after SIGTERM or SIGINT."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self._loop = loop
        self._failures: dict[str, str] = {}
        self._stopping = loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._state = _open_state(config.state)
        self._in_use = read_in_use(self._state) if self._state is not None else InUse()
        self.sources = _open_sources(config)
        self.identifier = make_identifier(config.inventory, config.address_map, config.hosts_file)
        self.nodes = Nodes(
            functools.partial(_identify, self.identifier),
            limit=config.max_nodes,
            events=config.events_per_node,
        )
        if self._state is not None:
            self.nodes.load(self._state / "nodes")
        self.tree = self._catalog().make_tree(self.sources.site, self.identifier, self.record)
        self._warm_up()
        self.sources.on_change(self._warm_up)
        self._pool = self._make_pool()
        self._data = self._make_services()
        self._dhcp = self._make_dhcp()
        self.services: dict[str, Service] = {**self._data}
        if self._dhcp is not None:
            self.services["dhcp"] = self._dhcp

    def ports(self) -> dict[str, tuple[int, ...]]:
        """The ports of each service."""
        ports: dict[str, tuple[int, ...]] = {
            name: (service.port,) for name, service in self._data.items()
        }
        if self._dhcp is not None:
            ports["dhcp"] = self._dhcp.ports
        return ports

    def _make_dhcp(self) -> DhcpService | None:
        """DHCP beside another server, or alone; ServerError when its settings do not fit."""
        config = self.config
        if config.dhcp == "off":
            if config.dhcp_range is not None:
                raise ServerError(
                    f"dhcp_range {config.dhcp_range} is given, and nothing gives addresses",
                    hint="add `--dhcp full` (`dhcp: full` in farm.yaml), or leave the range out",
                )
            return None
        proxy = config.dhcp == "proxy"
        return DhcpService(
            self._loop,
            mode="proxy" if proxy else "full",
            find_loaders=make_find_loaders(
                self.sources.site,
                config.inventory,
                proxy=proxy,
                only_listed=config.unlisted == "refuse",
            ),
            emit=self.record,
            address=config.address or config.listen,
            http_port=config.http.port or None if "http" in config.services else None,
            addresses=_read_range(config) if config.dhcp_range is not None else None,
            state=self._state,
        )

    def _make_services(self) -> dict[str, OnePort]:
        config, loop = self.config, self._loop
        makers: dict[str, Callable[[], OnePort]] = {
            "tftp": self._make_tftp,
            "nbd": self._make_nbd,
            "http": lambda: HttpService(
                loop,
                address=config.listen,
                port=config.http.port,
                handle=functools.partial(handle, self._make_web()),
                emit=self.record,
                limits=self._limits(HttpLimits(), "http"),
            ),
        }
        return {name: makers[name]() for name in config.services}

    def _make_tftp(self) -> OnePort:
        config = self.config
        limits = _short_stop(self._limits(TftpLimits(), "tftp"), "stop_seconds")
        if self._pool is not None:
            return self._pool.tftp(
                address=config.listen,
                port=config.tftp.port,
                limits=limits,
                single_port=config.single_port,
            )
        return TftpService(
            self._loop,
            address=config.listen,
            port=config.tftp.port,
            lookup=self.tree.lookup,
            emit=self.record,
            limits=limits,
            single_port=config.single_port,
        )

    def _make_nbd(self) -> OnePort:
        config = self.config
        limits = _short_stop(self._limits(NbdLimits(), "nbd"), "close_seconds")
        if self._pool is not None:
            return self._pool.nbd(address=config.listen, port=config.nbd.port, limits=limits)
        return NbdService(
            self._loop,
            address=config.listen,
            port=config.nbd.port,
            exports=self.tree.export,
            list_exports=self.tree.list_exports,
            emit=self.record,
            limits=limits,
        )

    def _catalog(self) -> SiteCatalog:
        return SiteCatalog(self.sources.current, self.config)

    def _warm_up(self) -> None:
        warm_up(self.sources.current)

    def _make_pool(self) -> WorkerPool | None:
        """The worker processes, if any are wanted and there is something for them to do."""
        if self.config.workers < 1 or not {"tftp", "nbd"} & set(self.config.services):
            return None
        pool = WorkerPool(
            self._loop,
            count=self.config.workers,
            catalog=self._catalog(),
            emit=self.record,
        )
        self.sources.on_change(lambda: pool.update(self._catalog()))
        return pool

    def _limits(self, defaults: T, service: str) -> T:
        limits = getattr(self.config, service).limits
        return apply_limits(defaults, limits, f"{self.config.source}: {service}.limits")

    def _make_web(self) -> Web:
        beacons = RateLimit(BEACONS_PER_SECOND, 5 * BEACONS_PER_SECOND)
        return Web(
            lookup=self.tree.lookup,
            identifier=self.identifier,
            nodes=self.nodes,
            health=self.health,
            emit=self.record,
            allow=lambda client: beacons.allow(client, self._loop.time()),
        )

    # The one door

    def record(self, event: Event) -> None:
        """Take an event of a service: into the timelines, and errors into the log."""
        if event.detail.get("status") == "error":
            words = " ".join(f"{key}={value}" for key, value in event.detail.items())
            _log.warning("%s %s %s: %s", event.node, event.source, event.phase, words)
        else:
            _log.debug("%s %s %s: %s", event.node, event.source, event.phase, dict(event.detail))
        self.nodes.record(event)

    def health(self) -> dict[str, Any]:
        """What /healthz says: `degraded` where something wants a person, but others are served."""
        problems = [*self.sources.problems(), *self._failures.values()]
        images: dict[str, dict[str, str]] = {}
        for image in self.sources.store.images:
            for tag in image.tags:
                images.setdefault(image.name, {})[tag] = image.digest
        return {
            "status": "degraded" if problems else "ok",
            "problems": problems,
            "images": images,
            "services": {
                name: ports[0] if len(ports) == 1 else list(ports)
                for name, ports in self.ports().items()
            },
            "nodes": len(self.nodes),
        }

    # Life

    def bind(self) -> None:
        """Take every port; ServerError names the first that cannot be had, and its owner."""
        for service in self.services.values():
            service.bind()

    async def run(self, ready: Callable[["App"], None] = lambda app: None) -> None:
        """Bind, start, call `ready`, serve; on SIGTERM or SIGINT stop within 5 seconds."""
        self.bind()
        self._loop.set_exception_handler(self._on_failure)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop, signal.Signals(number).name)
        for service in self.services.values():
            service.start()
        self._repeat(POLL_SECONDS, self.sources.poll)
        if self._pool is not None:
            # Workers cannot look themselves, so the parent looks often.
            self._repeat(WORKERS_POLL_SECONDS, self.sources.site)
        self._repeat(SAVE_SECONDS, self._save)
        if self._state is not None and "nbd" in self.services:
            # Nodes of the server before this one have their time to come back.
            self._note_in_use()
            self._repeat(IN_USE_SECONDS, self._note_in_use)
        for problem in self.sources.problems():
            _log.warning("%s", problem)
        ready(self)
        try:
            _log.info("stopping: %s", await self._stopping)
        finally:
            await self._shut_down()

    def stop(self, why: str = "asked to") -> None:
        """Let `run` return."""
        if not self._stopping.done():
            self._stopping.set_result(why)

    async def _shut_down(self) -> None:
        for timer in self._timers:
            timer.cancel()
        tasks = {
            name: self._loop.create_task(service.stop()) for name, service in self.services.items()
        }
        await asyncio.wait(tasks.values(), timeout=STOP_SECONDS)
        for name, task in tasks.items():
            if not task.done():
                task.cancel()
                _log.error("%s did not stop within %s seconds", name, STOP_SECONDS)
            elif error := task.exception():
                _log.error("%s failed to stop: %s", name, error)
        shared_renderer().close()
        shared_checker().close()
        if self._state is not None:
            self._save(None)

    def _save(self, most: int | None = SAVE_AT_ONCE) -> None:
        if self._state is None:
            return
        try:
            self.nodes.save(self._state / "nodes", most)
        except OSError as error:
            self._fail("state", f"timelines cannot be written to {self._state}: {error.strerror}")
        else:
            self._failures.pop("state", None)

    def _note_in_use(self) -> None:
        """Write down which images nodes are attached to, where that has changed."""
        service = self._data.get("nbd")
        if self._state is None or not isinstance(service, NbdService | PooledNbd):
            return
        present = self._in_use.after(service.connections(), time.time())
        if present == self._in_use:
            return
        try:
            write_in_use(self._state, present)
        except OSError as error:
            self._fail("in-use", f"{self._state}/in-use.json: {error.strerror}")
        else:
            self._failures.pop("in-use", None)
            self._in_use = present

    def _repeat(self, seconds: float, action: Callable[[], object]) -> None:
        """Call `action` again and again; what it raises is told, and does not end it."""

        def turn() -> None:
            try:
                action()
            except Exception:
                _log.exception("a regular duty failed")
            self._timers.remove(handles[0])
            again()

        handles: list[asyncio.TimerHandle] = []

        def again() -> None:
            handles[:] = [self._loop.call_later(seconds, turn)]
            self._timers.append(handles[0])

        again()

    def _fail(self, who: str, message: str) -> None:
        if self._failures.get(who) != message:
            _log.error("%s", message)
        self._failures[who] = message

    def _on_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody caught: say whose it is, and keep the others going."""
        error = context.get("exception")
        who = _find_culprit(error) if isinstance(error, BaseException) else "server"
        self._fail(who, f"{who} failed: {error or context.get('message')}")
        if isinstance(error, BaseException):
            _log.error("%s", "".join(traceback.format_exception(error)))


def _find_culprit(error: BaseException) -> str:
    """The service in whose code an exception arose."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.parent.name in ("services", "protocols"):
            return path.stem.partition("_")[0]
    return "server"


def _identify(identifier: Identifier, ip: str) -> tuple[str | None, str | None]:
    identity = identifier.identify(ip)
    return identity.mac, identity.hostname


def _short_stop(limits: L, field: str) -> L:
    """Limits whose time for stopping fits into the app's."""
    seconds = min(getattr(limits, field), STOP_SECONDS - 2.0)
    return dataclasses.replace(limits, **{field: seconds})


def _read_range(config: Config) -> Range:
    """Full mode's addresses, those that the inventory reserves, and the machines' names."""
    machines = config.inventory.machines
    return dataclasses.replace(
        parse_range(config.dhcp_range or ""),
        reserved={machine.mac: machine.ip for machine in machines if machine.ip},
        hostnames={machine.mac: machine.hostname for machine in machines if machine.hostname},
    )


def _open_state(path: Path | None) -> Path | None:
    """The state directory, made and writable; ServerError when it cannot be."""
    if path is None:
        return None
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ServerError(
            f"--state {path}: {error.strerror}",
            hint="give a directory that the server's user may write to",
        ) from None
    return path


def _open_sources(config: Config) -> Sources:
    if config.store is None:
        raise ServerError(
            "no store is given", hint="--store DIR, or `store:` in farm.yaml: what `build` wrote"
        )
    if not config.store.is_dir():
        raise ServerError(
            f"--store {config.store}: there is no such directory",
            hint="build an image first (bootfarm build), or give its store",
        )
    store = StoreSource(config.store)
    store.poll()
    ltsconf = LtsConfSource(config.lts_conf, config.state)
    ltsconf.load_first()
    secrets = SecretsSource(config.secrets)
    secrets.load_first()
    base = Site(
        images=(),
        ltsconf=ltsconf.current,
        default_image=config.default_image,
        cmdline=config.cmdline,
        on_error=config.on_error,
        menu=config.menu,
        facts=config.facts,
    )
    return Sources(base, ltsconf, store, secrets)


def serve(config: Config, ready: Callable[[App], None]) -> None:
    """Run a server in this process until it is told to stop."""
    loop = asyncio.new_event_loop()
    try:
        app = App(config, loop)
        loop.run_until_complete(app.run(ready))
    finally:
        loop.close()
