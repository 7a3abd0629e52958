"""The NBD service on loopback: hostile and unlucky clients, cold images, ends.

Real clients are in test_nbd_clients.py.
"""

import contextlib
import gc
import os
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.content import Export
from server.errors import ServerError
from server.protocols.nbd import pack_request
from server.protocols.nbd_tap import unpack_reads
from server.services import mapped
from server.services.limits import NbdLimits
from server.services.nbd import NbdService
from server.services.nbd_connection import State
from server.services.ports import raise_file_limit
from tests.server.services.running import Running, Seen, eventually, running

SIZE = 1_000_003
IMAGE = random.Random(3).randbytes(SIZE)
NAME = b"opt/ltsp/amd64"
READ, WRITE, DISC = 0, 1, 2
GO = struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, 6 + len(NAME))
GO += struct.pack(">I", len(NAME)) + NAME + b"\0\0"
GREETING = 18
GO_REPLY = 20 + 12 + 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs.squashfs"
    path.write_bytes(IMAGE)
    return path


@contextmanager
def serving(
    path: Path,
    seen: Seen | None = None,
    limits: NbdLimits | None = None,
    *,
    card: Callable[[str], str] = str,
    spare_local: bool = False,
) -> Iterator[NbdService]:
    export = Export("opt/ltsp/amd64", path, path.stat().st_size, "ab" * 32, "amd64")

    def find(name: str, client: str) -> Export | None:
        assert client.startswith("127.")
        return export if name.lstrip("/") == export.name else None

    emit = (seen or Seen()).emit
    with running(
        lambda loop: NbdService(
            loop,
            address="127.0.0.1",
            port=0,
            exports=find,
            list_exports=lambda client: [export.name],
            emit=emit,
            limits=limits,
            card=card,
            spare_local=spare_local,
        )
    ) as service:
        yield service


def connect(service: NbdService, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), 20, (source, 0))


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(min(count - len(data), 1 << 20))
        assert piece, f"the server hung up after {len(data)} of {count} bytes"
        data += piece
    return data


def attach(service: NbdService, source: str = "127.0.0.1") -> socket.socket:
    sock = connect(service, source)
    sock.sendall(GO)
    receive(sock, GREETING + GO_REPLY)
    return sock


def read(sock: socket.socket, offset: int, length: int, cookie: int = 1) -> bytes:
    sock.sendall(pack_request(READ, cookie, offset, length))
    head = receive(sock, 16)
    assert head == struct.pack(">IIQ", 0x67446698, 0, cookie)
    return receive(sock, length)


def is_hung_up(sock: socket.socket) -> bool:
    """Read to the end of the stream; True when there is one."""
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


def test_a_connection_goes_from_state_to_state(image: Path) -> None:
    with (
        serving(image, limits=NbdLimits(send_buffer=16384)) as service,
        contextlib.closing(socket.socket()) as sock,
    ):
        # Less than an answer has room on the way.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", service.port))
        receive(sock, GREETING)
        (connection,) = service._connections

        def is_in(state: State) -> bool:
            return connection.state is state

        assert is_in(State.NEGOTIATING)
        sock.sendall(GO)
        receive(sock, GO_REPLY)
        assert read(sock, 5, 10) == IMAGE[5:15]
        assert is_in(State.SERVING)
        sock.sendall(pack_request(READ, 1, 0, SIZE) + pack_request(DISC))
        head = receive(sock, 16 + 1)
        eventually(lambda: is_in(State.FINISHING))
        assert head[16:] + receive(sock, SIZE - 1) == IMAGE, "what it asked for it still gets"
        assert sock.recv(1) == b""
        eventually(lambda: is_in(State.CLOSED))
        # Another thread closes it: the state comes first, the count in the same turn.
        eventually(lambda: service.open_count() == 0)


def test_traffic_is_told_while_a_connection_lasts(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.services.nbd.TRAFFIC_SECONDS", 0.01)
    seen = Seen()

    def told() -> tuple[int, int]:
        details = [event.detail for event in seen.events if event.phase == "traffic"]
        assert all(event.node == "" for event in seen.events if event.phase == "traffic")
        return (
            sum(int(detail["bytes"]) for detail in details),
            sum(int(detail["requests"]) for detail in details),
        )

    with serving(image, seen) as service:
        with attach(service) as sock, attach(service) as other:
            read(sock, 0, SIZE)
            read(other, 5, 7)
            eventually(lambda: told() == (SIZE + 7, 2))
            read(sock, 0, 100)
            eventually(lambda: told() == (SIZE + 107, 3))
        seen.wait_phase("detach")
        with attach(service) as sock:
            read(sock, 0, 11)
    assert told() == (SIZE + 118, 4), "nothing twice, and the last ones when it stops"


def test_reads_are_told_for_a_recording_though_none_follow(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.services.nbd.TRAFFIC_SECONDS", 0.05)
    monkeypatch.setattr("server.services.nbd.READS_SECONDS", 0.01)
    seen = Seen()
    export = Export("opt/ltsp/amd64", image, SIZE, "ab" * 32, "amd64")
    with (
        running(
            lambda loop: NbdService(
                loop,
                address="127.0.0.1",
                port=0,
                exports=lambda name, client: export,
                list_exports=lambda client: [export.name],
                emit=seen.emit,
                record=True,
            )
        ) as service,
        attach(service) as sock,
    ):
        read(sock, 4096, 512)
        detail = seen.wait_phase("reads")
        assert (detail["export"], detail["size"]) == (export.name, SIZE)
        ((at, offset, length),) = unpack_reads(str(detail["reads"]), float(detail["zero"]))
        assert (offset, length) == (4096, 512)
        assert at == detail["zero"]


def test_attach_read_detach(image: Path) -> None:
    seen = Seen()
    with serving(image, seen) as service:
        with attach(service) as sock:
            assert read(sock, 0, SIZE) == IMAGE
            assert read(sock, 12345, 7) == IMAGE[12345:12352]
            assert dict(service.connections()) == {"ab" * 32: ["127.0.0.1"]}
            sock.sendall(pack_request(DISC))
            assert is_hung_up(sock)
        detail = seen.wait_phase("detach")
        assert detail == {"export": "opt/ltsp/amd64", "digest": "ab" * 32, "bytes": SIZE + 7}
        assert [event.phase for event in seen.events] == ["attach", "detach"]
        assert [(event.node, event.source) for event in seen.events] == [("127.0.0.1", "nbd")] * 2
        eventually(lambda: service.open_count() == 0)
        assert dict(service.connections()) == {}


def test_the_answers_of_many_requests_in_a_row(image: Path) -> None:
    dice = random.Random(4)
    wanted = [(dice.randrange(SIZE - 5000), dice.randrange(1, 5000)) for _ in range(3000)]
    with serving(image) as service, attach(service) as sock:
        requests = b"".join(pack_request(READ, n, o, c) for n, (o, c) in enumerate(wanted))
        sender = threading.Thread(target=sock.sendall, args=(requests,))
        sender.start()
        got: dict[int, bytes] = {}
        for _ in wanted:
            _, error, cookie = struct.unpack(">IIQ", receive(sock, 16))
            assert error == 0
            got[cookie] = receive(sock, wanted[cookie][1])
        sender.join()
    assert got == {n: IMAGE[o : o + c] for n, (o, c) in enumerate(wanted)}


STREAM = GO + pack_request(READ, 1, 0, 10) + pack_request(WRITE, 2, 0, 4) + b"data"


def test_a_client_may_go_away_at_each_byte(image: Path) -> None:
    with serving(image) as service:
        for length in range(len(STREAM)):
            with connect(service) as sock:
                sock.sendall(STREAM[:length])
                if length % 2:  # a reset instead of an end
                    linger = struct.pack("ii", 1, 0)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        eventually(lambda: service.open_count() == 0)
        with attach(service) as sock:
            assert read(sock, 0, 10) == IMAGE[:10]


def test_bytes_one_by_one(image: Path) -> None:
    with serving(image) as service, connect(service) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in STREAM:
            sock.sendall(bytes([byte]))
        receive(sock, GREETING + GO_REPLY)
        answers = [
            struct.pack(">IIQ", 0x67446698, 0, 1) + IMAGE[:10],
            struct.pack(">IIQ", 0x67446698, 1, 2),
        ]
        # A part that has first to be loaded is overtaken.
        assert receive(sock, 42) in (b"".join(answers), b"".join(reversed(answers)))


def test_a_client_that_stalls_in_a_request_stops_nobody(image: Path) -> None:
    with serving(image) as service, attach(service) as stalled, attach(service) as other:
        request = pack_request(READ, 1, 5, 5)
        stalled.sendall(request[:13])
        for _ in range(20):
            assert read(other, 0, 100) == IMAGE[:100]
        stalled.sendall(request[13:])
        assert receive(stalled, 21)[16:] == IMAGE[5:10]


def test_a_client_that_never_reads_stops_nobody_and_costs_no_memory(image: Path) -> None:
    with serving(image) as service, attach(service) as greedy, attach(service) as other:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        greedy.setblocking(False)
        request = pack_request(READ, 1, 0, SIZE) * 100
        for _ in range(200):
            try:
                greedy.send(request)
            except BlockingIOError:
                pass
            assert read(other, 0, 100) == IMAGE[:100]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 64 * 1024  # KiB; the answers asked for are 20 GB
        # And once it reads it gets all of it in order.
        greedy.settimeout(20)
        for _ in range(50):
            receive(greedy, 16)
            assert receive(greedy, SIZE) == IMAGE


def test_a_refused_write_is_drained_and_told(image: Path) -> None:
    seen = Seen()
    with serving(image, seen) as service, attach(service) as sock:
        sock.sendall(pack_request(WRITE, 1, 0, 300_000) + bytes(300_000))
        assert receive(sock, 16) == struct.pack(">IIQ", 0x67446698, 1, 1)
        assert read(sock, 0, 5) == IMAGE[:5]
        detail = seen.wait_phase("error")
        assert detail["message"] == "WRITE of 300000 bytes at 0: the export is read-only"
    assert image.read_bytes() == IMAGE


def test_garbage_after_the_negotiation_hangs_up_with_a_reason(image: Path) -> None:
    seen = Seen()
    with serving(image, seen) as service, attach(service) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: there\r\n\r\n")
        assert is_hung_up(sock)
        assert seen.wait_phase("detach")["message"] == "not a request: magic 0x47455420"


def test_an_unknown_export_is_an_event(image: Path) -> None:
    seen = Seen()
    with serving(image, seen) as service, connect(service) as sock:
        sock.sendall(GO.replace(NAME, b"opt/ltsp/amd65"))
        receive(sock, GREETING + 20)
        detail = seen.wait_phase("error")
        assert (detail["export"], detail["message"]) == ("opt/ltsp/amd65", "no such export")


@pytest.mark.parametrize("what", ["gone", "short", "empty", "directory", "fifo"])
def test_an_image_that_cannot_be_served_is_told(image: Path, what: str) -> None:
    seen = Seen()
    with serving(image, seen) as service, connect(service) as sock:
        image.unlink()
        if what == "short":
            image.write_bytes(IMAGE[:1000])
        elif what == "empty":
            image.touch()
        elif what == "directory":
            image.mkdir()
        elif what == "fifo":
            os.mkfifo(image)
        sock.sendall(GO)
        receive(sock, GREETING)
        _, option, reply, _ = struct.unpack(">QIII", receive(sock, 20))
        assert (option, reply) == (7, 2**31 + 6)
        assert str(image) in str(seen.wait_phase("error")["message"])


def test_the_map_goes_with_its_last_reader(image: Path) -> None:
    """At once, not when the collector of cycles comes by: it keeps the disk of a removed image."""
    gc.disable()
    try:
        with serving(image) as service:
            for _ in range(3):
                with attach(service) as sock:
                    assert read(sock, 0, 10) == IMAGE[:10]
            eventually(lambda: str(image) not in Path("/proc/self/maps").read_text())
    finally:
        gc.enable()


class TestLimits:
    def test_half_open_handshakes_give_way(self, image: Path) -> None:
        with serving(image, limits=NbdLimits(handshakes=20, per_client=5000)) as service:
            half_open = [connect(service) for _ in range(300)]
            with attach(service) as sock:
                assert read(sock, 0, 10) == IMAGE[:10]
                eventually(lambda: service.open_count() <= 21)
                # Whoever has an export is not asked to give way.
                half_open += [connect(service) for _ in range(50)]
                assert read(sock, 0, 10) == IMAGE[:10]
            for other in half_open:
                other.close()

    def test_a_thousand_half_open_handshakes(self, image: Path) -> None:
        """As the defaults are: who wants to boot gets in, and the log says what happens."""
        raise_file_limit()
        seen = Seen()
        with (
            serving(image, seen, NbdLimits(per_client=2000)) as service,
            contextlib.ExitStack() as stack,
        ):
            for number in range(1000):
                sock = stack.enter_context(connect(service))
                sock.sendall(GO[: number % len(GO)])
            with attach(service) as sock:
                assert read(sock, 500_000, 1000) == IMAGE[500_000:501_000]
                limit = NbdLimits().handshakes
                eventually(lambda: service.open_count() <= limit + 1)
        said = {str(event.detail["message"]) for event in seen.events if event.phase == "error"}
        assert said == {
            f"gave way to a new connection: {limit} clients had not chosen an export"
            " (limits.handshakes)"
        }

    def test_bytes_a_second_of_one_address(
        self, image: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rate = SIZE * 0.8
        with serving(image, limits=NbdLimits(bytes_per_second=rate)) as service:
            with attach(service) as one, attach(service) as two:
                began = time.monotonic()
                for start in range(0, SIZE, 100_000):
                    sock = (one, two)[start // 100_000 % 2]
                    length = min(100_000, SIZE - start)
                    assert read(sock, start, length) == IMAGE[start : start + length]
                # The last answer may be ahead of its time, but for one of each connection.
                assert time.monotonic() - began >= (SIZE - 200_000 - rate) / rate
            # What is asked for in one go is answered in turns.
            with attach(service) as sock:
                count = 40
                sock.sendall(pack_request(READ, 1, 0, 1000) * count)
                for _ in range(count):
                    assert receive(sock, 16)[:8] == struct.pack(">II", 0x67446698, 0)
                    assert receive(sock, 1000) == IMAGE[:1000]
        told = [r.getMessage() for r in caplog.records if "bytes_per_second" in r.getMessage()]
        assert len(told) == 1, "once a minute"
        assert told[0].startswith("nbd: 127.0.0.1 wants more than nbd.limits.bytes_per_second")

    def test_a_handshake_has_its_time(self, image: Path) -> None:
        seen = Seen()
        with (
            serving(image, seen, NbdLimits(handshake_seconds=0.05)) as service,
            attach(service) as attached,
            connect(service) as sock,
        ):
            sock.sendall(GO[:10])
            assert is_hung_up(sock)
            assert "limits.handshake_seconds" in str(seen.wait_phase("error")["message"])
            assert read(attached, 0, 10) == IMAGE[:10]

    def test_connections_of_one_client(self, image: Path) -> None:
        seen = Seen()
        with serving(image, seen, NbdLimits(per_client=2)) as service:
            with attach(service), attach(service):
                with connect(service) as third:
                    assert is_hung_up(third)
                assert "more than 2 connections" in str(seen.wait_phase("error")["message"])
            eventually(lambda: service.open_count() == 0)
            with attach(service) as sock:
                assert read(sock, 0, 10) == IMAGE[:10]

    def test_connections_in_all(self, image: Path) -> None:
        with (
            serving(image, limits=NbdLimits(connections=1)) as service,
            attach(service) as first,
        ):
            assert read(first, 0, 10) == IMAGE[:10]
            with connect(service) as second:
                assert is_hung_up(second)
            assert read(first, 0, 10) == IMAGE[:10]

    def test_what_has_read_nothing_gives_way_oldest_first(self, image: Path) -> None:
        seen = Seen()
        with (
            serving(image, seen, NbdLimits(connections=4)) as service,
            contextlib.ExitStack() as stack,
        ):
            reader = stack.enter_context(attach(service))
            assert read(reader, 0, 10) == IMAGE[:10]
            idle = [stack.enter_context(attach(service)) for _ in range(3)]
            last = stack.enter_context(attach(service))
            assert read(last, 0, 10) == IMAGE[:10]
            assert is_hung_up(idle[0])
            for sock in (reader, *idle[1:]):
                assert read(sock, 0, 10) == IMAGE[:10]
        assert "gave way" in str(seen.wait_phase("error")["message"])

    def test_who_has_most_gives_way_though_all_have_read(self, image: Path) -> None:
        """Many addresses of one card, each of which has read once, and then waits."""
        with (
            serving(
                image,
                limits=NbdLimits(connections=9),
                card=lambda client: "card" if client.startswith("127.66.") else client,
            ) as service,
            contextlib.ExitStack() as stack,
        ):
            node = stack.enter_context(attach(service))
            assert read(node, 0, 10) == IMAGE[:10]
            many = []
            for number in range(8):
                sock = stack.enter_context(attach(service, source=f"127.66.0.{1 + number}"))
                assert read(sock, 0, 10) == IMAGE[:10]
                many.append(sock)
            with attach(service, source="127.0.0.2") as newcomer:
                assert read(newcomer, 0, 10) == IMAGE[:10]
                assert is_hung_up(many[0])
                assert read(many[-1], 0, 10) == IMAGE[:10]
            assert read(node, 0, 10) == IMAGE[:10]

    def test_this_machines_own_clients_are_never_refused(self, image: Path) -> None:
        limits = NbdLimits(connections=1, per_client=1)
        with (
            serving(image, limits=limits, spare_local=True) as service,
            attach(service) as first,
            attach(service) as second,
        ):
            assert read(first, 0, 10) == IMAGE[:10]
            assert read(second, 0, 10) == IMAGE[:10]

    def test_complaints_are_bounded(self, image: Path) -> None:
        seen = Seen()
        limits = NbdLimits(events_per_second=0.001)
        with serving(image, seen, limits) as service, attach(service) as sock:
            for _ in range(100):
                sock.sendall(pack_request(WRITE, 1, 0, 0))
                receive(sock, 16)
        assert len([event for event in seen.events if event.phase == "error"]) == 5


class TestCold:
    """Parts that are not in memory, made so by hand: which pages are is the kernel's affair."""

    @pytest.fixture
    def disk(self, monkeypatch: pytest.MonkeyPatch) -> Iterator["Disk"]:
        disk = Disk()
        monkeypatch.setattr(mapped._Mapping, "populate", disk.populate)
        monkeypatch.setattr(mapped._Mapping, "resident", lambda self: bytes(self.size // 4096 + 1))
        monkeypatch.setattr(mapped._Mapping, "is_resident", lambda self, start, length: False)
        yield disk
        disk.go.set()

    def test_a_cold_part_stops_nobody(self, image: Path, disk: "Disk") -> None:
        with serving(image) as service, attach(service) as cold, attach(service) as hot:
            disk.go.set()
            assert read(hot, 0, 100) == IMAGE[:100]
            disk.go.clear()
            cold.sendall(pack_request(READ, 1, 600_000, 100))
            disk.asked.acquire()  # for the first read
            disk.asked.acquire()  # now it waits for the disk
            for _ in range(20):
                assert read(hot, 10, 100) == IMAGE[10:110]
            # Nor does it stop the same client's other requests.
            assert read(cold, 10, 100, cookie=2) == IMAGE[10:110]
            disk.go.set()
            assert receive(cold, 16) == struct.pack(">IIQ", 0x67446698, 0, 1)
            assert receive(cold, 100) == IMAGE[600_000:600_100]

    def test_a_part_is_loaded_once_for_all(self, image: Path, disk: "Disk") -> None:
        with serving(image) as service:
            socks = [attach(service) for _ in range(10)]
            for sock in socks:
                sock.sendall(pack_request(READ, 1, 0, 100))
            disk.asked.acquire()
            disk.go.set()
            for sock in socks:
                assert receive(sock, 116)[16:] == IMAGE[:100]
                sock.close()
            assert disk.ranges == [(0, 1 << 17)]

    def test_a_disk_error_is_one_clients_error(self, image: Path, disk: "Disk") -> None:
        seen = Seen()
        with serving(image, seen) as service, attach(service) as sock:
            disk.go.set()
            disk.error = OSError(5, "Input/output error")
            sock.sendall(pack_request(READ, 1, 0, 100))
            assert receive(sock, 16) == struct.pack(">IIQ", 0x67446698, 5, 1)
            assert str(image) in str(seen.wait_phase("error")["message"])
            disk.error = None
            assert read(sock, 0, 100) == IMAGE[:100]

    def test_a_client_that_left_meanwhile(self, image: Path, disk: "Disk") -> None:
        with serving(image) as service:
            with attach(service) as sock:
                sock.sendall(pack_request(READ, 1, 0, 100))
                disk.asked.acquire()
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            disk.go.set()
            eventually(lambda: service.open_count() == 0)

    def test_waiting_requests_of_one_client_are_bounded(self, image: Path, disk: "Disk") -> None:
        limits = NbdLimits(cold_requests=4, turn_requests=2)
        with serving(image, limits=limits) as service, attach(service) as sock:
            sock.sendall(b"".join(pack_request(READ, n, n, 1) for n in range(50)))
            disk.asked.acquire()
            disk.go.set()
            got = sorted(receive(sock, 17) for _ in range(50))
            assert got == sorted(
                struct.pack(">IIQ", 0x67446698, 0, n) + IMAGE[n : n + 1] for n in range(50)
            )

    def test_what_was_read_ahead_is_found_at_once_and_the_next_part_asked_for(
        self, tmp_path: Path, disk: "Disk", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        granule = 1 << 17
        path = tmp_path / "large"
        path.write_bytes(os.urandom(40 * granule))
        there = set(range(14))
        looked: list[int] = []
        ahead: list[tuple[int, int]] = []

        def is_resident(_: object, start: int, length: int) -> bool:
            looked.append(start // granule)
            return start // granule in there

        monkeypatch.setattr(mapped._Mapping, "is_resident", is_resident)
        monkeypatch.setattr(
            mapped._Mapping, "read_ahead", lambda _, start, length: ahead.append((start, length))
        )
        with serving(path) as service, attach(service) as sock:
            for index in range(14):
                sock.sendall(pack_request(READ, 1, index * granule, 512))
                receive(sock, 16 + 512)
            assert disk.ranges == [], "no thread has loaded any of it"
            # The first looks as far as it may, the tenth up to what is not there.
            assert looked == list(range(15))
            eventually(lambda: len(ahead) == 2)
            assert ahead == [(9 * granule, 8 * granule), (14 * granule, 8 * granule)]
            # Not in order: it is found, and nothing is read for it.
            there.update((30, 31))
            sock.sendall(pack_request(READ, 1, 30 * granule, 512))
            receive(sock, 16 + 512)
            assert looked[15:] == [30]
            assert len(ahead) == 2


class Disk:
    """A disk that waits for a word before it reads."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked = threading.Semaphore(0)
        self.ranges: list[tuple[int, int]] = []
        self.error: OSError | None = None

    def populate(self, start: int, length: int) -> None:
        self.ranges.append((start, length))
        self.asked.release()
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error


def test_a_file_cut_short_under_us_costs_its_readers_only(image: Path, tmp_path: Path) -> None:
    with serving(image) as service:
        with attach(service) as sock:
            assert read(sock, 0, SIZE) == IMAGE
            os.truncate(image, 0)
            sock.sendall(pack_request(READ, 1, 0, 100_000))
            data = b""
            try:
                while piece := sock.recv(1 << 16):
                    data += piece
                    if data[4:8] == b"\0\0\0\5":
                        break  # it was noticed before: EIO
            except ConnectionError:
                pass
            assert len(data) < 16 + 100_000
        eventually(lambda: service.open_count() <= 1)
        image.write_bytes(IMAGE)
        with attach(service) as sock:
            assert read(sock, 0, 10) == IMAGE[:10]


def test_out_of_files_it_goes_on_when_there_are_some_again(image: Path) -> None:
    with serving(image) as service, attach(service) as sock:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [socket.socket() for _ in range(3)]
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1, limit[1]))
        try:
            for other in waiting:
                other.connect(("127.0.0.1", service.port))
            assert read(sock, 0, 10) == IMAGE[:10]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        for other in waiting:
            other.settimeout(20)
            assert receive(other, GREETING)
            other.close()


class TestStop:
    def test_what_is_on_its_way_still_arrives(self, image: Path) -> None:
        runner = Running()
        export = Export("opt/ltsp/amd64", image, SIZE)
        service = NbdService(
            runner.loop,
            address="127.0.0.1",
            port=0,
            exports=lambda name, client: export,
            list_exports=lambda client: [],
            emit=Seen().emit,
        )
        service.bind()
        runner.call(service.start)
        with attach(service) as sock:
            sock.sendall(pack_request(READ, 1, 0, SIZE))
            head = receive(sock, 16 + 1)
            stopper = threading.Thread(target=runner.stop, args=(service,))
            stopper.start()
            assert head[16:] + receive(sock, SIZE - 1) == IMAGE
            assert is_hung_up(sock)
            stopper.join()
        with pytest.raises(OSError, match="refused"):
            connect(service)
        runner.close()

    def test_a_client_that_never_reads_does_not_hold_it_up(self, image: Path) -> None:
        with (
            serving(image, limits=NbdLimits(close_seconds=0.1)) as service,
            attach(service) as sock,
        ):
            sock.sendall(pack_request(READ, 1, 0, SIZE) * 50)
            receive(sock, 1)
        # leaving the context stopped the service with the client still there
        assert service.open_count() == 0


def test_a_taken_port_is_named(image: Path) -> None:
    with (
        serving(image) as service,
        pytest.raises(ServerError) as caught,
        running(
            lambda loop: NbdService(
                loop,
                address="127.0.0.1",
                port=service.port,
                exports=lambda name, client: None,
                list_exports=lambda client: [],
                emit=Seen().emit,
            )
        ),
    ):
        pass
    assert f"nbd cannot bind TCP 127.0.0.1:{service.port}" in caught.value.message
    assert f"pid {os.getpid()}" in caught.value.message


def test_what_is_in_memory_is_known_without_a_thread(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(os.urandom(300_000))
    fd = os.open(tmp_path / "image", os.O_RDONLY)
    try:
        mapping = mapped._Mapping(fd, 300_000)
        assert os.pread(fd, 300_000, 0)
        assert mapping.is_resident(0, 1 << 17)
        assert mapping.is_resident(2 << 17, 1 << 17)  # the last one is shorter
        mapping._may_look = False
        assert not mapping.is_resident(0, 1 << 17)
        assert mapping.resident() is None
    finally:
        os.close(fd)
