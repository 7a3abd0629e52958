"""Where a server is measured: a network namespace for all, a control group for each."""

import ctypes
import os
import platform
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

CLONE_NEWNET: Final = 0x40000000
V1: Final = Path("/sys/fs/cgroup/cpuacct")
V2: Final = Path("/sys/fs/cgroup")
STOP_SECONDS: Final = 10.0
"""For a server to end after SIGTERM, and then after SIGKILL."""
PRIORITY: Final = -15
"""Nice value of what is measured: nothing else of the machine comes before it."""


class BenchError(Exception):
    """The bench cannot go on; the message says why."""


def leave_network() -> None:
    """A network namespace of our own, with nothing but its loopback."""
    if os.geteuid() != 0:
        raise BenchError("the bench wants root: for a network namespace and control groups")
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise BenchError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    _set_congestion_control()
    # tftpd-hpa resolves no address at all where the machine has none but 127.0.0.1.
    subprocess.run(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"], check=True)


def _set_congestion_control() -> None:
    """Set the same congestion control for all: ours avoids BBR, the peers take what the machine
    has."""
    setting = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    if setting.read_text().startswith("bbr"):
        setting.write_text("reno")


def come_first() -> None:
    """Let servers and client run before whatever else this machine does.

    Where the kernel shares time out between sessions (autogroup), a session of our own.
    """
    os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    try:
        os.setsid()
        Path("/proc/self/autogroup").write_text(str(PRIORITY))
    except OSError:
        pass  # the leader of its group, or a kernel without autogroups: as it was


class Group:
    """A control group: CPU seconds and memory of whatever is started in it, children included."""

    def __init__(self, name: str) -> None:
        base = V1 if (V1 / "cpuacct.usage").exists() else V2
        self.path = base / f"bootfarm-bench-{os.getpid()}-{name}"
        self._v1 = base == V1
        try:
            self.path.mkdir()
        except OSError as error:
            raise BenchError(f"no control group: {error}") from error

    def start(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program in the group. What it says goes to the bench's log."""
        script = 'echo $$ > "$0" && exec "$@"'
        log = Path("build/bench/servers.log")
        with log.open("ab") as output:
            return subprocess.Popen(
                ["/bin/sh", "-c", script, str(self.path / "cgroup.procs"), *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
            )

    def pids(self) -> list[int]:
        """The processes of the group."""
        return [int(word) for word in (self.path / "cgroup.procs").read_text().split()]

    def cpu_seconds(self) -> float:
        """CPU time, user and system, of all that ever ran in here."""
        if self._v1:
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        words = (self.path / "cpu.stat").read_text().split()
        return int(words[words.index("usage_usec") + 1]) / 1e6

    def memory_bytes(self) -> int:
        """Anonymous memory (shared pages in parts) and page tables of all processes.

        Pages of the image are left out: they are the page cache's, whoever maps them.
        """
        total = 0
        for pid in self.pids():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue  # it has ended
            total += _kilobytes(rollup, "Pss_Anon:") + _kilobytes(rollup, "Pss_Shmem:")
            total += _kilobytes(status, "VmPTE:")
        return total * 1024

    def stop(self) -> None:
        """End all that runs in here."""
        deadline = time.monotonic() + STOP_SECONDS
        number = signal.SIGTERM
        while pids := self.pids():
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            while self.pids() and time.monotonic() < deadline:
                time.sleep(0.05)
            number, deadline = signal.SIGKILL, time.monotonic() + STOP_SECONDS
        self.path.rmdir()


def _kilobytes(text: str, key: str) -> int:
    for line in text.splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return 0


def describe_machine() -> dict[str, str | int]:
    """What the figures hold for. No names of hosts or people."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    release = platform.freedesktop_os_release()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        "kernel": platform.release(),
        "system": release.get("PRETTY_NAME", "Linux"),
        "python": platform.python_version(),
    }


def load_average() -> float:
    """Processes that wanted to run in the last minute: how quiet the machine is."""
    return os.getloadavg()[0]
