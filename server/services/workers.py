"""More processes for the data path: they share the ports, and tell the parent what they saw.

`WorkerPool` makes services that look like TftpService and NbdService, but are
served by worker processes. TFTP requests are spread by the kernel over one
socket for each worker (SO_REUSEPORT); NBD clients are taken from one listening
socket by whichever worker is free.
"""

import asyncio
import dataclasses
import os
import pickle
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from server.events import Emit, Event
from server.hangup import hangup_spares_children
from server.services.limits import NbdLimits, TftpLimits
from server.services.pipe import Pipe, pack_message
from server.services.ports import bind_port
from server.services.tftp import bind_listener
from server.services.worker import (
    Catalog,
    Events,
    NbdPart,
    Ready,
    Replace,
    Start,
    Stop,
    TftpPart,
)

RESTART_SECONDS: Final = 1.0
"""A worker that died is replaced after so long."""
_MAIN: Final = "import sys; from server.services.worker import main; main(int(sys.argv[1]))"
_ROOT: Final = Path(__file__).resolve().parents[2]


class WorkerPool:
    """Worker processes and what they serve. All methods belong to the loop's thread.

    count: how many. catalog: see worker.Catalog; `update` replaces it. Limits of
    the services hold for each worker. emit: the parent's one door.
    """

    owner: Final = "workers"

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, count: int, catalog: Catalog, emit: Emit
    ) -> None:
        if count < 1:
            raise ValueError("a pool wants at least one worker")
        self.loop = loop
        self.count = count
        self._emit = emit
        self._catalog = pickle.dumps(catalog, pickle.HIGHEST_PROTOCOL)
        self._tftp: PooledTftp | None = None
        self._nbd: PooledNbd | None = None
        self._workers: list[_Process | None] = [None] * count
        self._started = False
        self._restarts: dict[int, asyncio.TimerHandle] = {}
        self._stopping: asyncio.Future[None] | None = None

    def tftp(
        self, *, address: str, port: int, limits: TftpLimits, single_port: bool = False
    ) -> "PooledTftp":
        """TFTP, served by the workers."""
        self._tftp = PooledTftp(self, address, port, limits, single_port)
        return self._tftp

    def nbd(
        self,
        *,
        address: str,
        port: int,
        limits: NbdLimits,
        record: bool = False,
        spare_local: bool = False,
    ) -> "PooledNbd":
        """NBD, served by the workers. The rest as of NbdService."""
        self._nbd = PooledNbd(self, address, port, limits, record, spare_local)
        return self._nbd

    def update(self, catalog: Catalog) -> None:
        """What is looked up from now on; running transfers and connections stay as they are."""
        pickled = pickle.dumps(catalog, pickle.HIGHEST_PROTOCOL)
        if pickled == self._catalog:
            return
        self._catalog = pickled
        message = pack_message(Replace(pickled))
        for worker in self._workers:
            if worker is not None:
                worker.pipe.send_packed(message)

    def start(self) -> None:
        """Start the workers, once for all services."""
        if not self._started:
            self._started = True
            # In the next turn: all services that are to be served are bound by then.
            self.loop.call_soon(self._start_all)

    async def stop(self) -> None:
        """Stop the workers, once for all services; their deadlines bound it."""
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
            return
        self._stopping = self.loop.create_future()
        for timer in self._restarts.values():
            timer.cancel()
        workers = [worker for worker in self._workers if worker is not None]
        for worker in workers:
            worker.pipe.send(Stop())
        deadline = self.loop.time() + self._stop_seconds() + 2.0
        for worker in workers:
            await worker.wait(max(0.0, deadline - self.loop.time()))
        self._workers = [None] * self.count
        self._stopping.set_result(None)

    def pids(self) -> list[int]:
        """The workers that run."""
        return [worker.process.pid for worker in self._workers if worker is not None]

    def processes(self) -> dict[int, int | None]:
        """Each worker's number and process id; None while it is being replaced."""
        return {
            number: worker.process.pid if worker is not None else None
            for number, worker in enumerate(self._workers)
        }

    @property
    def ready(self) -> bool:
        """True while every worker serves; what comes before waits in the sockets."""
        return all(worker is not None and worker.ready for worker in self._workers)

    def connections(self) -> Mapping[str, list[str]]:
        """Digest -> client IPs that have an export of it open, of all workers."""
        found: dict[str, list[str]] = {}
        for worker in self._workers:
            if worker is not None:
                for (digest, client, _), count in worker.attached.items():
                    found.setdefault(digest, []).extend([client] * count)
        return found

    def _stop_seconds(self) -> float:
        seconds = [0.0]
        if self._tftp is not None:
            seconds.append(self._tftp.limits.stop_seconds)
        if self._nbd is not None:
            seconds.append(self._nbd.limits.close_seconds)
        return max(seconds)

    def _start_all(self) -> None:
        for number in range(self.count):
            self._start_one(number)

    def _start_one(self, number: int) -> None:
        self._restarts.pop(number, None)
        if self._stopping is not None:
            return
        tftp = self._tftp.part(number) if self._tftp is not None else None
        nbd = self._nbd.part() if self._nbd is not None else None
        fds = [part.fd for part in (tftp, nbd) if part is not None]
        start = Start(number, self._catalog, tftp, nbd)
        try:
            self._workers[number] = _Process(self, number, start, fds)
        except OSError as error:
            self._ended(number, f"cannot be started: {error.strerror}")

    # What the processes call.

    def heard(self, events: list[Event]) -> None:
        """Emit what a worker's services saw (called by its process)."""
        for event in events:
            self._emit(event)

    def ended(self, worker: "_Process", status: int | None) -> None:
        """A worker's end of the pipe is closed (called by its process)."""
        if self._workers[worker.number] is not worker:
            return
        self._workers[worker.number] = None
        for (digest, client, export), count in worker.attached.items():
            for _ in range(count):
                detail = {"export": export, "digest": digest, "message": "its worker ended"}
                self._emit(Event(time.time(), client, "nbd", "detach", detail))
        self._ended(worker.number, f"ended with status {status}")

    def _ended(self, number: int, why: str) -> None:
        if self._stopping is not None:
            return
        message = f"worker {number} {why}; another is started"
        detail = {"status": "error", "message": message, "cause": "worker_ended"}
        self._emit(Event(time.time(), "", "workers", "worker", detail))
        self._restarts[number] = self.loop.call_later(RESTART_SECONDS, self._start_one, number)


class _Process:
    """A worker process, seen from the parent."""

    def __init__(self, pool: WorkerPool, number: int, start: Start, fds: list[int]) -> None:
        self.number = number
        self.ready = False
        self.attached: Counter[tuple[str, str, str]] = Counter()
        """(digest, client IP, export) -> connections."""
        self._pool = pool
        self._gone = pool.loop.create_future()
        self._reaper: asyncio.Task[None] | None = None
        ours, theirs = socket.socketpair()
        with theirs, hangup_spares_children():
            # A fresh interpreter, not a fork: no threads, no sockets but those given.
            path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
            self.process = subprocess.Popen(
                # Not -m: its classes would belong to __main__, and not be those of the pickles.
                [sys.executable, "-c", _MAIN, str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *fds],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        self.pipe = Pipe(pool.loop, ours, self._on_message, self._on_end)
        self.pipe.send(start)

    async def wait(self, seconds: float) -> None:
        """Wait for its end; kill it when that takes longer."""
        try:
            await asyncio.wait_for(asyncio.shield(self._gone), seconds)
        except TimeoutError:
            self.pipe.close()
            self.process.kill()
        await self._pool.loop.run_in_executor(None, self.process.wait)

    def _on_message(self, message: Any) -> None:
        if isinstance(message, Ready):
            self.ready = True
        elif isinstance(message, Events):
            for event in message.events:
                if event.source == "nbd" and event.phase in ("attach", "detach"):
                    export = str(event.detail["export"])
                    key = (str(event.detail["digest"]), event.node, export)
                    self.attached[key] += 1 if event.phase == "attach" else -1
                    if self.attached[key] <= 0:
                        del self.attached[key]
            self._pool.heard(message.events)

    def _on_end(self) -> None:
        self._reaper = self._pool.loop.create_task(self._reap())

    async def _reap(self) -> None:
        """The pipe is closed: the process is about to end."""
        status = await self._pool.loop.run_in_executor(None, _end, self.process)
        if not self._gone.done():
            self._gone.set_result(None)
        self._pool.ended(self, status)


def _end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class PooledTftp:
    """TFTP as the workers serve it: the same calls as TftpService's."""

    owner: Final = "tftp"

    def __init__(
        self, pool: WorkerPool, address: str, port: int, limits: TftpLimits, single_port: bool
    ) -> None:
        self.limits = limits
        self._pool = pool
        self._address = address
        self._port = port
        self._single_port = single_port
        self._sockets: list[socket.socket] = []

    @property
    def port(self) -> int:
        """The port that is bound, or was asked for."""
        return self._port

    def bind(self) -> None:
        """Take the port. Raises ServerError that says who has it."""
        if self._sockets:
            return
        # SO_REUSEPORT would silently share with another server of this user.
        with bind_port("tftp", "udp", self._address, self._port) as probe:
            self._port = int(probe.getsockname()[1])
        for _ in range(self._pool.count):
            self._sockets.append(bind_listener(self._address, self._port, reuse_port=True))

    def start(self) -> None:
        """Start the workers, unless another service has."""
        self._pool.start()

    async def stop(self) -> None:
        """Stop the workers, and close the sockets."""
        await self._pool.stop()
        for sock in self._sockets:
            sock.close()

    def part(self, number: int) -> TftpPart | None:
        """What worker `number` serves of TFTP; None before `bind`."""
        if not self._sockets:
            return None
        limits = share(self.limits, len(self._sockets))
        return TftpPart(self._sockets[number].fileno(), limits, self._single_port)


class PooledNbd:
    """NBD as the workers serve it: the same calls as NbdService's."""

    owner: Final = "nbd"

    def __init__(
        self,
        pool: WorkerPool,
        address: str,
        port: int,
        limits: NbdLimits,
        record: bool,
        spare_local: bool,
    ) -> None:
        self.limits = limits
        self._record = record
        self._spare_local = spare_local
        self._pool = pool
        self._address = address
        self._port = port
        self._listener: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port that is bound, or was asked for."""
        return self._port

    def bind(self) -> None:
        """Take the port. Raises ServerError that says who has it."""
        if self._listener is None:
            self._listener = bind_port("nbd", "tcp", self._address, self._port)
            self._port = int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Start the workers, unless another service has."""
        self._pool.start()

    async def stop(self) -> None:
        """Close the listening socket, and stop the workers."""
        if self._listener is not None:
            # The workers' own copies keep it open until they stop.
            self._listener.close()
            self._listener = None
        await self._pool.stop()

    def connections(self) -> Mapping[str, list[str]]:
        """Digest -> client IPs that have an export of it open, once for each connection."""
        return self._pool.connections()

    def part(self) -> NbdPart | None:
        """What each worker serves of NBD; None before `bind`."""
        if self._listener is None:
            return None
        return NbdPart(self._listener.fileno(), self.limits, self._record, self._spare_local)


def default_workers(root: Path = Path("/"), cores: int | None = None) -> int:
    """How many workers suit this machine: one for two cores, at most 8, none on a single one.

    The kernel spends more on what is asked for than a worker does, on whatever core is
    free (docs/performance.md). A container may have less than the machine has: its
    quota counts. root: where /sys is looked for.
    """
    count = float(cores if cores is not None else len(os.sched_getaffinity(0)))
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no quota (`max`), or none that can be read
    return min(8, int(count) // 2)


def share(limits: TftpLimits, count: int) -> TftpLimits:
    """One worker's part of what may be sent to somebody who never asked.

    A forger's ports spread its packets over all workers; an honest client's
    port leads to one, and has enough with a part.
    """
    return dataclasses.replace(
        limits,
        unconfirmed=max(1, limits.unconfirmed // count) if limits.unconfirmed else 0,
        requests_per_second=limits.requests_per_second / count,
        errors_per_second=limits.errors_per_second / count,
        strangers_per_second=limits.strangers_per_second / count,
    )
