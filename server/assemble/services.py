"""The services of the running server, each made from farm.yaml and the parts that it asks."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from server.boot.catalog import SiteCatalog
from server.boot.loaders import make_find_loaders
from server.boot.tree import BootTree
from server.conduct.conductor import Conductor
from server.errors import ServerError
from server.events import Emit
from server.farm.config import Config, refuse_grub_beside_another
from server.farm.dns import DnsZone
from server.farm.limits import apply_limits
from server.health import Health
from server.machines.identity import Identifier
from server.machines.names import Directory, surround
from server.metrics.metrics import Metrics
from server.nodes.given import GivenValues, Printer, load_key
from server.nodes.timelines import Nodes
from server.observe.door import Door
from server.observe.feed import Changes, Feed
from server.observe.logbook import LogBook
from server.observe.overview import Overview
from server.observe.secrecy import Secrecy
from server.peers.peers import Peers
from server.protocols.dns import DnsServer, Zone
from server.protocols.http import HttpLimits, Request, Response
from server.services.dhcp import DhcpLimits, DhcpService, Range, parse_range
from server.services.dns import DnsLimits, DnsService
from server.services.hotloop import HotLoop
from server.services.http import HttpService
from server.services.logs import LogsService
from server.services.nbd import NbdLimits, NbdService
from server.services.ratelimit import RateLimit
from server.services.running import OnePort
from server.services.tftp import TftpLimits, TftpService
from server.services.workers import WorkerPool
from server.sources.sources import Sources
from server.web.access import Access, Token
from server.web.explainer import Explainer
from server.web.hosts import Hosts
from server.web.join import answer_off
from server.web.replies import dress
from server.web.routes import handle
from server.web.web import Web

JOINS_PER_SECOND = 5.0
"""Requests for a certificate, for one address; one is asked for again while it is under way."""
STOP_SECONDS = 4.0
"""Seconds that transfers and replies under way may take after SIGTERM."""
BEACONS_PER_SECOND = 10.0
"""Reports of nodes, for one address; five seconds' worth may come at once."""
LOOKS_PER_SECOND = 20.0
"""Pages and answers of the API, for one address."""
TRIES_PER_SECOND = 0.1
"""Tokens that may be tried in the form, by one address; five at once."""
T = TypeVar("T")
L = TypeVar("L", TftpLimits, NbdLimits)


@dataclass(frozen=True)
class ServiceMaker:
    """Makes each service from the parts that the service asks.

    pool: the worker processes, or None. conductor: of rollouts, or None.
    """

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
    given: GivenValues
    logbook: LogBook
    token: Token | None
    tree: BootTree
    health: Health
    peers: Peers | None
    door: Door
    pool: WorkerPool | None
    conductor: Conductor | None = None

    def is_seen(self, client_ip: str) -> bool:
        """Whether there is a timeline of the machine at an address."""
        card = self.identifier.card(client_ip)
        return self.nodes.get(card) is not None or self.nodes.get(client_ip) is not None

    def is_known(self, client_ip: str) -> bool:
        """Whether the inventory names the machine, or it is the server's own."""
        return client_ip.startswith("127.") or self.identifier.is_listed(client_ip)

    def make_data_service(self, name: str) -> OnePort:
        """The service of one name in `services`: tftp, nbd or http."""
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
            dress=dress,
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
        """The DHCP service, None where it is off. ServerError when its settings do not fit."""
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
        """The receiver of syslog and netconsole; None in a process that does not show them."""
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
        """The DNS service and the names of its zone. ServerError when the server has no address."""
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
        """What the routes of page and API answer from."""
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
            given=self.given,
            health=self.health.describe,
            emit=self.door.record,
            allow=lambda client: beacons.allow(client, self.loop.time()),
            whole_tree=self.config.boot_tree is not None,
            join=self._make_join(),
            peers=self.peers.describe if self.peers is not None else list,
            index=self.peers.pack_index if self.peers is not None else None,
            conductor=self.conductor,
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


def make_pool(config: Config, loop: HotLoop, sources: Sources, emit: Emit) -> WorkerPool | None:
    """The worker processes. None where none are wanted, or none would have work."""
    count = config.workers or 0
    if count < 1 or not {"tftp", "nbd"} & set(config.services):
        return None
    pool = WorkerPool(loop, count=count, catalog=make_catalog(sources), emit=emit)
    sources.on_change(lambda: pool.update(make_catalog(sources)))
    return pool


def fix_names(config: Config, zone: DnsZone) -> dict[str, str]:
    """Label to address of names that belong to no node.

    ServerError when the server has no address.
    """
    listen = zone.listen or config.listen
    address = config.address or (None if listen == "0.0.0.0" else listen)
    if address is None:
        raise ServerError(
            f"dns: {zone.server}.{zone.zone} has no address: the server listens on all of its",
            hint="set `address:` in farm.yaml (--address) to the one that nodes shall use",
        )
    return {zone.server: address, **zone.names}


def make_catalog(sources: Sources) -> SiteCatalog:
    """What the present Site serves, in the form that the data path takes."""
    return SiteCatalog(sources.current, sources.farm.current)


def _short_stop(limits: L, field: str) -> L:
    """Limits with a time for stopping that fits into the app's. field: the one with that time."""
    seconds = min(getattr(limits, field), STOP_SECONDS - 2.0)
    return dataclasses.replace(limits, **{field: seconds})


def read_range(config: Config) -> Range:
    """Full mode's addresses, the addresses that the inventory reserves, and the machines' names."""
    return dataclasses.replace(
        parse_range(config.dhcp_range or ""),
        reserved=config.inventory.addresses,
        hostnames=config.inventory.hostnames,
    )
