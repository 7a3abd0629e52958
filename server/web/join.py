"""How `POST /join` is answered: lines of KEY=value, which a shell takes apart; nothing is secret.

200: `node`, `api` (https://host:port), `ca` and `certificate` (PEM in base64). 202: under
way, ask the same again. Others: `cause`, a word of server.causes, and `words` for people, and
`wait`, where it is known after how many seconds it is worth asking again.
"""

from collections.abc import Mapping
from typing import Final

from server.protocols.http import Request, Response
from server.web.replies import NO_STORE, TEXT

_STATUSES: Final[Mapping[str, int]] = {
    "join_request": 400,
    "join_twice": 409,
    "join_limit": 429,
    "join_api": 503,
}


def render_answer(status: int, fields: Mapping[str, str]) -> Response:
    """One line a field; a line break within is a blank."""
    lines = "".join(f"{key}={' '.join(value.split())}\n" for key, value in fields.items())
    return Response(status, lines.encode("utf-8", "replace"), TEXT, (NO_STORE,))


def render_refusal(cause: str, words: str, wait: int = 0) -> Response:
    """The answer to who gets no certificate. wait: seconds; 0: not known."""
    fields = {"cause": cause, "words": words}
    if wait:
        fields["wait"] = str(wait)
    return render_answer(_STATUSES.get(cause, 403), fields)


def answer_off(request: Request) -> Response:
    """The answer where no certificates are given."""
    words = "farm.yaml gives no certificates (join: {certificates: true} is missing)"
    return render_refusal("join_off", words)
