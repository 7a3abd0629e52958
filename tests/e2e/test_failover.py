"""Two servers under a live root: one is killed, falls into a black hole, comes back; reads go on.

The figures that it prints stand in docs/two-servers.md.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack.machine import NodeSpec
from rack.network import SECOND_IP, SERVER_IP
from rack.node import Node
from rack.rack import Rack
from rack.server import Server
from server.boot.servers import order_servers
from server.farm import peers
from tests.e2e.waits import wait_phase

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

HOME_SECONDS = 10
LTS_CONF = f"""
[default]
KEEP_SYSTEM_SERVICES = ssh
KERNEL_CMDLINE = "bootfarm.home={HOME_SECONDS}"
RCFILE_01_SSH = "mkdir -p /root/.ssh; echo '{{{{ ssh_key }}}}' >> /root/.ssh/authorized_keys"
"""
# Files that nobody has read yet, some each second; what it runs is in memory. Each line: when
# the file was read, in seconds of uptime, and whether its bytes could be read.
READER = """
reads() {
    find /rofs/usr -xdev -type f -size +8k | while read -r file; do
        cat "$file" >/dev/null 2>&1 && good=ok || good=error
        read -r now idle </proc/uptime
        echo "$now $good"
        sleep 0.1
    done >/run/reads
}
reads </dev/null >/dev/null 2>&1 &
"""


@pytest.fixture(scope="module")
def farm(rack: Rack, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Rack:
    """Two servers; the second one has fetched the image from the first."""
    urls = [f"http://{ip}:8080" for ip in (SERVER_IP, SECOND_IP)]
    config: dict[str, Any] = {"default_image": "amd64", "peers": urls}
    first = rack.serve(store, LTS_CONF, config=config)
    second = rack.serve_beside(tmp_path_factory.mktemp("second") / "store", config=config)
    wait(lambda: digests(second) >= digests(first) and sees_all(first) and sees_all(second))
    return rack


def wait(is_so: Callable[[], bool], timeout: float = 240.0) -> None:
    end = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.5)


def digests(server: Server) -> set[str]:
    """Of the images that it has."""
    return {image["digest"] for image in server.get_json("/ltsp/index.json")["images"]}


def sees_all(server: Server) -> bool:
    states = {peer["state"] for peer in server.get_json("/api/overview")["peers"]}
    return states == {"here", "self"}


def at_home_with_first() -> str:
    """The name of a machine that prefers the first server."""
    first = peers.Server(SERVER_IP, 8080, 10809)
    second = peers.OtherServer(peers.Server(SECOND_IP, 8080, 10809), True, frozenset("d"))
    for number in range(100):
        name = f"live-{number}"
        mac = NodeSpec(name).completed("").mac
        if order_servers(mac, first, [second], "d")[0] == first:
            return name
    raise AssertionError("no machine prefers the first server")


@pytest.fixture(scope="module")
def live(farm: Rack) -> Node:
    node = farm.boot(NodeSpec(at_home_with_first(), memory=768))
    wait_phase(farm, node, "rcfile", timeout=500)
    node.wait_ssh()
    assert served_by(node) == SERVER_IP
    assert f"bootfarm.servers={SECOND_IP}" in node.ssh("cat /proc/cmdline")
    node.ssh(READER)
    wait(lambda: len(node.ssh("cat /run/reads").splitlines()) > 20)
    return node


def served_by(node: Node) -> str:
    return node.ssh("cat /run/bootfarm/server").strip()


def uptime(node: Node) -> float:
    return float(node.ssh("cat /proc/uptime").split()[0])


def longest_wait(node: Node, since: float) -> float:
    """Seconds between two files that were read one after the other, at most, since that uptime."""
    lines = node.ssh("cat /run/reads").split()
    times, results = [float(word) for word in lines[::2]], set(lines[1::2])
    assert results == {"ok"}
    assert times[-1] > since, "it reads no more"
    late = [number for number, at in enumerate(times) if at >= since and number]
    return max(times[number] - times[number - 1] for number in late)


def wait_moved(node: Node, address: str, what: str, since: float) -> None:
    """Until the node has its root from there, and has read on; prints how long a read waited."""
    wait(lambda: served_by(node) == address)
    moved = uptime(node)
    wait(lambda: float(node.ssh("tail -n 1 /run/reads").split()[0]) > moved)
    print(f"{what}: a read waited {longest_wait(node, since):.2f} s")


def root_of(server: Server, node: Node) -> dict[str, Any]:
    return dict(server.get_json(f"/api/nodes/{node.mac}")["boot"]["phases"].get("root") or {})


def test_reads_go_on_when_the_server_is_killed(farm: Rack, live: Node) -> None:
    assert farm.server is not None
    assert farm.second is not None
    since = uptime(live)
    print(f"undisturbed: a read waited {longest_wait(live, 0):.2f} s")
    farm.server.kill()
    wait_moved(live, SECOND_IP, "SIGKILL", since)
    second = farm.second
    wait(lambda: root_of(second, live).get("cause") == "root_moved")
    assert f"live NBD, from {SECOND_IP} instead of {SERVER_IP}" in root_of(second, live)["detail"]
    assert re.search(rf"nbdroot: {SECOND_IP} serves the root now", live.ssh("dmesg"))


def test_it_moves_home_when_the_server_is_back(farm: Rack, live: Node) -> None:
    assert farm.server is not None
    assert farm.second is not None
    since = uptime(live)
    farm.server.start()
    first, second = farm.server, farm.second
    wait(lambda: root_of(first, live).get("cause") == "root_elsewhere")
    wait_moved(live, SERVER_IP, "the way home", since)
    wait(lambda: root_of(first, live).get("cause") == "root_moved")
    wait(lambda: root_of(second, live).get("cause") == "root_elsewhere")


def test_reads_go_on_when_the_server_is_in_a_black_hole(farm: Rack, live: Node) -> None:
    assert farm.server is not None
    since = uptime(live)
    drop_nbd(farm, live, "-A")
    wait_moved(live, SECOND_IP, "black hole", since)
    drop_nbd(farm, live, "-D")
    wait_moved(live, SERVER_IP, "the way home again", since)
    assert farm.timeline(live)["finding"] is None
    print(live.ssh("dmesg | grep nbdroot"))


def drop_nbd(farm: Rack, node: Node, how: str) -> None:
    """No packet between the node and the first server's NBD port, in no direction, from now on."""
    ways = (("INPUT", "-s", "--dport"), ("OUTPUT", "-d", "--sport"))
    for chain, end, port in ways:
        packets = (end, node.ip, "-p", "tcp", port, "10809")
        farm.namespace.run(("iptables", how, chain, *packets, "-j", "DROP"))
