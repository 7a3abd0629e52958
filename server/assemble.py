"""The running server's parts, made from farm.yaml: state, sources, services, workers."""

import dataclasses
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from server.boottree import BootTree, Site
from server.catalog import SiteCatalog
from server.config import Config, apply_limits
from server.diagnosis import FarmFacts
from server.directory import Directory, surround
from server.errors import ServerError
from server.events import Emit
from server.explaining import Explainer
from server.extras import Extras, open_extras
from server.feed import Changes, Feed
from server.identity import Identifier
from server.keeping import Keeper
from server.kubernetes.api import find_api
from server.kubernetes.refusals import Refusals
from server.loaders import make_find_loaders
from server.logbook import LogBook
from server.metrics.metrics import Metrics
from server.nodes import Nodes
from server.overview import Overview
from server.protocols.dns import DnsServer, Zone
from server.protocols.http import HttpLimits, Request, Response
from server.secrecy import Secrecy
from server.secretsource import SecretsSource
from server.services.dhcp import DhcpLimits, DhcpService, Range, parse_range
from server.services.dns import DnsLimits, DnsService
from server.services.hotloop import HotLoop
from server.services.http import HttpService
from server.services.logs import LogsService, Take
from server.services.nbd import NbdLimits, NbdService
from server.services.ratelimit import RateLimit
from server.services.tftp import TftpLimits, TftpService
from server.services.workers import WorkerPool
from server.sources import LtsConfSource, NoStore, Sources, StoreSource, format_reason
from server.web.access import Access, Token
from server.web.routes import Web, handle

STOP_SECONDS = 4.0
"""What is under way may take so long after SIGTERM."""
BEACONS_PER_SECOND = 10.0
LOOKS_PER_SECOND = 20.0
"""Pages and answers of the API, for one address."""
TRIES_PER_SECOND = 0.1
"""Tokens that may be tried in the form, by one address; five at once."""
ROOT = "rootfs.squashfs"
LAST_WORDS_SECONDS = 5.0
"""So long may it take to tell the cluster why the server cannot start."""

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


@dataclass(frozen=True)
class Parts:
    """What services are made of. record: the door for events. health: the answer of /healthz."""

    config: Config
    loop: HotLoop
    state: Path | None
    sources: Sources
    identifier: Identifier
    nodes: Nodes
    overview: Overview
    feed: Feed
    metrics: Metrics
    changes: Changes
    secrecy: Secrecy
    logbook: LogBook
    token: Token | None
    tree: BootTree
    record: Emit
    health: Callable[[], Mapping[str, Any]]

    def facts(self) -> FarmFacts:
        """What the diagnosis knows of the farm now."""
        return make_facts(self.config, self.sources)


class Assembly:
    """Makes each service from the parts. pool: the worker processes, None without them."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.pool = self._make_pool()

    def make_data_services(self) -> dict[str, OnePort]:
        """What `services` names: TFTP, NBD, HTTP."""
        config, loop = self.parts.config, self.parts.loop
        makers: dict[str, Callable[[], OnePort]] = {
            "tftp": self._make_tftp,
            "nbd": self._make_nbd,
            "http": lambda: HttpService(
                loop,
                address=config.listen,
                port=config.http.port,
                handle=self._make_handler(),
                emit=self.parts.record,
                limits=self._limits(HttpLimits(), "http"),
            ),
        }
        return {name: makers[name]() for name in config.services}

    def _make_tftp(self) -> OnePort:
        config = self.parts.config
        limits = _short_stop(self._limits(TftpLimits(), "tftp"), "stop_seconds")
        if self.pool is not None:
            return self.pool.tftp(
                address=config.listen,
                port=config.tftp.port,
                limits=limits,
                single_port=config.single_port,
            )
        return TftpService(
            self.parts.loop,
            address=config.listen,
            port=config.tftp.port,
            lookup=self.parts.tree.lookup,
            emit=self.parts.record,
            limits=limits,
            single_port=config.single_port,
        )

    def _make_nbd(self) -> OnePort:
        config = self.parts.config
        limits = _short_stop(self._limits(NbdLimits(), "nbd"), "close_seconds")
        record = config.record_boot is not None
        if self.pool is not None:
            return self.pool.nbd(
                address=config.listen, port=config.nbd.port, limits=limits, record=record
            )
        return NbdService(
            self.parts.loop,
            address=config.listen,
            port=config.nbd.port,
            exports=self.parts.tree.export,
            list_exports=self.parts.tree.list_exports,
            emit=self.parts.record,
            limits=limits,
            record=record,
        )

    def make_dhcp(self) -> DhcpService | None:
        """DHCP beside another server, or alone; ServerError when its settings do not fit."""
        config = self.parts.config
        if config.dhcp == "off":
            if config.dhcp_range is not None:
                raise ServerError(
                    f"dhcp_range {config.dhcp_range} is given, and nothing gives addresses",
                    hint="add `--dhcp full` (`dhcp: full` in farm.yaml), or leave the range out",
                )
            return None
        proxy = config.dhcp == "proxy"
        return DhcpService(
            self.parts.loop,
            mode="proxy" if proxy else "full",
            find_loaders=make_find_loaders(
                self.parts.sources.site,
                config.inventory,
                proxy=proxy,
                only_listed=config.unlisted == "refuse",
            ),
            emit=self.parts.record,
            address=config.address or config.listen,
            http_port=config.http.port or None if "http" in config.services else None,
            addresses=_read_range(config) if config.dhcp_range is not None else None,
            state=self.parts.state,
            limits=apply_limits(DhcpLimits(), config.dhcp_limits, f"{config.source}: dhcp_limits"),
        )

    def make_logs(self, take: Take) -> LogsService | None:
        """Where syslog and netconsole are received: by the process that shows them."""
        config = self.parts.config
        if not config.logs.ports or "http" not in config.services:
            return None
        return LogsService(
            self.parts.loop, address=config.listen, ports=config.logs.ports, take=take
        )

    def _catalog(self) -> SiteCatalog:
        return SiteCatalog(self.parts.sources.current, self.parts.config)

    def make_dns(self) -> tuple[DnsService, Directory] | None:
        """DNS for the farm's zone, and the names in it; ServerError when it has no address."""
        config, zone = self.parts.config, self.parts.config.dns
        if zone is None:
            return None
        listen = zone.listen or config.listen
        address = config.address or (None if listen == "0.0.0.0" else listen)
        if address is None:
            raise ServerError(
                f"dns: {zone.server}.{zone.zone} has no address: the server listens on all of its",
                hint="set `address:` in farm.yaml (--address) to the one that nodes shall use",
            )
        fixed = {zone.server: address, **zone.names}
        machines = {machine.mac: machine.ip for machine in config.inventory.machines if machine.ip}
        networks = surround([*fixed.values(), *machines.values()], zone.networks)
        directory = Directory(
            lambda: self.parts.sources.current, self.parts.identifier, fixed, networks, machines
        )
        server = DnsServer(
            Zone(zone.zone, address, networks, zone.server, zone.ttl), lambda: directory.names
        )
        service = DnsService(
            self.parts.loop,
            address=listen,
            port=zone.port,
            server=server,
            limits=apply_limits(DnsLimits(), zone.limits, f"{config.source}: dns.limits"),
        )
        return service, directory

    def _make_pool(self) -> WorkerPool | None:
        """The worker processes, if any are wanted and there is something for them to do."""
        count = self.parts.config.workers or 0
        if count < 1 or not {"tftp", "nbd"} & set(self.parts.config.services):
            return None
        pool = WorkerPool(
            self.parts.loop,
            count=count,
            catalog=make_catalog(self.parts.sources, self.parts.config),
            emit=self.parts.record,
        )
        sources, config = self.parts.sources, self.parts.config
        sources.on_change(lambda: pool.update(make_catalog(sources, config)))
        return pool

    def _limits(self, defaults: T, service: str) -> T:
        limits = getattr(self.parts.config, service).limits
        return apply_limits(defaults, limits, f"{self.parts.config.source}: {service}.limits")

    def _make_handler(self) -> Callable[[Request], Response]:
        web, metrics = self.make_web(), self.parts.metrics

        def answer(request: Request) -> Response:
            try:
                response = handle(web, request)
            except Exception:
                metrics.count_request(request.path, 500)
                raise
            metrics.count_request(request.path, response.status)
            return response

        return answer

    def _make_access(self) -> Access:
        token = self.parts.token
        if token is None:
            return Access()
        tries = RateLimit(TRIES_PER_SECOND, 5.0)
        return Access(
            lambda: token.value, lambda client: tries.allow(client, self.parts.loop.time())
        )

    def make_web(self) -> Web:
        looks = RateLimit(LOOKS_PER_SECOND, 5 * LOOKS_PER_SECOND)
        beacons = RateLimit(BEACONS_PER_SECOND, 5 * BEACONS_PER_SECOND)
        return Web(
            lookup=self.parts.tree.lookup,
            identifier=self.parts.identifier,
            nodes=self.parts.nodes,
            overview=self.parts.overview,
            feed=self.parts.feed,
            metrics=self.parts.metrics.render,
            changes=self.parts.changes,
            logbook=self.parts.logbook,
            hears_logs=bool(self.parts.config.logs.ports),
            access=self._make_access(),
            allow_look=lambda client: looks.allow(client, self.parts.loop.time()),
            explainer=Explainer(self.parts.sources.site, self.parts.identifier, self.parts.secrecy),
            health=self.parts.health,
            emit=self.parts.record,
            allow=lambda client: beacons.allow(client, self.parts.loop.time()),
            facts=self.parts.facts,
            whole_tree=self.parts.config.boot_tree is not None,
        )


def make_token(config: Config) -> Token | None:
    """The token of the page and the API; ServerError when its file is not good."""
    return Token(config.token_file) if config.token_file is not None else None


def make_facts(config: Config, sources: Sources) -> FarmFacts:
    """What the diagnosis knows of the farm."""
    listen = "" if config.listen == "0.0.0.0" else config.listen
    return FarmFacts(
        address=config.address or listen,
        tftp_port=config.tftp.port,
        http_port=config.http.port,
        nbd_port=config.nbd.port,
        dhcp=config.dhcp,
        single_port=config.single_port,
        images={
            image.digest: image.manifest.files[ROOT].size
            for image in sources.store.images
            if ROOT in image.manifest.files
        },
    )


def make_catalog(sources: Sources, config: Config) -> SiteCatalog:
    """What the present Site serves, as the data path takes it."""
    return SiteCatalog(sources.current, config)


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


def open_state(path: Path | None) -> Path | None:
    """The state directory, made and writable; ServerError when it cannot be."""
    if path is None:
        return None
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another process of this directory may be as far
    except OSError as error:
        raise ServerError(
            f"--state {path}: {error.strerror}",
            hint="give a directory that the server's user may write to",
        ) from None
    return path


def make_keeper(config: Config, state: Path | None) -> Keeper | None:
    """Who writes down the images that nodes read; None where NBD is not served or no state kept."""
    if config.collect_after is not None and state is None:
        raise ServerError(
            f"{config.source}: collect_after: which images nodes read is written nowhere",
            hint="give a `state` directory too",
        )
    if state is None or config.store is None or "nbd" not in config.services:
        return None
    return Keeper(config.store, state, collect_after=config.collect_after)


def _open_ltsconf(config: Config, secrecy: Secrecy) -> LtsConfSource:
    """lts.conf, read for the first time; in a cluster a refused one is told by an Event."""
    api = find_api(os.environ)
    # Whoever gives lts.conf to nodes tells, so a process for NBD alone does not.
    if config.configmap is None or api is None or not {"tftp", "http"} & set(config.services):
        source = LtsConfSource(config.lts_conf, config.state)
        source.load_first()
        return source
    refusals = Refusals(api, config.configmap)

    def tell(reason: str) -> None:
        refusals.tell(secrecy.mask(reason))  # an error may quote what it is about

    source = LtsConfSource(config.lts_conf, config.state, refused=tell)
    try:
        source.load_first()
    except ServerError as error:
        tell(format_reason(error))
        refusals.close(LAST_WORDS_SECONDS)
        raise
    return source


def open_sources(config: Config) -> Sources:
    """Store, lts.conf and secrets, read for the first time; ServerError says which is bad."""
    extras = _open_extras(config)
    store = _open_store(config, extras)
    store.poll()
    secrets = SecretsSource(config.secrets)
    secrets.load_first()
    ltsconf = _open_ltsconf(config, Secrecy(lambda: secrets.current))
    base = Site(
        images=(),
        ltsconf=ltsconf.current,
        default_image=config.default_image,
        cmdline=config.cmdline,
        on_error=config.on_error,
        menu=config.menu,
        unlisted=config.unlisted,
        facts=config.facts,
        extras=extras,
    )
    return Sources(base, ltsconf, store, secrets)


def _open_store(config: Config, extras: Extras) -> StoreSource:
    """The store; with something else to serve, there need not be one."""
    if config.store is None:
        if extras:
            return NoStore()
        raise ServerError(
            "no store is given", hint="--store DIR, or `store:` in farm.yaml: what `build` wrote"
        )
    if not config.store.is_dir():
        raise ServerError(
            f"--store {config.store}: there is no such directory",
            hint="build an image first (bootfarm build), or give its store",
        )
    return StoreSource(config.store)


def _open_extras(config: Config) -> Extras:
    """The further exports and the folder, looked at; ServerError if no service would serve them."""
    for given, flag, wanted in (
        (config.exports, "--export", {"nbd"}),
        (config.boot_tree, "--boot-tree", {"tftp", "http"}),
    ):
        if given and not wanted & set(config.services):
            raise ServerError(
                f"{flag} is given, and no service serves it",
                hint=f"run {' or '.join(sorted(wanted))} too (--services)",
            )
    return open_extras(config.exports, config.boot_tree)
