"""`serve --export`, `--boot-tree`, `--listen`, ports and workers, asked by real clients."""

import contextlib
import json
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.farm import FILES, publish
from tests.server.test_serve import BOOTFARM, Server, children, eventually

pytestmark = pytest.mark.integration

DISK = random.Random(3).randbytes(3_000_320)
LOADER = random.Random(4).randbytes(70_001)


class BareServer(Server):
    """A server without store and lts.conf."""

    address = "127.0.0.1"

    @property
    def argv(self) -> list[str]:
        return [
            *(*BOOTFARM, "--listen", self.address, "--tftp-port", str(self.tftp)),
            *("--nbd-port", str(self.nbd), "--http-port", str(self.http), *self.arguments),
        ]

    def fetch(self, url: str, *options: str) -> subprocess.CompletedProcess[bytes]:
        argv = ["curl", "-sS", "--fail", "--path-as-is", "--max-time", "20", *options, url]
        return subprocess.run(argv, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "disk.img").write_bytes(DISK)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/loader.0").write_bytes(LOADER)
    (tmp_path / "tree/healthz").write_bytes(b"not this")
    (tmp_path / "tree/out").symlink_to("../secret")
    return tmp_path


@pytest.fixture(params=["0", "2"])
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[BareServer]:
    options = [
        *("--export", f"disk={folder}/disk.img", "--export", f"/with space={folder}/secret"),
        *("--boot-tree", f"{folder}/tree", "--workers", request.param),
    ]
    server = BareServer(folder, options)
    server.line = server.start()
    yield server
    assert server.stop() == 0


def test_exports_to_real_clients(server: BareServer, folder: Path) -> None:
    assert "0 images, exports disk, /with space, boot tree" in server.line
    health = server.json("/healthz")
    assert (health["status"], health["exports"]) == ("ok", ["/with space", "disk"])
    uri = f"nbd://127.0.0.1:{server.nbd}"
    said = subprocess.run(["nbdinfo", "--list", "--json", uri], capture_output=True, check=True)
    sizes = {e["export-name"]: e["export-size"] for e in json.loads(said.stdout)["exports"]}
    assert sizes == {"disk": len(DISK), "/with space": 6}
    subprocess.run(["nbdcopy", f"{uri}/disk", f"{folder}/copy"], check=True)
    assert (folder / "copy").read_bytes() == DISK
    image = f"{uri}/disk"
    argv = ["qemu-img", "compare", "-f", "raw", "-F", "raw", image, f"{folder}/disk.img"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    script = (
        "assert h.is_read_only()\n"
        "try:\n h.pwrite(b'x' * 512, 0)\n"
        "except nbd.Error as error:\n assert error.errnum in (1, 30), error\n"
        "else:\n raise SystemExit('written')\n"
        f"assert len(h.pread(320, {len(DISK) - 320})) == 320\n"
    )
    argv = ["/usr/bin/python3", "-m", "nbd", "-u", image, "-c", script]
    subprocess.run(argv, check=True)
    assert (folder / "disk.img").read_bytes() == DISK
    assert server.json("/api/nodes/127.0.0.1")["phase"] != "root", "it is nobody's root"


def test_no_such_export(server: BareServer) -> None:
    uri = f"nbd://127.0.0.1:{server.nbd}/other"
    assert subprocess.run(["nbdinfo", uri], capture_output=True).returncode != 0
    assert eventually(lambda: "export=other status=error message=no such export" in server.log)


def test_the_folder_over_tftp_and_http(server: BareServer, folder: Path) -> None:
    tftp, http = f"tftp://127.0.0.1:{server.tftp}/", f"http://127.0.0.1:{server.http}"
    assert server.fetch(f"{http}/sub/loader.0").stdout == LOADER
    assert server.fetch(f"{tftp}/sub/loader.0").stdout == LOADER
    script = f"mode binary\nget sub/loader.0 {folder}/got\n"
    subprocess.run(["tftp", "127.0.0.1", str(server.tftp)], input=script, text=True, check=True)
    assert (folder / "got").read_bytes() == LOADER
    assert b"not this" not in server.get("/healthz"), "the server's own pages come first"
    paths = ["out", "../secret", "sub/../../secret", "%2e%2e/secret", "..%2fsecret", "..%5csecret"]
    for path in [*paths, "%252e%252e/secret", "sub", "sub/..%00/loader.0", f"/{folder}/secret"]:
        for base in (f"{http}/", tftp):
            done = server.fetch(base + path)
            assert done.returncode != 0, path
            assert b"secret" not in done.stdout


def test_an_edit_of_the_folder_is_another_entity(server: BareServer, folder: Path) -> None:
    url = f"http://127.0.0.1:{server.http}/sub/loader.0"

    def etag() -> str:
        head = server.fetch(url, "--head").stdout.decode().lower()
        return next(line for line in head.splitlines() if line.startswith("etag:"))

    before = etag()
    (folder / "new").write_bytes(LOADER[::-1])
    (folder / "new").rename(folder / "tree/sub/loader.0")
    assert etag() != before
    assert server.fetch(url).stdout == LOADER[::-1]
    assert server.fetch(f"tftp://127.0.0.1:{server.tftp}//sub/loader.0").stdout == LOADER[::-1]


def test_the_folder_comes_before_the_images(folder: Path) -> None:
    publish(folder / "store")
    (folder / "lts.conf").write_text("")
    (folder / "tree/ltsp/amd64").mkdir(parents=True)
    (folder / "tree/ltsp/amd64/vmlinuz").write_bytes(b"another kernel")
    (folder / "farm.yaml").write_text("exports: {disk: disk.img}\nboot_tree: tree\n")
    server = Server(folder, ["--config", str(folder / "farm.yaml")])
    try:
        server.start()
        assert server.get("/ltsp/amd64/vmlinuz") == b"another kernel"
        assert server.get("/ltsp/amd64/initrd.img") == FILES["initrd.img"]
        assert server.get("/sub/loader.0") == LOADER
        uri = f"nbd://127.0.0.1:{server.nbd}"
        said = subprocess.run(["nbdinfo", "--list", uri], capture_output=True, text=True)
        assert 'export="disk"' in said.stdout
        assert f"uri: {uri}//opt/ltsp/amd64\n" in said.stdout
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--export", "disk"], "--export 'disk': there is no `=`"),
        (["--export", "disk="], "--export 'disk=': names no file"),
        (["--export", "a=x", "--export", "a=y"], "the name stands twice"),
        (["--export", "opt/ltsp/amd64=disk.img"], "belong to the images"),
        (["--export", "disk=/nothing/here"], "--export disk=/nothing/here: No such file"),
        (["--export", "null=/dev/null"], "not a regular file"),
        (["--boot-tree", "/nothing/here"], "--boot-tree /nothing/here: No such file"),
        (["--boot-tree", ".", "--services", "nbd"], "no service serves it"),
        (["--boot-tree", ".", "--store", "/nothing/here"], "there is no such directory"),
        ([], "no store is given"),
    ],
)
def test_what_cannot_be_served_is_said_at_the_start(
    folder: Path, options: list[str], said: str
) -> None:
    assert said in BareServer(folder, options).fails()


@pytest.mark.parametrize("workers", [0, 3])
def test_listen_ports_and_workers_do_what_they_say(folder: Path, workers: int) -> None:
    options = ["--boot-tree", f"{folder}/tree", "--workers", str(workers)]
    server = BareServer(folder, [*options, "--export", f"disk={folder}/disk.img"])
    server.address = "127.0.0.2"
    try:
        line = server.start()
        assert f"on 127.0.0.2: tftp {server.tftp}, nbd {server.nbd}, http {server.http};" in line
        assert server.process is not None
        pid = server.process.pid
        assert eventually(lambda: len(children(pid)) == workers)
        url = f"tftp://127.0.0.2:{server.tftp}//sub/loader.0"
        assert server.fetch(url).stdout == LOADER
        assert server.fetch(f"http://127.0.0.2:{server.http}/sub/loader.0").stdout == LOADER
        uri = f"nbd://127.0.0.2:{server.nbd}/disk"
        assert subprocess.run(["nbdinfo", uri], capture_output=True).returncode == 0
        for port in (server.nbd, server.http):
            with pytest.raises(ConnectionRefusedError), contextlib.closing(socket.socket()) as sock:
                sock.connect(("127.0.0.1", port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", server.tftp))
            sock.send(b"\0\1sub/loader.0\0octet\0")
            sock.settimeout(5)
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)
    finally:
        server.stop()
