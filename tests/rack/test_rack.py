"""The rack itself, with real programs: namespaces, DHCP, PXE, the control plane."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rack.dhcp import Kind
from rack.errors import RackError
from rack.kubernetes.source import build
from rack.machine import NodeSpec
from rack.namespace import Namespace
from rack.network import SERVER_IP, SITE_IP, set_up_network
from rack.rack import Rack

pytestmark = [
    pytest.mark.integration(),
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root"),
]


def processes_in(namespace: str) -> list[str]:
    """The processes whose network namespace is `namespace` (a readlink of ns/net)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "ns" / "net") == namespace:
                    found.append(entry.name)
            except OSError:
                continue
    return found


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    yield made
    made.close()


def test_network_has_the_articles_addresses_and_no_way_out(namespace: Namespace) -> None:
    set_up_network(namespace)
    addresses = namespace.run(["ip", "-brief", "-4", "address", "show", "rack0"])
    assert "10.9.0.1/16" in addresses
    assert "10.9.0.20/16" in addresses
    assert "default" not in namespace.run(["ip", "route"])
    with pytest.raises(OSError, match="unreachable"):
        namespace.connect("192.0.2.1", 80)


def test_run_tells_what_failed(namespace: Namespace) -> None:
    with pytest.raises(RackError, match=r"exit code 3: no luck"):
        namespace.run(["sh", "-c", "echo no luck >&2; exit 3"])
    with pytest.raises(RackError, match="did not end within"):
        namespace.run(["sleep", "60"], timeout=0.5)


def test_close_ends_children_and_their_children(namespace: Namespace, tmp_path: Path) -> None:
    link = os.readlink(f"/proc/{namespace.pid}/ns/net")
    script = "trap '' TERM HUP; setsid sleep 1000 & sleep 1000"
    process = namespace.start("stubborn", ["sh", "-c", script], tmp_path / "log")
    assert process.is_running()
    assert len(processes_in(link)) >= 2
    namespace.close()
    assert processes_in(link) == []
    assert not process.is_running()


HOLD = """
import sys, time
from pathlib import Path
from rack.rack import Rack
with Rack(Path(sys.argv[1])) as rack:
    rack.namespace.start("child", ["sleep", "1000"], Path(sys.argv[1]) / "child.log")
    print(rack.namespace.pid, flush=True)
    time.sleep(1000)
"""


def test_nothing_survives_the_makers_sudden_death(tmp_path: Path) -> None:
    maker = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout is not None
    link = os.readlink(f"/proc/{int(maker.stdout.readline())}/ns/net")
    assert len(processes_in(link)) >= 3
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    maker.stdout.close()
    end = time.monotonic() + 20
    while processes_in(link) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_in(link) == []


def test_ctrl_c_tears_down_and_removes_the_sockets(tmp_path: Path) -> None:
    maker = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert maker.stdout is not None
    link = os.readlink(f"/proc/{int(maker.stdout.readline())}/ns/net")
    assert list(tmp_path.glob("bootfarm-rack-*"))
    maker.send_signal(signal.SIGINT)
    maker.wait(30)
    maker.stdout.close()
    assert processes_in(link) == []
    assert not list(tmp_path.glob("bootfarm-rack-*"))


def test_pxe_rom_gets_address_name_and_loader_then_loses_power(tmp_path: Path) -> None:
    with Rack(tmp_path) as rack:
        node = rack.boot(NodeSpec("node-7", memory=128))
        node.wait_console(r"Filename: http://10\.9\.0\.1:8080/ltsp/amd64/boot\.ipxe", timeout=50)
        assert f"net0: {node.ip}/255.255.0.0 gw 10.9.0.1" in node.console.text()
        assert f"DHCPACK(rack0) {node.ip} {node.mac} node-7" in rack.dhcp.log.read_text()
        assert node.status() == "running"
        assert node.peak_memory() > 10_000_000
        node.power_cut()
        assert node.status() == "off"
        with pytest.raises(RackError, match="went off before its console said") as caught:
            node.wait_console("login:", timeout=5)
        assert "Filename: http://10.9.0.1" in caught.value.message
        node.power_on()
        assert "Filename" not in node.console.text()


@pytest.mark.parametrize("kind", ["addresses", "none"])
def test_the_dhcp_port_is_free_for_our_own_service(tmp_path: Path, kind: Kind) -> None:
    def bind() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", 67))
        return sock

    with Rack(tmp_path, dhcp=kind) as rack:
        rack.namespace.in_network(bind).close()
        said = rack.dhcp.log.read_text()
        assert ("DHCP, IP range 10.9.200.0 -- 10.9.250.254" in said) == (kind == "addresses")
        assert "router advertisement on fd09:9::" in said
        if kind == "addresses":
            # DNS of the site's server, across the bridge: it is there, and not on our host.
            rack.namespace.connect(SITE_IP, 53).close()
            with pytest.raises(OSError, match="refused"):
                rack.namespace.connect(SERVER_IP, 53)


@pytest.mark.timeout(240)
def test_control_plane_answers_a_join_token(tmp_path: Path) -> None:
    packages = build(print)
    with Rack(tmp_path, packages=packages) as rack:
        facts = rack.start_control_plane()
        assert facts.api == "10.9.0.20:6443"
        assert rack.kubectl("get", "nodes", "-o", "name") == ""
        # What a joining node reads with nothing but the token.
        read = [
            *(str(packages.programs / "kubectl"), f"--server=https://{facts.api}"),
            f"--certificate-authority={tmp_path / 'control-plane' / 'pki' / 'ca.crt'}",
            *("get", "configmap", "-n", "kube-system", "kubelet-config", "-o", "yaml"),
        ]
        kubelet = rack.namespace.run([*read, f"--token={facts.token}"])
        assert "cgroupDriver: systemd" in kubelet
        assert "clientCAFile: /etc/kubernetes/pki/ca.crt" in kubelet
        with pytest.raises(RackError, match=r"Unauthorized|logged in"):
            rack.namespace.run([*read, "--token=aaaaaa.0123456789abcdef"])
        info = rack.kubectl("get", "configmap", "-n", "kube-public", "cluster-info", "-o", "yaml")
        assert f"server: https://{facts.api}" in info
        assert f"jws-kubeconfig-{facts.token[:6]}" in info
