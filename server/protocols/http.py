"""HTTP/1.1, server side, sans-IO: h11 parses and frames; ranges, limits and deadlines are here.

`HttpCore` is one connection: bytes and the time in; requests, and parts of
replies (bytes, or ranges of files that the shell sends), out. RFC 9110, RFC 9112.
A reply may go on for as long as the client stays: see `Response.stream` and `Outflow`.
"""

import email.utils
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

import h11

SERVER_NAME: Final = b"bootfarm"


@dataclass(frozen=True)
class HttpLimits:
    """What one client may cost. Seconds; bytes; connections in all and of one address.

    request_seconds: from a request's first byte to its last. idle_seconds:
    between requests. stall_seconds: without the client taking a byte.
    bytes_per_second: for one address; 0: as many as there are.
    followers, followers_per_client: replies without an end at a time;
    follower_bytes: what may wait for one of them before it is dropped;
    heartbeat_seconds: something is sent at least so often. loop_share: of the
    server's time, for the answers of one machine; what it asks beyond waits, and
    may take burst_seconds of it at once. When all connections are taken, one that
    has sent no whole request gives way to a new one, the oldest first; then one
    that waits between requests; then one that takes nothing of its reply; then one of
    the machine that has most, if it has more than the newcomer.
    """

    connections: int = 2048
    per_client: int = 64
    header_bytes: int = 16_384
    body_bytes: int = 4096
    request_seconds: float = 10.0
    idle_seconds: float = 30.0
    stall_seconds: float = 60.0
    bytes_per_second: float = 0.0
    followers: int = 64
    followers_per_client: int = 8
    follower_bytes: int = 262_144
    heartbeat_seconds: float = 15.0
    loop_share: float = 0.2
    burst_seconds: float = 0.5


@dataclass(frozen=True)
class Request:
    """A whole request. path: percent-decoded, without the query. headers: names in lower case.

    card: the MAC that answered for the client's address when it connected, or that address;
    "" where nobody looked. doubled: keys that stand more than once in the query, of which the
    last counts.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    client: str = ""
    card: str = ""
    doubled: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileRange:
    """Bytes of a file that the shell sends; `len()` is what counts for the framing."""

    path: Path
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


Push = Callable[[bytes], None]
"""Takes further bytes of a reply without an end."""
Subscribe = Callable[[Push], Callable[[], None]]
"""Begins to push, at once or later; what it gives back ends that."""
HEARTBEAT: Final = b": the server is here\n\n"
"""A comment of server-sent events (HTML Living Standard, section 9.2.6)."""


@dataclass(frozen=True)
class Response:
    """An answer before ranges, HEAD and conditions are applied.

    body: bytes, or a whole file. etag: strong validator, quotes included, or "".
    transfer: the path to be told of when the answer has been sent, or "".
    stream: what goes on pushing bytes after `body`, until the client or the server goes.
    """

    status: int
    body: bytes | FileRange = b""
    content_type: str = "application/octet-stream"
    headers: tuple[tuple[str, str], ...] = ()
    etag: str = ""
    transfer: str = ""
    stream: Subscribe | None = None


class Rejected(Exception):  # noqa: N818 - an answer
    """What came is no request that is taken; answer with `status` and hang up."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Unsatisfiable(Exception):  # noqa: N818 - RFC 9110's own word
    """A Range header that lies outside of the content (RFC 9110 section 15.5.17)."""


Part = bytes | FileRange


@dataclass
class Reply:
    """What to send for one request, in order. length: of the body that is sent. why: a refusal's
    first line."""

    status: int
    parts: list[Part]
    length: int
    transfer: str = ""
    stream: Subscribe | None = None
    why: str = ""


class Outflow:
    """What waits for one follower: bounded, with a heartbeat when nothing else is sent."""

    def __init__(self, limits: HttpLimits, now: float) -> None:
        self._limit = limits.follower_bytes
        self._heartbeat = limits.heartbeat_seconds
        self._waiting: list[bytes] = []
        self._size = 0
        self._taken = now

    def push(self, data: bytes) -> bool:
        """Put `data` behind what waits. False when that is more than the follower may cost."""
        self._waiting.append(data)
        self._size += len(data)
        return self._size <= self._limit

    def take(self, now: float) -> bytes:
        """All that waits, to be sent; a heartbeat when it is time for one; or b""."""
        if not self._waiting and now - self._taken >= self._heartbeat:
            self._waiting.append(HEARTBEAT)
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        if data:
            self._taken = now
        return data


MAX_FIELDS = 32
"""Of a query."""
_TLS = b"\x16\x03"
"""What a TLS client begins with (RFC 8446, 5.1): a handshake's record."""
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """(offset, length) of a Range header for content of `size` bytes (RFC 9110 section 14.1.2).

    None when the header is to be ignored: another unit, not well formed, or
    several ranges (which a server may ignore, section 14.2). Raises Unsatisfiable.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if len(first) > 18 or len(last) > 18:
        raise Unsatisfiable
    if first == "":
        length = min(int(last), size)
        if length == 0:
            raise Unsatisfiable
        return size - length, length
    start = int(first)
    end = int(last) if last else size - 1
    if last and end < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(end, size - 1) - start + 1


def parse_target(target: bytes) -> tuple[str, dict[str, str]]:
    """Path and query of a request target (RFC 9112 section 3.2), or Rejected."""
    if not target.startswith(b"/"):
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise Rejected(400, "the request target is not a path")
        target = b"/" + rest.partition(b"/")[2]
    path, _, query = target.partition(b"?")
    try:
        text = unquote_to_bytes(path).decode()
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=MAX_FIELDS,
            errors="strict",
        )
    except ValueError:
        raise Rejected(
            400,
            "the request target is not UTF-8 in percent encoding,"
            f" or its query has more than {MAX_FIELDS} fields",
        ) from None
    return text, dict(pairs)


def find_doubled(target: bytes) -> tuple[str, ...]:
    """The keys that stand more than once in a target's query, in order."""
    pairs = target.partition(b"?")[2].split(b"&")
    counts = Counter(unquote_to_bytes(pair.partition(b"=")[0]) for pair in pairs)
    return tuple(key.decode("utf-8", "replace") for key, count in counts.items() if count > 1)


def _say(error: h11.RemoteProtocolError) -> str:
    """What h11 found, without the bytes as Python writes them."""
    return str(error).partition(": bytearray(")[0]


def _explain(response: Response) -> str:
    """What a refusal says, in one line; "" for what is none, or no text."""
    is_text = response.content_type.startswith("text/plain")
    if response.status < 400 or not is_text or not isinstance(response.body, bytes):
        return ""
    return response.body[:400].decode("utf-8", "replace").partition("\n")[0].strip()


class HttpCore:
    """One connection. Give it bytes with the time; take requests; give responses."""

    def __init__(self, client: str, limits: HttpLimits, now: float, card: str = "") -> None:
        self._client = client
        self._card = card
        self._limits = limits
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._reading = False
        self._replying = False
        self._deadline = now + limits.idle_seconds
        self.must_close = False

    @property
    def deadline(self) -> float:
        """When the shell shall hang up unless something has happened."""
        return self._deadline

    @property
    def replying(self) -> bool:
        """Whether a reply is under way: nothing is read meanwhile."""
        return self._replying

    @property
    def has_input(self) -> bool:
        """Whether something of a next request has come."""
        return self._reading

    def receive_data(self, data: bytes, now: float) -> None:
        """Bytes from the client; b"" when it has closed its side."""
        if not self._reading:
            self._reading = True
            self._deadline = now + self._limits.request_seconds
        if self._connection.their_state is h11.IDLE and not self._connection.trailing_data[0]:
            # RFC 9112 section 2.2: some clients end a body with an empty line too many.
            rest = data.lstrip(b"\r\n")
            if data and not rest:
                return
            data = rest
        if data[:2] == _TLS and self._connection.their_state is h11.IDLE:
            raise Rejected(400, "TLS came to a port of plain HTTP: write http://, not https://")
        try:
            self._connection.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise Rejected(400, _say(error)) from None

    def next_request(self) -> tuple[Request | None, bytes]:
        """The next whole request, if it is there, and bytes to send at once (100 Continue).

        Raises Rejected for what is malformed or too large.
        """
        interim = b""
        while not self.must_close:
            try:
                event = self._connection.next_event()
            except h11.RemoteProtocolError as error:
                raise Rejected(error.error_status_hint, _say(error)) from None
            if isinstance(event, h11.Request):
                self._head = event
                self._body.clear()
                interim += self._check_head(event)
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._limits.body_bytes:
                    raise Rejected(413, f"more than {self._limits.body_bytes} bytes of body")
            elif isinstance(event, h11.EndOfMessage):
                self._replying = True
                return self._make_request(), interim
            elif event is h11.NEED_DATA or event is h11.PAUSED:
                return None, interim
            else:
                self.must_close = True
        return None, interim

    def _check_head(self, head: h11.Request) -> bytes:
        if head.method == b"CONNECT":  # RFC 9110 section 9.3.6; what follows would be no HTTP
            raise Rejected(501, "CONNECT asks for a proxy, which this server is not")
        names = {name for name, _ in head.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            # RFC 9112 section 6.1: a proxy before us may have counted by the other one.
            raise Rejected(400, "both Content-Length and Transfer-Encoding")
        for name, value in head.headers:
            if name == b"content-length" and int(value) > self._limits.body_bytes:
                raise Rejected(413, f"more than {self._limits.body_bytes} bytes of body")
        if self._connection.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            return self._connection.send(go_on) or b""
        return b""

    def _make_request(self) -> Request:
        assert self._head is not None
        path, query = parse_target(self._head.target)
        headers: dict[str, str] = {}
        for raw, value in self._head.headers:
            name, text = raw.decode("latin-1"), value.decode("latin-1")
            # RFC 9110 section 5.3: a field that stands twice is a list.
            between = "; " if name == "cookie" else ", "
            headers[name] = f"{headers[name]}{between}{text}" if name in headers else text
        if not self._head.target.startswith(b"/"):
            # RFC 9112 section 3.2.2: the target's own name counts, whatever Host says.
            headers["host"] = self._head.target.split(b"/")[2].decode("latin-1")
        method = self._head.method.decode("latin-1")
        target = self._head.target
        doubled = find_doubled(target) if b"&" in target else ()
        body = bytes(self._body)
        return Request(method, path, query, headers, body, self._client, self._card, doubled)

    def respond(self, request: Request, response: Response, now: float, wall: float) -> Reply:
        """What to send for a request. now: the loop's clock; wall: seconds since the epoch."""
        if response.stream is not None and response.status == 200:
            return self._begin_stream(request, response, now, wall)
        status, body, extra = _apply_conditions(request, response)
        length = len(body)
        headers = [
            ("Date", email.utils.formatdate(wall, usegmt=True)),
            ("Server", SERVER_NAME.decode()),
            *response.headers,
            *extra,
        ]
        if status != 304:
            headers += [("Content-Type", response.content_type)]
        if status not in (204, 304):
            headers += [("Content-Length", str(length))]
        parts = self._frame(request.method, status, headers, body)
        self._deadline = now + self._limits.stall_seconds
        sent = sum(len(part) for part in parts[1:])
        return Reply(status, parts, sent, response.transfer, why=_explain(response))

    def _begin_stream(self, request: Request, response: Response, now: float, wall: float) -> Reply:
        """Head and first bytes of a reply without an end (chunked, RFC 9112 section 7.1)."""
        headers = [
            ("Date", email.utils.formatdate(wall, usegmt=True)),
            ("Server", SERVER_NAME.decode()),
            *response.headers,
            ("Content-Type", response.content_type),
        ]
        head = h11.Response(status_code=200, headers=headers, reason=b"OK")
        parts: list[Part] = [self._connection.send(head) or b""]
        self._deadline = now + self._limits.stall_seconds
        if request.method == "HEAD":
            self._connection.send(h11.EndOfMessage())
            return Reply(200, parts, 0)
        if isinstance(response.body, bytes) and response.body:
            parts.append(self.pack_more(response.body, now))
        return Reply(200, parts, 0, stream=response.stream)

    def pack_more(self, data: bytes, now: float) -> bytes:
        """Further bytes of a reply without an end, framed."""
        self._deadline = now + self._limits.stall_seconds
        return self._connection.send(h11.Data(data=data)) or b""

    def end_stream(self) -> bytes:
        """The end of a reply that had none, framed; the connection ends with it."""
        self.must_close = True
        return self._connection.send(h11.EndOfMessage()) or b""

    def reject(self, rejected: Rejected, now: float, wall: float) -> Reply:
        """The last words on a connection whose input cannot be understood."""
        self.must_close = True
        body = f"{rejected.reason}\n".encode(errors="replace")
        headers = [
            ("Date", email.utils.formatdate(wall, usegmt=True)),
            ("Server", SERVER_NAME.decode()),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        self._replying = True
        self._deadline = now + self._limits.stall_seconds
        try:
            parts = self._frame("GET", rejected.status, headers, body)
        except h11.LocalProtocolError:
            parts = []
        return Reply(rejected.status, parts, len(body))

    def _frame(
        self, method: str, status: int, headers: list[tuple[str, str]], body: Part
    ) -> list[Part]:
        head = h11.Response(
            status_code=status, headers=headers, reason=_reason(status).encode("ascii")
        )
        first = self._connection.send(head)
        assert first is not None
        parts: list[Part] = [first]
        if method != "HEAD" and status not in (204, 304) and len(body) > 0:
            for piece in self._connection.send_with_data_passthrough(h11.Data(data=body)) or ():  # type: ignore[arg-type]
                parts.append(piece)
            self._connection.send(h11.EndOfMessage())
        elif method == "HEAD" or len(body) == 0 or status in (204, 304):
            self._connection.send(h11.EndOfMessage())
        return parts

    def progressed(self, now: float) -> None:
        """The client has taken some of the reply."""
        self._deadline = now + self._limits.stall_seconds

    def sent(self, now: float) -> bool:
        """The whole reply has left. True when the connection goes on to a next request."""
        self._replying = False
        if self.must_close or self._connection.our_state is not h11.DONE:
            return False
        try:
            self._connection.start_next_cycle()
        except h11.LocalProtocolError:
            return False
        waiting = self._connection.trailing_data[0]
        self._reading = bool(waiting)
        seconds = self._limits.request_seconds if waiting else self._limits.idle_seconds
        self._deadline = now + seconds
        return True


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _apply_conditions(
    request: Request, response: Response
) -> tuple[int, Part, list[tuple[str, str]]]:
    """If-Match, If-None-Match, Range and If-Range (RFC 9110 sections 13 and 14)."""
    body: Part = response.body
    if response.status != 200 or request.method not in ("GET", "HEAD"):
        return response.status, body, []
    extra = [("ETag", response.etag)] if response.etag else []
    needed = request.headers.get("if-match")
    if needed is not None and not {"*", response.etag} & set(map(str.strip, needed.split(","))):
        return 412, b"", extra
    wanted = request.headers.get("if-none-match")
    if wanted is not None and response.etag and _matches(wanted, response.etag):
        return 304, b"", extra
    extra.append(("Accept-Ranges", "bytes"))
    header = request.headers.get("range")
    condition = request.headers.get("if-range")
    if header is None or request.method == "HEAD" or condition not in (None, response.etag):
        return 200, body, extra
    size = len(body)
    try:
        span = parse_range(header, size)
    except Unsatisfiable:
        return 416, b"", [*extra, ("Content-Range", f"bytes */{size}")]
    if span is None:
        return 200, body, extra
    offset, length = span
    extra.append(("Content-Range", f"bytes {offset}-{offset + length - 1}/{size}"))
    if isinstance(body, FileRange):
        return 206, FileRange(body.path, body.offset + offset, length), extra
    return 206, body[offset : offset + length], extra


def _matches(header: str, etag: str) -> bool:
    words = [word.strip().removeprefix("W/") for word in header.split(",")]
    return "*" in words or etag in words
