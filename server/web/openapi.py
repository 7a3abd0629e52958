"""The API as an OpenAPI 3.1 document, from its routes: /api/openapi.json, `bootfarm schema api`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from server.web.answers import SHAPES, ref
from server.web.queries import Query
from server.web.replies import JSON, KINDS, PROBLEM
from server.web.route import NODE, Route

STREAM: Final = "text/event-stream"
VERSION: Final = "1"
"""Of the API: what is there keeps its meaning for as long as this does not change."""
_ABOUT: Final = """\
What the status page shows, for programs. Each path that takes GET takes HEAD, too.

Every error has one format, `application/problem+json` (RFC 9457): `code` is for programs \
and keeps its meaning, `detail` and `hint` are for people. What is no HTTP request at all \
(too large, cut off, garbled) is answered with a line of text. Fields and codes may be \
added; a client leaves aside what it does not know. Times are seconds since the epoch.

Where farm.yaml has a token_file, its token is wanted. What changes something is for who \
has the token; where there is none, for the server's own machine."""
_EVERYWHERE: Final = ("token_wanted", "unknown_host", "too_many_requests", "server_failed")
_KEY: Final = {
    "name": "node",
    "in": "path",
    "required": True,
    "description": "A MAC in any spelling, an IP, or a name or serial number of the inventory.",
    "schema": {"type": "string"},
}


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _describe_route(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "bootfarm", "version": VERSION, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": dict(SHAPES),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of token_file, where farm.yaml has one.",
                }
            },
        },
    }


def list_errors(route: Route) -> tuple[str, ...]:
    """The codes of all errors that a route may give."""
    codes = [*route.errors]
    if route.is_open:
        codes += ["server_failed"]
    else:
        codes += _EVERYWHERE
    if route.changes:
        codes += ["only_from_server", "foreign_page"]
    if route.streams:
        codes += ["too_many_followers"]
    return tuple(sorted(codes, key=lambda code: (KINDS[code].status, list(KINDS).index(code))))


def _describe_route(route: Route) -> dict[str, Any]:
    parameters: list[Mapping[str, Any]] = [_KEY] if NODE in route.path else []
    parameters += [_describe_query(query) for query in route.takes]
    responses: dict[str, Any] = {"200": {"description": "It is so.", "content": _content(route)}}
    by_status: dict[int, list[str]] = {}
    for code in list_errors(route):
        by_status.setdefault(KINDS[code].status, []).append(code)
    for status, codes in by_status.items():
        responses[str(status)] = {
            "description": "\n".join(f"`{code}`: {KINDS[code].about}" for code in codes),
            "content": {PROBLEM: {"schema": ref("problem")}},
        }
    found: dict[str, Any] = {"operationId": route.name, "summary": route.about}
    if parameters:
        found["parameters"] = parameters
    if route.is_open:
        found["security"] = [{}]
    return {**found, "responses": responses}


def _content(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.shape:
        content[JSON] = {"schema": ref(route.shape)}
    if route.streams:
        about = f"Each message's data is a JSON text: #/components/schemas/{route.streams}."
        content[STREAM] = {"schema": {"type": "string", "description": about}}
    return content or {"text/plain": {"schema": {"type": "string"}}}


def _describe_query(query: Query) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": query.name,
        "in": "query",
        "description": query.about,
        "schema": dict(query.schema),
    }
    if query.prefix:
        # Each of its properties is a word of the query: label.rack=r1.
        found |= {"style": "form", "explode": True}
    elif query.schema.get("type") == "array":
        found |= {"style": "form", "explode": False}
    return found
