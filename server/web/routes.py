"""Which request gets which answer; no sockets here."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.content import BytesContent, Content, NotFound, Refused
from server.diagnosis import FarmFacts, diagnose
from server.events import Emit
from server.explaining import Explainer, Values
from server.feed import Changes, Feed
from server.identity import Identifier
from server.logbook import LogBook, pack_boots
from server.nodes import Nodes, describe, summarize
from server.overview import Overview
from server.protocols.http import FileRange, Request, Response
from server.web.access import Access
from server.web.beacon import BeaconError, parse_beacon
from server.web.events import answer_changes, answer_events
from server.web.nodepage import find_log_hint, render_node, view_logs
from server.web.page import render_nodes
from server.web.rendering import render_lost

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
QUICK_SECONDS = 0.02
SHARE = 20
_NO_STORE = ("Cache-Control", "no-store")


class Listing:
    """The answer of /api/nodes, kept while making it again would cost the loop too much.

    What took long is given again for SHARE times as long; of some hundred nodes
    it takes no time, and each answer is a fresh one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answer: Response | None = None
        self._until = 0.0

    def get(self, make: Callable[[], Response]) -> Response:
        """The answer kept, or what `make` gives."""
        began = self._clock()
        if self._answer is not None and began < self._until:
            return self._answer
        answer = make()
        ended = self._clock()
        took = ended - began
        self._answer = answer if took > QUICK_SECONDS else None
        self._until = ended + SHARE * took
        return answer


@dataclass(frozen=True)
class Web:
    """What the routes answer from.

    lookup: the boot tree, as BootTree.lookup. health: the answer of /healthz.
    allow: whether a client may send a beacon now (a rate limit). facts: of the
    farm, for the diagnosis.
    whole_tree: the boot tree has more than /ltsp/ (`--boot-tree`).
    metrics: Metrics.render, None where nothing is counted.
    hears_logs: whether syslog or netconsole is received. allow_look: whether a client may
    have a page or an answer of the API now (a rate limit).
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
    facts: Callable[[], FarmFacts] = FarmFacts
    whole_tree: bool = False
    metrics: Callable[[str], tuple[bytes, str]] | None = None
    changes: Changes = field(default_factory=Changes)
    explainer: Explainer | None = None
    logbook: LogBook = field(default_factory=LogBook)
    hears_logs: bool = False
    access: Access = field(default_factory=Access)
    allow_look: Callable[[str], bool] = lambda client: True
    listing: Listing = field(default_factory=Listing)


def handle(web: Web, request: Request) -> Response:
    """The answer to one request."""
    path = request.path
    if (refusal := web.access.refuse(request)) is not None and path != "/login":
        if web.whole_tree and not _is_ours(path):
            return _only(request, "GET", lambda: _boot_tree(web, request))
        return refusal
    if path == "/login":
        return _only(request, "POST", lambda: web.access.log_in(request))
    if path == "/beacon":
        return _only(request, "POST", lambda: _take_beacon(web, request))
    return _only(request, "GET", lambda: _get(web, request))


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
        case ["healthz"]:
            return _json(200, web.health())
        case ["api", "time"]:
            return Response(200, f"{web.clock():.3f}\n".encode(), TEXT, (_NO_STORE,))
        case ["api", "nodes"]:
            return web.listing.get(lambda: _json(200, _summarize_all(web)))
        case ["api", "nodes", key]:
            node = web.nodes.get(key)
            if node is None:
                return _json(404, {"error": "no such node was seen"})
            found = diagnose(node, web.clock(), web.facts())
            finding = found.to_json() if found else None
            return _json(200, {**describe(node), "finding": finding})
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
        case _:
            return _text(404, "nothing here; the boot tree is below /ltsp/")


def _summarize_all(web: Web) -> list[dict[str, Any]]:
    now, farm = web.clock(), web.facts()
    rows = []
    for node in web.nodes.nodes():
        found = diagnose(node, now, farm)
        rows.append({**summarize(node), "finding": found.to_json() if found else None})
    return rows


def _node_page(web: Web, key: str) -> Response:
    node = web.nodes.get(key)
    now = web.clock()
    if node is None:
        words = f"No machine {key[:60]!r} was seen, or it was long ago and others took its place."
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
    node = web.nodes.get(key)
    if node is None:
        return _json(404, {"error": "no such node was seen"})
    boots = pack_boots(web.logbook.boots(node.key))
    return _json(200, {"node": node.key, "present": node.boots, "boots": boots})


def _boot_tree(web: Web, request: Request) -> Response:
    try:
        content = web.lookup(request.path, request.client, request.query.get("mac"))
    except NotFound as error:
        return _failed(404, error.reason, request)
    except Refused as error:
        return _failed(403, error.reason, request)
    transfer = request.path if request.method == "GET" else ""
    if isinstance(content, BytesContent):
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
        web.identifier.identify(request.client, beacon.mac)  # refuses another one's MAC
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
