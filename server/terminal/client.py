"""A client of the server's web API: JSON answers, and the stream of events."""

import http.client
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from server.errors import ServerError
from server.terminal.eventstream import EventStream, Message
from server.terminal.words import clean, text_of

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"
TIMEOUT: Final = 15.0
"""Seconds for an answer."""
SILENCE: Final = 60.0
"""Seconds; a stream sends a comment after 15 s of silence, so that a dead one is noticed."""
ANSWER_MAX: Final = 256 * 1024 * 1024
"""Bytes of an answer: more than any farm's list of nodes has."""
_CHUNK: Final = 65_536
"""Bytes read at once."""


class LostError(ServerError):
    """A stream ended or fell silent: another try may help."""


class Api:
    """One server. url: as http://10.9.0.1:8080. token: "" where the server asks for none.

    Proxies of the environment are not used: the server stands next to its nodes.
    """

    def __init__(self, url: str, token: str = "", timeout: float = TIMEOUT) -> None:
        """Raises ServerError for what is no URL of a server."""
        self.url = url.rstrip("/")
        self._timeout = timeout
        try:
            parts = urllib.parse.urlsplit(self.url if "//" in url else f"http://{self.url}")
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            parts = urllib.parse.SplitResult("", "", "", "", "")
            self._host, self._port = "", None
        if parts.username is not None or parts.password is not None:
            raise ServerError(
                "--server holds a name or a password, which the server does not ask for",
                hint="leave it out; a token goes into BOOTFARM_TOKEN (or --token)",
            )
        odd = parts.query or parts.fragment
        if parts.scheme not in ("http", "https") or not self._host or odd:
            raise ServerError(
                f"--server {url!r} is no address of a server",
                hint=f"write it as {DEFAULT_SERVER} (or set BOOTFARM_SERVER)",
            )
        self._secure = parts.scheme == "https"
        self._base = parts.path.rstrip("/")
        self._headers = {"Accept": "application/json", "User-Agent": "bootfarm"}
        if token:
            if not token.isascii() or not token.isprintable():
                raise ServerError(
                    "the token holds characters that no token has",
                    hint="look at --token or BOOTFARM_TOKEN: a line end, a blank?",
                )
            self._headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The decoded answer to GET; None for 404. Raises ServerError."""
        return self._fetch("GET", path, query or {})

    def delete(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The decoded answer to DELETE; None for 404. Raises ServerError."""
        return self._fetch("DELETE", path, query or {})

    def put(self, path: str, query: Mapping[str, str]) -> Any:
        """The decoded answer to PUT; None for 404. Raises ServerError."""
        return self._fetch("PUT", path, query)

    def _fetch(self, method: str, path: str, query: Mapping[str, str]) -> Any:
        connection, response = self._ask(path, query, self._timeout, method)
        try:
            body = response.read(ANSWER_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()
        is_told = response.status == 404 and _is_json(response)
        if is_told and _read_problem(body).code != "no_such_path":
            return None
        self._check(response, body)
        try:
            return json.loads(body)
        except ValueError:
            raise self._foreign("its answer is no JSON") from None

    def follow(self, path: str, query: Mapping[str, str]) -> Iterator[Message | None]:
        """The messages of a stream as they come; None first, once it stands, and at heartbeats.

        Raises LostError when it ends or cannot be had now, ServerError when it
        makes no sense to try again.
        """
        try:
            connection, response = self._ask(path, query, SILENCE)
        except LostError:
            raise
        stream = EventStream()
        try:
            if response.status != 200:
                self._check(response, response.read(_CHUNK))
            if "text/event-stream" not in response.headers.get("Content-Type", ""):
                raise self._foreign("it does not stream events")
            yield None
            while chunk := response.read1(_CHUNK):
                messages = stream.feed(chunk)
                yield from messages or (None,)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()
        raise LostError(f"{self.url}: the server ended the stream", hint="it may be restarting")

    def _ask(
        self, path: str, query: Mapping[str, str], timeout: float, method: str = "GET"
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout)
        target = self._base + path + (f"?{urllib.parse.urlencode(query)}" if query else "")
        try:
            connection.request(method, target, headers=self._headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from None

    def _check(self, response: http.client.HTTPResponse, body: bytes) -> None:
        """Raise the ServerError that an answer of another status than 200 stands for."""
        status = response.status
        if status == 200:
            return
        problem = _read_problem(body) if _is_json(response) else _Problem(_first_line(body))
        told = f"{self.url}: {problem.words}"
        if problem.code in ("bad_query", "foreign_page", "rollout_refused", "server_failed"):
            raise ServerError(told, hint=problem.hint)
        if status == 403 and problem.words.startswith("only from"):
            raise ServerError(
                told, hint="run it there, or set token_file in farm.yaml and give the token"
            )
        if status in (401, 403):
            raise ServerError(
                f"{self.url}: the server wants a token ({status})",
                hint="give the one of its farm.yaml: --token, or better BOOTFARM_TOKEN",
            )
        if status == 400:
            raise ServerError(
                told,
                hint=problem.hint or "its version may be another one: compare `bootfarm --version`",
            )
        if status == 421:
            raise ServerError(
                told,
                hint="give its address (--server, BOOTFARM_SERVER), or the token if it has one",
            )
        if status == 503 or status == 429:
            raise LostError(
                f"{self.url}: the server is busy ({status}): {problem.words}",
                hint="try again in a moment",
            )
        raise self._foreign(f"it answered {status}: {problem.words}")

    def _foreign(self, what: str) -> ServerError:
        return ServerError(
            f"{self.url}: this is no bootfarm server of this version: {what}",
            hint="look at --server (BOOTFARM_SERVER): the port is that of HTTP, 8080 by default",
        )

    def _unreachable(self, error: Exception) -> LostError:
        if isinstance(error, TimeoutError):
            words = "no answer in time"
        elif isinstance(error, http.client.HTTPException):
            words = f"the answer broke off ({type(error).__name__})"
        else:
            words = getattr(error, "strerror", None) or str(error)
        return LostError(
            f"{self.url}: {words}",
            hint="does `bootfarm serve` run there? Another address: --server URL or"
            " BOOTFARM_SERVER",
        )


@dataclass(frozen=True)
class _Problem:
    """What an error says: of the API's format (docs/contracts.md), or a line of text."""

    words: str
    code: str = ""
    hint: str = ""


def _read_problem(body: bytes) -> _Problem:
    """Of a server before the format: its `error`, without a code."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return _Problem(_first_line(body))
    words = text_of(found, "detail") or text_of(found, "error")
    return _Problem(words[:500], text_of(found, "code"), text_of(found, "hint")[:500])


def _is_json(response: http.client.HTTPResponse) -> bool:
    return "json" in response.headers.get("Content-Type", "")


def _first_line(body: bytes) -> str:
    text = body[:500].decode("utf-8", "replace").strip().partition("\n")[0]
    return clean(text)[:200]
