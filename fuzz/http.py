"""HTTP: any bytes, in any pieces, are requests that are answered, or are refused."""

# ruff: noqa: PT017 - what an error must say is a promise, too

from pathlib import Path
from typing import Final

from fuzz.words import Words
from server.protocols.http import (
    FileRange,
    HttpCore,
    HttpLimits,
    Rejected,
    Request,
    Response,
    Unsatisfiable,
    parse_range,
)

LIMITS: Final = HttpLimits(header_bytes=4096, body_bytes=128)
"""No input has so long a head: one that came whole may be longer than one in pieces."""
TIGHT: Final = HttpLimits(header_bytes=64, body_bytes=16)
SIZE: Final = 1000
MAX_PIECES: Final = 32
FILE: Final = FileRange(Path("/image"), 0, SIZE)
_WALL: Final = 1_795_239_504.0
_STREAMS: Final = (
    b"GET /ltsp/amd64/vmlinuz HTTP/1.1\r\nHost: a\r\nRange: bytes=10-19\r\n\r\n",
    b"GET /a%2e%2e/%ff?mac=52%3A54&x HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.0\r\n\r\n",
    b"POST /beacon HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\na=b",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b'GET http://a/b HTTP/1.1\r\nHost: a\r\nIf-None-Match: "e"\r\nConnection: close\r\n\r\n',
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b'GET /s HTTP/1.1\r\nHost: a\r\nIf-Range: "e"\r\nRange: bytes=-5, 9-\r\n\r\n',
    b"bytes=5-4",
    b"bytes = -0",
)
SEEDS: Final = tuple(bytes((cut,)) + stream for stream in _STREAMS for cut in (3, 4, 200))


def check(data: bytes) -> None:
    """data: one byte that says how the stream is cut, then the stream."""
    words = Words(data)
    cut = 1 + words.number()
    stream = words.rest()
    _check_range(stream[:64].decode("latin-1"))
    if cut % 4 == 0:
        _run(stream, cut, TIGHT)
        return
    whole = _run(stream, len(stream) + 1, LIMITS)
    if cut < len(stream):
        pieces = _run(stream, max(cut, len(stream) // MAX_PIECES), LIMITS)
        assert whole == pieces, "how the bytes are cut changes what is understood"


def _check_range(header: str) -> None:
    try:
        span = parse_range(header, SIZE)
    except Unsatisfiable:
        return
    if span is not None:
        offset, length = span
        assert 0 <= offset < SIZE
        assert 0 < length <= SIZE - offset


def _run(stream: bytes, cut: int, limits: HttpLimits) -> list[Request | int]:
    """What was understood: requests, and the status of what was refused in the end."""
    core = HttpCore("10.9.0.5", limits, 0.0)
    understood: list[Request | int] = []
    try:
        for position in range(0, len(stream), cut):
            core.receive_data(stream[position : position + cut], 1.0)
            while (request := core.next_request()[0]) is not None:
                understood.append(request)
                if not _answer(core, request, limits):
                    return understood
    except Rejected as rejected:
        reply = core.reject(rejected, 1.0, _WALL)
        assert 400 <= rejected.status < 600
        assert core.must_close
        head = reply.parts[0] if reply.parts else b""
        assert isinstance(head, bytes)
        assert not head or head.startswith(b"HTTP/1.1 ")
        understood.append(400)
    assert core.deadline < 1e6
    return understood


def _answer(core: HttpCore, request: Request, limits: HttpLimits) -> bool:
    assert "\0" not in request.method
    assert len(request.body) <= limits.body_bytes
    body = FILE if request.path.startswith("/ltsp") else b"text" * 10
    status = 404 if request.path.endswith("x") else 200
    reply = core.respond(request, Response(status, body, etag='"e"'), 2.0, _WALL)
    head = reply.parts[0]
    assert isinstance(head, bytes)
    assert head.startswith(b"HTTP/1.1 ")
    assert head.endswith(b"\r\n\r\n")
    assert sum(map(len, reply.parts[1:])) == reply.length
    for part in reply.parts[1:]:
        if isinstance(part, FileRange):
            assert part.offset >= 0
            assert part.offset + part.length <= SIZE
    return core.sent(3.0)
