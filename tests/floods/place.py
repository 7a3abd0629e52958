"""Where it happens: a server, an honest machine and a flooding one, each in a namespace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.server.farm import FILES, publish
from tests.server.test_loaders import GRUB, IPXE

HOUSE: Final = Path(__file__).resolve().parents[2]
SERVER: Final = "10.78.0.1"
HONEST: Final = "10.78.0.11"
HONEST_MAC: Final = "52:54:00:78:00:11"
FLOODER: Final = "10.78.0.66"
FLOODER_MAC: Final = "52:54:00:78:00:66"
ADDRESSES: Final = 40
"""Further addresses of the flooding machine: 10.78.9.1 and on."""
START_SECONDS: Final = 60.0
INITRD_BYTES: Final = 8 << 20
ROOT_BYTES: Final = 32 << 20
FARM: Final = f"""\
address: {SERVER}
store: store
state: state
lts_conf: lts.conf
secrets: secrets
hosts_file: none
workers: 1
dhcp: proxy
dns: {{zone: rack.example.org}}
logs: {{syslog: on, netconsole: on}}
inventory:
  - {{mac: "{HONEST_MAC}", ip: {HONEST}, hostname: node-1}}
"""
LTSCONF: Final = '# jinja2\n[default]\nX = "plain"\n[node-1]\nJOIN = "{{ secrets.token }}"\n'


class FloodsError(Exception):
    """The place could not be made; the words say what and why."""


def further_addresses() -> list[str]:
    """The flooding machine's addresses beside its own."""
    return [f"10.78.9.{number}" for number in range(1, ADDRESSES + 1)]


def run(*words: str) -> None:
    """Run a command; FloodsError with its last words when it fails."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise FloodsError(f"{' '.join(words)}: {done.stderr.strip()[-300:]}")


@dataclass(frozen=True)
class Place:
    """Three namespaces on one bridge. names: of server, honest machine, flooding machine."""

    server: str
    honest: str
    flooder: str

    def argv(self, namespace: str, *words: str) -> list[str]:
        """A command as one that runs in a namespace."""
        return ["ip", "netns", "exec", namespace, *words]


@contextlib.contextmanager
def make_place() -> Iterator[Place]:
    """The namespaces; gone at the end, with all that runs in them."""
    if os.geteuid() != 0:
        raise FloodsError("network namespaces want root")
    place = Place(*(f"floods{os.getpid()}{letter}" for letter in "shf"))
    names = (place.server, place.honest, place.flooder)
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", place.server, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", place.server, "addr", "add", f"{SERVER}/16", "dev", "br0")
        run("ip", "-n", place.server, "link", "set", "br0", "up")
        # Replies to forged sources leave, as through a farm's gateway.
        run("ip", "-n", place.server, "route", "add", "192.0.0.0/8", "via", FLOODER)
        _plug(place, place.honest, "h0", HONEST_MAC, [HONEST])
        _plug(place, place.flooder, "f0", FLOODER_MAC, [FLOODER, *further_addresses()])
        yield place
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _plug(place: Place, name: str, port: str, mac: str, addresses: Sequence[str]) -> None:
    run(
        *("ip", "link", "add", port, "netns", place.server, "type", "veth"),
        *("peer", "name", "eth0", "netns", name),
    )
    run("ip", "-n", place.server, "link", "set", port, "master", "br0", "up")
    run("ip", "-n", name, "link", "set", "eth0", "address", mac)
    run("ip", "-n", name, "link", "set", "eth0", "up")
    for address in addresses:
        run("ip", "-n", name, "addr", "add", f"{address}/16", "dev", "eth0")


def publish_farm(work: Path) -> None:
    """A store with an image of real sizes, farm.yaml, lts.conf and a secret."""
    files = dict(FILES)
    files["rootfs.squashfs"] = b"hsqs" + os.urandom(ROOT_BYTES)
    files["initrd.img"] = os.urandom(INITRD_BYTES)
    for loader in (*IPXE, *GRUB):
        files.setdefault(loader, b"x" * 5000)
    publish(work / "store", files=files)
    (work / "farm.yaml").write_text(FARM)
    (work / "lts.conf").write_text(LTSCONF)
    (work / "secrets").mkdir()
    (work / "secrets/token").write_text("abcdef.0123456789abcdef")


class Server:
    """`bootfarm serve` in its namespace, as long as the `with` lasts."""

    def __init__(self, place: Place, work: Path) -> None:
        self._place = place
        self._work = work
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        program = [sys.executable, "-c", "from bootfarm import main; main()"]
        argv = [*program, "serve", "--config", str(self._work / "farm.yaml")]
        with (self._work / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._place.argv(self._place.server, *argv),
                cwd=HOUSE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _await(self) -> None:
        end = time.monotonic() + START_SECONDS
        probe = self._place.argv(
            self._place.honest, sys.executable, "-m", "tests.floods.honest", "--alive"
        )
        while subprocess.run(probe, cwd=HOUSE, capture_output=True).returncode != 0:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > end:
                words = (self._work / "log").read_text(errors="replace")[-2000:]
                raise FloodsError(f"the server did not start:\n{words}")
            time.sleep(0.2)

    def memory(self) -> int:
        """Bytes of its own of the server and its workers: pages of images are the kernel's."""
        assert self._process is not None
        return sum(map(_anonymous, self._family(self._process.pid)))

    def _family(self, pid: int) -> list[int]:
        try:
            words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        return [pid, *(other for word in words for other in self._family(int(word)))]


def _anonymous(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return 1024 * int(lines.get("RssAnon", "0 kB").split()[0])
