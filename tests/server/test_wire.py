"""Who is asking, on a real wire: two network namespaces and the kernel's own neighbour table."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.server.farm import publish

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
SERVER_IP, CLIENT_IP = "10.9.0.1", "10.9.0.11"
CONF = f"[default]\nA = default\n[{MAC}]\nA = one\n[{OTHER}]\nA = two\n"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def wire() -> Iterator[tuple[str, str]]:
    """Two namespaces with a cable: the server's and the client's."""
    names = (f"bf-server-{os.getpid()}", f"bf-client-{os.getpid()}")
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        peer = ("peer", "name", "eth0", "netns", names[1])
        ip("-n", names[0], "link", "add", "eth0", "type", "veth", *peer)
        ip("-n", names[1], "link", "set", "eth0", "address", MAC)
        for name, address in zip(names, (SERVER_IP, CLIENT_IP), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture
def client(wire: tuple[str, str], tmp_path: Path) -> Iterator[Sequence[str]]:
    """A curl in the client's namespace, with a server that runs in the other."""
    publish(tmp_path / "store")
    (tmp_path / "lts.conf").write_text(CONF)
    argv = [
        *(
            "ip",
            "netns",
            "exec",
            wire[0],
            sys.executable,
            "-c",
            "from bootfarm import main; main()",
        ),
        *("serve", "--store", str(tmp_path / "store"), "--lts-conf", str(tmp_path / "lts.conf")),
    ]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True)
    assert server.stdout is not None
    try:
        assert "ready" in server.stdout.readline(), (tmp_path / "log").read_text()
        yield ["ip", "netns", "exec", wire[1], "curl", "-s", "--max-time", "10"]
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
        server.stdout.close()


def get(client: Sequence[str], path: str, *options: str) -> str:
    argv = [*client, *options, f"http://{SERVER_IP}:8080{path}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_the_neighbour_table_says_who_asks(client: Sequence[str]) -> None:
    path = "/ltsp/amd64/lts.conf"
    assert 'A="one"' in get(client, path)
    assert 'A="one"' in get(client, f"{path}?mac={MAC}")
    status = ("-o", "/dev/null", "-w", "%{http_code}")
    assert get(client, f"{path}?mac={OTHER}", *status) == "403"
    assert get(client, "/beacon", *status, "-d", f"mac={OTHER}&phase=join") == "403"
    assert get(client, "/beacon", *status, "-d", f"mac={MAC}&phase=join") == "204"
    node = json.loads(get(client, f"/api/nodes/{MAC}"))
    assert (node["ip"], node["phase"]) == (CLIENT_IP, "join")
    assert len(json.loads(get(client, "/api/nodes"))) == 1


def test_the_menu_names_the_address_that_routes_to_the_node(client: Sequence[str]) -> None:
    menu = get(client, "/ltsp/amd64/grub/grub.cfg")
    assert f"nbdroot={SERVER_IP}:/opt/ltsp/amd64@" in menu
    assert f"Made by bootfarm for {MAC} {CLIENT_IP};" in menu
