"""TFTP clients that we did not write, against the service on loopback."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tftpy

from server.content import BytesContent, Content, FileContent, NotFound, Refused
from server.services.tftp import TftpService
from tests.server.services.running import Seen, running

pytestmark = pytest.mark.integration

FILES = {
    "empty": b"",
    "one": b"x",
    "short": random.Random(1).randbytes(511),
    "block": random.Random(2).randbytes(512),
    "blocks": random.Random(3).randbytes(1428 * 64),
    "kernel": random.Random(4).randbytes(3_000_001),
}
TEXT = b"one\ntwo\rthree\r\n\n"


@pytest.fixture(scope="module", params=["a port for each", "single port"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, Seen]]:
    root = tmp_path_factory.mktemp("tree")
    for name, data in FILES.items():
        (root / name).write_bytes(data)

    def lookup(path: str, client: str) -> Content:
        assert client == "127.0.0.1"
        name = path.removeprefix("/ltsp/amd64/")
        if name == "grub.cfg":
            return BytesContent(TEXT)
        if name == "secret":
            raise Refused("not for you")
        if name not in FILES:
            raise NotFound(f"no {path}")
        return FileContent(root / name, len(FILES[name]))

    seen = Seen()
    with running(
        lambda loop: TftpService(
            loop,
            address="127.0.0.1",
            port=0,
            lookup=lookup,
            emit=seen.emit,
            single_port=request.param == "single port",
        )
    ) as service:
        yield service.port, seen


def run(directory: Path, *command: str, status: int | None = 0) -> str:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=50, check=False
    )
    if status is not None:
        assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("slash", ["/", ""])
@pytest.mark.parametrize("name", sorted(FILES))
def test_tftp_hpa(server: tuple[int, Seen], tmp_path: Path, name: str, slash: str) -> None:
    port, _ = server
    path = f"{slash}ltsp/amd64/{name}"
    run(tmp_path, "tftp", "-m", "octet", "127.0.0.1", str(port), "-c", "get", path, "copy")
    assert (tmp_path / "copy").read_bytes() == FILES[name]


def test_tftp_hpa_netascii(server: tuple[int, Seen], tmp_path: Path) -> None:
    port, _ = server
    path = "/ltsp/amd64/grub.cfg"
    run(tmp_path, "tftp", "-m", "netascii", "127.0.0.1", str(port), "-c", "get", path, "copy")
    # The client turns CR LF into LF, and CR NUL into CR.
    assert (tmp_path / "copy").read_bytes() == TEXT


def test_tftp_hpa_sees_the_errors(server: tuple[int, Seen], tmp_path: Path) -> None:
    port, seen = server
    client = ("tftp", "-m", "octet", "127.0.0.1", str(port), "-c")
    said = run(tmp_path, *client, "get", "/nothing", "copy", status=None)
    assert "Error code 1: no /nothing" in said
    said = run(tmp_path, *client, "get", "/ltsp/amd64/secret", "copy", status=None)
    assert "Error code 2: not for you" in said
    (tmp_path / "mine").write_bytes(b"evil")
    said = run(tmp_path, *client, "put", "mine", "/ltsp/amd64/kernel", status=None)
    assert "Error code 2: this server is read-only" in said
    seen.wait_for(lambda event: event.detail.get("path") == "/nothing")


@pytest.mark.parametrize("blksize", ["8", "512", "1428", "65464"])
@pytest.mark.parametrize("name", ["one", "block", "blocks"])
def test_curl(server: tuple[int, Seen], tmp_path: Path, name: str, blksize: str) -> None:
    port, _ = server
    url = f"tftp://127.0.0.1:{port}//ltsp/amd64/{name}"
    run(tmp_path, "curl", "-sS", "--tftp-blksize", blksize, "-o", "copy", url)
    copy = tmp_path / "copy"
    assert (copy.read_bytes() if copy.exists() else b"") == FILES[name]


def test_curl_without_options(server: tuple[int, Seen], tmp_path: Path) -> None:
    port, _ = server
    url = f"tftp://127.0.0.1:{port}/ltsp/amd64/kernel"
    run(tmp_path, "curl", "-sS", "--tftp-no-options", "-o", "copy", url)
    assert (tmp_path / "copy").read_bytes() == FILES["kernel"]


@pytest.mark.integration
def test_curl_over_65535_blocks(server: tuple[int, Seen], tmp_path: Path) -> None:
    port, _ = server
    url = f"tftp://127.0.0.1:{port}/ltsp/amd64/kernel"
    run(tmp_path, "curl", "-sS", "--tftp-blksize", "40", "-o", "copy", url)
    assert len(FILES["kernel"]) / 40 > 65536
    assert (tmp_path / "copy").read_bytes() == FILES["kernel"]


@pytest.mark.parametrize("options", [(), ("-b", "1428"), ("-b", "65464")])
@pytest.mark.parametrize("name", ["one", "block", "kernel"])
def test_busybox(
    server: tuple[int, Seen], tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    port, _ = server
    path = f"/ltsp/amd64/{name}"
    words = ("busybox", "tftp", "-g", "-l", "copy", "-r", path, *options, "127.0.0.1", str(port))
    run(tmp_path, *words)
    assert (tmp_path / "copy").read_bytes() == FILES[name]


@pytest.mark.parametrize("windowsize", ["1", "2", "16", "64", "1000"])
@pytest.mark.parametrize("blksize", ["512", "1428", "8192"])
def test_atftp_windows(
    server: tuple[int, Seen], tmp_path: Path, windowsize: str, blksize: str
) -> None:
    port, _ = server
    options = ["--option", f"blksize {blksize}", "--option", f"windowsize {windowsize}"]
    options += ["--option", "tsize 0"]
    path = "/ltsp/amd64/kernel"
    run(tmp_path, "atftp", *options, "-g", "-r", path, "-l", "copy", "127.0.0.1", str(port))
    assert (tmp_path / "copy").read_bytes() == FILES["kernel"]


def test_atftp_windows_over_65535_blocks(server: tuple[int, Seen], tmp_path: Path) -> None:
    port, _ = server
    options = ("--option", "blksize 40", "--option", "windowsize 50")
    path = "/ltsp/amd64/kernel"
    run(tmp_path, "atftp", *options, "-g", "-r", path, "-l", "copy", "127.0.0.1", str(port))
    assert (tmp_path / "copy").read_bytes() == FILES["kernel"]


@pytest.mark.parametrize("options", [{}, {"blksize": 1428, "tsize": 0}])
def test_tftpy(server: tuple[int, Seen], tmp_path: Path, options: dict[str, int]) -> None:
    port, _ = server
    client = tftpy.TftpClient("127.0.0.1", port, options)
    client.download("/ltsp/amd64/blocks", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == FILES["blocks"]


def test_many_clients_at_once(server: tuple[int, Seen], tmp_path: Path) -> None:
    port, _ = server
    clients = []
    for number in range(20):
        url = f"tftp://127.0.0.1:{port}/ltsp/amd64/kernel"
        command = ["curl", "-sS", "--tftp-blksize", "1428", "-o", f"copy{number}", url]
        clients.append(subprocess.Popen(command, cwd=tmp_path))
    for number, client in enumerate(clients):
        assert client.wait(50) == 0
        assert (tmp_path / f"copy{number}").read_bytes() == FILES["kernel"]
