"""A thousand edits of the ConfigMap under load: nobody sees half of one, nobody is disturbed."""

import http.client
import json
import random
import re
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.ltsconf import parse_flat
from tests.kubelet import Mount
from tests.server.farm import FILES, publish
from tests.server.test_serve import BOOTFARM, Server, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SWAPS = 1000
BAD_EACH = 25
"""Every so many swaps bring a text that is refused."""
BAD = "[empty]\n[next]\nA = 1\n"
PATH = "/ltsp/amd64/lts.conf"
KERNEL = random.Random(1).randbytes(3_000_001)
INITRD = KERNEL[:300_001]
ROOT = random.Random(2).randbytes(8 << 20)
# Debian's libnbd is for Debian's Python. Reads until its input ends, and compares.
NODE = """
import random, sys, threading, nbd
uri, file = sys.argv[1:]
root = open(file, "rb").read()
handle = nbd.NBD()
handle.connect_uri(uri)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
reads = 0
while not ended.is_set():
    at = random.randrange(len(root) // 4096) * 4096
    assert handle.pread(4096, at) == root[at : at + 4096], at
    reads += 1
print(reads)
"""


class ConfigMapServer(Server):
    """The server with its lts.conf in a mounted ConfigMap."""

    @property
    def argv(self) -> list[str]:
        return [
            *(*BOOTFARM, "--store", str(self.directory / "store")),
            *("--lts-conf", str(self.directory / "mount" / "lts.conf")),
            *("--state", str(self.directory / "state"), "--listen", "127.0.0.1"),
            *("--tftp-port", str(self.tftp), "--nbd-port", str(self.nbd)),
            *("--http-port", str(self.http), *self.arguments),
        ]

    def health(self) -> dict[str, object]:
        found: dict[str, object] = self.json("/healthz")
        return found


def render(number: int) -> dict[str, str]:
    """Generation `number`: its number stands in many values of both files."""
    own = "".join(f"OWN_{key:02d} = {number}\n" for key in range(60))
    included = "".join(f"INCLUDED_{key:02d} = {number}\n" for key in range(60))
    return {
        "lts.conf": f"[default]\n{own}include more\n",
        "more": f"[127.0.0.1]\n{included}",
    }


def render_bad(number: int) -> dict[str, str]:
    """A generation that is refused at line 62, or in the file that it includes."""
    files = render(number)
    if number % 2:
        files["lts.conf"] = files["lts.conf"].replace("include", f"{BAD}include")
    else:
        files["more"] += BAD
    return files


def generation(answer: bytes) -> int:
    """Whose text it is; fails unless it is wholly of one generation."""
    values = parse_flat(answer.decode())
    mine = {value for key, value in values.items() if key.startswith(("OWN_", "INCLUDED_"))}
    assert len(mine) == 1, sorted(mine)
    assert len([key for key in values if key.startswith(("OWN_", "INCLUDED_"))]) == 120
    return int(mine.pop())


class Http:
    """GET over one connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body


def tftp_get(port: int, path: str) -> bytes:
    """RFC 1350, 512 bytes a block, so that an lts.conf takes several."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        request = struct.pack("!H", 1) + path.encode() + b"\0octet\0"
        sock.sendto(request, ("127.0.0.1", port))
        data, wanted, patience = b"", 1, 60
        while True:
            try:
                packet, peer = sock.recvfrom(65536)
            except TimeoutError:
                # A client that asks more often than limits.requests_per_second waits.
                patience -= 1
                assert patience, f"no answer after {len(data)} bytes"
                if not data:
                    sock.sendto(request, ("127.0.0.1", port))
                continue
            opcode, block = struct.unpack_from("!HH", packet)
            assert opcode == 3, packet
            if block == wanted & 0xFFFF:
                data += packet[4:]
                wanted += 1
            sock.sendto(struct.pack("!HH", 4, block), peer)
            if block == (wanted - 1) & 0xFFFF and len(packet) < 516:
                return data


class Load:
    """Threads that each do one thing again and again until they are stopped."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []
        self.done: dict[str, int] = {}
        self.errors: list[str] = []

    def add(self, name: str, turn: Callable[[], None]) -> None:
        self.done[name] = 0

        def run() -> None:
            try:
                while not self._end.is_set():
                    turn()
                    self.done[name] += 1
            except Exception as error:
                self.errors.append(f"{name}: {error!r}")

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    publish(
        tmp_path / "store",
        files={**FILES, "vmlinuz": KERNEL, "initrd.img": INITRD, "rootfs.squashfs": ROOT},
    )
    mount = Mount(tmp_path / "mount")
    mount.swap(render(0))
    return mount


@pytest.fixture(params=["0", "2"], ids=["one process", "with workers"])
def server(
    request: pytest.FixtureRequest, mount: Mount, tmp_path: Path
) -> Iterator[ConfigMapServer]:
    server = ConfigMapServer(tmp_path, ["--workers", request.param])
    server.start()
    yield server
    if server.process is not None:
        server.stop(signal.SIGKILL)


def check_order(seen: list[int]) -> None:
    assert seen == sorted(seen), "an older text came back"


def test_a_thousand_swaps_under_load(server: ConfigMapServer, mount: Mount) -> None:
    load = Load()
    seen: dict[str, list[int]] = {"http": [], "tftp": []}
    requests = Http(server.http)
    kernels = Http(server.http)

    def fetch_kernel() -> None:
        assert kernels.get("/ltsp/amd64/vmlinuz") == KERNEL

    def transfer_initrd() -> None:
        assert tftp_get(server.tftp, "/ltsp/amd64/initrd.img") == INITRD

    load.add("http", lambda: seen["http"].append(generation(requests.get(PATH))))
    load.add("tftp", lambda: seen["tftp"].append(generation(tftp_get(server.tftp, PATH))))
    load.add("kernel by http", fetch_kernel)
    load.add("initrd by tftp", transfer_initrd)
    node = subprocess.Popen(
        [
            *("/usr/bin/python3", "-c", NODE, f"nbd://127.0.0.1:{server.nbd}//opt/ltsp/amd64"),
            next((server.directory / "store/images/amd64").glob("*/rootfs.squashfs")),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    asking = Http(server.http)
    good = 0
    try:
        for number in range(1, SWAPS + 1):
            bad = number % BAD_EACH == 0
            mount.swap(render_bad(number) if bad else render(number))
            if not bad:
                good = number
            assert generation(asking.get(PATH)) == good, "from the next request on"
            if bad:
                health = json.loads(asking.get("/healthz"))
                assert health["status"] == "degraded"
                assert re.search(r"lts.conf refused.*(lts\.conf|more):6\d:", health["problems"][0])
    finally:
        load.stop()
        said, error = node.communicate("", timeout=30)
    assert load.errors == []
    assert node.returncode == 0, error
    # Each has seen many generations, or this test shows nothing.
    assert int(said) > 1000
    assert min(load.done["http"], load.done["tftp"]) > 200, load.done
    assert min(load.done["kernel by http"], load.done["initrd by tftp"]) > 2, load.done
    for found in seen.values():
        assert len(set(found)) > 100
    check_order(seen["http"])
    if server.arguments == ("--workers", "0"):
        check_order(seen["tftp"])  # two workers may be a moment apart


def test_the_last_good_text_outlives_the_process(server: ConfigMapServer, mount: Mount) -> None:
    asking = Http(server.http)
    mount.swap(render(1))
    assert generation(asking.get(PATH)) == 1
    mount.swap(render_bad(2))
    assert generation(asking.get(PATH)) == 1
    for number in (signal.SIGKILL, signal.SIGTERM):
        server.stop(number)
        server.start()
        asking = Http(server.http)
        assert generation(asking.get(PATH)) == 1
        assert generation(tftp_get(server.tftp, PATH)) == 1
        assert server.health()["status"] == "degraded"
    assert "lts.conf refused, the last good text stays in force" in server.log
    mount.swap(render(3))
    assert generation(asking.get(PATH)) == 3
    assert eventually(lambda: generation(tftp_get(server.tftp, PATH)) == 3)
    assert server.health() == {**server.health(), "status": "ok", "problems": []}
