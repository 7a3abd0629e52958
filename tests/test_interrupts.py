"""Ctrl-C on real commands: a line, exit code 130, no child, nothing half-written."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BOOTFARM = str(Path(sys.executable).with_name("bootfarm"))
SECONDS = 60


class Silent:
    """A TCP server that takes what it is sent, and says nothing. began: somebody asked."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(SECONDS)
        self._taken: list[socket.socket] = []
        self.port = int(self._listening.getsockname()[1])

    def wait_for_a_client(self) -> None:
        client, _ = self._listening.accept()
        client.settimeout(SECONDS)
        assert client.recv(1)
        self._taken.append(client)

    def close(self) -> None:
        for one in (self._listening, *self._taken):
            one.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


def start(*words: str, cwd: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [BOOTFARM, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interrupt(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Send SIGINT, as a terminal would not: to the command alone. What it wrote."""
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=SECONDS)


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nodes"], "Interrupted: bootfarm nodes"),
        (["node", "node-1"], "Interrupted: bootfarm node"),
        (["events", "--follow"], "Interrupted: bootfarm events"),
        (["forget", "--played"], "Interrupted: bootfarm forget"),
        (["lts", "diff", "--server"], "Interrupted: bootfarm lts diff"),
    ],
)
def test_a_server_that_does_not_answer(
    silent: Silent, tmp_path: Path, words: list[str], line: str
) -> None:
    url = f"http://127.0.0.1:{silent.port}"
    if words[0] == "lts":
        (tmp_path / "lts.conf").write_text("[default]\n")
        words = ["lts", "diff", "lts.conf", "lts.conf", "--server", url]
    process = start(*words, cwd=tmp_path, BOOTFARM_SERVER=url)
    silent.wait_for_a_client()
    out, error = interrupt(process)
    assert (process.returncode, out, error) == (130, "", f"{line}\n")


def test_the_doctor(silent: Silent) -> None:
    port = str(silent.port)
    process = start("doctor", "--server", "127.0.0.1", "--no-dhcp", "--http-port", port)
    silent.wait_for_a_client()
    out, error = interrupt(process)
    assert process.returncode == 130
    assert error == "Interrupted: bootfarm doctor\n"
    assert "Traceback" not in out


def test_a_text_that_is_typed() -> None:
    process = start("lts", "check", "-")
    wait_for(lambda: is_reading(process))
    _, error = interrupt(process)
    assert process.returncode == 130
    assert error == "Interrupted: bootfarm lts check\n"


def is_reading(process: "subprocess.Popen[str]") -> bool:
    """Whether it waits in read(2) of its standard input."""
    return Path(f"/proc/{process.pid}/syscall").read_text().startswith("0 0x0 ")


def test_a_template_that_takes_long_ends_with_its_renderer(tmp_path: Path) -> None:
    loops = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    (tmp_path / "lts.conf").write_text(f"# jinja2\n[default]\n{loops}\n")
    process = start("lts", "render", "lts.conf", cwd=tmp_path)
    wait_for(lambda: bool(children_of(process.pid)))
    (renderer,) = children_of(process.pid)
    _, error = interrupt(process)
    assert process.returncode == 130
    assert error == "Interrupted: bootfarm lts render\n"
    wait_for(lambda: is_gone(renderer))


def test_an_engine_that_does_not_answer(silent: Silent, tmp_path: Path) -> None:
    recipe = Path(__file__).parents[1] / "recipes/demo.yaml"
    host = f"tcp://127.0.0.1:{silent.port}"
    for words in (["container", "build", str(recipe)], ["container", "push", "farm:a"]):
        process = start(*words, cwd=tmp_path, DOCKER_HOST=host)
        silent.wait_for_a_client()
        _, error = interrupt(process)
        assert process.returncode == 130
        assert error == f"Interrupted: bootfarm {' '.join(words[:2])}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a build needs root")
@pytest.mark.parametrize("check", [True, False])
def test_a_mirror_that_does_not_answer(silent: Silent, tmp_path: Path, check: bool) -> None:
    mirror = f"http://127.0.0.1:{silent.port}/debian"
    text = "name: small\ndistribution: debian\nrelease: trixie\narchitecture: amd64\n"
    text += f"mirrors: {{archive: '{mirror}', security: '{mirror}-security'}}\n"
    text += "kernel: {package: linux-image-cloud-amd64}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    cache = tmp_path / "cache"
    words = ["build", "recipe.yaml", "--store", "store", *(["--check"] if check else [])]
    process = start(*words, cwd=tmp_path, BOOTFARM_CACHE=str(cache), http_proxy="")
    silent.wait_for_a_client()
    apt = children_of(process.pid)
    assert apt
    _, error = interrupt(process)
    assert process.returncode == 130
    line = error.splitlines()[-1]
    assert line.startswith("Interrupted: bootfarm build")
    assert ("nothing was changed" if check else "nothing was published") in line
    assert "Traceback" not in error
    wait_for(lambda: all(map(is_gone, apt)))
    assert not (tmp_path / "store").exists()
    assert not (cache / "work").exists()
