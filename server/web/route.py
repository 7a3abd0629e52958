"""One path and method of the API: what it takes, gives and refuses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from server.protocols.http import Request, Response
from server.web.queries import Query
from server.web.web import Web

NODE: Final = "{node}"
"""In a path: a machine's key."""
Answer = Callable[[Web, Request, str], Response]
"""Takes the key, too, or "" where the path has none."""


@dataclass(frozen=True)
class Route:
    """One path and method.

    name: for programs that are made from the document. shape: of the answer, a name of
    answers.SHAPES; "" for text. streams: the shape of each message, where it may go on as
    server-sent events; without a shape it does nothing else. errors: codes of replies.KINDS
    that are this route's own. is_open: for everybody, and not counted against the limit of
    requests. tells: the answer itself says which words of a query count for nothing.
    """

    method: str
    path: str
    name: str
    about: str
    answer: Answer
    shape: str = ""
    takes: tuple[Query, ...] = ()
    errors: tuple[str, ...] = ()
    streams: str = ""
    is_open: bool = False
    tells: bool = False

    @property
    def changes(self) -> bool:
        """Whether it changes what the server remembers."""
        return self.method != "GET"
