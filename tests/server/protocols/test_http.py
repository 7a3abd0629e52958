import json
from collections.abc import Callable
from pathlib import Path

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.http import (
    HEARTBEAT,
    FileRange,
    HttpCore,
    HttpLimits,
    Outflow,
    Rejected,
    Reply,
    Request,
    Response,
    Unsatisfiable,
    parse_range,
    parse_target,
)

LIMITS = HttpLimits()
WALL = 1_795_239_504.0
BODY = bytes(range(100))


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-", (0, 100)),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 10)),
        ("bytes=90-200", (90, 10)),
        ("bytes=-10", (90, 10)),
        ("bytes=-200", (0, 100)),
        ("BYTES = 5-", (5, 95)),
        ("bytes=5-4", None),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("lines=0-1", None),
        ("", None),
    ],
)
def test_parse_range(header: str, span: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == span


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=-0", "bytes=500-600", f"bytes={'9' * 99}-"]
)
def test_a_range_outside_is_unsatisfiable(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, 100)


@given(header=st.text() | st.from_regex(r"bytes=[0-9]{0,30}-[0-9]{0,30}"), size=st.integers(0, 99))
def test_a_range_lies_within_the_content(header: str, size: int) -> None:
    try:
        span = parse_range(header, size)
    except Unsatisfiable:
        return
    if span is not None:
        offset, length = span
        assert offset >= 0
        assert length > 0
        assert offset + length <= size


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", {}),
        (b"/a%20b?mac=52%3A54&x", "/a b", {"mac": "52:54", "x": ""}),
        (b"http://host:80/a?b=c", "/a", {"b": "c"}),
        (b"http://host", "/", {}),
        (b"/%2e%2e/x", "/../x", {}),
    ],
)
def test_parse_target(target: bytes, path: str, query: dict[str, str]) -> None:
    assert parse_target(target) == (path, query)


@pytest.mark.parametrize("target", [b"*", b"host:80", b"/%ff", b"ftp://x/", b"/?" + b"a&" * 99])
def test_a_target_that_is_none_is_rejected(target: bytes) -> None:
    with pytest.raises(Rejected):
        parse_target(target)


def core() -> HttpCore:
    return HttpCore("10.9.0.11", LIMITS, 0.0)


def ask(connection: HttpCore, raw: bytes) -> Request:
    connection.receive_data(raw, 1.0)
    request, interim = connection.next_request()
    assert request is not None
    assert interim == b""
    return request


def text_of(reply: Reply) -> bytes:
    return b"".join(part for part in reply.parts if isinstance(part, bytes))


def head_of(reply: Reply) -> tuple[int, dict[str, str]]:
    """Status and headers as a client that we did not write reads them."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="HEAD", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(text_of(reply).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    event = client.next_event()
    assert isinstance(event, h11.Response)
    headers = {key.decode(): value.decode() for key, value in event.headers}
    return event.status_code, headers


GET = b"GET /x HTTP/1.1\r\nHost: h\r\n%s\r\n"


def answer(extra: bytes, response: Response, method: bytes = b"GET") -> Reply:
    connection = core()
    request = ask(connection, (GET % extra).replace(b"GET", method, 1))
    return connection.respond(request, response, 1.0, WALL)


def test_request_whole_and_byte_by_byte() -> None:
    raw = (
        b"POST /beacon?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\nx=1&y"
    )
    whole = ask(core(), raw)
    assert (whole.method, whole.path, whole.query) == ("POST", "/beacon", {"a": "b"})
    assert whole.body == b"x=1&y"
    assert whole.client == "10.9.0.11"
    connection = core()
    for number, byte in enumerate(raw, 1):
        connection.receive_data(bytes([byte]), 1.0)
        request, _ = connection.next_request()
        assert (request is None) == (number < len(raw))
    assert request == whole


@pytest.mark.parametrize("lines", [b"\r\n", b"\n", b"\r\n\r\n"])
def test_an_empty_line_before_a_request_is_passed_over(lines: bytes) -> None:
    connection = core()
    for byte in lines:
        connection.receive_data(bytes([byte]), 0.0)
        assert connection.next_request() == (None, b"")
    assert ask(connection, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").path == "/a"
    assert ask(core(), lines + b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n").path == "/b"


def test_the_name_in_the_target_counts() -> None:
    request = ask(core(), b"GET http://evil.example/a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (request.path, request.headers["host"]) == ("/a", "evil.example")


def test_fields_that_stand_twice_are_lists() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: x\r\nRange: bytes=0-0\r\nRange: bytes=1-2\r\n"
    request = ask(core(), raw + b"Cookie: a=b\r\nCookie: c=d\r\n\r\n")
    assert request.headers["range"] == "bytes=0-0, bytes=1-2"
    assert parse_range(request.headers["range"], 100) is None
    assert request.headers["cookie"] == "a=b; c=d"


def test_chunked_body() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert ask(core(), head + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n").body == b"abc"


def test_pipelined_requests_are_answered_one_by_one() -> None:
    connection = core()
    first = ask(connection, (GET % b"") + (GET % b"").replace(b"/x", b"/y"))
    assert connection.replying
    connection.respond(first, Response(200, b"1"), 1.0, WALL)
    assert connection.sent(2.0)
    second, _ = connection.next_request()
    assert second is not None
    assert second.path == "/y"


def test_a_file_is_given_as_a_range_of_it() -> None:
    reply = answer(b"", Response(200, FileRange(Path("/f"), 0, 100), etag='"e"'))
    status, headers = head_of(reply)
    assert status == 200
    assert headers["content-length"] == "100"
    assert headers["etag"] == '"e"'
    assert headers["date"] == "Sat, 21 Nov 2026 05:38:24 GMT"
    assert reply.parts[1:] == [FileRange(Path("/f"), 0, 100)]
    assert reply.length == 100


def test_range_of_a_file_and_of_bytes() -> None:
    reply = answer(b"Range: bytes=10-19\r\n", Response(200, FileRange(Path("/f"), 0, 100)))
    status, headers = head_of(reply)
    assert (status, headers["content-range"]) == (206, "bytes 10-19/100")
    assert headers["content-length"] == "10"
    assert reply.parts[1:] == [FileRange(Path("/f"), 10, 10)]
    reply = answer(b"Range: bytes=-5\r\n", Response(200, BODY))
    assert text_of(reply).partition(b"\r\n\r\n")[2] == BODY[-5:]


def test_unsatisfiable_range() -> None:
    reply = answer(b"Range: bytes=100-\r\n", Response(200, BODY))
    assert head_of(reply)[0] == 416
    assert head_of(reply)[1]["content-range"] == "bytes */100"


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        (b'If-None-Match: "e"\r\n', 304),
        (b'If-None-Match: "a", W/"e"\r\n', 304),
        (b"If-None-Match: *\r\n", 304),
        (b'If-None-Match: "x"\r\n', 200),
        (b'If-Match: "x"\r\n', 412),
        (b'If-Match: W/"e"\r\n', 412),
        (b'If-Match: "x", "e"\r\n', 200),
        (b"If-Match: *\r\n", 200),
        (b'Range: bytes=0-1\r\nIf-Match: "x"\r\n', 412),
        (b'Range: bytes=0-1\r\nIf-Range: "e"\r\n', 206),
        (b'Range: bytes=0-1\r\nIf-Range: "x"\r\n', 200),
    ],
)
def test_conditions(extra: bytes, status: int) -> None:
    assert head_of(answer(extra, Response(200, BODY, etag='"e"')))[0] == status


def test_conditions_do_not_touch_errors() -> None:
    reply = answer(b"Range: bytes=0-1\r\nIf-None-Match: *\r\n", Response(404, b"no", etag='"e"'))
    assert head_of(reply)[0] == 404


def test_head_has_the_length_and_no_body() -> None:
    reply = answer(b"Range: bytes=0-1\r\n", Response(200, BODY), b"HEAD")
    assert head_of(reply)[1]["content-length"] == "100"
    assert text_of(reply).endswith(b"\r\n\r\n")
    assert len(reply.parts) == 1


def test_204_has_no_length() -> None:
    reply = answer(b"", Response(204))
    assert head_of(reply)[0] == 204
    assert "content-length" not in head_of(reply)[1]


def feed(connection: HttpCore, raw: bytes) -> None:
    connection.receive_data(raw, 1.0)
    for _ in range(3):
        connection.next_request()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 20_000, 431),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n"
            + b"x" * 5000
            + b"\r\n0\r\n\r\n",
            413,
        ),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"GET /%ff HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        (b"CONNECT / HTTP/1.1\r\nHost: h\r\n\r\n", 501),
    ],
)
def test_what_is_no_request_is_answered_and_ends_the_connection(raw: bytes, status: int) -> None:
    connection = core()
    with pytest.raises(Rejected) as caught:
        feed(connection, raw)
    assert caught.value.status == status
    reply = connection.reject(caught.value, 1.0, WALL)
    assert head_of(reply)[0] == status
    assert head_of(reply)[1]["connection"] == "close"
    assert connection.must_close
    assert not connection.sent(2.0)


def test_100_continue() -> None:
    connection = core()
    connection.receive_data(
        b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", 1.0
    )
    request, interim = connection.next_request()
    assert request is None
    assert interim.startswith(b"HTTP/1.1 100")
    connection.receive_data(b"ab", 1.0)
    request, interim = connection.next_request()
    assert request is not None
    assert request.body == b"ab"


def test_http_1_0_and_close() -> None:
    for raw in (b"GET / HTTP/1.0\r\n\r\n", GET % b"Connection: close\r\n"):
        connection = core()
        request = ask(connection, raw)
        connection.respond(request, Response(200, b"x"), 1.0, WALL)
        assert not connection.sent(2.0)


def test_end_of_input_closes() -> None:
    connection = core()
    connection.receive_data(b"", 1.0)
    assert connection.next_request() == (None, b"")
    assert connection.must_close


def test_deadlines() -> None:
    connection = core()
    assert connection.deadline == LIMITS.idle_seconds
    connection.receive_data(b"GET / HT", 5.0)
    assert connection.deadline == 5.0 + LIMITS.request_seconds
    # A byte now and then buys no time.
    connection.receive_data(b"TP/1.1\r\n", 9.0)
    assert connection.deadline == 5.0 + LIMITS.request_seconds
    request = ask(connection, b"Host: h\r\n\r\n")
    connection.respond(request, Response(200, b"x"), 10.0, WALL)
    assert connection.deadline == 10.0 + LIMITS.stall_seconds
    connection.progressed(50.0)
    assert connection.deadline == 50.0 + LIMITS.stall_seconds
    assert connection.sent(60.0)
    assert connection.deadline == 60.0 + LIMITS.idle_seconds


@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([GET % b"", b"\r\n", b"GET "]), max_size=9)
)
def test_no_bytes_crash_it(chunks: list[bytes]) -> None:
    connection = core()
    for chunk in chunks:
        try:
            connection.receive_data(chunk, 1.0)
            request, _ = connection.next_request()
        except Rejected as rejected:
            connection.reject(rejected, 1.0, WALL)
            return
        if request is not None:
            connection.respond(request, Response(200, json.dumps(request.path).encode()), 1.0, WALL)
            if not connection.sent(1.0):
                return
        elif connection.must_close:
            return


def follow(push: object) -> Callable[[], None]:
    raise AssertionError("the core does not subscribe")


def test_a_reply_without_an_end_is_chunked() -> None:
    connection = core()
    request = ask(connection, GET % b"")
    response = Response(200, b"one", "text/event-stream", stream=follow)
    reply = connection.respond(request, response, 1.0, WALL)
    assert reply.stream is follow
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(text_of(reply) + connection.pack_more(b"two", 5.0))
    assert connection.deadline == 5.0 + LIMITS.stall_seconds
    client.receive_data(connection.end_stream())
    assert connection.must_close
    seen = []
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        seen.append(event)
    assert isinstance(seen[0], h11.Response)
    assert (b"transfer-encoding", b"chunked") in seen[0].headers
    assert [bytes(data.data) for data in seen[1:] if isinstance(data, h11.Data)] == [b"one", b"two"]


def test_a_stream_that_is_refused_is_an_answer_like_others() -> None:
    reply = answer(b"", Response(404, b"no\n", stream=follow))
    assert reply.stream is None
    assert head_of(reply)[1]["content-length"] == "3"


def test_outflow_is_bounded_and_speaks_when_nothing_else_does() -> None:
    outflow = Outflow(HttpLimits(follower_bytes=10, heartbeat_seconds=15.0), 0.0)
    assert outflow.take(14.9) == b""
    assert outflow.take(15.0) == HEARTBEAT
    assert outflow.take(29.9) == b""
    assert outflow.push(b"12345")
    assert outflow.push(b"67890")
    assert outflow.take(29.9) == b"1234567890"
    assert outflow.take(44.8) == b""
    assert outflow.push(b"12345")
    assert not outflow.push(b"678901")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes.fromhex("16030100c8010000c40303") + b"x" * 60, "TLS came to a port of plain HTTP"),
        (b"GET /a b HTTP/1.1\r\n\r\n", "illegal request line"),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", "illegal header line"),
    ],
)
def test_what_is_no_request_is_told_in_words(data: bytes, words: str) -> None:
    core = HttpCore("10.9.0.1", HttpLimits(), 0.0)

    def read() -> None:
        core.receive_data(data, 0.0)
        core.next_request()

    with pytest.raises(Rejected) as caught:
        read()
    assert caught.value.status == 400
    assert words in str(caught.value)
    assert "bytearray" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "doubled"),
    [
        (b"/api/nodes?state=look&state=ready", ("state",)),
        (b"/api/nodes?a&b=1&%61=2&b=3&c", ("a", "b")),
        (b"/api/nodes?state=look&q=state", ()),
        (b"/a&a?x=1&y=2", ()),
        (b"/", ()),
    ],
)
def test_keys_that_stand_twice_are_known(target: bytes, doubled: tuple[str, ...]) -> None:
    core = HttpCore("10.9.0.1", HttpLimits(), 0.0)
    core.receive_data(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n", 0.0)
    request, _ = core.next_request()
    assert request is not None
    assert request.doubled == doubled


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (Response(404, b"no such image\n", "text/plain; charset=utf-8"), "no such image"),
        (Response(403, b"not listed\nmore\n", "text/plain"), "not listed"),
        (Response(404, b"<p>lost", "text/html"), ""),
        (Response(200, b"words\n", "text/plain"), ""),
    ],
)
def test_a_refusal_is_told_with_its_reason(response: Response, why: str) -> None:
    core = HttpCore("10.9.0.11", LIMITS, 0.0)
    core.receive_data(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 0.0)
    asked = Request("GET", "/x", {}, {}, b"", "10.9.0.11")
    assert core.next_request()[0] is not None
    assert core.respond(asked, response, 0.0, WALL).why == why
