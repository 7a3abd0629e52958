"""`bootfarm serve` in the rack, and what the server says of the nodes."""

import http.client
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rack.errors import RackError
from rack.namespace import Namespace
from rack.network import SERVER_IP, SUBNET, host_argv, plug_in
from rack.process import Process, wait_for

HTTP_PORT = 8080
"""`bootfarm serve`'s default."""
BOOTFARM = (sys.executable, "-c", "from bootfarm import main; main()")
"""The front door, run by this very Python."""


class Server:
    """The process; it may be stopped and started again while nodes run.

    address: the one that nodes reach it by. cable: its network device, where it is a machine
    of its own on the bridge; "": it is the rack's own.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        store: Path,
        lts_conf: Path,
        config: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = (),
        *,
        address: str = SERVER_IP,
        cable: str = "",
    ) -> None:
        self._namespace = namespace
        self._directory = directory
        self._store = store
        self.lts_conf = lts_conf
        self._config = dict(config or {})
        self._arguments = tuple(arguments)
        self.address = address
        self._cable = cable
        self._process: Process | None = None
        self._peak = 0
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        """Where the server logs."""
        return self._directory / "server.log"

    @property
    def processes(self) -> tuple[Process, ...]:
        """The server's process, while it runs."""
        return (self._process,) if self._process else ()

    def argv(self) -> list[str]:
        """The command line of `bootfarm serve`."""
        words = [
            *(*BOOTFARM, "serve"),
            *("--store", str(self._store), "--lts-conf", str(self.lts_conf)),
            *("--state", str(self._directory / "state")),
        ]
        if self._config:
            words += ["--config", str(self._directory / "farm.yaml")]
        return [*words, *self._arguments]

    def start(self, timeout: float = 30.0) -> None:
        """Start it; returns when /healthz answers."""
        if self._config:
            (self._directory / "farm.yaml").write_text(yaml.safe_dump(self._config))
        (self._directory / "state").mkdir(exist_ok=True)
        process = self._launch()
        self._process = process
        wait_for(self.is_healthy, timeout, "an answer of /healthz", processes=(process,))

    def _launch(self) -> Process:
        if not self._cable:
            return self._namespace.start("bootfarm serve", self.argv(), self.log)
        pid_file = self._directory / "pid"
        pid_file.unlink(missing_ok=True)
        addresses = (f"{self.address}/{SUBNET.prefixlen}",)
        argv = host_argv(pid_file, self._cable, addresses, self.argv())
        process = self._namespace.start("bootfarm serve", argv, self.log)
        wait_for(pid_file.exists, 10, "the server's host", processes=(process,), interval=0.05)
        plug_in(self._namespace, pid_file, self._cable)
        return process

    def stop(self) -> int:
        """Stop it in an orderly way; its exit code."""
        if self._process is None:
            raise RackError("the server does not run")
        code = self._process.stop()
        self.peak_memory()
        self._process = None
        return code

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self.peak_memory()
            self._process = None

    def is_running(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.is_running()

    def is_healthy(self) -> bool:
        """Whether /healthz answers 200."""
        try:
            return self.get("/healthz")[0] == 200
        except OSError:
            return False

    def peak_memory(self) -> int:
        """The most resident memory (bytes) that it had."""
        if self._process is not None:
            self._peak = max(self._peak, self._process.peak_memory())
        return self._peak

    def get(self, path: str, timeout: float = 5.0) -> tuple[int, bytes]:
        """GET from inside the rack's network: status and body. Raises OSError."""
        connection = http.client.HTTPConnection(self.address, HTTP_PORT, timeout=timeout)
        connection.sock = self._namespace.connect(self.address, HTTP_PORT, timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"GET {path}: {error!r}") from error
        finally:
            connection.close()

    def get_json(self, path: str) -> Any:
        """GET and decode JSON; RackError if the answer is not 200."""
        try:
            status, body = self.get(path)
        except OSError as error:
            raise RackError(f"GET {path} of the server: {error}", hint=f"see {self.log}") from None
        if status != 200:
            raise RackError(f"GET {path} of the server: status {status}", hint=f"see {self.log}")
        return json.loads(body)
