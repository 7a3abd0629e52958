"""The running server's parts, made from farm.yaml: state, sources, services, workers."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from imagebuild.store.manifest import ROOTFS
from imagebuild.wholefile import check_writable
from server.boot.catalog import SiteCatalog, find_address, warm_up
from server.boot.loaders import make_find_loaders
from server.boot.planner import Planner
from server.boot.rehearsal import Rehearser
from server.boot.tree import BootTree
from server.diagnosis import FarmFacts, Finding, diagnose
from server.errors import ServerError
from server.events import Emit, Event
from server.farm.config import Config, apply_limits, refuse_grub_beside_another
from server.farm.dns import DnsZone
from server.farm.extras import Extras, open_extras
from server.health import Health
from server.kubernetes.api import find_api
from server.kubernetes.refusals import Refusals
from server.ltsconf import LtsConf, NodeId
from server.machines.identity import Identifier, make_identifier
from server.machines.names import Directory, surround
from server.metrics.gather import make_metrics
from server.metrics.metrics import Metrics
from server.nodes.given import Printer, load_key
from server.nodes.node import Node
from server.nodes.timelines import Nodes
from server.observe.door import Door
from server.observe.feed import Changes, Feed
from server.observe.logbook import LogBook
from server.observe.overview import Overview
from server.observe.recording import Recorder
from server.observe.roots import Roots
from server.observe.secrecy import Secrecy
from server.protocols.dns import DnsServer, Zone
from server.protocols.http import HttpLimits, Request, Response
from server.services.dhcp import DhcpLimits, DhcpService, Range, parse_range
from server.services.dns import DnsLimits, DnsService
from server.services.hotloop import HotLoop
from server.services.http import HttpService
from server.services.logs import LogsService
from server.services.nbd import NbdLimits, NbdService
from server.services.ratelimit import RateLimit
from server.services.running import OnePort, Running
from server.services.tftp import TftpLimits, TftpService
from server.services.workers import WorkerPool
from server.site import Site, make_site
from server.sources.farm import FarmFile, FarmSource
from server.sources.images import News, NoStore, StoreSource
from server.sources.keeper import Keeper
from server.sources.ltsconf import LtsConfSource, format_reason
from server.sources.secrets import SecretsSource
from server.sources.sources import Sources
from server.sources.trial import Audience
from server.upkeep import Upkeep
from server.web.access import Access, Token
from server.web.explainer import Explainer
from server.web.hosts import Hosts
from server.web.join import answer_off
from server.web.routes import Web, handle

STOP_SECONDS = 4.0
"""What is under way may take so long after SIGTERM."""
SEEN_SECONDS = 7 * 86400.0
"""How long a machine that fell silent counts as one that lts.conf is for."""
BEACONS_PER_SECOND = 10.0
"""Reports of nodes, for one address; five seconds' worth may come at once."""
LOOKS_PER_SECOND = 20.0
"""Pages and answers of the API, for one address."""
JOINS_PER_SECOND = 5.0
"""Requests for a certificate, for one address; one is asked for again while it is under way."""
TRIES_PER_SECOND = 0.1
"""Tokens that may be tried in the form, by one address; five at once."""
LAST_WORDS_SECONDS = 5.0
"""So long may it take to tell the cluster why the server cannot start."""

T = TypeVar("T")
L = TypeVar("L", TftpLimits, NbdLimits)


@dataclass(frozen=True)
class Parts:
    """What a running server is made of: what App binds, runs, repeats and stops, and its door."""

    config: Config
    loop: HotLoop
    sources: Sources
    nodes: Nodes
    token: Token | None
    running: Running
    health: Health
    door: Door
    upkeep: Upkeep


def make_parts(
    config: Config,
    loop: HotLoop,
    problems: Sequence[str] = (),
    file: FarmFile | None = None,
) -> Parts:
    """Make all of them, in this order. ServerError says which setting does not fit.

    problems: what /healthz tells from the start on, a line each. file: what `config`
    was read from, to be read again after edits.
    """
    # What is served, and who is who.
    state = open_state(config.state)
    keeper = make_keeper(config, state)
    sources = open_sources(config, file)
    farm_source = sources.farm
    identifier = make_identifier(config.inventory, config.address_map, config.hosts_file)
    identify = functools.partial(_identify, identifier)
    # What is kept of nodes. Only a process that shows them keeps them: processes that share a
    # state directory would overwrite each other's.
    kept = state if "http" in config.services else None
    nodes = open_nodes(config, identify, kept)
    sources.audience.seen = functools.partial(list_seen, nodes)
    logbook = _open_logbook(config, kept)
    feed, changes = Feed(), Changes()
    secrecy = Secrecy(lambda: sources.secrets.current, lambda: sources.ltsconf.current)
    token = make_token(config)
    recorder = Recorder(config.record_boot) if config.record_boot is not None else None
    # Who judges and counts.
    running = Running()
    roots = Roots(nodes, functools.partial(_list_attached, running))
    farm = KnownFarm(sources, roots)
    overview = Overview(
        nodes,
        farm.diagnose,
        inventory=lambda: farm_source.current.inventory,
        images=lambda: sources.store.images,
    )
    health = Health(
        sources=sources,
        nodes=nodes,
        secrecy=secrecy,
        token=token,
        running=running,
        problems=problems,
    )
    metrics = make_metrics(
        sources,
        running,
        troubles=health.troubles,
        farm=farm.facts,
        max_nodes=config.max_nodes,
        machines=overview,
    )
    metrics.seed(nodes.nodes())
    nodes.watch(metrics.change)
    # Where events enter, and what is looked up.
    door = Door(
        secrecy=secrecy,
        count=metrics.record,
        nodes=nodes,
        feed=feed,
        changes=changes,
        logbook=logbook,
        identify=identify,
        is_listed=functools.partial(_is_listed, farm_source, identifier),
        recorder=recorder,
    )
    sources.store.tell = functools.partial(_tell_news, door.record)
    planner = make_catalog(sources).make_planner(sources.site, identifier, door.record)
    tree = BootTree(planner)
    _keep_warm(sources)
    # The services.
    maker = ServiceMaker(
        config=config,
        loop=loop,
        state=state,
        sources=sources,
        identifier=identifier,
        nodes=nodes,
        overview=overview,
        feed=feed,
        metrics=metrics,
        changes=changes,
        secrecy=secrecy,
        logbook=logbook,
        token=token,
        tree=tree,
        farm=farm,
        health=health,
        door=door,
        pool=_make_pool(config, loop, sources, door.record),
    )
    running.pool = maker.pool
    for name in config.services:
        running.add(name, maker.make_data_service(name))
    if (dhcp := maker.make_dhcp()) is not None:
        running.add_dhcp(dhcp)
    names = None
    if (dns := maker.make_dns()) is not None:
        service, names = dns
        running.add("dns", service)
        for node in nodes.nodes():
            names.change(node.key, node)
        nodes.watch(names.change)
    if (logs := maker.make_logs()) is not None:
        running.add_logs(logs)
    sources.on_farm(
        functools.partial(
            _adopt_farm,
            identifier=identifier,
            planner=planner,
            token=token,
            keeper=keeper,
            dhcp=dhcp,
            names=names,
        )
    )
    # What is done beside serving.
    upkeep = Upkeep(
        sources=sources,
        nodes=nodes,
        logbook=logbook,
        overview=overview,
        metrics=metrics,
        changes=changes,
        health=health,
        running=running,
        door=door,
        state=state,
        timelines=_timelines(kept),
        keeper=keeper,
        recorder=recorder,
        names=names,
        roots=roots,
    )
    return Parts(config, loop, sources, nodes, token, running, health, door, upkeep)


class KnownFarm:
    """What the diagnosis knows of the farm: made anew when the Site was replaced."""

    def __init__(self, sources: Sources, roots: Roots) -> None:
        self._sources = sources
        self._roots = roots
        self._made: tuple[Site, FarmFacts] | None = None

    def facts(self) -> FarmFacts:
        """As they are now."""
        site = self._sources.current
        if self._made is None or self._made[0] is not site:
            facts = make_facts(self._sources.farm.current, self._sources)
            facts = dataclasses.replace(facts, attached_at=self._roots.attached_at)
            self._made = (site, facts)
        return self._made[1]

    def diagnose(self, node: Node, now: float) -> Finding | None:
        """What is the matter with a node; see server.diagnosis. Nothing, while somebody works
        on it."""
        return None if node.maintenance else diagnose(node, now, self.facts())


@dataclass(frozen=True)
class ServiceMaker:
    """Makes each service from what it shows and asks. pool: the worker processes, or None."""

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
    farm: KnownFarm
    health: Health
    door: Door
    pool: WorkerPool | None

    def is_seen(self, client_ip: str) -> bool:
        """Whether there is a timeline of the machine at an address."""
        card = self.identifier.card(client_ip)
        return self.nodes.get(card) is not None or self.nodes.get(client_ip) is not None

    def is_known(self, client_ip: str) -> bool:
        """Whether the inventory names the machine, or it is the server's own."""
        return client_ip.startswith("127.") or self.identifier.is_listed(client_ip)

    def make_data_service(self, name: str) -> OnePort:
        """One of those that `services` names: tftp, nbd or http."""
        makers = {"tftp": self._make_tftp, "nbd": self._make_nbd, "http": self._make_http}
        return makers[name]()

    def _make_http(self) -> OnePort:
        return HttpService(
            self.loop,
            address=self.config.listen,
            port=self.config.http.port,
            handle=self._make_handler(),
            emit=self.door.record,
            limits=self._limits(HttpLimits(), "http"),
            is_known=self.is_known,
            card=self.identifier.card,
            spare_local=True,
        )

    def _make_tftp(self) -> OnePort:
        config = self.config
        limits = _short_stop(self._limits(TftpLimits(), "tftp"), "stop_seconds")
        if self.pool is not None:
            return self.pool.tftp(
                address=config.listen,
                port=config.tftp.port,
                limits=limits,
                single_port=config.single_port,
            )
        return TftpService(
            self.loop,
            address=config.listen,
            port=config.tftp.port,
            lookup=self.tree.lookup,
            emit=self.door.record,
            limits=limits,
            single_port=config.single_port,
            is_known=self.is_known,
        )

    def _make_nbd(self) -> OnePort:
        config = self.config
        limits = _short_stop(self._limits(NbdLimits(), "nbd"), "close_seconds")
        record = config.record_boot is not None
        if self.pool is not None:
            return self.pool.nbd(
                address=config.listen,
                port=config.nbd.port,
                limits=limits,
                record=record,
                spare_local=True,
            )
        return NbdService(
            self.loop,
            address=config.listen,
            port=config.nbd.port,
            exports=self.tree.export,
            list_exports=self.tree.list_exports,
            emit=self.door.record,
            limits=limits,
            record=record,
            is_known=self.is_known,
            card=self.identifier.card,
            spare_local=True,
        )

    def make_dhcp(self) -> DhcpService | None:
        """DHCP beside another server, or alone; ServerError when its settings do not fit."""
        config = self.config
        if config.dhcp == "off":
            if config.dhcp_range is not None:
                raise ServerError(
                    f"dhcp_range {config.dhcp_range} is given, and nothing gives addresses",
                    hint="add `--dhcp full` (`dhcp: full` in farm.yaml), or leave the range out",
                )
            return None
        refuse_grub_beside_another(config)
        proxy = config.dhcp == "proxy"
        return DhcpService(
            self.loop,
            mode="proxy" if proxy else "full",
            find_loaders=make_find_loaders(
                self.sources.site,
                lambda: self.sources.farm.current.inventory,
                proxy=proxy,
                grub=lambda: self.sources.farm.current.loader == "grub",
            ),
            emit=self.door.record,
            address=config.address or config.listen,
            http_port=config.http.port or None if "http" in config.services else None,
            addresses=read_range(config) if config.dhcp_range is not None else None,
            state=self.state,
            limits=apply_limits(DhcpLimits(), config.dhcp_limits, config.source, "dhcp_limits"),
            is_listed=lambda mac: mac in self.sources.farm.current.inventory.by_mac,
            mac_of=self.identifier.mac_of,
        )

    def make_logs(self) -> LogsService | None:
        """Where syslog and netconsole are received: by the process that shows them."""
        config = self.config
        if not config.logs.ports or "http" not in config.services:
            return None
        return LogsService(
            self.loop,
            address=config.listen,
            ports=config.logs.ports,
            take=self.door.take_lines,
            is_seen=self.is_seen,
            is_known=self.is_known,
        )

    def make_dns(self) -> tuple[DnsService, Directory] | None:
        """DNS for the farm's zone, and the names in it; ServerError when it has no address."""
        config, zone = self.config, self.config.dns
        if zone is None:
            return None
        fixed = fix_names(config, zone)
        address = fixed[zone.server]
        machines = config.inventory.addresses
        networks = surround([*fixed.values(), *machines.values()], zone.networks)
        directory = Directory(
            lambda: self.sources.current, self.identifier, fixed, networks, machines
        )
        server = DnsServer(
            Zone(zone.zone, address, networks, zone.server, zone.ttl), lambda: directory.names
        )
        service = DnsService(
            self.loop,
            address=zone.listen or config.listen,
            port=zone.port,
            server=server,
            limits=apply_limits(DnsLimits(), zone.limits, config.source, "dns.limits"),
            is_known=self.is_known,
        )
        return service, directory

    def _limits(self, defaults: T, service: str) -> T:
        limits = getattr(self.config, service).limits
        return apply_limits(defaults, limits, self.config.source, f"{service}.limits")

    def _make_handler(self) -> Callable[[Request], Response]:
        web, metrics = self.make_web(), self.metrics

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
        token = self.token
        if token is None:
            return Access()
        tries = RateLimit(TRIES_PER_SECOND, 5.0)
        return Access(lambda: token.value, lambda client: tries.allow(client, self.loop.time()))

    def make_web(self) -> Web:
        looks = RateLimit(LOOKS_PER_SECOND, 5 * LOOKS_PER_SECOND)
        beacons = RateLimit(BEACONS_PER_SECOND, 5 * BEACONS_PER_SECOND)
        printer = Printer(load_key(self.state))
        return Web(
            lookup=self.tree.lookup,
            identifier=self.identifier,
            nodes=self.nodes,
            overview=self.overview,
            feed=self.feed,
            metrics=self.metrics.render,
            changes=self.changes,
            logbook=self.logbook,
            hears_logs=bool(self.config.logs.ports),
            access=self._make_access(),
            hosts=Hosts(lambda: self.sources.farm.current),
            allow_look=lambda client: looks.allow(client, self.loop.time()),
            explainer=Explainer(self.sources.site, self.identifier, self.secrecy, printer=printer),
            printer=printer,
            health=self.health.describe,
            emit=self.door.record,
            allow=lambda client: beacons.allow(client, self.loop.time()),
            whole_tree=self.config.boot_tree is not None,
            join=self._make_join(),
        )

    def _make_join(self) -> Callable[[Request], Response]:
        """Who answers `POST /join`; ServerError where nothing says which cluster signs."""
        settings = self.config.join
        if not settings.certificates:
            return answer_off
        # Read only where it is wanted: it takes a tenth of a second, and 10 MiB.
        from server.web.joindesk import open_desk

        asks = RateLimit(JOINS_PER_SECOND, 10 * JOINS_PER_SECOND)
        return open_desk(
            settings,
            identifier=self.identifier,
            inventory=lambda: self.sources.farm.current.inventory,
            find_node=self.nodes.get,
            emit=self.door.record,
            post=self.loop.call_soon_threadsafe,
            allow=lambda client: asks.allow(client, self.loop.time()),
        ).answer


def _make_pool(config: Config, loop: HotLoop, sources: Sources, emit: Emit) -> WorkerPool | None:
    """The worker processes, if any are wanted and there is something for them to do."""
    count = config.workers or 0
    if count < 1 or not {"tftp", "nbd"} & set(config.services):
        return None
    pool = WorkerPool(loop, count=count, catalog=make_catalog(sources), emit=emit)
    sources.on_change(lambda: pool.update(make_catalog(sources)))
    return pool


def _keep_warm(sources: Sources) -> None:
    """Have the renderer of a template started before the first node asks, now and after edits."""
    warm_up(sources.current)
    sources.on_change(lambda: warm_up(sources.current))


def _timelines(kept: Path | None) -> Path | None:
    return kept / "nodes" if kept is not None else None


def open_nodes(
    config: Config,
    identify: Callable[[str], tuple[str | None, str | None]],
    kept: Path | None,
) -> Nodes:
    """The timelines, those of the server before this one read."""
    nodes = Nodes(identify, limit=config.max_nodes, events=config.events_per_node)
    if (timelines := _timelines(kept)) is not None:
        nodes.load(timelines)
    return nodes


def _list_attached(running: Running) -> Mapping[str, Sequence[str]] | None:
    return running.attached() if "nbd" in running.services else None


def _tell_news(emit: Emit, news: News) -> None:
    """A change of the store as an event of no node."""
    detail = {"image": news.image, "tag": news.tag, "message": news.words}
    detail |= {"digest": news.digest, "before": news.before[:12]}
    emit(Event(time.time(), "", "store", "tag" if news.tag else "image", detail))


def list_seen(nodes: Nodes) -> list[NodeId]:
    """The nodes that were heard of lately, the last first: lts.conf is tried on them."""
    oldest = time.time() - SEEN_SECONDS
    return [
        NodeId(node.hostname, node.ip or None, node.mac)
        for node in nodes.newest()
        if node.last_seen >= oldest
    ]


def _open_logbook(config: Config, kept: Path | None) -> LogBook:
    logbook = LogBook(
        kept / "logs" if kept is not None else None,
        limit=config.logs.bytes,
        nodes=config.logs.nodes,
    )
    logbook.load()
    return logbook


def _adopt_farm(
    config: Config,
    *,
    identifier: Identifier,
    planner: Planner,
    token: Token | None,
    keeper: Keeper | None,
    dhcp: DhcpService | None,
    names: Directory | None,
) -> None:
    """Hand on what farm.yaml says now to each part that keeps something of it."""
    identifier.adopt(config.inventory, config.address_map, config.hosts_file)
    planner.adopt(functools.partial(find_address, config.address, config.listen))
    if token is not None and config.token_file is not None:
        token.move(config.token_file)
    if keeper is not None:
        keeper.adopt(config.collect_after)
    if dhcp is not None:
        dhcp.reserve(config.inventory.addresses, config.inventory.hostnames)
    if names is not None and config.dns is not None:
        names.adopt(fix_names(config, config.dns), config.inventory.addresses)


def fix_names(config: Config, zone: DnsZone) -> dict[str, str]:
    """Label to address of what is no node; ServerError when the server has no address."""
    listen = zone.listen or config.listen
    address = config.address or (None if listen == "0.0.0.0" else listen)
    if address is None:
        raise ServerError(
            f"dns: {zone.server}.{zone.zone} has no address: the server listens on all of its",
            hint="set `address:` in farm.yaml (--address) to the one that nodes shall use",
        )
    return {zone.server: address, **zone.names}


def _is_listed(farm: FarmSource, identifier: Identifier, node: str) -> bool:
    """Whether the inventory names a node, which is a MAC or an address."""
    return node in farm.current.inventory.by_mac or identifier.is_listed(node)


def _identify(identifier: Identifier, ip: str) -> tuple[str | None, str | None]:
    identity = identifier.identify(ip)
    return identity.mac, identity.hostname


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
            image.digest: image.manifest.files[ROOTFS].size
            for image in sources.store.images
            if ROOTFS in image.manifest.files
        },
    )


def make_catalog(sources: Sources) -> SiteCatalog:
    """What the present Site serves, as the data path takes it."""
    return SiteCatalog(sources.current, sources.farm.current)


def _short_stop(limits: L, field: str) -> L:
    """Limits whose time for stopping fits into the app's."""
    seconds = min(getattr(limits, field), STOP_SECONDS - 2.0)
    return dataclasses.replace(limits, **{field: seconds})


def read_range(config: Config) -> Range:
    """Full mode's addresses, those that the inventory reserves, and the machines' names."""
    return dataclasses.replace(
        parse_range(config.dhcp_range or ""),
        reserved=config.inventory.addresses,
        hostnames=config.inventory.hostnames,
    )


def open_state(path: Path | None) -> Path | None:
    """The state directory, made and writable; ServerError when it cannot be."""
    if path is None:
        return None
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_writable(path)
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


def _open_ltsconf(
    config: Config, secrecy: Secrecy, site: Callable[[], Site], rehearser: Rehearser
) -> LtsConfSource:
    """lts.conf, read for the first time; in a cluster a refused one is told by an Event."""
    api = find_api(os.environ)
    # Whoever gives lts.conf to nodes tells, so a process for NBD alone does not.
    if config.configmap is None or api is None or not {"tftp", "http"} & set(config.services):
        source = LtsConfSource(config.lts_conf, config.state, site=site, rehearser=rehearser)
        source.load_first()
        return source
    refusals = Refusals(api, config.configmap)

    def tell(reason: str) -> None:
        refusals.tell(secrecy.mask(reason))  # an error may quote what it is about

    source = LtsConfSource(
        config.lts_conf, config.state, refused=tell, site=site, rehearser=rehearser
    )
    try:
        source.load_first()
    except ServerError as error:
        tell(format_reason(error))
        refusals.close(LAST_WORDS_SECONDS)
        raise
    return source


def open_sources(config: Config, file: FarmFile | None = None) -> Sources:
    """Store, lts.conf and secrets, read for the first time; ServerError says which is bad."""
    extras = look_at_extras(config)
    store = open_store(config, extras)
    store.poll()
    secrets = SecretsSource(config.secrets)
    secrets.load_first()
    base = make_site(config, store.images, LtsConf.parse(b""), secrets.current, extras)
    rehearser = Rehearser(Audience(config.inventory, unlisted=config.unlisted))
    ltsconf = _open_ltsconf(config, Secrecy(lambda: secrets.current), lambda: base, rehearser)
    return Sources(base, ltsconf, store, secrets, rehearser, FarmSource(config, file))


def open_store(config: Config, extras: Extras) -> StoreSource:
    """The store; with something else to serve, there need not be one."""
    if config.store is None:
        if extras:
            return NoStore()
        raise ServerError(
            "no store is given", hint="--store DIR, or `store:` in farm.yaml: what `build` wrote"
        )
    if not config.store.is_dir():
        raise ServerError(
            f"the store {config.store}: there is no such directory",
            hint="build an image first (bootfarm build), or give its store",
        )
    return StoreSource(config.store)


def look_at_extras(config: Config) -> Extras:
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
