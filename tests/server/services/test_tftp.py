"""The TFTP service on loopback: packets by hand, hostile clients, cold files, ends.

Real clients are in test_tftp_clients.py.
"""

import asyncio
import contextlib
import os
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.content import BytesContent, Content, FileContent, NotFound, Refused
from server.errors import ServerError
from server.protocols import tftp as core
from server.protocols.tftp_wire import pack_ack, pack_error, pack_request
from server.services.limits import TftpLimits
from server.services.tftp import TftpService
from server.services.tftp_link import MAX_CATCH_UP, Link
from tests.server.services.running import Running, Seen, running

DATA = random.Random(6).randbytes(100_000)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(DATA)
    return path


@contextmanager
def serving(
    path: Path,
    seen: Seen | None = None,
    limits: TftpLimits | None = None,
    *,
    address: str = "127.0.0.1",
    single_port: bool = False,
) -> Iterator[TftpService]:
    def lookup(name: str, client: str) -> Content:
        if name == "/who":
            return BytesContent(client.encode())
        if name == "/refused":
            raise Refused("not for you")
        if name != "/vmlinuz":
            raise NotFound("nothing there")
        return FileContent(path, len(DATA))

    emit = (seen or Seen()).emit
    with running(
        lambda loop: TftpService(
            loop,
            address=address,
            port=0,
            lookup=lookup,
            emit=emit,
            limits=limits or TftpLimits(stop_seconds=0.1),
            single_port=single_port,
        )
    ) as service:
        yield service


class Peer:
    """A client's socket."""

    def __init__(self, service: TftpService, to: str = "127.0.0.1", source: str = "") -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(20)
        self.sock.bind((source or "127.0.0.1", 0))
        self.server = (to, service.port)
        self.tid = self.server

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def request(self, path: str = "/vmlinuz", **options: str) -> None:
        self.sock.sendto(pack_request(path, options), self.server)

    def receive(self) -> bytes:
        packet, self.tid = self.sock.recvfrom(70_000)
        return packet

    def send(self, packet: bytes) -> None:
        self.sock.sendto(packet, self.tid)

    def is_quiet(self) -> bool:
        """True when nothing came up to now. The server's answers to this client's
        next request are the proof that it has done everything before."""
        self.request("/who-knows")
        return self.receive()[:4] == b"\0\5\0\1"

    def fetch(self, path: str = "/vmlinuz", **options: str) -> bytes:
        """A whole file in lockstep."""
        self.request(path, **options)
        blksize = int(options.get("blksize", "512"))
        packet = self.receive()
        if options:
            assert packet[:2] == b"\0\6"
            self.send(pack_ack(0))
            packet = self.receive()
        data, block = b"", 1
        while True:
            assert packet[:4] == b"\0\3" + (block & 0xFFFF).to_bytes(2, "big")
            data += packet[4:]
            self.send(pack_ack(block))
            if len(packet) < 4 + blksize:
                return data
            repeated = packet[:4]
            block += 1
            while packet[:4] == repeated:  # a busy machine acknowledges late, and gets it again
                packet = self.receive()


def receive_behind(peer: Peer, repeated: bytes) -> bytes:
    """The next packet that does not begin so: a busy machine acknowledges late, and is sent
    what it has again."""
    while (packet := peer.receive()).startswith(repeated):
        pass
    return packet


@pytest.fixture(params=[False, True], ids=["ports", "single"])
def single(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_transfer_and_its_events(kernel: Path, single: bool) -> None:
    seen = Seen()
    with serving(kernel, seen, single_port=single) as service, Peer(service) as peer:
        assert peer.fetch(blksize="1000") == DATA
        assert (peer.tid == peer.server) is single
        detail = seen.wait_status("ok")
        assert {key: detail[key] for key in ("path", "bytes", "size", "retries")} == {
            "path": "/vmlinuz",
            "bytes": len(DATA),
            "size": len(DATA),
            "retries": 0,
        }
        assert isinstance(detail["seconds"], float)
        assert [event.detail["status"] for event in seen.events] == ["start", "ok"]
        assert {(e.node, e.source, e.phase) for e in seen.events} == {
            ("127.0.0.1", "tftp", "transfer")
        }
        assert len(service._links) == 0


def test_content_is_made_for_who_asks(kernel: Path, single: bool) -> None:
    with (
        serving(kernel, address="0.0.0.0", single_port=single) as service,
        Peer(service, source="127.0.0.9") as peer,
    ):
        assert peer.fetch("who") == b"127.0.0.9"


def test_the_answer_comes_from_the_address_that_was_asked(kernel: Path, single: bool) -> None:
    with (
        serving(kernel, address="0.0.0.0", single_port=single) as service,
        Peer(service, to="127.0.0.7") as peer,
    ):
        assert peer.fetch() == DATA
        assert peer.tid[0] == "127.0.0.7"
        peer.request("/nothing")
        peer.receive()
        assert peer.tid[0] == "127.0.0.7"


@pytest.mark.parametrize("windowsize", [2, 16, 64])
@pytest.mark.parametrize("blksize", [8, 512, 1428, 16_000])
def test_windows(kernel: Path, single: bool, windowsize: int, blksize: int) -> None:
    with serving(kernel, single_port=single) as service, Peer(service) as peer:
        peer.request(blksize=str(blksize), windowsize=str(windowsize))
        assert peer.receive()[:2] == b"\0\6"
        peer.send(pack_ack(0))
        data, block = b"", 0
        while True:
            packet = peer.receive()
            if 0 < int.from_bytes(packet[2:4], "big") <= block:
                continue  # this machine was too busy to acknowledge in time
            block += 1
            assert packet[:4] == b"\0\3" + block.to_bytes(2, "big")
            data += packet[4:]
            last = len(packet) < 4 + blksize
            if block % min(windowsize, 128 * 1024 // blksize) == 0 or last:
                peer.send(pack_ack(block))
            if last:
                break
        assert data == DATA


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        (pack_request("/nothing"), b"\0\5\0\1nothing there\0"),
        (pack_request("/refused"), b"\0\5\0\2not for you\0"),
        (pack_request("/../../etc/passwd"), b"\0\5\0\1nothing there\0"),
        (b"\0\2/vmlinuz\0octet\0", b"\0\5\0\2this server is read-only\0"),
        (b"\0\1/vmlinuz\0mail\0", b"\0\5\0\4the mode must be octet or netascii\0"),
        (b"\0\1/vmlinuz\0", b"\0\5\0\4a request without file name or mode\0"),
    ],
)
def test_refusals(kernel: Path, packet: bytes, answer: bytes, single: bool) -> None:
    seen = Seen()
    with serving(kernel, seen, single_port=single) as service, Peer(service) as peer:
        peer.send(packet)
        assert peer.receive() == answer
        message = str(seen.wait_status("error")["message"])
        assert message == answer[4:-1].decode()


@pytest.mark.parametrize(
    "packet", [b"", b"\0", b"\0\3\0\1x", b"\0\4\0\1", b"\0\5\0\0x\0", b"\0\6", b"\xff" * 3000]
)
def test_what_is_no_request_gets_no_answer(kernel: Path, packet: bytes, single: bool) -> None:
    with serving(kernel, single_port=single) as service, Peer(service) as peer:
        peer.send(packet)
        assert peer.is_quiet()


def test_a_missing_file_on_disk(kernel: Path) -> None:
    seen = Seen()
    with serving(kernel, seen) as service, Peer(service) as peer:
        kernel.unlink()
        peer.request()
        assert peer.receive() == pack_error(0, "No such file or directory")
        seen.wait_status("error")
        os.mkfifo(kernel)
        peer.request()
        assert peer.receive() == pack_error(0, "not a regular file")


def test_a_repeated_request_is_the_same_transfer(kernel: Path, single: bool) -> None:
    seen = Seen()
    with serving(kernel, seen, single_port=single) as service, Peer(service) as peer:
        for _ in range(4):
            peer.request(tsize="0")
        answers = [(peer.receive(), peer.tid) for _ in range(3)]  # the first, and two again
        assert len(set(answers)) == 1
        assert [e.detail["status"] for e in seen.events] == ["start"]
        assert peer.is_quiet()


def test_a_request_that_the_network_doubles_leaves_the_transfer_alone(
    kernel: Path, single: bool
) -> None:
    seen = Seen()
    with serving(kernel, seen, single_port=single) as service, Peer(service) as peer:
        peer.request(tsize="0")
        assert peer.receive()[:2] == b"\0\6"
        peer.send(pack_ack(0))
        data, block = b"", 1
        while len(data) < len(DATA):
            packet = peer.receive()
            if packet[:4] != b"\0\3" + block.to_bytes(2, "big"):
                continue  # sent again to a busy machine
            data += packet[4:]
            if block in (2, 5):
                peer.request(tsize="0")  # late, byte for byte
            peer.send(pack_ack(block))
            block += 1
        assert data == DATA
        seen.wait_status("ok")
        assert not [e for e in seen.events if e.detail.get("status") == "stop"]


def test_a_client_that_begins_anew_by_the_same_request_is_served(
    kernel: Path, single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.services.tftp.DOUBLE_SECONDS", 0.0)
    with serving(kernel, Seen(), single_port=single) as service, Peer(service) as peer:
        peer.request(tsize="0")
        peer.receive()
        peer.send(pack_ack(0))
        assert peer.receive()[:4] == b"\0\3\0\1"
        peer.request(tsize="0")  # nothing was acknowledged for DOUBLE_SECONDS: it is no double
        while (packet := peer.receive())[:2] != b"\0\6":
            assert packet[:4] == b"\0\3\0\1"


def test_a_port_used_anew_is_a_new_transfer(kernel: Path, single: bool) -> None:
    seen = Seen()
    with serving(kernel, seen, single_port=single) as service, Peer(service) as peer:
        peer.request()
        peer.receive()
        peer.send(pack_ack(1))
        peer.receive()
        assert peer.fetch(blksize="1000") == DATA
        assert seen.wait_status("stop")["message"] == "the client began anew"
        seen.wait_status("ok")


def test_a_client_that_ends_it(kernel: Path, single: bool) -> None:
    seen = Seen()
    with serving(kernel, seen, single_port=single) as service, Peer(service) as peer:
        peer.request(tsize="0")
        assert peer.receive() == b"\0\6tsize\x00100000\0"
        peer.send(pack_error(8, "only the size"))
        assert "only the size" in str(seen.wait_status("stop")["message"])
        assert peer.is_quiet()


class TestSinglePortHearsOfClientsThatAreGone:
    """Also what keeps forged ACKs from sending a file to a machine that never asked."""

    def test_in_the_midst_of_a_transfer(self, kernel: Path) -> None:
        seen = Seen()
        limits = TftpLimits(give_up_seconds=1000.0, stop_seconds=0.1)
        with serving(kernel, seen, limits, single_port=True) as service:
            with Peer(service) as peer:
                peer.request()
                peer.receive()
                peer.send(pack_ack(1))
                peer.receive()
            assert "closed its port at block 2" in str(seen.wait_status("error")["message"])

    def test_forged_acks_end_with_the_first_answer_of_the_victim(self, kernel: Path) -> None:
        """A raw socket forges what comes from a port on which nobody listens."""
        if os.geteuid() != 0:
            pytest.skip("forging needs root")
        seen = Seen()
        with serving(kernel, seen, single_port=True) as service:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
                free.bind(("127.0.0.1", 0))
                victim = free.getsockname()[1]
            forger = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
            with forger:
                for packet in (pack_request("/vmlinuz"), pack_ack(1), pack_ack(2)):
                    head = struct.pack("!HHHH", victim, service.port, 8 + len(packet), 0)
                    forger.sendto(head + packet, ("127.0.0.1", 0))
                    seen.wait_for(lambda event: event.detail.get("status") == "stop")
            ended = seen.wait_status("stop")
            assert (ended["bytes"], ended["path"]) == (0, "/vmlinuz")
            assert "closed its port" in str(ended["message"])
            with Peer(service) as peer:
                assert peer.is_quiet()
            assert [e.detail["status"] for e in seen.events if e.detail["path"] == "/vmlinuz"] == [
                "start",
                "stop",
            ]

    def test_others_are_served_all_the_same(self, kernel: Path) -> None:
        """Each refusal is an error that the kernel gives to whoever sends next."""
        with serving(kernel, single_port=True) as service, Peer(service) as peer:
            peer.request(blksize="512")
            assert peer.receive()[:2] == b"\0\6"
            data = b""
            for block in range(len(DATA) // 512 + 1):
                with Peer(service) as gone:
                    gone.request()
                peer.send(pack_ack(block))
                packet = receive_behind(peer, b"\0\3" + block.to_bytes(2, "big"))
                assert packet[:4] == b"\0\3" + (block + 1).to_bytes(2, "big")
                data += packet[4:]
            peer.send(pack_ack(len(DATA) // 512 + 1))
            assert data == DATA


def test_a_client_that_is_gone(kernel: Path) -> None:
    seen = Seen()
    with serving(kernel, seen) as service:
        with Peer(service) as peer:
            peer.request()
            peer.receive()
            peer.send(pack_ack(1))
            peer.receive()
            peer.send(pack_ack(2))
            # gone: its machine answers with port unreachable
        assert "closed its port" in str(seen.wait_status("error")["message"])


def test_retransmissions_of_many_share_one_timer(kernel: Path) -> None:
    """640 nodes once left a timer more with each retransmission, until nothing else ran."""
    with serving(kernel) as service:
        peers = [Peer(service) for _ in range(10)]
        for peer in peers:
            peer.request(blksize="1000")
            assert peer.receive()[:2] == b"\0\6"
            peer.send(pack_ack(0))
        for _ in range(5):  # the first block and four more times, twice as late each
            for peer in peers:
                assert peer.receive()[:4] == b"\0\3\0\1"
        scheduled: list[asyncio.TimerHandle] = service.loop._scheduled  # type: ignore[attr-defined]
        timers = [
            handle
            for handle in list(scheduled)
            if not handle.cancelled() and handle._callback == service._on_timer  # type: ignore[attr-defined]
        ]
        assert len(timers) <= 1
        for peer in peers:
            peer.sock.close()


def test_a_client_that_floods_its_transfer_lets_others_in_between(kernel: Path) -> None:
    with serving(kernel) as service, Peer(service) as peer:
        peer.request()
        assert peer.receive()[:4] == b"\0\3\0\1"

        async def flood() -> bytes:
            (link,) = service._links.values()
            assert link.sock is not None
            # More than what the turn here and that of the loop's event take.
            for _ in range(2 * MAX_CATCH_UP + 20):
                peer.send(pack_ack(0))
            peer.send(pack_ack(1))
            link._on_readable()
            return link.sock.recv(4, socket.MSG_PEEK)

        left = asyncio.run_coroutine_threadsafe(flood(), service.loop).result(20)
        assert left == pack_ack(0)
        assert peer.receive()[:4] == b"\0\3\0\2"


def test_most_of_a_lockstep_transfer_never_comes_to_python(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()
    taken = 0
    take = Link._take

    def counted(link: Link) -> None:
        nonlocal taken
        taken += 1
        take(link)

    monkeypatch.setattr(Link, "_take", counted)
    with serving(kernel, seen) as service, Peer(service) as peer:
        assert peer.fetch(blksize="100") == DATA
        blocks = len(DATA) // 100 + 1
        assert seen.wait_status("ok")["bytes"] == len(DATA)
        assert 2 <= taken <= blocks // 10


def test_a_client_that_falls_silent_midway_is_asked_again_and_reported_to_the_byte(
    kernel: Path,
) -> None:
    seen = Seen()
    limits = TftpLimits(give_up_seconds=0.5, stop_seconds=0.1)
    with serving(kernel, seen, limits=limits) as service, Peer(service) as peer:
        peer.request(blksize="100")
        assert peer.receive()[:2] == b"\0\6"
        peer.send(pack_ack(0))
        for block in range(1, 21):
            while peer.receive()[2:4] != block.to_bytes(2, "big"):
                continue  # a busy machine acknowledges late
            peer.send(pack_ack(block))
        detail = seen.wait_status("error")
        assert detail["bytes"] == 2000
        assert int(detail["retries"]) >= 1
        assert "at block 21 of" in str(detail["message"])
        repeated = [peer.receive() for _ in range(2)]
        assert [packet[:4] for packet in repeated] == [b"\0\3\0\x15"] * 2


def test_strangers_packets_change_nothing(kernel: Path) -> None:
    with serving(kernel) as service, Peer(service) as peer, Peer(service) as stranger:
        peer.request()
        packet = peer.receive()
        stranger.sock.sendto(pack_ack(1), peer.tid)
        stranger.sock.sendto(pack_error(0, "stop"), peer.tid)
        assert packet[:4] == b"\0\3\0\1"
        peer.send(pack_ack(1))
        assert peer.receive()[:4] == b"\0\3\0\2"


class TestNoAmplifier:
    @pytest.fixture(autouse=True)
    def short_timers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(core, "FIRST_RTO", 0.02)

    def test_without_options_one_packet_and_two_more(self, kernel: Path, single: bool) -> None:
        seen = Seen()
        with serving(kernel, seen, single_port=single) as service, Peer(service) as peer:
            peer.request()
            assert seen.wait_status("error")["message"] == "the client never answered"
            got = [peer.receive() for _ in range(3)]
            assert got == [b"\0\3\0\1" + DATA[:512]] * 3
            assert peer.is_quiet()
            assert len(service._links) == 0

    def test_with_options_only_small_packets(self, kernel: Path, single: bool) -> None:
        seen = Seen()
        with serving(kernel, seen, single_port=single) as service, Peer(service) as peer:
            options = {"blksize": "65464", "windowsize": "64"}
            peer.request(**options)
            seen.wait_status("error")
            got = [peer.receive() for _ in range(3)]
            assert got == [b"\0\6blksize\x0065464\0windowsize\x002\0"] * 3
            assert peer.is_quiet()
            assert sum(map(len, got)) <= 3 * len(pack_request("/vmlinuz", options))

    def test_unconfirmed_transfers_of_one_address_are_bounded(self, kernel: Path) -> None:
        limits = TftpLimits(unconfirmed=2, stop_seconds=0.1)
        with serving(kernel, limits=limits) as service:
            peers = [Peer(service) for _ in range(5)]
            for peer in peers[:2]:
                peer.request()
                assert peer.receive()[:2] == b"\0\3"
            for peer in peers[2:]:
                peer.request()
                assert peer.is_quiet()
            for peer in peers:
                peer.sock.close()

    def test_requests_and_errors_are_bounded(self, kernel: Path) -> None:
        seen = Seen()
        limits = TftpLimits(requests_per_second=5.0, errors_per_second=0.25)
        with serving(kernel, seen, limits) as service, Peer(service) as peer:
            for _ in range(9):
                peer.request("/nothing")
            assert peer.receive()[:2] == b"\0\5"
            peer.sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                peer.receive()


class TestLimits:
    def test_transfers_of_one_client(self, kernel: Path) -> None:
        with (
            serving(kernel, limits=TftpLimits(per_client=1)) as service,
            Peer(service) as first,
            Peer(service) as second,
        ):
            first.request(tsize="0")
            assert first.receive()[:2] == b"\0\6"
            first.send(pack_ack(0))
            assert first.receive()[:4] == b"\0\3\0\1"
            second.request(tsize="0")
            assert second.receive() == pack_error(0, "more than 1 transfers (limits.per_client)")
            first.send(pack_error(0, "done"))
            assert first.is_quiet()
            assert second.fetch() == DATA

    def test_transfers_in_all(self, kernel: Path) -> None:
        with (
            serving(kernel, limits=TftpLimits(transfers=1, stop_seconds=0.1)) as service,
            Peer(service) as first,
            Peer(service) as second,
        ):
            first.request(tsize="0")
            first.receive()
            first.send(pack_ack(0))
            assert first.receive()[:4] == b"\0\3\0\1"
            second.request(tsize="0")
            assert second.receive() == pack_error(
                0, "the server has its 1 transfers (limits.transfers)"
            )

    @pytest.mark.parametrize(
        "limits",
        [TftpLimits(per_client=3, stop_seconds=0.1), TftpLimits(transfers=3, stop_seconds=0.1)],
        ids=["of one client", "in all"],
    )
    def test_what_was_never_answered_gives_way_oldest_first(
        self, kernel: Path, limits: TftpLimits, single: bool
    ) -> None:
        seen = Seen()
        with (
            serving(kernel, seen, limits, single_port=single) as service,
            contextlib.ExitStack() as stack,
        ):
            silent = [stack.enter_context(Peer(service)) for _ in range(8)]
            confirmed = stack.enter_context(Peer(service))
            confirmed.request(tsize="0")
            assert confirmed.receive()[:2] == b"\0\6"
            confirmed.send(pack_ack(0))
            assert confirmed.receive()[:4] == b"\0\3\0\1"
            for peer in silent:
                peer.request(tsize="0")
                assert peer.receive()[:2] == b"\0\6"
            assert stack.enter_context(Peer(service)).fetch(tsize="0") == DATA
            confirmed.send(pack_ack(1))
            assert receive_behind(confirmed, b"\0\3\0\1")[:4] == b"\0\3\0\2"
            silent[-1].send(pack_ack(0))
            assert receive_behind(silent[-1], b"\0\6")[:4] == b"\0\3\0\1"  # not the oldest
            silent[0].sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                receive_behind(silent[0], b"\0\6")  # no packet more: its address may be forged
        assert "gave way" in str(seen.wait_status("error")["message"])

    def test_a_forger_does_not_use_up_a_clients_own_requests(self, kernel: Path) -> None:
        limits = TftpLimits(requests_per_second=5.0, stop_seconds=0.1)
        with serving(kernel, limits=limits) as service, contextlib.ExitStack() as stack:
            for _ in range(25):  # more than twice what one address may at once
                stack.enter_context(Peer(service)).request("/nothing")
            assert stack.enter_context(Peer(service)).fetch(tsize="0") == DATA

    @pytest.mark.parametrize("options", [["--tftp-no-options"], ["--tftp-blksize", "1000"]])
    def test_bytes_a_second_of_one_address(
        self, kernel: Path, caplog: pytest.LogCaptureFixture, options: list[str]
    ) -> None:
        rate = len(DATA) * 0.4

        def fetch(source: str) -> bytes:
            url = f"tftp://127.0.0.1:{service.port}//vmlinuz"
            argv = ["curl", "-sS", "--max-time", "20", "--interface", source, *options, url]
            return subprocess.run(argv, capture_output=True, check=True).stdout

        with serving(kernel, limits=TftpLimits(bytes_per_second=rate)) as service:
            began = time.monotonic()
            assert fetch("127.0.0.1") == DATA, "later, but all of it"
            assert time.monotonic() - began >= (len(DATA) - rate) / rate - 0.1
            assert fetch("127.0.0.9") == DATA
        for client in ("127.0.0.1", "127.0.0.9"):
            assert f"tftp: {client} wants more than tftp.limits.bytes_per_second" in caplog.text

    def test_sizes(self, kernel: Path) -> None:
        limits = TftpLimits(stop_seconds=0.1, max_blksize=1000, max_windowsize=3)
        with serving(kernel, limits=limits) as service, Peer(service) as peer:
            peer.request(blksize="65464", windowsize="100")
            assert peer.receive() == b"\0\6blksize\x001000\0windowsize\x003\0"


class TestCold:
    """The kernel's refusal to wait for the disk, made by hand."""

    @pytest.fixture
    def go(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        go = threading.Event()
        real = os.preadv

        def preadv(fd: int, places: list[memoryview], offset: int, flags: int = 0) -> int:
            if flags & os.RWF_NOWAIT:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            assert go.wait(20)
            return real(fd, places, offset, flags)

        monkeypatch.setattr(os, "preadv", preadv)
        yield go
        go.set()

    def test_a_cold_file_stops_nobody(
        self, kernel: Path, single: bool, go: threading.Event
    ) -> None:
        with (
            serving(kernel, single_port=single) as service,
            Peer(service) as cold,
            Peer(service) as hot,
        ):
            cold.request(blksize="1000")
            assert cold.receive()[:2] == b"\0\6"
            cold.send(pack_ack(0))
            for _ in range(20):
                assert hot.fetch("/who") == b"127.0.0.1"
            go.set()
            assert cold.receive() == b"\0\3\0\1" + DATA[:1000]

    @pytest.mark.parametrize("windowsize", ["1", "64"])
    @pytest.mark.parametrize("cache_bytes", [0, 1 << 26])
    def test_all_of_it(
        self, kernel: Path, go: threading.Event, cache_bytes: int, windowsize: str
    ) -> None:
        go.set()
        limits = TftpLimits(cache_bytes=cache_bytes)
        with serving(kernel, limits=limits) as service, Peer(service) as peer:
            peer.request(windowsize=windowsize)
            peer.receive()
            peer.send(pack_ack(0))
            data, block = b"", 0
            while len(data) < len(DATA):
                packet = peer.receive()
                block += 1
                assert packet[:4] == b"\0\3" + block.to_bytes(2, "big")
                data += packet[4:]
                if block % int(windowsize) == 0:
                    peer.send(pack_ack(block))
            assert data == DATA

    def test_a_client_that_left_meanwhile(self, kernel: Path, go: threading.Event) -> None:
        seen = Seen()
        with serving(kernel, seen) as service, Peer(service) as peer:
            peer.request(tsize="0")
            peer.receive()
            peer.send(pack_ack(0))
            peer.send(pack_error(0, "enough"))
            seen.wait_status("stop")
            go.set()
            assert peer.is_quiet()


def test_a_file_cut_short_under_us_is_an_error_to_its_reader(kernel: Path, single: bool) -> None:
    seen = Seen()
    limits = TftpLimits(cache_bytes=0)
    with serving(kernel, seen, limits, single_port=single) as service, Peer(service) as peer:
        peer.request()
        assert peer.receive()[:4] == b"\0\3\0\1"
        os.truncate(kernel, 40_000)
        block = 1
        while True:
            peer.send(pack_ack(block))
            packet = peer.receive()
            if packet[:2] == b"\0\5":
                break
            block += 1
            assert packet[4:] == DATA[(block - 1) * 512 : block * 512]
        assert b"the file is shorter than it was" in packet
        assert "shorter" in str(seen.wait_status("error")["message"])


def test_a_path_that_cannot_segment_gets_single_packets(
    kernel: Path, single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the window's packets are longer than the MTU: the kernel says EINVAL."""

    class Unable(socket.socket):
        def setsockopt(self, level: int, option: int, *value: Any) -> None:
            if (level, option) == (socket.IPPROTO_UDP, 103) and value != (0,):
                raise OSError(92, "Protocol not available")
            super().setsockopt(level, option, *value)

        def sendmsg(self, buffers: Any, ancillary: Any = (), *rest: Any) -> int:
            for level, option, _ in ancillary:
                if (level, option) == (socket.IPPROTO_UDP, 103):
                    raise OSError(22, "Invalid argument")
            return super().sendmsg(buffers, ancillary, *rest)

    monkeypatch.setattr(socket, "socket", Unable)
    with serving(kernel, single_port=single) as service, Peer(service) as peer:
        peer.request(windowsize="64")
        peer.receive()
        peer.send(pack_ack(0))
        for block in range(1, 65):
            assert peer.receive()[:4] == b"\0\3\0" + bytes([block])
        peer.send(pack_ack(64))
        assert peer.receive()[:4] == b"\0\3\0\x41"


class TestStop:
    def start(self, kernel: Path, seen: Seen, seconds: float) -> tuple[Running, TftpService]:
        runner = Running()
        service = TftpService(
            runner.loop,
            address="127.0.0.1",
            port=0,
            lookup=lambda path, client: FileContent(kernel, len(DATA)),
            emit=seen.emit,
            limits=TftpLimits(stop_seconds=seconds),
        )
        service.bind()
        runner.call(service.start)
        return runner, service

    def test_running_transfers_end(self, kernel: Path) -> None:
        seen = Seen()
        runner, service = self.start(kernel, seen, 20)
        with Peer(service) as peer, Peer(service) as late:
            peer.request()
            peer.receive()
            stopper = threading.Thread(target=runner.stop, args=(service,))
            stopper.start()
            for block in range(1, len(DATA) // 512 + 1):
                peer.send(pack_ack(block))
                assert peer.receive()[:4] == b"\0\3" + (block + 1).to_bytes(2, "big")
            late.request()
            peer.send(pack_ack(len(DATA) // 512 + 1))
            stopper.join()
            seen.wait_status("ok")
        assert len([e for e in seen.events if e.detail["status"] == "start"]) == 1
        runner.close()

    def test_the_others_are_told(self, kernel: Path) -> None:
        seen = Seen()
        runner, service = self.start(kernel, seen, 0.05)
        with Peer(service) as peer:
            peer.request()
            peer.receive()
            runner.stop(service)
            assert peer.receive() == pack_error(0, "the server is stopping")
            seen.wait_status("error")
        runner.close()


def test_a_taken_port_is_named(kernel: Path) -> None:
    with serving(kernel) as service:
        taken = TftpService(
            service.loop,
            address="127.0.0.1",
            port=service.port,
            lookup=lambda path, client: BytesContent(b""),
            emit=Seen().emit,
        )
        with pytest.raises(ServerError) as caught:
            taken.bind()
    assert f"tftp cannot bind UDP 127.0.0.1:{service.port}" in caught.value.message
    assert f"pid {os.getpid()}" in caught.value.message
