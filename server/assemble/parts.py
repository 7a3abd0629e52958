"""All parts of the running server, made in one place, from top to bottom."""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from imagebuild.store.manifest import ROOTFS
from server.assemble.disk import (
    find_timelines,
    hold_state,
    make_keeper,
    make_token,
    open_logbook,
    open_nodes,
    open_sources,
    open_state,
)
from server.assemble.rollouts import describe_rollouts, make_rollouts
from server.assemble.services import ServiceMaker, fix_names, make_catalog, make_pool
from server.boot.catalog import find_address, warm_up
from server.boot.planner import Planner
from server.boot.tree import BootTree
from server.conduct.gather import Gatherer
from server.diagnosis import FarmFacts, Finding, diagnose
from server.events import Emit, Event
from server.farm.config import Config
from server.health import Health
from server.ltsconf import NodeId
from server.machines.identity import Identifier, make_identifier
from server.machines.names import Directory
from server.metrics.gather import make_metrics
from server.nodes.given import GivenValues
from server.nodes.node import Node, architecture_of
from server.nodes.timelines import Nodes
from server.observe.door import Door
from server.observe.feed import Changes, Feed
from server.observe.overview import Overview
from server.observe.recording import Recorder
from server.observe.roots import Roots
from server.observe.secrecy import Secrecy
from server.peers.peers import Facts, Peers
from server.services.dhcp import DhcpService
from server.services.hotloop import HotLoop
from server.services.running import Running
from server.site import Site
from server.sources.farm import FarmFile, FarmSource
from server.sources.images import News
from server.sources.keeper import Keeper
from server.sources.sources import Sources
from server.upkeep import Upkeep
from server.web.access import Token

SEEN_SECONDS = 7 * 86400.0
"""How long a machine that fell silent counts as one that lts.conf is for."""


@dataclass(frozen=True)
class Parts:
    """What a running server is made of: what App binds, runs, repeats and stops, and its door.

    held: what keeps other servers off its state directory, until it is closed.
    """

    config: Config
    loop: HotLoop
    sources: Sources
    nodes: Nodes
    token: Token | None
    running: Running
    health: Health
    door: Door
    upkeep: Upkeep
    held: IO[bytes] | None = None


def make_parts(
    config: Config,
    loop: HotLoop,
    problems: Sequence[str] = (),
    file: FarmFile | None = None,
) -> Parts:
    """Make all parts of a server, in this order. ServerError says which setting does not fit.

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
    held = hold_state(kept)
    nodes = open_nodes(config, identify, kept)
    sources.audience.seen = functools.partial(list_seen, nodes)
    sources.audience.architecture = functools.partial(find_architecture, nodes)
    logbook = open_logbook(config, kept)
    feed, changes = Feed(), Changes()
    secrecy = Secrecy(lambda: sources.secrets.current, lambda: sources.ltsconf.current)
    given = GivenValues(secrecy.mask_value, kept, lambda: bool(sources.secrets.current))
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
    peers = None
    if "http" in config.services and config.store is not None:
        peers = Peers(
            lambda: farm_source.current,
            config.store,
            state,
            functools.partial(_tell_peers, sources, running, config),
            sources.note_servers,
        )
    health = Health(
        sources=sources,
        nodes=nodes,
        secrecy=secrecy,
        token=token,
        running=running,
        problems=problems,
        peers=peers.troubles if peers is not None else tuple,
    )
    metrics = make_metrics(
        sources,
        running,
        troubles=health.troubles,
        farm=farm.facts,
        max_nodes=config.max_nodes,
        machines=overview,
        rollout=lambda: describe_rollouts(rollouts),
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
    rollouts = make_rollouts(
        config,
        loop,
        state,
        sources,
        lambda: Gatherer(
            site=lambda: sources.current,
            nodes=nodes,
            identifier=identifier,
            inventory=lambda: farm_source.current.inventory,
            diagnose=farm.diagnose,
            attached=functools.partial(_list_attached, running),
        ),
        changes,
    )
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
        given=given,
        logbook=logbook,
        token=token,
        tree=tree,
        health=health,
        peers=peers,
        door=door,
        conductor=rollouts.conductor if rollouts is not None else None,
        pool=make_pool(config, loop, sources, door.record),
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
        given=given,
        logbook=logbook,
        overview=overview,
        metrics=metrics,
        changes=changes,
        health=health,
        running=running,
        door=door,
        state=state,
        timelines=find_timelines(kept),
        keeper=keeper,
        recorder=recorder,
        names=names,
        roots=roots,
        peers=peers,
        conductor=rollouts.conductor if rollouts is not None else None,
        hand=rollouts.hand if rollouts is not None else None,
    )
    return Parts(config, loop, sources, nodes, token, running, health, door, upkeep, held)


class KnownFarm:
    """What the diagnosis knows of the farm: made anew when the Site was replaced."""

    def __init__(self, sources: Sources, roots: Roots) -> None:
        self._sources = sources
        self._roots = roots
        self._made: tuple[Site, FarmFacts] | None = None

    def facts(self) -> FarmFacts:
        """The farm's facts as they are now."""
        site = self._sources.current
        if self._made is None or self._made[0] is not site:
            facts = make_facts(self._sources.farm.current, self._sources)
            facts = dataclasses.replace(facts, attached_at=self._roots.attached_at)
            self._made = (site, facts)
        return self._made[1]

    def diagnose(self, node: Node, now: float) -> Finding | None:
        """What is the matter with a node (server.diagnosis).

        None while somebody works on the node.
        """
        return None if node.maintenance else diagnose(node, now, self.facts())


def _keep_warm(sources: Sources) -> None:
    """Have the renderer of a template started before the first node asks, now and after edits."""
    warm_up(sources.current)
    sources.on_change(lambda: warm_up(sources.current))


def _list_attached(running: Running) -> Mapping[str, Sequence[str]] | None:
    return running.attached() if "nbd" in running.services else None


def _tell_peers(sources: Sources, running: Running, config: Config) -> Facts:
    """What other servers are told of this one."""
    ports = {name: ports[0] for name, ports in running.ports().items() if name in ("http", "nbd")}
    # NBD may be served by a process of its own, beside this one.
    ports.setdefault("nbd", config.nbd.port)
    attached = [digest for digest in running.attached() if digest]
    return Facts(sources.store.images, attached, ports, sources.ltsconf.digest)


def _tell_news(emit: Emit, news: News) -> None:
    """Emit a change of the store as an event that belongs to no node."""
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


def find_architecture(nodes: Nodes, mac: str | None) -> str:
    """The architecture of a machine as its firmware told it to DHCP; "" where it did not."""
    node = nodes.get(mac) if mac is not None else None
    return architecture_of(node) if node is not None else ""


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
    """Give the farm.yaml in force to each part that keeps a copy of one of its values."""
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


def _is_listed(farm: FarmSource, identifier: Identifier, node: str) -> bool:
    """Whether the inventory names a node. node: a MAC or an address."""
    return node in farm.current.inventory.by_mac or identifier.is_listed(node)


def _identify(identifier: Identifier, ip: str) -> tuple[str | None, str | None]:
    identity = identifier.identify(ip)
    return identity.mac, identity.hostname


def make_facts(config: Config, sources: Sources) -> FarmFacts:
    """What the diagnosis knows of the farm, but for whose root is attached."""
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
