"""The API: every path and method of it, and what answers each; no sockets here.

ROUTES is the only list: requests are answered by it, and openapi.py writes it down.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from server.observe.logbook import pack_boots
from server.protocols.http import Request, Response
from server.web import queries
from server.web.events import answer_changes, answer_events
from server.web.listing import (
    describe_overview,
    describe_row,
    explain_query,
    find_unknown,
    forget_many,
    list_nodes,
    note_header,
)
from server.web.openapi import describe
from server.web.replies import NO_STORE, TEXT, pack, refuse
from server.web.rollout import answer_order, answer_rollout, answer_start
from server.web.route import NODE, Route
from server.web.web import Web


def answer_api(web: Web, request: Request) -> Response:
    """The answer to a request below /api, once it is known who asks."""
    route, key, methods = find_route(request.method, request.path)
    if route is not None and route.is_open:
        return route.answer(web, request, key)
    if route is not None and route.changes and not _may_change(web, request):
        words = "only from the server's own machine, as long as there is no token_file"
        return refuse("only_from_server", words)
    if not web.allow_look(request.client):
        words = "too many requests from this address; slow down"
        return refuse("too_many_requests", words, headers=(("Retry-After", "2"),))
    if route is not None:
        return _answer(web, request, route, key)
    path = request.path[:200]
    if not methods:
        return refuse("no_such_path", f"the API has no path {path!r}")
    allowed = ", ".join(methods)
    words = f"{request.method} is not for {path}"
    return refuse("method_not_allowed", words, headers=(("Allow", allowed),))


def _answer(web: Web, request: Request, route: Route, key: str) -> Response:
    """The route's answer. What changes something takes no word that it does not know: a filter
    that is misspelt would change more than was meant. Elsewhere such a word is told."""
    strange = [word for word in request.query if not any(one.has(word) for one in route.takes)]
    if route.changes and (strange or request.doubled):
        return refuse("bad_query", _explain_strange(route, strange, request.doubled))
    answer = route.answer(web, request, key)
    if not strange or route.tells or answer.status != 200:
        return answer
    notes = note_header([f"{word[:60]!r} counts for nothing" for word in sorted(strange)])
    return replace(answer, headers=(*answer.headers, *notes))


def _explain_strange(route: Route, strange: Sequence[str], doubled: Sequence[str]) -> str:
    if not strange:
        return f"{doubled[0][:60]!r} stands more than once"
    takes = ", ".join(one.name for one in route.takes) or "none"
    return f"{strange[0][:60]!r} is no word of this query: it takes {takes}; nothing was changed"


def find_route(method: str, path: str) -> tuple[Route | None, str, tuple[str, ...]]:
    """The route of a request, the machine's key in its path, and the path's methods."""
    words = path.strip("/").split("/")
    methods: list[str] = []
    for route in ROUTES:
        parts = route.path.strip("/").split("/")
        if len(parts) != len(words):
            continue
        if any(part != word for part, word in zip(parts, words, strict=True) if part != NODE):
            continue
        if method == route.method or (method == "HEAD" and route.method == "GET"):
            return route, words[parts.index(NODE)] if NODE in parts else "", ()
        methods += ["GET", "HEAD"] if route.method == "GET" else [route.method]
    return None, "", tuple(methods)


def _may_change(web: Web, request: Request) -> bool:
    """Who has the token; where there is none, the server's own machine."""
    return web.access.is_on or request.client.startswith("127.")


def _time(web: Web, request: Request, key: str) -> Response:
    return Response(200, f"{web.clock():.3f}\n".encode(), TEXT, (NO_STORE,))


def _nodes(web: Web, request: Request, key: str) -> Response:
    if problem := explain_query(request.query):
        return refuse("bad_query", problem)
    return web.listing.get(request.query, lambda: _list_nodes(web, request))


def _list_nodes(web: Web, request: Request) -> Response:
    answer = pack(200, list_nodes(web.overview, request.query, web.clock()))
    notes = note_header(find_unknown(request.query, web.overview, request.doubled))
    return replace(answer, headers=(*answer.headers, *notes))


def _overview(web: Web, request: Request, key: str) -> Response:
    if problem := explain_query(request.query):
        return refuse("bad_query", problem)
    told = describe_overview(web.overview, request.query, web.clock(), request.doubled)
    return pack(200, {**told, "peers": web.peers()})


def _node(web: Web, request: Request, key: str) -> Response:
    node = web.overview.find(key)
    if node is None:
        return _no_such_node()
    return pack(200, describe_row(web.overview.look(node, web.clock())))


def _log(web: Web, request: Request, key: str) -> Response:
    node = web.overview.find(key)
    if node is None:
        return _no_such_node()
    boots = pack_boots(web.logbook.boots(node.key))
    return pack(200, {"node": node.key, "present": node.boots, "boots": boots})


def _annotate(web: Web, request: Request, key: str) -> Response:
    node = web.overview.find(key)
    if node is None:
        return _no_such_node()
    query = request.query
    flag = query.get("maintenance")
    if flag not in (None, "0", "1") or not {"note", "maintenance"} & query.keys():
        return refuse("bad_query", "say note=TEXT, or maintenance=1 or 0")
    maintenance = None if flag is None else flag == "1"
    comes = node.mac is not None  # the inventory has it, where it was not seen
    if not web.nodes.annotate(node.key, query.get("note"), maintenance, awaited=comes):
        return _no_such_node()
    web.changes.note(node.key)
    node = web.overview.find(node.key) or node
    return pack(200, {"note": node.note, "maintenance": node.maintenance})


def _forget(web: Web, request: Request, key: str) -> Response:
    node = web.overview.find(key)
    if node is None:
        return _no_such_node()
    return pack(200, {"forgotten": int(_forget_one(web, node.key))})


def _forget_many(web: Web, request: Request, key: str) -> Response:
    done = forget_many(web.nodes, request.query, web.clock(), lambda node: _forget_one(web, node))
    return refuse("bad_query", done) if isinstance(done, str) else pack(200, {"forgotten": done})


def _forget_one(web: Web, key: str) -> bool:
    gone = web.nodes.forget(key)
    if gone:
        web.logbook.forget(key)
        web.changes.note(key)
    return gone


def _events(web: Web, request: Request, key: str) -> Response:
    return answer_events(web.feed, request)


def _changes(web: Web, request: Request, key: str) -> Response:
    return answer_changes(web.changes, request)


def _rollout(web: Web, request: Request, key: str) -> Response:
    return answer_rollout(web.conductor)


def _start_rollout(web: Web, request: Request, key: str) -> Response:
    return answer_start(web.conductor, request)


def _order_rollout(web: Web, request: Request, key: str) -> Response:
    return answer_order(web.conductor, request)


def _document(web: Web, request: Request, key: str) -> Response:
    return pack(200, describe(ROUTES))


def _no_such_node() -> Response:
    return refuse("no_such_node", "no such node was seen")


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        "/api/nodes",
        "listNodes",
        "The machines that fit: how far each has come, and what is the matter. With thousands"
        " of them the answer may be some seconds old.",
        _nodes,
        "nodes",
        (*queries.FILTERS, queries.SORT, queries.LIMIT_NODES),
        ("bad_query",),
        tells=True,
    ),
    Route(
        "DELETE",
        "/api/nodes",
        "forgetNodes",
        "Forget the machines that were silent for so long, or all that was played.",
        _forget_many,
        "forgotten",
        (queries.OLDER_THAN, queries.PLAYED_ONLY),
        ("bad_query",),
    ),
    Route(
        "GET",
        "/api/nodes/{node}",
        "getNode",
        "One machine with the timeline of its boots and its last events.",
        _node,
        "node",
        (),
        ("no_such_node",),
    ),
    Route(
        "PUT",
        "/api/nodes/{node}",
        "annotateNode",
        "Write a note on a machine, say that somebody works on it, or both.",
        _annotate,
        "note",
        (queries.NOTE, queries.MAINTENANCE),
        ("bad_query", "no_such_node"),
    ),
    Route(
        "DELETE",
        "/api/nodes/{node}",
        "forgetNode",
        "Forget a machine: its timeline and its log.",
        _forget,
        "forgotten",
        (),
        ("bad_query", "no_such_node"),
    ),
    Route(
        "GET",
        "/api/nodes/{node}/log",
        "getNodeLog",
        "What its kernel and its syslog sent, each boot by itself.",
        _log,
        "log",
        (),
        ("no_such_node",),
    ),
    Route(
        "GET",
        "/api/overview",
        "getOverview",
        "Counts within the filter, and what is the matter, the cause with most machines first.",
        _overview,
        "overview",
        queries.FILTERS,
        ("bad_query",),
        tells=True,
    ),
    Route(
        "GET",
        "/api/events",
        "listEvents",
        "The last events of all services, oldest first; with follow=1 those that come.",
        _events,
        "events",
        (
            *(queries.NODE, queries.SOURCE, queries.SINCE, queries.LIMIT_EVENTS),
            queries.FOLLOW,
        ),
        ("bad_query",),
        streams="event",
    ),
    Route(
        "GET",
        "/api/changes",
        "followChanges",
        "Which machines have changed, once a second at most.",
        _changes,
        "",
        (queries.NODE,),
        streams="changes",
    ),
    Route(
        "GET",
        "/api/rollout",
        "getRollout",
        "The rollout that is under way, or the last one, with each of its machines (a preview).",
        _rollout,
        "rollout",
    ),
    Route(
        "PUT",
        "/api/rollout",
        "startRollout",
        "Begin a rollout (a preview): a new image reaches machines in waves.",
        _start_rollout,
        "rollout",
        queries.ROLLOUT,
        ("bad_query", "rollout_refused"),
    ),
    Route(
        "PUT",
        "/api/rollout/order",
        "orderRollout",
        "Pause the rollout, go on with it, or take it back (a preview).",
        _order_rollout,
        "rollout",
        (queries.ORDER,),
        ("bad_query", "rollout_refused"),
    ),
    Route(
        "GET",
        "/api/time",
        "getTime",
        "Seconds since the epoch, a decimal number and a newline: for machines that boot.",
        _time,
        is_open=True,
    ),
    Route("GET", "/api/openapi.json", "getDocument", "This document.", _document, "document"),
)
