"""Answers as text and JSON; and the one format of the API's errors (RFC 9457)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from server.protocols.http import Request, Response

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
"""RFC 9457, section 3."""
NO_STORE: Final = ("Cache-Control", "no-store")


@dataclass(frozen=True)
class Kind:
    """One kind of error. about: when it comes. hint: what to do, where the case has no better."""

    status: int
    about: str
    hint: str


KINDS: Final[Mapping[str, Kind]] = {
    "bad_query": Kind(
        400,
        "A word of the query is none that is known, or one is missing.",
        "the document at /api/openapi.json lists what each query takes",
    ),
    "token_wanted": Kind(
        401,
        "farm.yaml has a token_file, and the right token was not shown.",
        "send `Authorization: Bearer TOKEN` with the token of that file",
    ),
    "only_from_server": Kind(
        403,
        "What changes something is for the server's own machine, while there is no token_file.",
        "run it there, or set token_file in farm.yaml and show its token",
    ),
    "foreign_page": Kind(
        403,
        "A page of another site sent what changes something.",
        "only this server's own pages may, and programs that are no browsers",
    ),
    "no_such_node": Kind(
        404,
        "No such node was seen, and the inventory has none.",
        "/api/nodes?state=look,booting,unseen,ready,off,played lists all",
    ),
    "no_such_path": Kind(
        404, "The API has no such path.", "the document at /api/openapi.json lists all paths"
    ),
    "method_not_allowed": Kind(
        405, "The path is there, and not for this method.", "the header Allow lists its methods"
    ),
    "rollout_refused": Kind(
        409,
        "The rollout cannot be begun or changed as it stands, or there are no rollouts here.",
        "GET /api/rollout says how it stands",
    ),
    "unknown_host": Kind(
        421,
        "The header Host has a name that is not the server's.",
        "ask for its address, or add the name to `http: {names: […]}` in farm.yaml",
    ),
    "too_many_requests": Kind(
        429,
        "This address asked more often than 20 times a second.",
        "wait as long as Retry-After says, and ask less often",
    ),
    "server_failed": Kind(
        500, "The server failed.", "its log says why: please report it with these lines"
    ),
    "too_many_followers": Kind(
        503,
        "Too many streams are open.",
        "wait as long as Retry-After says, or ask without follow=1",
    ),
}
"""Every error of the API by its code. A code keeps its meaning; new ones may come."""

_BY_STATUS: Final[Mapping[int, str]] = {
    KINDS[code].status: code
    for code in (
        *("token_wanted", "foreign_page", "no_such_path", "method_not_allowed", "unknown_host"),
        *("too_many_requests", "server_failed", "too_many_followers"),
    )
}
"""What an error is that was told in words, by those who know nothing of the API."""


def say(status: int, words: str) -> Response:
    """A line of text."""
    return Response(status, f"{words}\n".encode("utf-8", "replace"), TEXT, (NO_STORE,))


def pack(status: int, data: Any, kind: str = JSON) -> Response:
    """JSON on one line."""
    line = json.dumps(data, separators=(",", ":"))
    return Response(status, f"{line}\n".encode(), kind, (NO_STORE,))


def refuse(
    code: str, words: str, hint: str = "", headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """An error of the API: one of KINDS, what happened in this case, and what to do.

    `error` says the same as `detail`: clients of before `detail` read it.
    """
    kind = KINDS[code]
    answer = pack(
        kind.status,
        {
            "type": "about:blank",
            "title": HTTPStatus(kind.status).phrase,
            "status": kind.status,
            "detail": words,
            "code": code,
            "hint": hint or kind.hint,
            "error": words,
        },
        PROBLEM,
    )
    return Response(answer.status, answer.body, PROBLEM, (NO_STORE, *headers))


def dress(request: Request, response: Response) -> Response:
    """The response; an error of the API that was told in words, in the API's format instead."""
    if response.status < 400 or response.content_type.partition(";")[0] != "text/plain":
        return response
    if request.path.strip("/").partition("/")[0] != "api":
        return response
    code = _BY_STATUS.get(response.status)
    if code is None or not isinstance(response.body, bytes):
        return response
    words = response.body.decode("utf-8", "replace").strip()
    kept = tuple(header for header in response.headers if header[0] != "Cache-Control")
    return refuse(code, words, headers=kept)
