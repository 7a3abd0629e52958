"""`bootfarm serve` as a process of its own, asked by curl, tftp and nbdinfo."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from imagebuild.store.images import Store
from imagebuild.store.inuse import read_in_use
from tests.server.farm import FILES, GOOD, publish
from tests.server.metrics.scrape import Scrape

pytestmark = pytest.mark.integration

BOOTFARM = (sys.executable, "-c", "from bootfarm import main; main()", "serve")
BAD = "[default]\nGREETING = two\n[empty]\n[x]\nA = 1\n"


def free_ports() -> tuple[int, int, int]:
    """A UDP and two TCP ports that are free now."""
    with contextlib.ExitStack() as stack:
        ports = []
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_STREAM):
            sock = stack.enter_context(socket.socket(socket.AF_INET, kind))
            sock.bind(("127.0.0.1", 0))
            ports.append(sock.getsockname()[1])
    return ports[0], ports[1], ports[2]


class Server:
    """A server process on loopback."""

    def __init__(self, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.directory = directory
        self.tftp, self.nbd, self.http = free_ports()
        self.arguments = tuple(arguments)
        self.process: subprocess.Popen[str] | None = None
        self.line = ""

    @property
    def argv(self) -> list[str]:
        base = self.directory
        return [
            *(*BOOTFARM, "--store", str(base / "store"), "--lts-conf", str(base / "lts.conf")),
            *("--state", str(base / "state"), "--listen", "127.0.0.1"),
            *("--tftp-port", str(self.tftp), "--nbd-port", str(self.nbd)),
            *("--http-port", str(self.http), *self.arguments),
        ]

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def start(self) -> str:
        """Start it; the line that says that it is ready."""
        with (self.directory / "log").open("a") as log:
            self.process = subprocess.Popen(
                self.argv, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "ready" in line, self.log
        return line

    def fails(self) -> str:
        """Start it and expect that it ends by itself; what it said."""
        done = subprocess.run(self.argv, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1, done.stderr
        assert "ready" not in done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def get(self, path: str, *options: str) -> bytes:
        argv = ["curl", "-sS", "--fail", "--max-time", "10", *options]
        done = subprocess.run([*argv, f"http://127.0.0.1:{self.http}{path}"], capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get_rendered(self) -> bytes:
        """lts.conf of a template: a machine under load may say "ask again" at first."""
        again = ("--retry", "60", "--retry-delay", "1", "--retry-all-errors")
        return self.get("/ltsp/amd64/lts.conf", *again, "--max-time", "120")

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))


@pytest.fixture
def server(farm: Path) -> Iterator[Server]:
    server = Server(farm)
    yield server
    if server.process is not None:
        server.stop(signal.SIGKILL)


def eventually(what: Callable[[], bool]) -> bool:
    """Whether it comes to be true in the time that a busy machine may want."""
    for _ in range(200):
        if what():
            return True
        time.sleep(0.05)
    return False


def replace(path: Path, text: str) -> None:
    path.with_name("new").write_text(text)
    path.with_name("new").rename(path)


def test_every_service_answers_once_it_says_ready(server: Server, tmp_path: Path) -> None:
    line = server.start()
    assert f"tftp {server.tftp}, nbd {server.nbd}, http {server.http}; 1 image" in line
    assert server.json("/healthz")["status"] == "ok"
    assert server.get("/ltsp/amd64/vmlinuz") == FILES["vmlinuz"]
    script = f"mode binary\nget /ltsp/amd64/grub/i386-pc/core.0 {tmp_path}/core\n"
    subprocess.run(["tftp", "127.0.0.1", str(server.tftp)], input=script, text=True, check=True)
    assert (tmp_path / "core").read_bytes() == FILES["boot/grub/i386-pc/core.0"]
    uri = f"nbd://127.0.0.1:{server.nbd}//opt/ltsp/amd64"
    info = subprocess.run(["nbdinfo", "--json", uri], capture_output=True, check=True)
    (export,) = json.loads(info.stdout)["exports"]
    assert export["export-size"] == len(FILES["rootfs.squashfs"])
    # what its workers saw comes to the timeline by a pipe
    assert eventually(lambda: server.json("/api/nodes")[0]["phase"] == "root")
    (node,) = server.json("/api/nodes")
    assert (node["ip"], node["image"]) == ("127.0.0.1", "amd64")
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_clients_connected(server: Server, number: int) -> None:
    server.start()
    with contextlib.ExitStack() as stack:
        for port in (server.nbd, server.http):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        began = time.monotonic()
        assert server.stop(number) == 0
        assert time.monotonic() - began < 5, "the promise of its help text"


@pytest.mark.parametrize("service", ["tftp", "nbd", "http"])
def test_a_port_that_is_taken_names_port_owner_and_remedy(server: Server, service: str) -> None:
    kind = socket.SOCK_DGRAM if service == "tftp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if service != "tftp":
            taken.listen()
        port = taken.getsockname()[1]
        setattr(server, service, port)
        said = server.fails()
    assert f"{service} cannot bind" in said
    assert f"127.0.0.1:{port}" in said
    assert f"pid {os.getpid()}" in said
    assert "hint:" in said


def test_a_part_of_the_services(farm: Path) -> None:
    server = Server(farm, ["--services", "http"])
    try:
        assert "tftp" not in server.start()
        assert list(server.json("/healthz")["services"]) == ["http"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.nbd))
    finally:
        server.stop()


def test_a_good_edit_and_a_bad_one_and_a_restart(server: Server, farm: Path) -> None:
    server.start()
    path = "/ltsp/amd64/lts.conf"
    assert b'GREETING="one"' in server.get(path)
    replace(farm / "lts.conf", GOOD.replace("one", "uno"))
    assert b'GREETING="uno"' in server.get(path)

    replace(farm / "lts.conf", BAD)
    assert b'GREETING="uno"' in server.get(path)
    health = server.json("/healthz")
    assert health["status"] == "degraded"
    assert "lts.conf:3:" in health["problems"][0]
    assert "lts.conf:3:" in server.log

    server.stop(signal.SIGKILL)
    server.start()
    assert b'GREETING="uno"' in server.get(path)
    assert server.json("/healthz")["status"] == "degraded"
    replace(farm / "lts.conf", GOOD)
    assert b'GREETING="one"' in server.get(path)
    assert server.json("/healthz")["status"] == "ok"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_farm_yaml_counts_when_it_is_edited(farm: Path, workers: str) -> None:
    (farm / "nodes.yaml").write_text("[]\n")
    (farm / "farm.yaml").write_text("inventory: nodes.yaml\nunlisted: refuse\n")
    arguments = ["--config", str(farm / "farm.yaml"), "--workers", workers]
    server = Server(farm, arguments)
    try:
        server.start()
        listed = "net.ifnames=0"
        assert listed not in server.get("/ltsp/amd64/grub/grub.cfg").decode()
        replace(farm / "farm.yaml", f"inventory: nodes.yaml\ncmdline: [{listed}]\n")
        assert eventually(lambda: listed in server.get("/ltsp/amd64/grub/grub.cfg").decode())
        replace(farm / "nodes.yaml", '- {mac: "52:54:00:00:00:01", ip: 127.0.0.1, hostname: n1}\n')
        replace(farm / "lts.conf", GOOD + "[n1]\nGREETING = mine\n")
        assert eventually(lambda: b'"mine"' in server.get("/ltsp/amd64/lts.conf"))
        script = f"get /ltsp/amd64/lts.conf {farm}/got\n"

        def fetch() -> str:
            argv = ["tftp", "127.0.0.1", str(server.tftp)]
            subprocess.run(argv, input=script, text=True, check=True)
            return (farm / "got").read_text()

        assert eventually(lambda: '"mine"' in fetch()), "workers have the inventory, too"
        assert server.json("/healthz")["status"] == "ok"
        replace(farm / "farm.yaml", "inventory: nodes.yaml\nlogs: {syslog: 5140}\n")
        assert eventually(lambda: server.json("/healthz")["status"] == "degraded")
        (problem,) = server.json("/healthz")["problems"]
        assert problem.endswith("in logs: restart needed")
        assert "restart needed" in server.get("/").decode()
        replace(farm / "farm.yaml", "inventory: [{mac: 1}]\n")
        assert eventually(lambda: "inventory[0].mac" in server.json("/healthz")["problems"][0])
        assert b'"mine"' in server.get("/ltsp/amd64/lts.conf")
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("workers", ["0", "2"])
def test_sighup_reloads_and_ends_nothing(farm: Path, workers: str) -> None:
    """Also when it goes to the whole process group, as from a terminal that is closed."""
    (farm / "lts.conf").write_text(f"# jinja2\n{GOOD}")
    server = Server(farm, ["--workers", workers])
    os.utime(farm / "lts.conf", (1_000_000_000, 1_000_000_000))
    try:
        server.start()
        assert b'"one"' in server.get_rendered()
        assert server.process is not None
        stamp = (farm / "lts.conf").stat()
        with (farm / "lts.conf").open("r+") as file:
            file.write(f"# jinja2\n{GOOD.replace('one', 'two')}")
        os.utime(farm / "lts.conf", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert b'"one"' in server.get_rendered(), "nothing shows that it has changed"
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        for pid in (server.process.pid, *map(int, children.read_text().split())):
            os.kill(pid, signal.SIGHUP)
        assert eventually(lambda: b'"two"' in server.get_rendered())
        assert "SIGHUP: everything is read again" in server.log
        assert "worker" not in server.log
        assert server.json("/healthz")["status"] == "ok"
    finally:
        assert server.stop() == 0


def test_workers_serve_the_same(farm: Path) -> None:
    server = Server(farm, ["--workers", "2"])
    server.start()
    try:
        script = f"get /ltsp/amd64/lts.conf {farm}/got\n"

        def fetch() -> str:
            subprocess.run(
                ["tftp", "127.0.0.1", str(server.tftp)], input=script, text=True, check=True
            )
            return (farm / "got").read_text()

        assert 'GREETING="one"' in fetch()
        # What workers saw comes over a pipe, in batches.
        assert eventually(lambda: [n["phase"] for n in server.json("/api/nodes")] == ["ltsconf"])
        uri = f"nbd://127.0.0.1:{server.nbd}//opt/ltsp/amd64"
        assert subprocess.run(["nbdinfo", uri], capture_output=True).returncode == 0
        replace(farm / "lts.conf", GOOD.replace("one", "uno"))
        assert eventually(lambda: 'GREETING="uno"' in fetch())
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("workers", ["0", "1"])
def test_metrics_of_a_server_at_work(farm: Path, workers: str, tmp_path: Path) -> None:
    server = Server(farm, ["--workers", workers])
    try:
        server.start()
        assert server.get("/ltsp/amd64/vmlinuz") == FILES["vmlinuz"]
        uri = f"nbd://127.0.0.1:{server.nbd}//opt/ltsp/amd64"
        subprocess.run(["nbdcopy", uri, tmp_path / "copy"], timeout=50, check=True)
        script = f"mode binary\nget /ltsp/amd64/nothing {tmp_path}/nothing\n"
        subprocess.run(["tftp", "127.0.0.1", str(server.tftp)], input=script, text=True)
        replace(farm / "lts.conf", BAD)
        server.get("/ltsp/amd64/lts.conf")

        def sent(seen: Scrape) -> bool:
            return seen.get("bootfarm_sent_bytes_total", protocol="nbd") == len(
                FILES["rootfs.squashfs"]
            )

        assert eventually(lambda: sent(Scrape(server.get("/metrics")))), (
            "it is told every 2 seconds"
        )
        seen = Scrape(server.get("/metrics"))
        assert (seen.get("bootfarm_sent_bytes_total", protocol="http") or 0) >= len(
            FILES["vmlinuz"]
        )
        assert (seen.get("bootfarm_nbd_requests_total") or 0) > 0
        assert (seen.get("bootfarm_nbd_attaches_total") or 0) > 0
        assert seen.get("bootfarm_errors_total", source="tftp", cause="not_found") == 1
        assert seen.get("bootfarm_nodes", phase="root", status="ok") == 1
        assert seen.get("bootfarm_http_requests_total", route="ltsp", code="2xx") == 2
        assert seen.get("bootfarm_ltsconf_loads_total", result="ok") == 1
        assert seen.get("bootfarm_ltsconf_loads_total", result="refused") == 1
        assert seen.get("bootfarm_ltsconf_refused") == 1
        assert seen.get("bootfarm_degraded") == 1
        assert seen.get("bootfarm_images") == 1
        assert seen.get("bootfarm_worker_up", worker="0") == (1 if workers == "1" else None)
    finally:
        server.stop()


def test_a_new_tag_is_served_without_a_restart(server: Server, farm: Path) -> None:
    server.start()
    image = publish(farm / "store", kernel="new")
    assert image.digest.encode() in server.get("/ltsp/amd64/grub/grub.cfg")
    Store(farm / "store").rollback("amd64")
    assert image.digest.encode() not in server.get("/ltsp/amd64/grub/grub.cfg")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_images_in_use_are_written_down_for_the_garbage_collection(
    farm: Path, workers: str
) -> None:
    server = Server(farm, ["--workers", workers])
    server.start()
    digest = Store(farm / "store").get("amd64").digest
    uri = f"nbd://127.0.0.1:{server.nbd}//opt/ltsp/amd64"
    node = subprocess.Popen(
        ["/usr/bin/python3", "-m", "nbd", "-u", uri, "-c", "import sys; sys.stdin.read()"], stdin=-1
    )
    try:
        assert eventually(lambda: read_in_use(farm / "state").connected == {digest})
        server.stop(signal.SIGKILL)
        assert read_in_use(farm / "state").connected == {digest}, "it waits for the next server"
        server.start()
        began = time.time()
        assert eventually(lambda: digest in read_in_use(farm / "state").left)
        assert digest in read_in_use(farm / "state").spared(began + 500)
        assert digest not in read_in_use(farm / "state").spared(began + 700)
    finally:
        node.kill()
        node.wait()
        server.stop()


def test_timelines_are_kept_over_a_restart(server: Server) -> None:
    server.start()
    server.get("/ltsp/amd64/grub/grub.cfg")
    before = server.json("/api/nodes/127.0.0.1")
    server.stop()
    server.start()
    assert server.json("/api/nodes/127.0.0.1") == before


def test_one_node_without_a_plan(server: Server, farm: Path) -> None:
    (farm / "lts.conf").write_text("[127.0.0.1]\nIMAGE = amd64:nonsense\n")
    server.start()
    assert b"has no tag" in server.get("/ltsp/amd64/grub/grub.cfg")
    (node,) = server.json("/api/nodes")
    assert "has no tag 'nonsense'" in node["error"]
    assert server.json("/healthz")["status"] == "ok"
    replace(farm / "lts.conf", GOOD)
    assert b"menuentry 'amd64:current" in server.get("/ltsp/amd64/grub/grub.cfg")
    (node,) = server.json("/api/nodes")
    assert node["error"] == ""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("adress: 10.9.0.1\n", "farm.yaml:1: adress: unknown key"),
        ("nbd: {limits: {conections: 5}}\n", "farm.yaml:1: nbd.limits.conections: unknown key"),
        ("http: [\n", "farm.yaml:2:1:"),
    ],
)
def test_a_wrong_farm_yaml(farm: Path, config: str, said: str) -> None:
    (farm / "farm.yaml").write_text(config)
    assert said in Server(farm, ["--config", str(farm / "farm.yaml")]).fails()


def test_a_bad_first_lts_conf(server: Server, farm: Path) -> None:
    (farm / "lts.conf").write_text(BAD)
    said = server.fails()
    assert f"{farm}/lts.conf:3:" in said
    assert "hint:" in said


def test_no_store(server: Server, farm: Path) -> None:
    (farm / "store").rename(farm / "elsewhere")
    assert "there is no such directory" in server.fails()


def test_address_map_decides_who_asks(farm: Path) -> None:
    (farm / "farm.yaml").write_text(
        'address_map: {127.0.0.1: "52:54:00:00:00:01"}\n'
        'inventory: [{mac: "52:54:00:00:00:01", hostname: node-1}]\n'
    )
    (farm / "lts.conf").write_text("[node-1]\nA = by-name\n")
    server = Server(farm, ["--config", str(farm / "farm.yaml")])
    server.start()
    try:
        assert b'A="by-name"' in server.get("/ltsp/amd64/lts.conf?mac=52:54:00:00:00:01")
        argv = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
        url = f"http://127.0.0.1:{server.http}/ltsp/amd64/lts.conf?mac=52:54:00:00:00:02"
        assert subprocess.run([*argv, url], capture_output=True, text=True).stdout == "403"
        form = ["-d", "mac=52:54:00:00:00:01", "-d", "phase=ready", "-d", "status=ok"]
        url = f"http://127.0.0.1:{server.http}/beacon"
        assert subprocess.run([*argv, *form, url], capture_output=True, text=True).stdout == "204"
        node = server.json("/api/nodes/52:54:00:00:00:01")
        assert (node["hostname"], node["phase"]) == ("node-1", "ready")
    finally:
        server.stop()


TEMPLATE = """# jinja2
[default]
API = {{ farm.api }}
TOKEN = {{ secrets.token }}
SERIAL = {{ node.serial }}
"""
SECRET = "abcdef.0123456789abcdef"


def children(pid: int) -> set[int]:
    """Processes below one, by /proc."""
    below: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            below |= {int(stat.parent.name), *children(int(stat.parent.name))}
    return below


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_template_with_secrets(farm: Path, workers: str) -> None:
    (farm / "secrets").mkdir()
    (farm / "secrets" / "token").write_text(f"{SECRET}\n")
    (farm / "lts.conf").write_text(TEMPLATE)
    (farm / "farm.yaml").write_text(
        'inventory: [{mac: "52:54:00:00:00:01", ip: 127.0.0.1, serial: S-1}]\n'
        "facts: {api: 10.9.0.1}\nsecrets: secrets\n"
    )
    options = ["--config", str(farm / "farm.yaml"), "--workers", workers, "--verbose"]
    server = Server(farm, options)
    server.start()

    def fetch() -> str:
        """lts.conf over TFTP; empty while there is none."""
        url = f"tftp://127.0.0.1:{server.tftp}//ltsp/amd64/lts.conf"
        done = subprocess.run(["curl", "-s", "--max-time", "10", url], capture_output=True)
        return done.stdout.decode()

    try:
        assert eventually(lambda: f'TOKEN="{SECRET}"' in fetch())
        # Each worker has to render it once.
        assert eventually(lambda: server.get("/ltsp/amd64/lts.conf").decode() == fetch())
        assert eventually(lambda: 'SERIAL="S-1"' in fetch())
        replace(farm / "secrets" / "token", "ghijkl.0123456789abcdef")
        assert eventually(lambda: 'TOKEN="ghijkl' in fetch())
        # A bad edit: the last good text stays.
        replace(farm / "lts.conf", "# jinja2\n[default]\nA = {{ node.mac\n")
        assert eventually(lambda: server.json("/healthz")["status"] == "degraded")
        assert f"{farm}/lts.conf:3" in str(server.json("/healthz")["problems"])
        assert eventually(lambda: 'TOKEN="ghijkl' in fetch())
        # An error of every machine: refused as well.
        replace(farm / "lts.conf", TEMPLATE + "A = {{ {}[secrets.token] }}\n")
        assert eventually(
            lambda: f"{farm}/lts.conf:6:1" in str(server.json("/healthz")["problems"])
        )
        assert 'TOKEN="ghijkl' in fetch()
        # An error of this node: its menu says it, its lts.conf is none, and /healthz has it.
        only = '{% if node.ip == "127.0.0.1" %}A = {{ {}[secrets.token] }}{% endif %}\n'
        serial = TEMPLATE.replace("node.serial", "node.serial | default('none')")
        replace(farm / "lts.conf", serial + only)
        assert eventually(lambda: b"(secret)" in server.get("/ltsp/amd64/grub/grub.cfg"))
        assert eventually(lambda: fetch() == "")
        # What workers saw comes over a pipe, in batches.
        assert eventually(
            lambda: f"{farm}/lts.conf:6:1:" in server.json("/api/nodes")[0]["error"]
        ), server.json("/api/nodes")
        (node,) = server.json("/api/nodes")
        assert "for node 52:54:00:00:00:01" in node["error"]
        assert eventually(
            lambda: "1 of 2 machines cannot boot" in str(server.json("/healthz")["problems"])
        ), server.json("/healthz")
        seen = json.dumps([server.json(f"/api/nodes/{node['mac']}"), server.json("/healthz")])
        assert server.process is not None
        below = children(server.process.pid)
        assert below
        arguments = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below)
        assert b"server.ltsconf.worker" in arguments
    finally:
        assert server.stop() == 0
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))
    kept = "".join(path.read_text() for path in (farm / "state").rglob("*") if path.is_file())
    texts = json.loads((farm / "state" / "lts.conf.json").read_text())["texts"]
    kept += base64.b64decode(texts[""]).decode()
    assert "{{ secrets.token }}" in kept
    for text in (seen, server.log, kept, arguments.decode()):
        assert "0123456789" not in text


def test_secrets_that_are_not_there(farm: Path) -> None:
    (farm / "farm.yaml").write_text("secrets: nosuch\n")
    said = Server(farm, ["--config", str(farm / "farm.yaml")]).fails()
    assert f"{farm}/nosuch: a secret cannot be read" in said
    assert "hint:" in said


@pytest.mark.parametrize("where", ["/dev/full", ""])
def test_standard_output_that_takes_nothing_is_no_reason_not_to_serve(
    farm: Path, where: str
) -> None:
    server = Server(farm)
    argv = [*server.argv]
    script = f'exec "$@" >{where}' if where else 'exec "$@" >&-'
    with (farm / "log").open("a") as log:
        process = subprocess.Popen(["sh", "-c", script, "sh", *argv], stderr=log)
    try:
        assert b"turns" in server.get("/livez", "--retry", "60", "--retry-all-errors")
        assert server.log.count("standard output takes nothing") == (1 if where else 0)
    finally:
        process.terminate()
        assert process.wait(10) == 0
    assert "Traceback" not in server.log
