"""One simulated node: its sockets, and its way through the steps of a plan."""

import errno
import random
import select
import socket
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, Protocol

from server.simulate.http import HttpClient
from server.simulate.nbd import NbdClient
from server.simulate.plan import SAMPLE, Plan
from server.simulate.profile import Fetch, Reads
from server.simulate.tally import Result, Tally
from server.simulate.tftp import TftpClient

FIRST_RTO: Final = 1.0
"""Seconds until firmware asks again for the first time."""
MAX_RTO: Final = 8.0
"""Seconds; it does not wait longer."""
_BUFFER: Final = 256 * 1024
"""Bytes read at once."""
SCRATCH: Final = memoryview(bytearray(_BUFFER))
"""Shared by the nodes of a process: what is in it is used up before the next one's turn."""
_NEVER: Final = float("inf")
PACKETS_A_TURN: Final = 64
"""Packets that one node takes before the others have their turn."""


class Watch(Protocol):
    """What a node asks of the loop of its process.

    watch: `ready(events)` is called when epoll says one of `events` (select.EPOLL…) of the socket.
    """

    def watch(self, sock: socket.socket, ready: Callable[[int], None], events: int) -> None: ...
    def forget(self, sock: socket.socket) -> None: ...


class _Keeper:
    """Stands in the place of a hash, and keeps the content."""

    def __init__(self) -> None:
        self.data = bytearray()

    def update(self, data: bytes | memoryview) -> None:
        self.data += data

    def hexdigest(self) -> str:
        return sha256(self.data).hexdigest()


class Node:
    """deadline: when `tick` wants to be called. result: set at the end. all_hashes: every
    file is hashed. keep: the last file's content stays in `kept`."""

    def __init__(
        self,
        number: int,
        plan: Plan,
        loop: Watch,
        tally: Tally,
        *,
        all_hashes: bool = False,
        keep: bool = False,
    ) -> None:
        self.number = number
        self.deadline = _NEVER
        self.result: Result | None = None
        self.hashes: dict[int, tuple[int, str]] = {}
        """Step -> (size, SHA-256) of files."""
        self.read_hashes: dict[int, str] = {}
        self.export_size = 0
        self._plan = plan
        self._loop = loop
        self._tally = tally
        self._hash_files = all_hashes or number % SAMPLE == 0
        self._keep = keep
        self.kept = b""
        self._sock: socket.socket | None = None
        self._nbd_sock: socket.socket | None = None
        self._tftp: TftpClient | None = None
        self._http: HttpClient | None = None
        self._nbd: NbdClient | None = None
        self._reads: Reads | None = None
        self._group = 0
        self._out = b""
        self._step = -1
        self._phase = ""
        self._phase_since = 0.0
        self._began = 0.0
        self._progress = 0.0
        self._rto = FIRST_RTO
        self._retry_at = _NEVER
        self._go_at = _NEVER
        self._times: dict[str, float] = {}
        self._bytes = 0
        self._retries = 0
        self._random = random.Random(number)

    def start(self, now: float) -> None:
        """Take the first step. now: on the clock of `tick`, in seconds."""
        self._began = self._progress = self._phase_since = now
        self._next(now)

    # The way through the steps

    def _next(self, now: float) -> None:
        """The next step, at once or when its time has come."""
        self._step += 1
        if self._step >= len(self._plan.steps):
            self._finish(now)
            return
        if self._plan.pace:
            at = self._began + self._plan.steps[self._step].at / self._plan.pace
            if at > now:
                self._go_at = at
                self._set_deadline()
                return
        self._begin(now)

    def _begin(self, now: float) -> None:
        step = self._plan.steps[self._step]
        self._enter(step.phase, now)
        self._progress = now
        try:
            if isinstance(step, Reads):
                self._begin_reads(step, now)
            elif step.via == "tftp":
                self._begin_tftp(step, now)
            else:
                self._begin_http(step)
        except OSError as error:
            self._fail(f"{error.strerror or error}", now)
        self._set_deadline()

    def _enter(self, phase: str, now: float) -> None:
        if phase == self._phase:
            return
        self._leave(now)
        self._phase, self._phase_since = phase, now
        self._tally.phases[phase] += 1

    def _leave(self, now: float) -> None:
        if self._phase:
            spent = now - self._phase_since
            self._times[self._phase] = self._times.get(self._phase, 0.0) + spent
            self._tally.phases[self._phase] -= 1

    def _finish(self, now: float, error: str = "") -> None:
        if self.result is not None:
            return
        phase = self._phase
        self._leave(now)
        self._phase = ""
        self._drop()
        if self._nbd_sock is not None:
            self._loop.forget(self._nbd_sock)
            self._nbd_sock.close()
            self._nbd_sock = None
        self.deadline = _NEVER
        self.result = Result(
            self.number,
            self._began,
            now,
            self._times,
            self._bytes,
            error,
            phase if error else "",
            self._retries,
        )
        self._tally.results.append(self.result)

    def _fail(self, why: str, now: float) -> None:
        if 0 <= self._step < len(self._plan.steps):
            step = self._plan.steps[self._step]
            if isinstance(step, Fetch):
                why = f"{step.via} {self._plan.path_of(step.path)}: {why}"
        self._finish(now, why)

    def tick(self, now: float) -> None:
        """The deadline is over."""
        if self.result is not None:
            return
        if now >= self._go_at:
            self._go_at = _NEVER
            self._progress = now
            if self._reads is not None:
                self._ask(now)
            else:
                self._begin(now)
        elif now - self._progress >= self._plan.patience:
            self._fail(f"no progress for {self._plan.patience:g} s", now)
        elif now >= self._retry_at and self._tftp is not None and self._sock is not None:
            self._retries += 1
            # Not all nodes at the same moment.
            self._rto = min(2 * self._rto, MAX_RTO) * self._random.uniform(0.9, 1.1)
            self._send_tftp(self._tftp.again(), now)
        self._set_deadline()

    def _set_deadline(self) -> None:
        if self.result is not None:
            self.deadline = _NEVER
        elif self._go_at < _NEVER:
            self.deadline = self._go_at
        else:
            self.deadline = min(self._progress + self._plan.patience, self._retry_at)

    def _open(self, kind: int, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
        source = self._plan.source_of(self.number)
        try:
            if source:
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.IPPROTO_IP, _BIND_NO_PORT, 1)
                sock.bind((source, 0))
            if kind == socket.SOCK_STREAM:
                error = sock.connect_ex((self._plan.target.host, port))
                if error not in (0, errno.EINPROGRESS):
                    raise OSError(error, "cannot connect")
        except OSError:
            sock.close()
            raise
        return sock

    def _drop(self) -> None:
        """Close the socket of a file that is done."""
        if self._sock is not None:
            self._loop.forget(self._sock)
            self._sock.close()
            self._sock = None
        self._tftp = self._http = None
        self._retry_at = _NEVER

    def _got_file(self, size: int, digest: Any, now: float) -> None:
        """A file is whole: compare it with what the first node got."""
        step = self._step
        wanted = self._plan.expected.files.get(step)
        if isinstance(digest, _Keeper):
            self.kept = bytes(digest.data)
        found = digest.hexdigest() if digest is not None else ""
        self._drop()
        if found:
            self.hashes[step] = (size, found)
            self._tally.checked_files += 1
        if wanted is not None and (size != wanted[0] or (found and found != wanted[1])):
            what = f"{size} bytes, not {wanted[0]}" if size != wanted[0] else "other bytes"
            self._fail(f"{what} than the first node got", now)
            return
        self._next(now)

    def _make_digest(self) -> Any:
        if self._keep:
            return _Keeper()
        return sha256() if self._hash_files else None

    def _count(self, amount: int, now: float) -> None:
        self._bytes += amount
        self._tally.bytes += amount
        self._progress = now

    # TFTP

    def _begin_tftp(self, step: Fetch, now: float) -> None:
        digest = self._make_digest() if not step.probe else None
        self._tftp = TftpClient(step, self._plan.path_of(step.path), digest)
        self._sock = self._open(socket.SOCK_DGRAM, 0)
        self._rto = FIRST_RTO
        self._peer: tuple[str, int] | None = None
        self._loop.watch(self._sock, self._on_packet, select.EPOLLIN)
        self._send_tftp(self._tftp.again(), now)

    def _send_tftp(self, packet: bytes, now: float) -> None:
        assert self._sock is not None
        self._retry_at = now + self._rto
        try:
            if self._peer is None:
                self._sock.sendto(packet, (self._plan.target.host, self._plan.target.tftp))
            else:
                self._sock.send(packet)
        except (BlockingIOError, ConnectionRefusedError):
            pass  # the retransmission will say it again

    def _on_packet(self, events: int) -> None:
        sock, client = self._sock, self._tftp
        if sock is None or client is None:
            return
        now = time.monotonic()
        for _ in range(PACKETS_A_TURN):
            try:
                if self._peer is None:
                    count, peer = sock.recvfrom_into(SCRATCH)
                    if peer[0] != self._plan.target.host:
                        continue
                    # RFC 1350: the transfer goes on with the port that answered.
                    sock.connect(peer)
                    self._peer = peer
                else:
                    count = sock.recv_into(SCRATCH)
            except BlockingIOError:
                break
            except OSError as error:
                self._fail(error.strerror or str(error), now)
                return
            before = client.size
            answer = client.receive(SCRATCH[:count])
            self._count(client.size - before, now)
            if answer is not None:
                self._rto = FIRST_RTO
                self._send_tftp(answer, now)
            if client.error:
                self._fail(client.error, now)
                return
            if client.done:
                self._got_file(client.size, client.digest, now)
                return
            if client.windowsize == 1:
                break  # nothing more can be there
        self._set_deadline()

    # HTTP

    def _begin_http(self, step: Fetch) -> None:
        target = self._plan.target
        digest = self._make_digest()
        host = f"{target.host}:{target.http}"
        self._http = HttpClient(self._plan.path_of(step.path), host, digest)
        self._sock = self._open(socket.SOCK_STREAM, target.http)
        self._loop.watch(self._sock, self._on_http, select.EPOLLOUT)

    def _on_http(self, events: int) -> None:
        sock, client = self._sock, self._http
        if sock is None or client is None:
            return
        now = time.monotonic()
        try:
            if events & select.EPOLLOUT:
                sock.send(client.request)
                self._loop.watch(sock, self._on_http, select.EPOLLIN)
                return
            count = sock.recv_into(SCRATCH)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.strerror or str(error), now)
            return
        before = client.size
        client.receive(SCRATCH[:count])
        self._count(client.size - before, now)
        if client.error:
            self._fail(client.error, now)
        elif client.done:
            self._got_file(client.size, client.digest, now)

    # NBD

    def _begin_reads(self, step: Reads, now: float) -> None:
        self._reads = step
        self._group = 0
        if self._nbd_sock is not None:
            self._ask(now)
            return
        self._nbd = NbdClient(self._plan.export, self._want_hash)
        self._nbd_sock = self._open(socket.SOCK_STREAM, self._plan.target.nbd)
        self._nbd_sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.watch(self._nbd_sock, self._on_nbd, select.EPOLLIN)

    def _want_hash(self, number: int) -> bool:
        return number % SAMPLE == 0

    def _ask(self, now: float) -> None:
        """The next group of reads, when its time has come; or the next step."""
        assert self._reads is not None
        assert self._nbd is not None
        reads = self._reads
        if self._group >= len(reads.groups):
            self._reads = None
            self._check_reads(now)
            if self.result is None:
                self._next(now)
            return
        if self._plan.pace:
            at = self._began + reads.times[self._group] / self._plan.pace
            if at > now:
                self._go_at = at
                return
        self._group += 1
        self._send_nbd(self._nbd.ask(reads.groups[self._group - 1]), now)

    def _check_reads(self, now: float) -> None:
        assert self._nbd is not None
        found, self._nbd.hashes = self._nbd.hashes, {}
        self._tally.checked_reads += len(found)
        self.read_hashes.update(found)
        expected = self._plan.expected.reads
        wrong = [number for number, value in found.items() if expected.get(number, value) != value]
        if wrong:
            self._fail(f"NBD read {wrong[0]} gave other bytes than the first node got", now)

    def _send_nbd(self, data: bytes, now: float) -> None:
        if not data or self._nbd_sock is None:
            return
        self._out += data
        try:
            sent = self._nbd_sock.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(error.strerror or str(error), now)
            return
        self._out = self._out[sent:]
        if self._out:
            events = select.EPOLLIN | select.EPOLLOUT
            self._loop.watch(self._nbd_sock, self._on_nbd, events)

    def _on_nbd(self, events: int) -> None:
        sock, client = self._nbd_sock, self._nbd
        if sock is None or client is None:
            return
        now = time.monotonic()
        if events & select.EPOLLOUT:
            self._loop.watch(sock, self._on_nbd, select.EPOLLIN)
            self._send_nbd(self._take_out(), now)
        before = client.read
        try:
            skip = client.may_skip
            if skip >= _BUFFER // 2:
                # Nobody looks at it: the kernel throws it away without a copy.
                count = sock.recv_into(SCRATCH, min(skip, _BUFFER), socket.MSG_TRUNC)
                client.skipped(count)
            else:
                count = sock.recv_into(SCRATCH)
                answer = client.receive(SCRATCH[:count])
                self._send_nbd(answer, now)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.strerror or str(error), now)
            return
        self._count(client.read - before, now)
        if client.error:
            self._fail(client.error, now)
        elif count == 0:
            self._fail("the NBD server hung up", now)
        elif client.size is not None:
            self.export_size = client.size
            if self._reads is not None and not client.busy and self.result is None:
                self._ask(now)
        self._set_deadline()

    def _take_out(self) -> bytes:
        out, self._out = self._out, b""
        return out


_BIND_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect, by all four of the addresses."""
