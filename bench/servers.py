"""The servers side by side: how each is started, on which ports it listens."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.data import Data
from bench.place import BenchError, Group
from tests.peers import unpack

EXPORT: Final = "/opt/ltsp/bench"
START_SECONDS: Final = 30.0
"""Until a server must answer."""
TOGETHER: Final = ("nbd-server", "tftpd-hpa", "nginx-light")
ALONE: Final = ("atftpd",)
"""atftpd and tftpd-hpa cannot be installed together: each is unpacked for itself."""


@dataclass
class Server:
    """A server that runs. ports: by protocol; 0 where it has none."""

    name: str
    argv: Sequence[str]
    ports: Mapping[str, int]
    settle: float = 0.3
    also: "Server | None" = None
    """A second server that runs beside it, in the same control group."""
    group: Group | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.group = Group(self.name.replace(" ", "-"))
        self.process = self.group.start(self.argv)
        if self.also is not None:
            self.also.process = self.group.start(self.also.argv)
        deadline = time.monotonic() + START_SECONDS
        for kind, port in self.ports.items():
            while not _listens(kind, port):
                if time.monotonic() > deadline:
                    raise BenchError(
                        f"{self.name} does not listen on {kind} port {port}; what it said"
                        " is in build/bench/servers.log"
                    )
                time.sleep(0.05)
        time.sleep(self.settle)

    def stop(self) -> None:
        """End the server and all that it started."""
        if self.group is not None:
            self.group.stop()
        for server in (self, self.also):
            if server is not None and server.process is not None:
                server.process.wait()
                server.process = None
        self.group = None

    def cpu_seconds(self) -> float:
        """CPU seconds, user and system, of the server and its children."""
        assert self.group is not None
        return self.group.cpu_seconds()

    def memory_bytes(self) -> int:
        """Memory of the server's processes, see Group.memory_bytes."""
        assert self.group is not None
        return self.group.memory_bytes()


def _listens(kind: str, port: int) -> bool:
    table = "udp" if kind == "tftp" else "tcp"
    state = "07" if kind == "tftp" else "0A"
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == state:
            return True
    return False


def _unpacked(packages: tuple[str, ...], program: str) -> list[str]:
    """The command line of a program that is not installed, with the libraries beside it."""
    root = unpack(*packages)
    libraries = [f"{root}/{place}/x86_64-linux-gnu" for place in ("lib", "usr/lib")]
    loader = f"{root}/lib64/ld-linux-x86-64.so.2"
    return [loader, "--library-path", ":".join(libraries), f"{root}{program}"]


def _installed(program: str) -> str:
    path = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise BenchError(f"{program} is not installed: run `make install`")
    return path


class Servers:
    """Makes the servers for some data. directory: for their configuration files."""

    def __init__(self, data: Data, directory: Path) -> None:
        self.data = data
        self._directory = directory

    def get(self, name: str) -> Server:
        """By name; `bootfarm` with the number of workers behind it, or by default."""
        kind, _, workers = name.partition(" ")
        if kind == "bootfarm":
            return self._bootfarm(name, workers)
        makers: dict[str, Callable[[], Server]] = {
            "nbd-server": self._nbd_server,
            "nbdkit": self._nbdkit,
            "qemu-nbd": self._qemu_nbd,
            "tftpd-hpa": self._tftpd_hpa,
            "dnsmasq": self._dnsmasq,
            "atftpd": self._atftpd,
            "nginx": self._nginx,
        }
        first, _, second = kind.partition("+")
        server = makers[first]()
        if second:
            server.name, server.also = kind, makers[second]()
            server.ports = {**server.ports, **server.also.ports}
        return server

    def _bootfarm(self, name: str, workers: str) -> Server:
        # A port of its own for each number of workers: they may run side by side.
        shift = 100 * (1 + int(workers)) if workers else 0
        ports = {"tftp": 2069 + shift, "nbd": 12809 + shift, "http": 14080 + shift}
        argv = [
            *(str(Path(sys.executable).with_name("bootfarm")), "serve"),
            *("--store", str(self.data.store), "--listen", "127.0.0.1"),
            *(word for kind, port in ports.items() for word in (f"--{kind}-port", str(port))),
            *(("--workers", workers) if workers else ()),
        ]
        return Server(name, argv, ports, settle=1.5)

    def _nbd_server(self) -> Server:
        config = self._write(
            "nbd-server.conf",
            "[generic]\nport = 10810\nlistenaddr = 127.0.0.1\n"
            f"[{EXPORT}]\nexportname = {self.data.image}\nreadonly = true\n",
        )
        argv = [*_unpacked(TOGETHER, "/bin/nbd-server"), "-C", config]
        return Server("nbd-server", argv, {"nbd": 10810})

    def _nbdkit(self) -> Server:
        argv = [
            *(_installed("nbdkit"), "--foreground", "--readonly"),
            *("--ipaddr", "127.0.0.1", "--port", "10811", "file", str(self.data.image)),
        ]
        return Server("nbdkit", argv, {"nbd": 10811})

    def _qemu_nbd(self) -> Server:
        argv = [
            *(_installed("qemu-nbd"), "--read-only", "--format=raw", "--persistent"),
            *("--shared=0", "--bind=127.0.0.1", "--port=10812", f"--export-name={EXPORT}"),
            str(self.data.image),
        ]
        return Server("qemu-nbd", argv, {"nbd": 10812})

    def _tftpd_hpa(self) -> Server:
        argv = [
            *_unpacked(TOGETHER, "/usr/sbin/in.tftpd"),
            *("--foreground", "--address", "127.0.0.1:1070", "--user", "nobody"),
            *("--secure", str(self.data.tree)),
        ]
        return Server("tftpd-hpa", argv, {"tftp": 1070})

    def _dnsmasq(self) -> Server:
        argv = [
            *(_installed("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--port=0"),
            *("--listen-address=127.0.0.1", "--bind-interfaces", "--enable-tftp"),
            *("--tftp-max=1000", f"--tftp-root={self.data.tree}", "--pid-file="),
        ]
        return Server("dnsmasq", argv, {"tftp": 69})

    def _atftpd(self) -> Server:
        argv = [
            *_unpacked(ALONE, "/usr/sbin/atftpd"),
            *("--daemon", "--no-fork", "--bind-address", "127.0.0.1", "--port", "1071"),
            *("--maxthread", "1000", "--user", "nobody.nogroup", "--logfile", "/dev/null"),
            str(self.data.tree),
        ]
        return Server("atftpd", argv, {"tftp": 1071})

    def _nginx(self) -> Server:
        prefix = self._directory / "nginx"
        (prefix / "logs").mkdir(parents=True, exist_ok=True)
        config = self._write(
            "nginx.conf",
            "daemon off; worker_processes auto; pid nginx.pid; error_log logs/error.log;\n"
            "events { worker_connections 4096; }\n"
            "http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n"
            + "".join(
                f"  {kind}_temp_path {prefix}/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"  server {{ listen 127.0.0.1:8081; root {self.data.tree}; }} }}\n",
        )
        argv = [*_unpacked(TOGETHER, "/usr/sbin/nginx"), "-p", str(prefix), "-c", config]
        return Server("nginx", argv, {"http": 8081})

    def _write(self, name: str, text: str) -> str:
        path = self._directory / name
        path.write_text(text)
        return str(path.resolve())
