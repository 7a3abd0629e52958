"""Worker processes: real ones, with real clients, killed and replaced."""

import os
import random
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.errors import ServerError
from server.services.limits import NbdLimits, TftpLimits
from server.services.workers import (
    PooledNbd,
    PooledTftp,
    WorkerPool,
    default_workers,
    share,
)
from tests.server.services.catalog import FilesCatalog
from tests.server.services.running import Running, Seen, eventually

pytestmark = pytest.mark.integration

IMAGE = random.Random(7).randbytes(4_000_000)
KERNEL = random.Random(8).randbytes(500_000)


@dataclass
class Pool:
    runner: Running
    pool: WorkerPool
    tftp: PooledTftp
    nbd: PooledNbd
    seen: Seen
    root: Path

    def pids(self) -> list[int]:
        return self.runner.call(self.pool.pids)

    def fetch(self, path: str, *options: str) -> bytes:
        """A file by curl over TFTP."""
        url = f"tftp://127.0.0.1:{self.tftp.port}/{path}"
        command = ["curl", "-sS", "--max-time", "30", *options, url]
        return subprocess.run(command, capture_output=True, timeout=50, check=True).stdout

    def copy(self, target: Path) -> bytes:
        """The export by nbdcopy, over several connections."""
        uri = f"nbd://127.0.0.1:{self.nbd.port}/image"
        subprocess.run(["nbdcopy", "--connections=4", uri, target], timeout=50, check=True)
        return target.read_bytes()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    (tmp_path / "image").write_bytes(IMAGE)
    (tmp_path / "kernel").write_bytes(KERNEL)
    runner, seen = Running(), Seen()
    workers = WorkerPool(runner.loop, count=2, catalog=FilesCatalog(tmp_path), emit=seen.emit)
    limits = TftpLimits(stop_seconds=0.2)
    tftp = workers.tftp(address="127.0.0.1", port=0, limits=limits)
    nbd = workers.nbd(address="127.0.0.1", port=0, limits=NbdLimits(close_seconds=0.2))
    tftp.bind()
    nbd.bind()
    runner.call(tftp.start)
    runner.call(nbd.start)
    yield Pool(runner, workers, tftp, nbd, seen, tmp_path)
    runner.stop(tftp)
    runner.stop(nbd)
    runner.close()
    assert workers.pids() == []


def test_they_serve_and_tell(pool: Pool) -> None:
    assert pool.fetch("kernel", "--tftp-blksize", "1428") == KERNEL
    assert pool.copy(pool.root / "copy") == IMAGE
    detail = pool.seen.wait_status("ok")
    assert (detail["path"], detail["bytes"]) == ("/kernel", len(KERNEL))
    pool.seen.wait_phase("detach")
    assert pool.fetch("version") == b"1"
    pool.seen.wait_for(lambda event: event.source == "plan")
    assert len(set(pool.pids())) == 2


def test_both_have_work(pool: Pool) -> None:
    """Clients from different ports are spread; what each worker opened tells."""

    def busy() -> bool:
        pool.fetch("version")
        pool.copy(pool.root / "copy")
        return all(switches(pid) > start for pid, start in before.items())

    eventually(lambda: pool.runner.call(lambda: pool.pool.ready))
    before = {pid: switches(pid) + 20 for pid in pool.pids()}
    eventually(busy)


def switches(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise AssertionError("no such line")


def test_a_new_catalog(pool: Pool) -> None:
    assert pool.fetch("version") == b"1"
    pool.runner.call(lambda: pool.pool.update(FilesCatalog(pool.root, "2")))
    eventually(lambda: all(pool.fetch("version") == b"2" for _ in range(10)))


def test_connections_are_counted_over_all(pool: Pool) -> None:
    uri = f"nbd://127.0.0.1:{pool.nbd.port}/image"
    script = f"h.connect_uri('{uri}'); print('there', flush=True); import sys; sys.stdin.read()"
    command = ["/usr/bin/python3", "-m", "nbd", "-c", script]
    clients = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    try:
        expected = {"ef" * 32: ["127.0.0.1"] * 3}
        eventually(lambda: dict(pool.runner.call(pool.nbd.connections)) == expected)
        for pid in pool.pids():
            os.kill(pid, signal.SIGKILL)
        # Their nodes are told to be gone: nothing else would ever tell.
        eventually(lambda: dict(pool.runner.call(pool.nbd.connections)) == {})
        ends = [event for event in pool.seen.events if event.phase == "detach"]
        assert [event.detail["export"] for event in ends] == ["image"] * 3
    finally:
        for client in clients:
            client.kill()
            client.communicate()


def test_a_dead_worker_is_replaced_on_the_same_ports(pool: Pool) -> None:
    assert pool.fetch("version") == b"1"
    pool.runner.call(lambda: pool.pool.update(FilesCatalog(pool.root, "2")))
    victim = pool.pids()[0]
    os.kill(victim, signal.SIGKILL)
    detail = pool.seen.wait_phase("worker")
    assert detail["message"] == "worker 0 ended with status -9; another is started"
    eventually(lambda: len(pool.pids()) == 2)
    assert victim not in pool.pids()
    # Also whoever is hashed to the dead worker's socket is served, with the present catalog.
    eventually(lambda: all(pool.fetch("version") == b"2" for _ in range(10)))
    assert pool.copy(pool.root / "copy") == IMAGE


def test_signals_for_the_parent_do_not_end_them(pool: Pool) -> None:
    eventually(lambda: pool.runner.call(lambda: pool.pool.ready))
    pids = pool.pids()
    for pid in pids:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    assert pool.copy(pool.root / "copy") == IMAGE
    assert pool.pids() == pids


def test_stopped_they_are_gone_and_so_are_the_ports(pool: Pool) -> None:
    assert pool.fetch("version") == b"1"
    pids = pool.pids()
    pool.runner.stop(pool.nbd)
    pool.runner.stop(pool.tftp)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with socket.socket() as sock, socket.socket(type=socket.SOCK_DGRAM) as udp:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", pool.nbd.port))
        udp.bind(("127.0.0.1", pool.tftp.port))
    assert not [event for event in pool.seen.events if event.phase == "worker"]


def test_they_do_not_outlive_their_parent(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(IMAGE)
    script = f"""
import asyncio
from pathlib import Path
from server.services.limits import TftpLimits
from server.services.workers import WorkerPool
from tests.server.services.catalog import FilesCatalog
async def main():
    loop = asyncio.get_running_loop()
    catalog = FilesCatalog(Path({str(tmp_path)!r}))
    pool = WorkerPool(loop, count=1, catalog=catalog, emit=lambda event: None)
    tftp = pool.tftp(address="127.0.0.1", port=0, limits=TftpLimits())
    tftp.bind()
    tftp.start()
    while not pool.pids():
        await asyncio.sleep(0.01)
    print(pool.pids()[0], flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    import sys

    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    eventually(lambda: not Path(f"/proc/{worker}/exe").exists())


def test_a_worker_that_cannot_start_is_told_and_tried_again(tmp_path: Path) -> None:
    runner, seen = Running(), Seen()
    catalog = FilesCatalog(tmp_path, fails=True)
    workers = WorkerPool(runner.loop, count=1, catalog=catalog, emit=seen.emit)
    tftp = workers.tftp(address="127.0.0.1", port=0, limits=TftpLimits(stop_seconds=0.1))
    tftp.bind()
    runner.call(tftp.start)
    detail = seen.wait_phase("worker")
    assert "worker 0 ended with status 1" in str(detail["message"])
    runner.stop(tftp)
    runner.close()


def test_a_taken_port_is_named_though_ports_could_be_shared(pool: Pool) -> None:
    other = WorkerPool(
        pool.runner.loop, count=1, catalog=FilesCatalog(pool.root), emit=pool.seen.emit
    )
    tftp = other.tftp(address="127.0.0.1", port=pool.tftp.port, limits=TftpLimits())
    with pytest.raises(ServerError, match=f"tftp cannot bind UDP .*:{pool.tftp.port}"):
        tftp.bind()
    nbd = other.nbd(address="127.0.0.1", port=pool.nbd.port, limits=NbdLimits())
    with pytest.raises(ServerError, match=f"nbd cannot bind TCP .*:{pool.nbd.port}"):
        nbd.bind()


@pytest.mark.parametrize(
    ("cores", "quota", "workers"),
    [
        (1, None, 0),
        (2, None, 1),
        (3, None, 1),
        (6, None, 3),
        (64, None, 8),
        (64, "max 100000", 8),
        (64, "450000 100000", 2),
        (64, "150000 100000", 0),
        (4, "800000 100000", 2),
        (4, "nonsense", 2),
    ],
)
def test_default_workers_are_one_for_two_cores_that_there_are_to_use(
    tmp_path: Path, cores: int, quota: str | None, workers: int
) -> None:
    if quota is not None:
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/cpu.max").write_text(quota + "\n")
    assert default_workers(tmp_path, cores) == workers


def test_default_workers_count_the_cores_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 7})
    assert default_workers(tmp_path) == 2


def test_what_may_go_to_a_forged_address_is_shared_out_between_workers() -> None:
    limits = TftpLimits(unconfirmed=8, requests_per_second=200.0, errors_per_second=50.0)
    part = share(limits, 3)
    assert (part.unconfirmed, part.per_client) == (2, limits.per_client)
    assert part.requests_per_second * 3 == pytest.approx(200.0)
    assert part.errors_per_second * 3 == pytest.approx(50.0)
    assert share(limits, 100).unconfirmed == 1
    assert share(TftpLimits(unconfirmed=0), 2).unconfirmed == 0
