"""Debian's docker-registry on a port of loopback, for tests."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def run_registry(directory: Path) -> Iterator[str]:
    """A registry that keeps its files below a directory, as `127.0.0.1:port`."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    directory.mkdir(exist_ok=True)
    (directory / "config.yml").write_text(json.dumps(config))
    with (directory / "log").open("w") as log:
        argv = ["docker-registry", "serve", str(directory / "config.yml")]
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
