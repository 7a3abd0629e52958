"""What a lease makes of the boot card: the script by itself, then busybox udhcpc and dnsmasq."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = '"$BOOTFARM_ROOT/usr/lib/bootfarm/udhcpc-script" bound'


def routes_of(node: Any, **lease: str) -> list[str]:
    """The routes that the script adds where every `ip` succeeds."""
    node.stub("ip", 'echo "ip $*"')
    done = node.run(SCRIPT, interface="eth0", ip="10.0.0.9", mask="24", **lease)
    begin = "ip route add "
    return [line[len(begin) :] for line in done.stdout.splitlines() if line.startswith(begin)]


def test_classless_routes_replace_router_and_classful_routes(node: Any) -> None:
    assert routes_of(
        node,
        router="10.0.0.1",
        routes="192.168.5.0/10.0.0.3",
        staticroutes="10.8.0.0/16 10.0.0.2 0.0.0.0/0 10.0.0.254 10.7.0.1/32 0.0.0.0",
        msstaticroutes="10.6.0.0/16 10.0.0.6",
    ) == [
        "10.7.0.1/32 dev eth0 metric 4096",
        "10.8.0.0/16 via 10.0.0.2 dev eth0 metric 4096",
        "default via 10.0.0.254 dev eth0 metric 4096",
    ]
    assert "router=10.0.0.254\n" in node.read("run/bootfarm/dhcp")


def test_microsofts_number_where_the_standard_one_is_missing(node: Any) -> None:
    assert routes_of(node, router="10.0.0.1", msstaticroutes="10.6.0.0/16 10.0.0.6") == [
        "10.6.0.0/16 via 10.0.0.6 dev eth0 metric 4096"
    ]
    assert "router=\n" in node.read("run/bootfarm/dhcp")


def test_classful_routes_have_the_prefix_of_their_class(node: Any) -> None:
    assert routes_of(
        node, router="10.0.0.1 10.0.0.2", routes="10.1.2.0/10.0.0.3 172.16.0.0/10.0.0.4"
    ) == [
        "10.1.2.0/8 via 10.0.0.3 dev eth0 metric 4096",
        "172.16.0.0/16 via 10.0.0.4 dev eth0 metric 4096",
        "default via 10.0.0.1 dev eth0 metric 4096",
    ]


def test_the_second_router_where_the_first_is_refused(node: Any) -> None:
    node.stub("ip", 'case $* in *10.0.0.1*) exit 2 ;; esac; echo "ip $*"')
    done = node.run(SCRIPT, interface="eth0", ip="10.0.0.9", mask="24", router="10.0.0.1 10.0.0.2")
    assert "default via 10.0.0.2 dev eth0" in done.stdout


@pytest.mark.parametrize(
    ("ip", "prefix"),
    [("10.0.0.9", 8), ("126.0.0.1", 8), ("128.1.0.1", 16), ("191.255.0.1", 16), ("192.0.0.1", 24)],
)
def test_a_lease_without_a_mask_is_of_its_class(node: Any, ip: str, prefix: int) -> None:
    node.stub("ip", 'echo "ip $*"')
    assert f"ip addr add {ip}/{prefix} " in node.run(SCRIPT, interface="eth0", ip=ip).stdout


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("10.9.0.2 dev eth0  src 10.9.0.7", "route add 10.9.0.2/32 dev eth0"),
        (
            "10.9.0.2 via 10.5.0.1 dev eth0  src 10.5.0.7",
            "route add 10.9.0.2/32 via 10.5.0.1 dev eth0 onlink",
        ),
        ("10.9.0.2 dev eth1  src 10.9.0.7", ""),
    ],
)
def test_the_server_has_a_route_of_its_own(node: Any, route: str, expected: str) -> None:
    node.state(interface="eth0")
    node.stub("ip", f'case $* in "route get"*) echo "{route}" ;; *) echo "$*" ;; esac')
    assert node.boot("pin_server 10.9.0.2").stdout.strip() == expected


def test_each_server_of_the_farm_has_a_route_of_its_own(node: Any) -> None:
    node.state(interface="eth0", farm="10.9.0.1:8080:10809 10.9.0.2:1:2", server="10.9.0.2")
    node.stub("ip", 'case $* in "route get"*) echo "$3 dev eth0 src x" ;; *) echo "$*" ;; esac')
    done = node.boot("run_udhcpc() { :; }\ndhcp_get() { echo 10.9.0.7; }\nask_dhcp")
    added = [line for line in done.stdout.splitlines() if "route add" in line]
    assert added == [f"route add 10.9.0.{number}/32 dev eth0" for number in (1, 2)]


def test_networkd_is_told_the_card_of_the_root(node: Any) -> None:
    node.state(mac="52:54:00:00:00:01")
    node.apply("network")
    text = node.read("run/systemd/network/20-bootfarm.network.d/boot-card.conf")
    assert "[Match]\nMACAddress=52:54:00:00:00:01\n" in text


@pytest.mark.parametrize("mac", ["", "nonsense", "52:54:00:00:00:01\n[Network]"])
def test_networkd_is_told_no_card_that_is_none(node: Any, mac: str) -> None:
    node.state(mac=mac)
    node.apply("network")
    directory = node.root / "run/systemd/network"
    assert "Network" not in "".join(path.read_text() for path in directory.rglob("*.conf"))


class Wire:
    """Two network namespaces with a cable between them: `ask` is a machine, `give` has DHCP."""

    def __init__(self, name: str) -> None:
        self.ask, self.give = f"{name}a", f"{name}g"

    def run(self, namespace: str, *argv: str) -> str:
        command = ["ip", "netns", "exec", namespace, *argv]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
        return done.stdout


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(f"bflease{time.monotonic_ns() % 10**6}")
    made = []
    try:
        for namespace in (wire.ask, wire.give):
            subprocess.run(["ip", "netns", "add", namespace], check=True)
            made.append(namespace)
            wire.run(namespace, "ip", "link", "set", "lo", "up")
        peer = ["type", "veth", "peer", "name", "eth0", "netns", wire.ask]
        wire.run(wire.give, "ip", "link", "add", "eth0", *peer)
        for namespace in made:
            wire.run(namespace, "ip", "link", "set", "eth0", "up")
        yield wire
    finally:
        for namespace in made:
            subprocess.run(["ip", "netns", "del", namespace], check=True)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("options", "routes"),
    [
        (
            ["1,255.255.255.0", "3,10.9.0.1"],
            ["10.9.0.0/24 scope link", "default via 10.9.0.1 metric 4096"],
        ),
        (["1,255.255.255.255", "3,10.9.0.1"], ["default via 10.9.0.1 metric 4096 onlink"]),
        (
            ["1,255.255.255.0", "3,10.9.0.66", "121,0.0.0.0/0,10.9.0.1,10.77.0.0/16,10.9.0.5"],
            [
                "10.77.0.0/16 via 10.9.0.5 metric 4096",
                "10.9.0.0/24 scope link",
                "default via 10.9.0.1 metric 4096",
            ],
        ),
        (
            ["1,255.255.255.255", "121,10.9.0.1/32,0.0.0.0,0.0.0.0/0,10.9.0.1"],
            ["10.9.0.1 scope link metric 4096", "default via 10.9.0.1 metric 4096"],
        ),
        (
            ["1,255.255.255.0", "33,192.168.5.0,10.9.0.5"],
            [
                "10.9.0.0/24 scope link",
                "192.168.5.0/24 via 10.9.0.5 metric 4096",
                "default via 10.9.0.1 metric 4096",
            ],
        ),
    ],
    ids=["usual", "host-mask", "classless", "classless-host-mask", "classful"],
)
def test_routes_of_a_real_lease(
    node: Any, wire: Wire, tmp_path: Path, options: list[str], routes: list[str]
) -> None:
    wire.run(wire.give, "ip", "addr", "add", "10.9.0.1/24", "dev", "eth0")
    argv = ["dnsmasq", "-k", "-p0", "--conf-file=/dev/null", "--interface=eth0", "--no-ping"]
    argv += ["--dhcp-range=10.9.0.100,10.9.0.110,255.255.255.0,1h"]
    argv += [f"--dhcp-leasefile={tmp_path}/leases", f"--pid-file={tmp_path}/pid"]
    argv += [f"--dhcp-option-force={option}" for option in options]
    node.stub("ip", 'exec busybox ip "$@"')
    node.state(interface="eth0", server="10.9.0.1", mac="52:54:00:00:00:01")
    server = subprocess.Popen(["ip", "netns", "exec", wire.give, *argv])
    try:
        script = node.lib("boot/main") + "DHCP_TRIES=3\nask_dhcp"
        # By its full path: `ip` is the stub there.
        node.shell = [str(shutil.which("ip")), "netns", "exec", wire.ask, *node.shell]
        done = node.run(script)
    finally:
        server.terminate()
        server.wait()
    assert "gateway" in done.stdout
    shown = wire.run(wire.ask, "ip", "-4", "route", "show")
    kept = {"via", "metric", "onlink", "link"}
    found = []
    for line in shown.splitlines():
        words = line.replace("scope link", "scope-link").split()
        picked = [words[0]]
        for index, word in enumerate(words[1:], 1):
            if word == "scope-link" and "onlink" not in words:
                picked += ["scope", "link"]
            elif word in kept - {"link"}:
                picked += [word] if word == "onlink" else [word, words[index + 1]]
        found.append(" ".join(picked))
    assert "10.9.0.1 scope link" in found  # the server's own
    assert sorted(line for line in found if line != "10.9.0.1 scope link") == routes
    nc = ["ip", "netns", "exec", wire.ask, "busybox", "nc", "-w", "5", "10.9.0.1", "9"]
    answer = subprocess.run(nc, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "Connection refused" in answer.stderr  # reached: nobody listens there
