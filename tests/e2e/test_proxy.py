"""Beside a DHCP server that gives addresses and nothing else: proxyDHCP, iPXE, UEFI HTTP Boot."""

from pathlib import Path

import pytest

from rack.machine import Nic, NodeSpec
from rack.node import Node
from rack.rack import Rack
from tests.e2e.waits import list_transfers, wait_phase

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

DHCP = "addresses"
LTS_CONF = """
[default]
KEEP_SYSTEM_SERVICES = ssh
RCFILE_01_SSH = "mkdir -p /root/.ssh; echo '{{ ssh_key }}' >> /root/.ssh/authorized_keys"
"""
OTHER_NIC = "52:54:00:0b:0b:0b"
HTTP_ONLY = tuple(
    word
    for version in (4, 6)
    for word in ("-fw_cfg", f"name=opt/org.tianocore/IPv{version}PXESupport,string=n")
)
"""What an owner would switch off in the firmware's setup, so that HTTP Boot comes first."""
DOWN, ENTER = "\x1b[B", "\r"
SCRIPT = "/ltsp/amd64/boot.ipxe"


@pytest.fixture(scope="module")
def farm(rack: Rack, store: Path) -> Rack:
    """A server beside the site's; it knows two of three machines."""
    listed = [
        {"mac": NodeSpec(name).completed("").mac, "hostname": name}
        for name in ("native", "chained")
    ]
    config = {"dhcp": "proxy", "unlisted": "menu", "default_image": "amd64", "inventory": listed}
    rack.serve(store, LTS_CONF, config=config)
    return rack


@pytest.fixture(scope="module")
def native(farm: Rack) -> Node:
    """BIOS with iPXE in the card: the second of two that are plugged into the same network."""
    return farm.boot(NodeSpec("native", memory=768, extra_nics=(Nic(OTHER_NIC),), boot_nic=1))


@pytest.fixture(scope="module")
def chained(farm: Rack, native: Node) -> Node:
    """UEFI, which gets iPXE from us; switched on while the other one boots."""
    return farm.boot(NodeSpec("chained", firmware="uefi", memory=768))


def test_the_sites_server_gives_addresses_only(farm: Rack, native: Node, chained: Node) -> None:
    assert "boot" not in (farm.directory / "dhcp" / "boot.conf").read_text()
    for node in (native, chained):
        wait_phase(farm, node, "menu")
        assert f"DHCPACK(site) {node.ip} {node.mac}" in farm.dhcp.log.read_text()


def test_ipxe_in_the_card_is_sent_to_its_script_at_once(farm: Rack, native: Node) -> None:
    wait_phase(farm, native, "initramfs")
    assert f"Filename: http://10.9.0.1:8080{SCRIPT}" in native.console.text()
    files = ("boot.ipxe", "vmlinuz", "initrd.img")
    assert {("http", file) for file in files} <= list_transfers(farm, native)
    assert "loader" not in farm.timeline(native)["boot"]["phases"]


def test_uefi_is_chained_through_ipxe_to_its_kernel(farm: Rack, chained: Node) -> None:
    wait_phase(farm, chained, "initramfs", timeout=500)
    wanted = {("tftp", "snponly.efi")}
    wanted |= {("http", file) for file in ("boot.ipxe", "vmlinuz", "initrd.img")}
    assert wanted <= list_transfers(farm, chained)
    chained.power_cut()


def test_a_machine_with_two_cards_boots_and_lives_on_the_one_that_asked(
    farm: Rack, native: Node
) -> None:
    assert farm.server is not None
    farm.wait_up(native)
    native.wait_ssh()
    assert native.ssh("hostname").strip() == "native"
    assert f"BOOTIF=01-{native.mac.replace(':', '-')}" in native.ssh("cat /proc/cmdline").split()
    assert native.ssh("cat /run/bootfarm/interface").strip() == native.spec.boot_interface
    addresses = native.ssh("ip -o -4 address show")
    assert f"{native.spec.boot_interface}    inet {native.ip}/16" in addresses
    # The other card asks too, once Linux runs, and the site's server answers it.
    other = "ip -o -4 address show dev enp0s16 | grep 'inet 10.9.2'"
    native.ssh(f'timeout 90 sh -c "until {other}; do sleep 1; done"', timeout=120)
    # What comes after that is still told by the machine that booted, not by a stranger.
    wait_phase(farm, native, "rcfile")
    assert [node["mac"] for node in farm.server.get_json("/api/nodes")].count(native.mac) == 1
    phases = farm.timeline(native)["boot"]["phases"]
    assert str(phases["network"]["detail"]) == f"{native.spec.boot_interface} {native.ip}"
    assert native.ssh("findmnt -no SOURCE /rofs").strip() == "/dev/nbd0"
    native.power_cut()


def test_uefi_http_boot_of_an_unlisted_machine_waits_for_a_person(farm: Rack) -> None:
    node = farm.boot(NodeSpec("http", firmware="uefi", memory=512, arguments=HTTP_ONLY))
    node.wait_console(r"is not in the inventory", timeout=500)
    assert f"- {{mac: {node.mac}}}" in node.console.text()
    assert {("http", "snponly.efi"), ("http", "boot.ipxe")} <= list_transfers(farm, node)
    timeline = farm.timeline(node)
    assert "tftp" not in {event["source"] for event in timeline["events"]}
    assert "kernel" not in timeline["boot"]["phases"]
    assert timeline["phase"] == "menu"
    assert "its boot menu waits for somebody" in timeline["boot"]["phases"]["menu"]["detail"]
    node.type(DOWN)
    node.type(ENTER)
    wait_phase(farm, node, "kernel")
    node.power_cut()
