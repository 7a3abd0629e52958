"""`GET /api/events`: the last events as JSON, or as a stream that goes on."""

from collections.abc import Callable

from server.addresses import parse_mac
from server.observe.feed import RING, Changes, Feed, Push
from server.protocols.http import Request, Response
from server.web.listing import note_header
from server.web.replies import JSON, NO_STORE, refuse

STREAM = "text/event-stream"
KEYS = {"follow", "since", "node", "limit"}
"""What the query takes."""
DEFAULT_LIMIT = 200
"""Events of an answer that asks for no number."""
_STREAM_HEADERS = (NO_STORE, ("X-Accel-Buffering", "no"), ("X-Content-Type-Options", "nosniff"))


def answer_events(feed: Feed, request: Request) -> Response:
    """`?follow=1`, `?since=ID` (or Last-Event-ID), `?node=KEY`, `?limit=N`; 400 for a bad number.

    A stream begins with what came after `since`, if that is given, and else with nothing.
    """
    query = request.query
    node = query.get("node", "")
    node = parse_mac(node) or node
    since_text = query.get("since") or request.headers.get("last-event-id") or ""
    since = _number(since_text, 0)
    limit = _number(query.get("limit", ""), DEFAULT_LIMIT)
    if since is None or limit is None:
        return refuse("bad_query", "since= and limit= are whole numbers")
    limit = min(limit, RING)
    if query.get("follow", "0") in ("", "0"):
        entries = feed.last(since=since, node=node, limit=limit)
        body = b"[" + b",\n".join(entry.data for entry in entries) + b"]\n"
        strange = [
            f"{key[:60]!r} is no filter and counts for nothing" for key in query.keys() - KEYS
        ]
        return Response(200, body, JSON, (NO_STORE, *note_header(sorted(strange))))
    missed = feed.last(since=since, node=node, limit=limit) if since_text else []

    def subscribe(push: Push) -> Callable[[], None]:
        return feed.follow(push, node)

    first = b"retry: 3000\n\n" + b"".join(entry.message() for entry in missed)
    return Response(200, first, STREAM, _STREAM_HEADERS, stream=subscribe)


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
