"""What limits a storm: looked for in /proc while it runs, and said only as far as it was seen."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from server.services.ports import Kind, find_owner
from server.simulate.plan import Target

BUSY: Final = 0.85
"""A process or card that is busy for this share of the time is at its limit."""
COLD: Final = 0.1
"""Share of the bytes sent that came from the disk, from which it counts."""
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """Counters at one moment. cpu: pid -> seconds used. machine: (busy, all) core-seconds.
    disk: bytes that the server read from it. sent: bytes that the card sent or got."""

    at: float
    crew: Mapping[int, float]
    server: Mapping[int, float]
    machine: tuple[float, float]
    disk: int
    card: int


@dataclass(frozen=True)
class Limits:
    """What was seen. Shares of the storm's time, None where it cannot be seen from here."""

    verdict: str
    why: str
    client_busy: float
    machine_busy: float
    server_busy: float | None = None
    server_cpu: float | None = None
    disk_bytes: int | None = None
    card: str = ""
    card_busy: float | None = None


@dataclass
class Observer:
    """Takes samples. proc, sysfs: where the kernel's files are; tests give others."""

    target: Target
    proc: Path = Path("/proc")
    sysfs: Path = Path("/sys/class/net")
    samples: list[Sample] = field(default_factory=list)
    pids: frozenset[int] = frozenset()
    card: str = ""
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    def find(self) -> None:
        """Which processes are the server, if it is on this machine, and which card leads there."""
        if is_local(self.target.host):
            self.pids = _find_server(self.target, self.proc)
        else:
            self.card = _find_card(self.target.host, self.proc)

    def sample(self, crew: Sequence[int]) -> None:
        """Note the counters now."""
        stat = (self.proc / "stat").read_text().split("\n", 1)[0].split()[1:9]
        ticks = [int(word) / _TICK for word in stat]
        idle = ticks[3] + ticks[4]
        self.samples.append(
            Sample(
                time.monotonic(),
                {pid: _cpu(pid, self.proc) for pid in crew},
                {pid: _cpu(pid, self.proc) for pid in self.pids},
                (sum(ticks) - idle, sum(ticks)),
                sum(_read_bytes(pid, self.proc) for pid in self.pids),
                _card_bytes(self.card, self.sysfs) if self.card else 0,
            )
        )

    def judge(self, sent: int, *, paced: bool) -> Limits:
        """What limited the storm, of all samples together.

        sent: bytes that nodes got. paced: they were started or read by a clock.
        """
        first, last = self.samples[0], self.samples[-1]
        seconds = max(last.at - first.at, 1e-6)
        client = max((last.crew[p] - first.crew.get(p, 0.0) for p in last.crew), default=0.0)
        machine = _share(first.machine, last.machine)
        server = disk = used = None
        if self.pids:
            spent = [last.server[p] - first.server.get(p, 0.0) for p in last.server]
            used, server = sum(spent), max(spent) / seconds
            disk = last.disk - first.disk
        card_busy = None
        if self.card and (speed := _speed(self.card, self.sysfs)):
            card_busy = (last.card - first.card) / seconds / speed
        client_busy = client / seconds
        verdict, why = _decide(client_busy, machine, server, disk, card_busy, sent, paced)
        return Limits(verdict, why, client_busy, machine, server, used, disk, self.card, card_busy)


def _decide(
    client: float,
    machine: float,
    server: float | None,
    disk: int | None,
    card: float | None,
    sent: int,
    paced: bool,
) -> tuple[str, str]:
    """(verdict, why): the first limit that is reached; the client's own before the server's."""
    if card is not None and card >= BUSY:
        return "network card", f"it was {card:.0%} busy"
    if client >= BUSY:
        return "this client", (
            f"a process of this simulation was busy {client:.0%} of the time:"
            " the server can do more; use more --processes, or more machines"
        )
    if disk is not None and sent and disk >= COLD * sent:
        share = disk / sent
        return "page cache", f"{share:.0%} of what was sent had to be read from the disk first"
    if server is not None and server >= BUSY:
        return "server CPU", f"its busiest process was busy {server:.0%} of the time"
    if server is not None and machine >= BUSY:
        why = f"the cores were {machine:.0%} busy with server and simulation together"
        return "this machine", f"{why}; a client on another machine would show more"
    if machine >= BUSY:
        why = f"its cores were {machine:.0%} busy: the server can do more"
        return "this client", why
    if paced:
        return "the pace", "nodes came and read by the clock (--ramp, --pace), and nothing was full"
    if server is None:
        return "unknown", "neither this client nor its card was full; look at the server's CPU"
    return "round trips", "nothing was full: nodes waited for answers one after the other"


def _share(first: tuple[float, float], last: tuple[float, float]) -> float:
    return (last[0] - first[0]) / max(last[1] - first[1], 1e-6)


def is_local(host: str) -> bool:
    """Whether an address is one of this machine's (and of this network namespace)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _find_server(target: Target, proc: Path) -> frozenset[int]:
    """The processes behind the target's ports, and their children."""
    found: set[int] = set()
    wanted: tuple[tuple[Kind, int], ...] = (
        ("udp", target.tftp),
        ("tcp", target.nbd),
        ("tcp", target.http),
    )
    for kind, port in wanted:
        owner = find_owner(kind, target.host, port, proc=proc)
        if owner is not None and owner.pid is not None:
            found.add(owner.pid)
    parents = {pid: _parent(pid, proc) for pid in _all_pids(proc)}
    # A worker may be what holds the port: its parent and that one's children count too.
    for pid in list(found):
        parent = parents.get(pid, 0)
        if parent > 1 and "bootfarm" in _command(parent, proc):
            found.add(parent)
    for _ in range(4):
        found |= {pid for pid, parent in parents.items() if parent in found}
    return frozenset(found - {os.getpid()})


def _all_pids(proc: Path) -> list[int]:
    return [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()]


def _parent(pid: int, proc: Path) -> int:
    try:
        return int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _command(pid: int, proc: Path) -> str:
    try:
        return (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _cpu(pid: int, proc: Path) -> float:
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK
    except (OSError, IndexError, ValueError):
        return 0.0


def _read_bytes(pid: int, proc: Path) -> int:
    try:
        for line in (proc / str(pid) / "io").read_text().splitlines():
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


def _find_card(host: str, proc: Path) -> str:
    """The network card of the route to an address, by /proc/net/route."""
    wanted = int.from_bytes(socket.inet_aton(host), "little")
    best, card = -1, ""
    try:
        lines = (proc / "net" / "route").read_text().splitlines()[1:]
    except OSError:
        return ""
    for line in lines:
        fields = line.split()
        net, mask = int(fields[1], 16), int(fields[7], 16)
        if wanted & mask == net and mask.bit_count() > best:
            best, card = mask.bit_count(), fields[0]
    return card


def _card_bytes(card: str, sysfs: Path) -> int:
    """Bytes of the fuller direction."""
    found = [0]
    for name in ("rx_bytes", "tx_bytes"):
        try:
            found.append(int((sysfs / card / "statistics" / name).read_text()))
        except (OSError, ValueError):
            pass
    return max(found)


def _speed(card: str, sysfs: Path) -> float | None:
    """Bytes a second, where the card says."""
    try:
        megabits = int((sysfs / card / "speed").read_text())
    except (OSError, ValueError):
        return None
    return megabits * 125_000.0 if megabits > 0 else None
