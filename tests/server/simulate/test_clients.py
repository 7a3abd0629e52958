"""The simulator's clients against the server's own cores, without sockets."""

import random
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.content import Export
from server.protocols.http import HttpCore, HttpLimits, Response
from server.protocols.nbd import Granules, Transmission
from server.protocols.nbd_handshake import Attached, Handshake
from server.protocols.tftp import Transfer, negotiate
from server.protocols.tftp_blocks import Layout, build
from server.protocols.tftp_wire import pack_error, parse_request
from server.simulate.http import HttpClient
from server.simulate.nbd import NbdClient
from server.simulate.profile import Fetch
from server.simulate.tftp import TftpClient

CONTENT = random.Random(7).randbytes(20_000)


class Exchange:
    """A TFTP download over a wire that loses and doubles packets."""

    def __init__(self, fetch: Fetch, content: bytes, losses: st.DataObject | None) -> None:
        self.content = content
        self.client = TftpClient(fetch, fetch.path, sha256())
        request = parse_request(self.client.again())
        asked = negotiate(request.options, len(content))
        self.server = Transfer(len(content), asked)
        self.layout = Layout(len(content), asked.blksize)
        self.stretches: dict[int, memoryview] = {}
        self.now = 0.0
        self.sent = 0
        self._losses = losses

    def is_lost(self) -> bool:
        return self._losses is not None and self._losses.draw(st.integers(0, 9)) == 0

    def packets(self) -> list[bytes]:
        first, count = self.server.first, self.server.count
        if first == 0:
            return [self.server.oack]
        found = []
        for block in range(first, first + count):
            index = block // self.layout.blocks
            if index not in self.stretches:
                self.stretches[index] = build(self.layout, index, self.content)
            found += [bytes(part) for part in self.layout.slices(block, 1, self.stretches)]
        return found

    def wait(self) -> list[bytes]:
        """Nothing is on its way: the server's timer, and the client's."""
        self.now = max(self.now, self.server.deadline)
        if self.server.timeout(self.now):
            return self.packets()
        if self.server.outcome is None and self.server.receive(self.client.again(), self.now):
            return self.packets()
        return []

    def run(self) -> None:
        self.server.start(self.now)
        flight = self.packets()
        for _ in range(3000):
            self.now += 0.001
            answers = []
            for packet in flight:
                self.sent += 1
                if not self.is_lost():
                    answers.append(self.client.receive(packet))
            flight = []
            for answer in answers:
                if answer is None or self.is_lost():
                    continue
                if self.server.receive(answer, self.now):
                    flight += self.packets()
            if self.server.outcome is not None or self.client.error:
                return
            if not flight:
                flight = self.wait()
        raise AssertionError("it never ends")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 20_000])
@pytest.mark.parametrize(("blksize", "window"), [(0, 0), (1024, 0), (1428, 16), (512, 4)])
def test_tftp(size: int, blksize: int, window: int) -> None:
    fetch = Fetch("tftp", "/x", 0, 0.0, blksize, window, tsize=bool(blksize))
    exchange = Exchange(fetch, CONTENT[:size], None)
    exchange.run()
    client = exchange.client
    assert (client.done, client.error, client.size) == (True, "", size)
    assert client.digest.hexdigest() == sha256(CONTENT[:size]).hexdigest()
    assert exchange.sent == size // (blksize or 512) + 1 + (1 if blksize else 0), "nothing twice"


@settings(max_examples=60, deadline=None)
@given(data=st.data(), window=st.sampled_from((0, 1, 4, 16)), size=st.integers(0, 9000))
def test_tftp_over_a_wire_that_loses(data: st.DataObject, window: int, size: int) -> None:
    exchange = Exchange(Fetch("tftp", "/x", 0, 0.0, 512, window), CONTENT[:size], data)
    exchange.run()
    if exchange.client.done:
        assert exchange.client.digest.hexdigest() == sha256(CONTENT[:size]).hexdigest()
        assert exchange.client.error == ""


def test_tftp_block_numbers_wrap() -> None:
    content = bytes(8 * 65_600)
    exchange = Exchange(Fetch("tftp", "/x", 0, 0.0, 8, 64), content, None)
    exchange.run()
    assert (exchange.client.size, exchange.client.error) == (len(content), "")


def test_tftp_probe_and_error() -> None:
    client = TftpClient(Fetch("tftp", "/x", 0, 0.0, probe=True), "/x")
    assert parse_request(client.again()).options == {"tsize": "0"}
    assert client.receive(b"\0\6tsize\x0077\0") == pack_error(8, "the size was all")
    assert (client.done, client.tsize) == (True, 77)
    client = TftpClient(Fetch("tftp", "/x", 0, 0.0), "/x")
    client.receive(pack_error(1, "no such file"))
    assert client.error == "TFTP error 1: no such file"
    client = TftpClient(Fetch("tftp", "/x", 0, 0.0, tsize=True), "/x")
    client.receive(b"\0\6tsize\x005\0")
    client.receive(b"\0\3\0\1abc")
    assert "tsize said 5" in client.error


IMAGE = memoryview(CONTENT)


class Root:
    """The server's cores of NBD as one."""

    def __init__(self) -> None:
        export = Export("/opt/ltsp/a", Path("/image"), len(CONTENT))
        self.handshake = Handshake(lambda name: export if name == export.name else None, list)
        self.transmission: Transmission | None = None

    def receive(self, data: bytes) -> bytes:
        if self.transmission is None:
            said = self.handshake.receive(data)
            if isinstance(self.handshake.outcome, Attached):
                self.transmission = Transmission(IMAGE, Granules(len(CONTENT), hot=True))
            return said
        return b"".join(self.transmission.receive(data, len(data)))


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8))
def test_nbd_however_the_bytes_come(cuts: list[int]) -> None:
    root = Root()
    client = NbdClient("/opt/ltsp/a", lambda number: number % 2 == 0)
    groups = [((0, 512), (19_000, 1000)), ((5, 10_000),), ((100, 1), (200, 2), (300, 3))]
    waiting = root.handshake.greet()
    while True:
        for cut in cuts:
            piece, waiting = waiting[:cut], waiting[cut:]
            waiting += root.receive(client.receive(memoryview(piece)))
        if not waiting and client.size is not None and not client.busy:
            if not groups:
                break
            waiting = root.receive(client.ask(groups.pop(0)))
    assert (client.size, client.error, client.read) == (len(CONTENT), "", 11_518)
    spans = [(0, 512), (5, 10_000), (200, 2)]
    assert client.hashes == {
        number: sha256(CONTENT[offset : offset + length]).hexdigest()
        for number, (offset, length) in zip((0, 2, 4), spans, strict=True)
    }


def test_nbd_skipping_unseen() -> None:
    root = Root()
    client = NbdClient("/opt/ltsp/a", lambda number: False)
    client_said = client.receive(memoryview(root.handshake.greet()))
    client.receive(memoryview(root.receive(client_said)))
    answer = root.receive(client.ask(((0, 10_000),)))
    client.receive(memoryview(answer[:1000]))
    assert client.may_skip == 10_000 - (1000 - 16)
    client.skipped(client.may_skip)
    assert (client.busy, client.read) == (False, 10_000)


def test_nbd_refusals() -> None:
    root = Root()
    client = NbdClient("nothing", lambda number: False)
    client.receive(memoryview(root.receive(client.receive(memoryview(root.handshake.greet())))))
    assert "no export" in client.error
    client = NbdClient("x", lambda number: False)
    client.receive(memoryview(bytes(18)))
    assert "not a server" in client.error
    root = Root()
    client = NbdClient("/opt/ltsp/a", lambda number: False)
    client.receive(memoryview(root.receive(client.receive(memoryview(root.handshake.greet())))))
    client.receive(memoryview(root.receive(client.ask(((len(CONTENT), 512),)))))
    assert client.error == "a read of 512 bytes failed with error 22"


@given(st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_http_however_the_bytes_come(cuts: list[int]) -> None:
    client = HttpClient("/a%20b", "10.9.0.1:8080", sha256())
    core = HttpCore("10.9.0.5", HttpLimits(), 0.0)
    core.receive_data(client.request, 0.0)
    request, _ = core.next_request()
    assert request is not None
    assert request.path == "/a b"
    reply = core.respond(request, Response(200, CONTENT), 0.0, 0.0)
    stream = b"".join(part for part in reply.parts if isinstance(part, bytes))
    position = 0
    for cut in [*cuts, len(stream)]:
        client.receive(memoryview(stream[position : position + cut]) or memoryview(b""))
        position += cut
        if position >= len(stream):
            break
    assert (client.done, client.error, client.size) == (True, "", len(CONTENT))
    assert client.digest.hexdigest() == sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "hung up before it answered"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "without Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "after 3 of 5 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", "3 bytes came"),
        (b"x" * 20_000, "without an end of its head"),
    ],
)
def test_http_answers_that_are_no_file(answer: bytes, said: str) -> None:
    client = HttpClient("/", "h")
    if answer:
        client.receive(memoryview(answer))
    if not client.error:
        client.receive(memoryview(b""))
    assert said in client.error
