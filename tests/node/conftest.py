"""A node's root in a temporary directory, and the shells that its scripts must run under."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.apiserver import ApiServer
from tests.node.joining import Join

ROOTFS = Path(__file__).resolve().parents[2] / "imagebuild" / "rootfs"
SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"]}


class Node:
    """Runs scripts of `imagebuild/rootfs` with BOOTFARM_ROOT at a directory of its own."""

    def __init__(self, root: Path, shell: list[str]) -> None:
        self.root = root
        self.shell = shell
        self.bin = root / "stubs"
        self.bin.mkdir(parents=True)
        (root / "usr/lib").mkdir(parents=True)
        shutil.copytree(ROOTFS / "usr/lib/bootfarm", root / "usr/lib/bootfarm", symlinks=True)
        for directory in ("etc", "proc/sys/kernel", "run/bootfarm", "sys/class/net", "var/log"):
            (root / directory).mkdir(parents=True)
        self.write("proc/cmdline", "quiet\n")

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
        target.chmod(mode)
        return target

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def flat(self, **values: str) -> Path:
        """The node's resolved lts.conf with these values, in this order."""
        lines = [f'{key}="{value}"' for key, value in values.items()]
        text = "\n".join(["# bootfarm lts.conf", *lines, "# end", ""])
        return self.write("run/bootfarm/lts.conf", text)

    def state(self, **facts: str) -> None:
        for name, value in facts.items():
            self.write(f"run/bootfarm/{name.replace('_', '-')}", value + "\n")

    def stub(self, name: str, script: str) -> None:
        """A command of that name, before all others in PATH."""
        self.write(f"stubs/{name}", "#!/bin/sh\n" + script + "\n", mode=0o755)

    def run(
        self, script: str, *args: str, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs `script` with $1… = `args`; its standard error is in `.stderr`."""
        environment = {
            **os.environ,
            "BOOTFARM_ROOT": str(self.root),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "BOOTFARM_SHELL": " ".join(self.shell),
            **env,
        }
        environment.pop("http_proxy", None)
        words = ["-c", script, "test", *args]
        if script.startswith(str(self.root)):
            words = [script, *args]
        done = subprocess.run(
            [*self.shell, *words],
            env=environment,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=50,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"exit {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def script(
        self, path: str, *args: str, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a file of usr/lib/bootfarm under this node's shell instead of its own."""
        return self.run(str(self.root / "usr/lib/bootfarm" / path), *args, check=check, **env)

    def lib(self, *parts: str) -> str:
        """Script text that sources these parts of usr/lib/bootfarm."""
        return "".join(f'. "$BOOTFARM_ROOT/usr/lib/bootfarm/{part}.sh"\n' for part in parts)

    def boot(self, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs `script` with all of the initramfs's functions."""
        return self.run(self.lib("boot/main") + script, check=False, **env)

    def apply(self, step: str, script: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Runs one step of init-ltsp; what it complains of is on standard error."""
        shutil.copytree(ROOTFS / "usr/sbin", self.root / "usr/sbin", dirs_exist_ok=True)
        return self.run(
            '. "$BOOTFARM_ROOT/usr/sbin/init-ltsp"\n'
            + 'trouble() { echo "trouble: $*" >&2; }\n'
            + self.lib(f"init.d/{step}")
            + script
            + f"\napply_{step}\n",
            check=True,
            **env,
        )


class Server:
    """A bootfarm server's HTTP as a node sees it: `answers` by path, `beacons` as they came.

    unknown: fields of a beacon that are refused, as an older server does.
    join: answers `POST /join` from its fields: status and text.
    """

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.beacons: list[dict[str, str]] = []
        self.asked: list[str] = []
        self.unknown: set[str] = set()
        self.join: Callable[[dict[str, str]], tuple[int, str]] | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                body = outer.answers.get(urllib.parse.urlsplit(self.path).path)
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fields = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))
                if self.path == "/join" and outer.join is not None:
                    status, text = outer.join(fields)
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text.encode())
                    return
                if self.path != "/beacon":
                    self.send_error(404)
                    return
                if outer.unknown & set(fields):
                    self.send_error(400)
                    return
                outer.beacons.append(fields)
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(params=sorted(SHELLS))
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    return Node(tmp_path / "root", SHELLS[request.param])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def served(node: Node, server: Server) -> Callable[[], Server]:
    """Makes the node know the server; returns it."""

    def serve() -> Server:
        node.state(server="127.0.0.1", http=str(server.port), name="amd64", mac="52:54:00:00:00:01")
        return server

    return serve


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    api = ApiServer(tmp_path / "api")
    yield api
    api.close()


@pytest.fixture
def join(node: Node, api: ApiServer) -> Join:
    return Join(node, api)
