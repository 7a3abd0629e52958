"""HTTP as a booting machine asks it, with the standard library's client."""

import contextlib
import hashlib
import http.client
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

TIMEOUT: Final = 10.0
"""Seconds for an answer."""
_CHUNK: Final = 1024 * 1024
"""Bytes read at once."""
_MOST: Final = 4 * 1024 * 1024
"""Bytes of an answer that is held whole."""


@dataclass(frozen=True)
class Page:
    """A small answer. sent, came: this machine's clock around it."""

    status: int
    body: bytes
    sent: float
    came: float
    date: str = ""

    @property
    def words(self) -> str:
        """The body in one line for a person."""
        text = " ".join(self.body.decode("utf-8", "replace").split())[:300]
        return f"{self.status} {text}".strip()


USER_AGENT = "bootfarm-doctor"
"""By which the server knows that no machine asks."""


@contextlib.contextmanager
def _asked(
    host: str, port: int, path: str, headers: dict[str, str]
) -> Iterator[http.client.HTTPResponse]:
    """The answer, its body unread. Raises OSError, also for what is no HTTP."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path, headers={"User-Agent": USER_AGENT, **headers})
        yield connection.getresponse()
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP: {type(error).__name__}") from error
    finally:
        connection.close()


def fetch(
    host: str, port: int, path: str, *, span: tuple[int, int] | None = None, token: str = ""
) -> Page:
    """GET at most 4 MiB. span: first byte and count. Raises OSError."""
    headers = {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"} if span else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    sent = time.time()
    with _asked(host, port, path, headers) as answer:
        came = time.time()
        body = answer.read(_MOST)
        return Page(answer.status, body, sent, came, answer.headers.get("Date", ""))


def digest(
    host: str, port: int, path: str, tell: Callable[[int], None] = lambda count: None
) -> tuple[int, str, str]:
    """GET and hash: size, SHA-256, and the server's words when it refuses ("" else).

    Raises OSError, also when the body ends early.
    """
    sha = hashlib.sha256()
    size = 0
    with _asked(host, port, path, {}) as answer:
        if answer.status != 200:
            body = answer.read(4096).decode("utf-8", "replace")
            return 0, "", f"{answer.status} {' '.join(body.split())[:300]}"
        while chunk := answer.read(_CHUNK):
            sha.update(chunk)
            size += len(chunk)
            tell(size)
        wanted = answer.headers.get("Content-Length")
    if wanted is not None and int(wanted) != size:
        raise OSError(f"it ended after {size} of {wanted} bytes")
    return size, sha.hexdigest(), ""
