"""QEMU's machine protocol (QMP): JSON lines over a unix socket."""

import json
import socket
import time
from pathlib import Path
from typing import Any

from rack.errors import RackError


class Qmp:
    """A short-lived connection: `with Qmp(path) as qmp: qmp.execute("query-status")`."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout

    def __enter__(self) -> "Qmp":
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(self._timeout)
        end = time.monotonic() + self._timeout
        while True:
            try:
                self._socket.connect(str(self._path))
                break
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > end:
                    self._socket.close()
                    raise RackError(f"QEMU does not answer on {self._path}: {error}") from None
                time.sleep(0.05)
        self._file = self._socket.makefile("rwb")
        self._read()
        self.execute("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """Run a command; its return value. RackError with QEMU's words if refused."""
        message: dict[str, object] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self._file.write(json.dumps(message).encode() + b"\n")
        self._file.flush()
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RackError(f"QEMU refused {command}: {answer['error'].get('desc')}")

    def _read(self) -> dict[str, Any]:
        try:
            line = self._file.readline()
        except OSError as error:
            raise RackError(f"QEMU does not answer on {self._path}: {error}") from None
        if not line:
            raise RackError(f"QEMU closed {self._path}")
        answer: dict[str, Any] = json.loads(line)
        return answer
