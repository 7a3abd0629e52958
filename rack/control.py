"""How one command talks to the rack that another one has put up.

The process that holds the rack listens on a unix socket; a request and its
answer are a line of JSON each. `state.json` in the state directory says where.
"""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imagebuild.wholefile import write_whole
from rack.cache import checkout_directory
from rack.errors import RackError
from rack.machine import NodeSpec
from rack.node import Node
from rack.rack import Rack

LINE_MAX = 1 << 20
"""Bytes of one request."""


def state_directory() -> Path:
    """Where the rack that is up says so: `$BOOTFARM_RACK`, else the checkout's `build/rack`."""
    given = os.environ.get("BOOTFARM_RACK")
    path = Path(given) if given else checkout_directory() / "build" / "rack"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def the_only_rack(directory: Path) -> Iterator[None]:
    """Hold the state directory's lock; RackError if another rack is up."""
    with open(directory / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RackError(
                "a rack is up already",
                hint="look at it: `bootfarm rack status`; end it: `bootfarm rack down`",
            ) from None
        try:
            yield
        finally:
            (directory / "state.json").unlink(missing_ok=True)


def describe_node(node: Node) -> dict[str, Any]:
    """A node as `status` shows it."""
    return {
        "name": node.name,
        "mac": node.mac,
        "ip": node.ip,
        "firmware": node.spec.firmware,
        "power": node.status(),
        "powered_on_at": node.powered_on_at,
        "peak_memory": node.peak_memory(),
        "console_log": str(node.files.console_log),
        "console_socket": str(node.files.console_socket),
    }


class ControlSocket:
    """Serves the rack's requests in a thread; `down` is set when a request asks for the end."""

    def __init__(self, rack: Rack, directory: Path) -> None:
        self._rack = rack
        self._lock = threading.Lock()
        self.down = threading.Event()
        self._path = rack.sockets / "control"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self._path))
        self._socket.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()
        state = directory / "state.json"
        write_whole(state, json.dumps({"pid": os.getpid(), "socket": str(self._path)}).encode())

    def wait_down(self) -> None:
        """Wait until a request asks for the rack's end; signals are handled meanwhile."""
        while not self.down.wait(1.0):
            pass

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            answer: dict[str, Any]
            try:
                request = json.loads(stream.readline(LINE_MAX))
                with self._lock:
                    answer = {"answer": self._do(request)}
            except RackError as error:
                answer = {"error": error.message, "hint": error.hint}
            except (ValueError, KeyError, TypeError) as error:
                answer = {"error": f"the request is malformed: {error!r}", "hint": ""}
            try:
                stream.write(json.dumps(answer).encode() + b"\n")
                stream.flush()
            except OSError:
                pass

    def _do(self, request: dict[str, Any]) -> Any:
        rack = self._rack
        match request["command"]:
            case "status":
                return self._status()
            case "boot":
                fields = dict(request["spec"])
                fields["disks"] = tuple(Path(disk) for disk in fields.get("disks", ()))
                return describe_node(rack.boot(NodeSpec(**fields)))
            case "power":
                node = self._node(request["name"])
                actions = {
                    "on": node.power_on,
                    "cut": node.power_cut,
                    "button": node.power_button,
                    "reset": node.reset,
                }
                actions[request["action"]]()
                return describe_node(node)
            case "down":
                self.down.set()
                return None
        raise RackError(f"the rack knows no command {request['command']!r}")

    def _status(self) -> dict[str, Any]:
        rack = self._rack
        return {
            "pid": os.getpid(),
            "namespace": rack.namespace.pid,
            "directory": str(rack.directory),
            "ssh_key": str(rack.ssh_key),
            "server": rack.server.is_running() if rack.server else False,
            "kubectl": rack.kubectl_argv(),
            "nodes": [describe_node(node) for node in rack.nodes.values()],
        }

    def _node(self, name: str) -> Node:
        try:
            return self._rack.nodes[name]
        except KeyError:
            known = ", ".join(self._rack.nodes) or "none"
            raise RackError(f"the rack has no node {name}", hint=f"it has: {known}") from None


def ask(command: str, directory: Path | None = None, **fields: Any) -> Any:
    """Send a request to the rack that is up; its answer. RackError if none is."""
    no_rack = RackError("no rack is up", hint="`bootfarm rack up` puts one up")
    state = (directory or state_directory()) / "state.json"
    try:
        path = json.loads(state.read_text())["socket"]
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(60)
        connection.connect(path)
    except (OSError, ValueError, KeyError):
        raise no_rack from None
    try:
        with connection, connection.makefile("rwb") as stream:
            stream.write(json.dumps({"command": command, **fields}).encode() + b"\n")
            stream.flush()
            line = stream.readline()
    except OSError as error:
        raise RackError(f"the rack does not answer: {error}") from None
    if not line:
        raise no_rack
    answer = json.loads(line)
    if "error" in answer:
        raise RackError(answer["error"], hint=answer["hint"])
    return answer["answer"]
