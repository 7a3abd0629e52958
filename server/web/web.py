"""What the routes answer from: the parts of the running server that page and API show."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.conduct.conductor import Conductor
from server.content import Content
from server.events import Emit
from server.machines.identity import Identifier
from server.nodes.given import GivenValues, Printer
from server.nodes.timelines import Nodes
from server.observe.feed import Changes, Feed
from server.observe.logbook import LogBook
from server.observe.overview import Overview
from server.protocols.http import Request, Response
from server.web.access import Access
from server.web.explainer import Explainer
from server.web.hosts import Hosts
from server.web.join import answer_off
from server.web.listing import Listing


@dataclass(frozen=True)
class Web:
    """What the routes answer from.

    lookup: the boot tree, as BootTree.lookup. health: the answer of /healthz.
    allow: whether a client may send a beacon now (a rate limit).
    whole_tree: the boot tree has more than /ltsp/ (`--boot-tree`).
    metrics: Metrics.render, None where nothing is counted.
    hears_logs: whether syslog or netconsole is received. allow_look: whether a client may
    have a page or an answer of the API now (a rate limit). hosts: which names are ours.
    join: the answer to `POST /join`. peers: the farm's other servers, as the API has them.
    index: what other servers are told; None where there is no store. conductor: of rollouts, None
    where there are none.
    """

    lookup: Callable[[str, str, str | None], Content]
    identifier: Identifier
    nodes: Nodes
    overview: Overview
    health: Callable[[], Mapping[str, Any]]
    emit: Emit
    allow: Callable[[str], bool] = lambda client: True
    clock: Callable[[], float] = time.time
    feed: Feed = field(default_factory=Feed)
    whole_tree: bool = False
    metrics: Callable[[str], tuple[bytes, str]] | None = None
    changes: Changes = field(default_factory=Changes)
    explainer: Explainer | None = None
    logbook: LogBook = field(default_factory=LogBook)
    hears_logs: bool = False
    access: Access = field(default_factory=Access)
    hosts: Hosts = field(default_factory=Hosts)
    allow_look: Callable[[str], bool] = lambda client: True
    listing: Listing = field(default_factory=Listing)
    printer: Printer | None = None
    given: GivenValues | None = None
    join: Callable[[Request], Response] = answer_off
    peers: Callable[[], list[dict[str, Any]]] = list
    index: Callable[[], bytes] | None = None
    conductor: Conductor | None = None
