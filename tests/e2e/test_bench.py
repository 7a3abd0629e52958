"""A bench with no other DHCP server: addresses, loader and image come from `serve --dhcp full`."""

import contextlib
from pathlib import Path

import pytest

from rack.errors import RackError
from rack.machine import NodeSpec
from rack.node import Node
from rack.rack import Rack
from tests.e2e.waits import list_transfers, wait_phase

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

DHCP = "none"


def test_uefi_boots_on_a_bare_bench_when_a_person_at_the_menu_says_so(
    rack: Rack, store: Path
) -> None:
    config = {
        "dhcp": "full",
        "dhcp_range": "10.9.100.1-10.9.100.9",
        "unlisted": "menu",
        "loader": "grub",
        "default_image": "amd64",
    }
    server = rack.serve(store, "[default]\nTIMEZONE = Europe/Prague\n", config=config)
    node = rack.boot(NodeSpec("bench", firmware="uefi", memory=768))
    node.wait_console(r"is not in the inventory: ask again", timeout=500)
    assert f"- {{mac: {node.mac}}}" in node.console.text()
    assert ("tftp", "core.efi") in list_transfers(rack, node)
    assert "kernel" not in rack.timeline(node)["boot"]["phases"]
    press_until_it_loads(node)
    wait_phase(rack, node, "ltsconf", timeout=500)
    assert "10.9.100.1" in (server.log.parent / "state" / "dhcp-leases").read_text()
    network = wait_phase(rack, node, "network")
    assert str(network["detail"]).endswith(" 10.9.100.1")
    assert {("tftp", "vmlinuz"), ("tftp", "initrd.img")} <= list_transfers(rack, node)
    node.power_cut()


def press_until_it_loads(node: Node) -> None:
    """Press b, and again where the menu was just being drawn anew: it asks every 30 s."""
    for _ in range(10):
        mark = node.console.size
        node.type("b")
        with contextlib.suppress(RackError):
            node.wait_console("Loading the kernel", timeout=20, since=mark)
            return
    raise AssertionError(f"b boots nothing at this menu:\n{node.console.text()[-3000:]}")
