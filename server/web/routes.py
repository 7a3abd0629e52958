"""Which request gets which answer; no sockets here."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

from imagebuild.store.index import PATH as INDEX
from server.content import BytesContent, NotFound, Refused
from server.ltsconf import parse_flat
from server.protocols.http import FileRange, Request, Response
from server.web.api import answer_api
from server.web.beacon import BeaconError, parse_beacon
from server.web.explainer import Values
from server.web.nodepage import find_log_hint, render_node, view_logs
from server.web.page import render_nodes
from server.web.rendering import render_lost
from server.web.replies import JSON, NO_STORE, TEXT, dress, pack, say
from server.web.rollout import describe_place, view_rollout
from server.web.web import Web

_PLAYERS = {"bootfarm-simulate": "simulate", "bootfarm-doctor": "doctor"}


def handle(web: Web, request: Request) -> Response:
    """The answer to one request."""
    plain = "/" + request.path.lstrip("/")
    if plain != request.path and plain.startswith("/ltsp/"):
        # Loaders put a slash between the server's name and a path that begins with one.
        request = replace(request, path=plain)
    return dress(request, _handle(web, request))


def _handle(web: Web, request: Request) -> Response:
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
    if path == "/join":
        return _only(request, "POST", lambda: web.join(request))
    if _head(path) == "api":
        return answer_api(web, request)
    return _only(request, "GET", lambda: _get(web, request))


def _refuse_foreign(web: Web, request: Request) -> Response | None:
    """Refuse what another site's page, or a request under another name, may have sent.

    What boot loaders and probes fetch is answered whatever they call the server: some
    of them send an odd Host, or none.
    """
    path = request.path
    writes = path in ("/beacon", "/join", "/login") or request.method in ("DELETE", "PUT")
    if not writes and (not _is_ours(path) or path == "/api/time"):
        return None
    if not web.access.shows_token(request) and (refusal := web.hosts.refuse(request)) is not None:
        return refusal
    return web.hosts.refuse_foreign(request) if writes else None


def _only(request: Request, method: str, answer: Callable[[], Response]) -> Response:
    allowed = ("GET", "HEAD") if method == "GET" else (method,)
    if request.method in allowed:
        return answer()
    response = say(405, f"{request.method} is not for {request.path[:200]}")
    return Response(response.status, response.body, TEXT, headers=(("Allow", ", ".join(allowed)),))


def _is_ours(path: str) -> bool:
    """Whether a path is the page's or the API's, and so never the boot tree's."""
    return _head(path) in ("", "api", "nodes", "metrics", "login", "logout")


def _head(path: str) -> str:
    return path.strip("/").partition("/")[0]


def _get(web: Web, request: Request) -> Response:
    path = request.path
    if path == INDEX and web.index is not None:
        if not web.allow_look(request.client):
            return say(429, "too many requests from this address; slow down")
        return Response(200, web.index(), JSON, (NO_STORE,))
    if path.startswith("/ltsp/"):
        return _boot_tree(web, request)
    if _is_ours(path) and not web.allow_look(request.client):
        wait = (NO_STORE, ("Retry-After", "2"))
        return Response(429, b"too many requests from this address; slow down\n", TEXT, wait)
    match path.strip("/").split("/"):
        case ["livez"]:
            return say(200, "the server's loop turns")
        case ["healthz"]:
            return pack(200, web.health())
        case ["metrics"] if web.metrics is not None:
            text, kind = web.metrics(request.headers.get("accept", ""))
            return Response(200, text, kind, (NO_STORE,))
        case ["logout"] if web.access.is_on:
            return web.access.log_out()
        case [""]:
            return render_nodes(
                web.overview,
                web.health(),
                request.query,
                web.clock(),
                can_leave=web.access.is_on,
                servers=web.peers(),
                rollout=view_rollout(web.conductor),
            )
        case ["nodes", key]:
            return _node_page(web, key)
        case _ if web.whole_tree:
            return _boot_tree(web, request)
        case _ if "text/html" in request.headers.get("accept", ""):
            words = f"This server has no page {request.path[:100]!r}."
            return render_lost(404, "Nothing here", words, web.health(), web.clock())
        case _:
            return say(404, "nothing here; the boot tree is below /ltsp/")


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
        given=web.given,
        rollout=describe_place(web.conductor, node.key),
    )


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
            prints = web.printer.print_values(flat)
            marked = f"{web.printer.mark} {prints}"
            if web.nodes.note_given(request.client, marked) and web.given is not None:
                web.given.keep(prints, flat)
        etag = hashlib.sha256(content.data).hexdigest()[:32]
        return Response(200, content.data, TEXT, (NO_STORE,), f'"{etag}"', transfer)
    # A file of the store never changes, and its path holds the image's digest;
    # one of a folder has a stamp.
    name = hashlib.sha256(f"{content.path}\0{content.size}\0{content.stamp}".encode()).hexdigest()[
        :32
    ]
    body = FileRange(content.path, 0, content.size)
    return Response(200, body, "application/octet-stream", (), f'"{name}"', transfer)


def _failed(status: int, reason: str, request: Request) -> Response:
    return Response(status, f"{reason}\n".encode(), TEXT, (NO_STORE,), transfer=request.path)


def _take_beacon(web: Web, request: Request) -> Response:
    if not web.allow(request.client):
        return say(429, "too many beacons; slow down")
    try:
        beacon = parse_beacon(request.headers.get("content-type", ""), request.body)
        web.identifier.identify(request.client, beacon.mac)  # raises Refused for another node's MAC
    except BeaconError as error:
        return say(400, str(error))
    except Refused as error:
        return say(403, error.reason)
    web.emit(beacon.event(web.clock(), request.client))
    return Response(204)
