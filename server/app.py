"""The running server: binds everything first, then serves until it is told to stop."""

import asyncio
import dataclasses
import functools
import logging
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from server.assemble import (
    STOP_SECONDS,
    Assembly,
    Parts,
    Service,
    make_catalog,
    make_facts,
    make_keeper,
    make_token,
    open_sources,
    open_state,
)
from server.boottree import Site
from server.catalog import warm_up
from server.config import Config
from server.diagnosis import FarmFacts, Finding, diagnose
from server.events import Event
from server.feed import Changes, Feed
from server.identity import Identifier, make_identifier
from server.keeping import COLLECT_SECONDS, Keeper
from server.logbook import LogBook
from server.ltsconf.template import shared_checker, shared_renderer
from server.measure import make_metrics
from server.nodes import Node, Nodes
from server.overview import Overview
from server.protocols.logs import LogLine, find_panic
from server.recording import Recorder
from server.secrecy import Secrecy
from server.services.hotloop import HotLoop
from server.services.nbd import NbdService
from server.services.workers import PooledNbd

POLL_SECONDS = 1.0
NAMES_SECONDS = 0.2
WORKERS_POLL_SECONDS = 0.1
SAVE_SECONDS = 2.0
SAVE_AT_ONCE = 200
LOOK_SECONDS = 0.25
CHANGES_SECONDS = 1.0
IN_USE_SECONDS = 1.0
_log = logging.getLogger(__name__)


class App:
    """One server process. `run` binds, says so, serves, and returns after SIGTERM or SIGINT."""

    def __init__(
        self,
        config: Config,
        loop: HotLoop,
        problems: Sequence[str] = (),
    ) -> None:
        self.config = config
        self._loop = loop
        self._failures: dict[str, str] = {text: text for text in problems}
        self._facts: tuple[Site, FarmFacts] | None = None
        self._stopping = loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._state = open_state(config.state)
        self._keeper = make_keeper(config, self._state)
        self.sources = open_sources(config)
        self.identifier = make_identifier(config.inventory, config.address_map, config.hosts_file)
        self.nodes = Nodes(
            functools.partial(_identify, self.identifier),
            limit=config.max_nodes,
            events=config.events_per_node,
        )
        self.secrecy = Secrecy(
            lambda: self.sources.secrets.current, lambda: self.sources.ltsconf.current
        )
        self.feed = Feed()
        self.token = make_token(config)

        self._recorder = Recorder(config.record_boot) if config.record_boot is not None else None
        # Only who shows them keeps them: processes that share a state directory
        # would overwrite each other's.
        self._timelines = (
            self._state / "nodes" if self._state is not None and "http" in config.services else None
        )
        if self._timelines is not None:
            self.nodes.load(self._timelines)
        self.logbook = LogBook(
            self._state / "logs" if self._timelines is not None and self._state else None,
            limit=config.logs.bytes,
            nodes=config.logs.nodes,
        )
        self.logbook.load()
        self.metrics = make_metrics(
            self.sources,
            services=lambda: self.services,
            pool=lambda: self._pool,
            problems=self._problems,
            farm=lambda: make_facts(config, self.sources),
            max_nodes=config.max_nodes,
        )
        self.overview = Overview(
            self.nodes, self._diagnose, functools.partial(_find_serial, config)
        )
        self.metrics.seed(self.nodes.nodes())
        self.nodes.watch(self.metrics.change)
        self.changes = Changes()
        catalog = make_catalog(self.sources, config)
        self.tree = catalog.make_tree(self.sources.site, self.identifier, self.record)
        self._warm_up()
        self.sources.on_change(self._warm_up)
        assembly = Assembly(
            Parts(
                config=config,
                loop=loop,
                state=self._state,
                sources=self.sources,
                identifier=self.identifier,
                nodes=self.nodes,
                overview=self.overview,
                feed=self.feed,
                metrics=self.metrics,
                changes=self.changes,
                secrecy=self.secrecy,
                logbook=self.logbook,
                token=self.token,
                tree=self.tree,
                record=self.record,
                health=self.health,
            )
        )
        self._pool = assembly.pool
        self._data = assembly.make_data_services()
        self._dhcp = assembly.make_dhcp()
        self.services: dict[str, Service] = {**self._data}
        self._dns = assembly.make_dns()
        if self._dns is not None:
            self.services["dns"], directory = self._dns
            for node in self.nodes.nodes():
                directory.change(node.key, node)
            self.nodes.watch(directory.change)
        if self._dhcp is not None:
            self.services["dhcp"] = self._dhcp
        self._logs = assembly.make_logs(self._take_lines)
        if self._logs is not None:
            self.services["logs"] = self._logs

    def ports(self) -> dict[str, tuple[int, ...]]:
        """The ports of each service."""
        ports: dict[str, tuple[int, ...]] = {
            name: (service.port,) for name, service in self._data.items()
        }
        if self._dhcp is not None:
            ports["dhcp"] = self._dhcp.ports
        if self._dns is not None:
            ports["dns"] = (self._dns[0].port,)
        if self._logs is not None:
            ports |= {kind: (port,) for kind, port in self._logs.ports.items()}
        return ports

    def _warm_up(self) -> None:
        warm_up(self.sources.current)

    # The one door

    def record(self, event: Event) -> None:
        """Take an event of a service: into the timelines, and errors into the log."""
        if event.phase == "reads":
            self._record_boot(event, None)
            return
        event = self.secrecy.mask_event(event)
        if event.detail.get("status") == "error":
            words = " ".join(f"{key}={value}" for key, value in event.detail.items())
            _log.warning("%s %s %s: %s", event.node, event.source, event.phase, words)
        else:
            _log.debug("%s %s %s: %s", event.node, event.source, event.phase, dict(event.detail))
        self.metrics.record(event)
        if event.phase == "traffic":
            return  # of no node
        node = self.nodes.record(event)
        self._record_boot(event, node)
        self.feed.record(event, node)
        if node is not None:
            self.overview.note(node.key)
            self.changes.note(node.key)

    def _take_lines(self, client: str, source: str, lines: list[LogLine]) -> None:
        """Take lines of a node's kernel or syslog; of who is no node that was seen, nothing."""
        mac, _ = _identify(self.identifier, client)
        node = self.nodes.get(mac or client) or self.nodes.get(client)
        if node is None:
            return
        if node.key != client:
            self.logbook.move(client, node.key)
        masked = [dataclasses.replace(line, text=self.secrecy.mask(line.text)) for line in lines]
        self.logbook.add(node.key, node.boots, source, masked, time.time())
        self.changes.note(node.key)
        boot, words = node.boot, find_panic(masked)
        if words is not None and boot is not None and "panic" not in boot.facts:
            detail = {"status": "error", "message": words, "panic": words}
            phase = boot.last_phase() or "initramfs"
            self.record(Event(time.time(), client, source, phase, detail))

    def _record_boot(self, event: Event, node: Node | None) -> None:
        if self._recorder is not None:
            self._recorder.take(event, node)

    def _problems(self) -> list[str]:
        problems = [*self.sources.problems(), *self._failures.values()]
        if self.token is not None and self.token.problem:
            problems.append(self.token.problem)
        # A refused lts.conf is told with the line that is wrong.
        return [self.secrecy.mask(problem) for problem in problems]

    def _diagnose(self, node: Node, now: float) -> Finding | None:
        site = self.sources.current
        if self._facts is None or self._facts[0] is not site:
            self._facts = (site, make_facts(self.config, self.sources))
        return diagnose(node, now, self._facts[1])

    def _look_around(self) -> None:
        """Keep the states of nodes up to date, and tell of those that changed by silence."""
        for key in self.overview.turn(time.time()):
            self.changes.note(key)

    def health(self) -> dict[str, Any]:
        """What /healthz says: `degraded` where something wants a person, but others are served."""
        problems = self._problems()
        images: dict[str, dict[str, str]] = {}
        for image in self.sources.store.images:
            for tag in image.tags:
                images.setdefault(image.name, {})[tag] = image.digest
        return {
            "status": "degraded" if problems else "ok",
            "problems": problems,
            "images": images,
            "exports": sorted(self.config.exports),
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
        if self._dns is not None:
            self._dns[1].turn()
            self._repeat(NAMES_SECONDS, self._dns[1].turn)
        self._repeat(POLL_SECONDS, lambda: self.metrics.findings.advance(time.time()))
        if self._pool is not None:
            # Workers cannot look themselves, so the parent looks often.
            self._repeat(WORKERS_POLL_SECONDS, self.sources.site)
        self._repeat(SAVE_SECONDS, self._save)
        if self._recorder is not None:
            self._repeat(POLL_SECONDS, self._recorder.poll)
        self._repeat(LOOK_SECONDS, self._look_around)
        self._repeat(CHANGES_SECONDS, self.changes.flush)
        if self._keeper is not None:
            # Nodes of the server before this one have their time to come back.
            self._note_in_use(self._keeper)
            self._repeat(IN_USE_SECONDS, functools.partial(self._note_in_use, self._keeper))
            self._repeat(COLLECT_SECONDS, functools.partial(self._collect, self._keeper))
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
        if self._recorder is not None:
            self._recorder.close()
        shared_renderer().close()
        shared_checker().close()
        self._save(None)

    def _save(self, most: int | None = SAVE_AT_ONCE) -> None:
        if self._timelines is None:
            return
        try:
            self.nodes.save(self._timelines, most)
            self.logbook.save(most)
        except OSError as error:
            words = f"timelines and logs cannot be written to {self._state}: {error.strerror}"
            self._fail("state", words)
        else:
            self._failures.pop("state", None)

    def _note_in_use(self, keeper: Keeper) -> None:
        """Write down which images nodes are attached to, where that has changed."""
        service = self._data["nbd"]
        assert isinstance(service, NbdService | PooledNbd)
        try:
            keeper.note([digest for digest in service.connections() if digest])
        except OSError as error:
            self._fail("in-use", f"{self._state}/in-use.d: {error.strerror}")
        else:
            self._failures.pop("in-use", None)

    def _collect(self, keeper: Keeper) -> None:
        """Have images removed that nobody needs any more."""
        keeper.collect(self.sources.store.images)
        if keeper.problem:
            self._fail("collect", keeper.problem)
        else:
            self._failures.pop("collect", None)

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


def _find_serial(config: Config, mac: str) -> str:
    """The serial number that the inventory has of a machine, or ""."""
    machine = config.inventory.by_mac.get(mac)
    return (machine.serial or "") if machine is not None else ""


def _identify(identifier: Identifier, ip: str) -> tuple[str | None, str | None]:
    identity = identifier.identify(ip)
    return identity.mac, identity.hostname


def serve(config: Config, ready: Callable[[App], None], problems: Sequence[str] = ()) -> None:
    """Run a server in this process until it is told to stop.

    problems: what /healthz tells from the start on (`degraded`), a line each.
    """
    loop = HotLoop()
    try:
        app = App(config, loop, problems)
        loop.run_until_complete(app.run(ready))
    finally:
        loop.close()
