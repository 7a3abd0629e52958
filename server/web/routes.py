"""Which request gets which answer; no sockets here."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.content import BytesContent, Content, NotFound, Refused
from server.events import Emit
from server.ltsconf import parse_flat
from server.machines.identity import Identifier
from server.nodes.given import Printer
from server.nodes.timelines import Nodes
from server.observe.feed import Changes, Feed
from server.observe.logbook import LogBook, pack_boots
from server.observe.overview import Overview
from server.protocols.http import FileRange, Request, Response
from server.web.access import Access
from server.web.beacon import BeaconError, parse_beacon
from server.web.events import answer_changes, answer_events
from server.web.explainer import Explainer, Values
from server.web.hosts import Hosts
from server.web.listing import (
    Listing,
    describe_overview,
    describe_row,
    explain_query,
    forget_many,
    list_nodes,
)
from server.web.nodepage import find_log_hint, render_node, view_logs
from server.web.page import render_nodes
from server.web.rendering import render_lost

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
_PLAYERS = {"bootfarm-simulate": "simulate", "bootfarm-doctor": "doctor"}
_NO_STORE = ("Cache-Control", "no-store")


@dataclass(frozen=True)
class Web:
    """What the routes answer from.

    lookup: the boot tree, as BootTree.lookup. health: the answer of /healthz.
    allow: whether a client may send a beacon now (a rate limit).
    whole_tree: the boot tree has more than /ltsp/ (`--boot-tree`).
    metrics: Metrics.render, None where nothing is counted.
    hears_logs: whether syslog or netconsole is received. allow_look: whether a client may
    have a page or an answer of the API now (a rate limit). hosts: which names are ours.
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


def handle(web: Web, request: Request) -> Response:
    """The answer to one request."""
    path = request.path
    if (foreign := _refuse_foreign(web, request)) is not None:
        return foreign
    if (refusal := web.access.refuse(request)) is not None and path != "/login":
        if web.whole_tree and not _is_ours(path):
            return _only(request, "GET", lambda: _boot_tree(web, request))
        return refusal
    if path == "/login":
        return _only(request, "POST", lambda: web.access.log_in(request))
    if path == "/beacon":
        return _only(request, "POST", lambda: _take_beacon(web, request))
    if request.method in ("DELETE", "PUT") and path.startswith("/api/nodes"):
        return _change(web, request)
    return _only(request, "GET", lambda: _get(web, request))


def _refuse_foreign(web: Web, request: Request) -> Response | None:
    """Refuse what another site's page, or a request under another name, may have sent.

    What boot loaders and probes fetch is answered whatever they call the server: some
    of them send an odd Host, or none.
    """
    path = request.path
    writes = path in ("/beacon", "/login") or request.method in ("DELETE", "PUT")
    if not writes and (not _is_ours(path) or path == "/api/time"):
        return None
    if not web.access.shows_token(request) and (refusal := web.hosts.refuse(request)) is not None:
        return refusal
    return web.hosts.refuse_foreign(request) if writes else None


def _only(request: Request, method: str, answer: Callable[[], Response]) -> Response:
    allowed = ("GET", "HEAD") if method == "GET" else (method,)
    if request.method in allowed:
        return answer()
    response = _text(405, f"{request.method} is not for {request.path[:200]}")
    return Response(response.status, response.body, TEXT, headers=(("Allow", ", ".join(allowed)),))


def _is_ours(path: str) -> bool:
    """Whether a path is the page's or the API's, and so never the boot tree's."""
    head = path.strip("/").partition("/")[0]
    return head in ("", "api", "nodes", "metrics", "login", "logout")


def _get(web: Web, request: Request) -> Response:
    path = request.path
    if path.startswith("/ltsp/"):
        return _boot_tree(web, request)
    if _is_ours(path) and path != "/api/time" and not web.allow_look(request.client):
        wait = (_NO_STORE, ("Retry-After", "2"))
        return Response(429, b"too many requests from this address; slow down\n", TEXT, wait)
    match path.strip("/").split("/"):
        case ["livez"]:
            return _text(200, "the server's loop turns")
        case ["healthz"]:
            return _json(200, web.health())
        case ["api", "time"]:
            return Response(200, f"{web.clock():.3f}\n".encode(), TEXT, (_NO_STORE,))
        case ["api", "nodes" | "overview"] if problem := explain_query(request.query):
            return _json(400, {"error": problem})
        case ["api", "nodes"]:
            query, now = request.query, web.clock()
            return web.listing.get(query, lambda: _json(200, list_nodes(web.overview, query, now)))
        case ["api", "overview"]:
            return _json(200, describe_overview(web.overview, request.query, web.clock()))
        case ["api", "nodes", key]:
            node = web.overview.find(key)
            if node is None:
                return _json(404, {"error": "no such node was seen"})
            return _json(200, describe_row(web.overview.look(node, web.clock())))
        case ["metrics"] if web.metrics is not None:
            text, kind = web.metrics(request.headers.get("accept", ""))
            return Response(200, text, kind, (_NO_STORE,))
        case ["api", "nodes", key, "log"]:
            return _log(web, key)
        case ["logout"] if web.access.is_on:
            return web.access.log_out()
        case ["api", "events"]:
            return answer_events(web.feed, request)
        case ["api", "changes"]:
            return answer_changes(web.changes, request)
        case [""]:
            return render_nodes(
                web.overview,
                web.health(),
                request.query,
                web.clock(),
                can_leave=web.access.is_on,
            )
        case ["nodes", key]:
            return _node_page(web, key)
        case _ if web.whole_tree:
            return _boot_tree(web, request)
        case _ if "text/html" in request.headers.get("accept", ""):
            words = f"This server has no page {request.path[:100]!r}."
            return render_lost(404, "Nothing here", words, web.health(), web.clock())
        case _:
            return _text(404, "nothing here; the boot tree is below /ltsp/")


def _change(web: Web, request: Request) -> Response:
    """`DELETE /api/nodes/<mac>`, or of `/api/nodes` with which, and `PUT /api/nodes/<mac>`: for
    who has the token; where there is none, for the server's own machine."""
    if not web.access.is_on and not request.client.startswith("127."):
        return _text(403, "only from the server's own machine, as long as there is no token_file")
    if not web.allow_look(request.client):
        return _text(429, "too many requests from this address; slow down")
    return _annotate(web, request) if request.method == "PUT" else _forget(web, request)


def _annotate(web: Web, request: Request) -> Response:
    """`?note=TEXT`, `?maintenance=1` or 0, or both."""
    match request.path.strip("/").split("/"):
        case ["api", "nodes", key] if (node := web.overview.find(key)) is not None:
            query = request.query
            flag = query.get("maintenance")
            if flag not in (None, "0", "1") or not {"note", "maintenance"} & query.keys():
                return _text(400, "say note=TEXT, or maintenance=1 or 0")
            maintenance = None if flag is None else flag == "1"
            if not web.nodes.annotate(node.key, query.get("note"), maintenance):
                return _json(404, {"error": "nothing was heard of it yet: labels say the rest"})
            web.changes.note(node.key)
            return _json(200, {"note": node.note, "maintenance": node.maintenance})
        case _:
            return _json(404, {"error": "no such node was seen"})


def _forget(web: Web, request: Request) -> Response:
    """Forget one node, or those that the query names."""

    def forget(key: str) -> bool:
        gone = web.nodes.forget(key)
        if gone:
            web.logbook.forget(key)
            web.changes.note(key)
        return gone

    match request.path.strip("/").split("/"):
        case ["api", "nodes"]:
            done = forget_many(web.nodes, request.query, web.clock(), forget)
            return _text(400, done) if isinstance(done, str) else _json(200, {"forgotten": done})
        case ["api", "nodes", key] if (node := web.overview.find(key)) is not None:
            return _json(200, {"forgotten": int(forget(node.key))})
        case _:
            return _json(404, {"error": "no such node was seen"})


def _node_page(web: Web, key: str) -> Response:
    node = web.overview.find(key)
    now = web.clock()
    if node is None:
        words = (
            f"No machine {key[:60]!r} was seen, or it was long ago and others took its place;"
            " nor does the inventory have it."
        )
        return render_lost(404, "No such node", words, web.health(), now)
    values = web.explainer.explain(node) if web.explainer is not None else Values()
    return render_node(
        web.overview.look(node, now),
        values,
        view_logs(node, web.logbook.boots(node.key), now),
        find_log_hint(web.hears_logs),
        web.health(),
        now,
        can_leave=web.access.is_on,
    )


def _log(web: Web, key: str) -> Response:
    node = web.overview.find(key)
    if node is None:
        return _json(404, {"error": "no such node was seen"})
    boots = pack_boots(web.logbook.boots(node.key))
    return _json(200, {"node": node.key, "present": node.boots, "boots": boots})


def _boot_tree(web: Web, request: Request) -> Response:
    player = _PLAYERS.get(request.headers.get("user-agent", ""))
    if player is not None and not web.identifier.is_listed(request.client):
        web.nodes.play(request.client, player)
    try:
        content = web.lookup(request.path, request.client, request.query.get("mac"))
    except NotFound as error:
        return _failed(404, error.reason, request)
    except Refused as error:
        return _failed(403, error.reason, request)
    transfer = request.path if request.method == "GET" else ""
    if isinstance(content, BytesContent):  # made for this client: it may hold secrets
        if web.hosts.is_browser(request) and (refusal := web.hosts.refuse(request)) is not None:
            return refusal
        if request.card and not web.identifier.is_still(request.client, request.card):
            reason = f"{request.client} answers with another MAC than when it connected; ask again"
            return _failed(403, reason, request)
        if web.printer is not None and request.path.endswith("/lts.conf"):
            flat = parse_flat(content.data.decode("utf-8", "surrogateescape"))
            web.nodes.note_given(request.client, web.printer.print_values(flat))
        etag = hashlib.sha256(content.data).hexdigest()[:32]
        return Response(200, content.data, TEXT, (_NO_STORE,), f'"{etag}"', transfer)
    # A file of the store never changes, and its path holds the image's digest;
    # one of a folder has a stamp.
    name = hashlib.sha256(f"{content.path}\0{content.size}\0{content.stamp}".encode()).hexdigest()[
        :32
    ]
    body = FileRange(content.path, 0, content.size)
    return Response(200, body, "application/octet-stream", (), f'"{name}"', transfer)


def _failed(status: int, reason: str, request: Request) -> Response:
    return Response(status, f"{reason}\n".encode(), TEXT, (_NO_STORE,), transfer=request.path)


def _take_beacon(web: Web, request: Request) -> Response:
    if not web.allow(request.client):
        return _text(429, "too many beacons; slow down")
    try:
        beacon = parse_beacon(request.headers.get("content-type", ""), request.body)
        web.identifier.identify(request.client, beacon.mac)  # raises Refused for another node's MAC
    except BeaconError as error:
        return _text(400, str(error))
    except Refused as error:
        return _text(403, error.reason)
    web.emit(beacon.event(web.clock(), request.client))
    return Response(204)


def _text(status: int, text: str) -> Response:
    return Response(status, f"{text}\n".encode(), TEXT, (_NO_STORE,))


def _json(status: int, data: Any) -> Response:
    text = json.dumps(data, separators=(",", ":"))
    return Response(status, f"{text}\n".encode(), JSON, (_NO_STORE,))
