"""Faults made by real boots, and what the server says of each in words.

Three that end before Linux has a root; of the others of issue 7, test_boots.py has the
image that is too large and the API server that does not answer, test_cluster.py the
expired token, each in a boot that goes on.
"""

from pathlib import Path

import pytest

from rack.dhcp import render_addresses
from rack.machine import NodeSpec
from rack.network import SERVER_IP
from rack.node import Node
from rack.rack import Rack
from tests.e2e.waits import wait_finding, wait_phase

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# The commonest mistake: one file name for all machines, whatever their firmware is.
ONE_LOADER = f"dhcp-boot=/ltsp/amd64/grub/i386-pc/core.0,,{SERVER_IP}\n"


@pytest.fixture(scope="module")
def farm(rack: Rack, store: Path) -> Rack:
    rack.dhcp.stop()
    rack.dhcp.start(render_addresses("amd64") + ONE_LOADER)
    rack.serve(store, "[default]\nTIMEZONE = Europe/Prague\n", config={"default_image": "amd64"})
    return rack


@pytest.fixture(scope="module")
def wrong(farm: Rack) -> Node:
    """A UEFI machine, which gets the loader for BIOS."""
    return farm.boot(NodeSpec("wrong", firmware="uefi", memory=256))


@pytest.fixture(scope="module")
def dropped(farm: Rack, wrong: Node) -> Node:
    """A BIOS machine behind a firewall that lets only well-known UDP ports of the server pass.

    Switched on while the one before it boots."""
    node = farm.add_node(NodeSpec("dropped", memory=256))
    packets = ("-p", "IPv4", "--ip-protocol", "udp", "--ip-source-port", "1024:65535")
    drop = ("ebtables", "-A", "OUTPUT", *packets, "--ip-destination", node.ip, "-j", "DROP")
    farm.namespace.run(drop)
    node.power_on()
    return node


@pytest.fixture(scope="module")
def closed(farm: Rack, dropped: Node) -> Node:
    """A BIOS machine whose connections to the NBD port are rejected by a firewall."""
    node = farm.add_node(NodeSpec("closed", memory=512))
    packets = ("-p", "tcp", "--dport", "10809", "-s", node.ip)
    reject = ("iptables", "-A", "INPUT", *packets, "-j", "REJECT", "--reject-with", "tcp-reset")
    farm.namespace.run(reject)
    node.power_on()
    return node


def test_wrong_loader_for_the_firmware(farm: Rack, wrong: Node, dropped: Node) -> None:
    finding = wait_finding(farm, wrong, "wrong-loader", timeout=500)
    assert finding["severity"] == "error"
    assert "fetched core.0 but is a UEFI machine" in finding["headline"]
    assert "option 93" in finding["headline"]
    assert "core.efi" in finding["expected"]
    assert any("bootfarm dhcp-config" in line for line in finding["check"])
    wrong.power_cut()


def test_tftp_ports_dropped(farm: Rack, dropped: Node, closed: Node) -> None:
    assert closed.is_on()
    finding = wait_finding(farm, dropped, "tftp-no-ack")
    assert finding["severity"] == "error"
    assert finding["phase"] == "loader"
    assert "asked for core.0" in finding["headline"]
    assert "never acknowledged our OACK" in finding["headline"]
    assert "drops UDP from ephemeral ports" in finding["headline"]
    assert any("single_port: true" in line for line in finding["check"])
    dropped.power_cut()


def test_nbd_port_closed(farm: Rack, closed: Node) -> None:
    wait_phase(farm, closed, "ltsconf", timeout=500)
    finding = wait_finding(farm, closed, "nbd-unreachable")
    assert finding["severity"] == "error"
    assert finding["phase"] == "root"
    assert "NBD port 10809 of the server refuses connections" in finding["headline"]
    assert any("allow TCP 10809" in line for line in finding["check"])
    closed.power_cut()
