"""One boot, looked at from outside: when the console says what, and what it cost."""

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.place import BenchError
from rack.namespace import Namespace
from rack.node import Node
from rack.process import Process

MARKS: Final = (
    ("kernel", r"Linux version "),
    ("init", r"Run /init as init process"),
    ("systemd", r"systemd\[1\]: systemd \d+"),
    ("login", r"^\S+ login: "),
)
"""What a boot passes, in order, and the console's line that tells it."""
TICK: Final = 0.02
"""Seconds between two looks at the console: well below what a boot's seconds differ by."""


@dataclass
class Figures:
    """What one boot took up to its end.

    marks: seconds from power-on of each of MARKS that was seen. cpu: QEMU's CPU seconds up to
    then, user and system; server_cpu: the servers', up to the end. to_node, from_node: bytes;
    packets_*: their number.
    """

    marks: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    server_cpu: float = 0.0
    to_node: int = 0
    from_node: int = 0
    packets_to: int = 0
    packets_from: int = 0

    @property
    def seconds(self) -> float:
        """Power-on to `login:`."""
        return self.marks["login"]


def watch_boot(
    namespace: Namespace, node: Node, servers: Sequence[Process], timeout: float = 300.0
) -> Figures:
    """Switch a machine on and look until its console asks for a login.

    Its kernel must log to the serial line (no `quiet`). Raises BenchError after `timeout`
    seconds, or when the machine goes off.
    """
    figures = Figures()
    before = sum(tree_cpu(process.pid) for process in servers)
    counters = read_counters(namespace, node.files.taps[0])
    start = time.monotonic()
    node.power_on()
    assert node.process is not None
    waiting = [(name, re.compile(pattern, re.MULTILINE)) for name, pattern in MARKS]
    size = -1
    while "login" not in figures.marks:
        now = time.monotonic() - start
        if now > timeout or not node.is_on():
            raise BenchError(
                f"{node.name} did not come to its login within {timeout:g} s;"
                f" seen: {figures.marks}; its console ends:\n{node.console.tail()}"
            )
        if node.console.size != size:
            size = node.console.size
            text = node.console.text()
            for name, pattern in waiting:
                if name not in figures.marks and pattern.search(text):
                    figures.marks[name] = now
                    figures.cpu[name] = tree_cpu(node.process.pid)
        time.sleep(TICK)
    figures.server_cpu = sum(tree_cpu(process.pid) for process in servers) - before
    after = read_counters(namespace, node.files.taps[0])
    figures.to_node, figures.packets_to, figures.from_node, figures.packets_from = (
        now - then for now, then in zip(after, counters, strict=True)
    )
    node.power_cut()
    return figures


def read_counters(namespace: Namespace, tap: str) -> tuple[int, int, int, int]:
    """Bytes and packets to the machine, bytes and packets from it.

    What the host sends into the tap is what the machine receives.
    """
    link = json.loads(namespace.run(["ip", "-json", "-stats", "link", "show", "dev", tap]))[0]
    to, came = link["stats64"]["tx"], link["stats64"]["rx"]
    return to["bytes"], to["packets"], came["bytes"], came["packets"]


def tree_cpu(pid: int) -> float:
    """CPU seconds of a process and of all below it, those that ended included."""
    total = own_cpu(pid)
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {child for task in tasks for child in (task / "children").read_text().split()}
    except OSError:
        return total
    return total + sum(tree_cpu(int(child)) for child in children)


def own_cpu(pid: int) -> float:
    """CPU seconds of one process with its ended children; 0 where it is gone (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # utime, stime, cutime, cstime are fields 14 to 17; `fields` begins with the third.
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
