"""`GET /api/events`: the last events as JSON, or as a stream that goes on."""

from collections.abc import Callable, Mapping

from imagebuild.yamlloader import did_you_mean
from server.addresses import parse_mac
from server.causes import CAUSES
from server.observe.feed import RING, Changes, Feed, Push
from server.protocols.http import Request, Response
from server.web.replies import JSON, NO_STORE, refuse

STREAM = "text/event-stream"
KEYS = ("follow", "since", "node", "source", "limit")
"""What the query takes."""
DEFAULT_LIMIT = 200
"""Events of an answer that asks for no number."""
_STREAM_HEADERS = (NO_STORE, ("X-Accel-Buffering", "no"), ("X-Content-Type-Options", "nosniff"))


def answer_events(feed: Feed, request: Request) -> Response:
    """`?follow=1`, `?since=ID` (or Last-Event-ID), `?node=KEY`, `?source=NAME`, `?limit=N`; 400
    for any other word, and for what is none of these.

    A stream begins with what came after `since`, if that is given, and else with nothing.
    """
    query = request.query
    if problem := _explain(query):
        return refuse("bad_query", problem)
    node, source = query.get("node", ""), query.get("source", "")
    node = parse_mac(node) or node
    since_text = query.get("since") or request.headers.get("last-event-id") or ""
    since = _number(since_text, 0)
    limit = _number(query.get("limit", ""), DEFAULT_LIMIT)
    if since is None or limit is None:
        return refuse("bad_query", "since= and limit= are whole numbers")
    limit = min(limit, RING)
    if query.get("follow", "0") in ("", "0"):
        entries = feed.last(since=since, node=node, source=source, limit=limit)
        body = b"[" + b",\n".join(entry.data for entry in entries) + b"]\n"
        return Response(200, body, JSON, (NO_STORE,))
    missed = []
    if since_text:
        missed = feed.last(since=since, node=node, source=source, limit=limit)

    def subscribe(push: Push) -> Callable[[], None]:
        return feed.follow(push, node, source)

    first = b"retry: 3000\n\n" + b"".join(entry.message() for entry in missed)
    return Response(200, first, STREAM, _STREAM_HEADERS, stream=subscribe)


def _explain(query: Mapping[str, str]) -> str:
    """What is wrong with a query, or "": one who filters gets no other list."""
    for key in query:
        if key not in KEYS:
            hint = did_you_mean(key, KEYS, f"it takes {', '.join(KEYS)}")
            return f"{key[:60]!r} is no word of this query; {hint}"
    source = query.get("source", "")
    if source and source not in CAUSES:
        hint = did_you_mean(source, CAUSES, f"it is one of {', '.join(CAUSES)}")
        return f"source= is {source[:60]!r}, which is no source of events; {hint}"
    if (follow := query.get("follow", "")) not in ("", "0", "1"):
        return f"follow= is 0 or 1, not {follow[:40]!r}"
    return ""


def answer_changes(changes: Changes, request: Request) -> Response:
    """`GET /api/changes`: which nodes have changed, at most once a second; `?node=KEY` one only."""
    node = request.query.get("node", "")
    node = parse_mac(node) or node

    def subscribe(push: Push) -> Callable[[], None]:
        return changes.follow(push, node)

    return Response(200, b"retry: 3000\n\n", STREAM, _STREAM_HEADERS, stream=subscribe)


def _number(text: str, default: int) -> int | None:
    if not text:
        return default
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None
