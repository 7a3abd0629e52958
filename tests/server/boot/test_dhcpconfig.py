import ipaddress
import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.boot.dhcpconfig import KINDS, DhcpSettings, parse_range, parse_subnet, render
from server.commands.dhcp_config import dhcp_config_command
from server.errors import ServerError
from server.farm.inventory import Inventory, Machine
from tests.peers import run_in, unpack

GOLDENS = Path(__file__).parent / "goldens"

SETTINGS = DhcpSettings(
    server="10.9.0.2",
    subnet=ipaddress.IPv4Network("10.9.0.0/16"),
    range=("10.9.200.0", "10.9.250.254"),
    router="10.9.0.1",
    dns=("10.9.0.1", "10.9.0.3"),
    inventory=Inventory(
        (
            Machine("52:54:00:00:00:01", "10.9.0.11", "node-1"),
            Machine("52:54:00:00:00:02", "10.9.0.12"),
            Machine("52:54:00:00:00:03", None, "node-3"),
        )
    ),
)
MINIMAL = DhcpSettings(server="192.168.7.1", subnet=ipaddress.IPv4Network("192.168.7.0/24"))
VARIANTS = {
    "full": SETTINGS,
    "minimal": MINIMAL,
    "interface": replace(SETTINGS, interface="eth0", lease_time=3600),
    "grub": replace(SETTINGS, grub=True),
    "arm64": replace(SETTINGS, others={"arm64": "web-arm64"}),
    "arm64-grub": replace(SETTINGS, others={"arm64": "web-arm64"}, grub=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_golden(kind: str, variant: str) -> None:
    text = render(kind, VARIANTS[variant])
    golden = GOLDENS / f"dhcp-{kind}-{variant}"
    if os.environ.get("BOOTFARM_GOLDENS"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("address", ["10.9.0.1", "10.9.0.0", "10.9.255.255"])
def test_addresses_that_no_machine_may_have_are_refused(address: str) -> None:
    settings = DhcpSettings(
        server="10.9.0.1",
        subnet=SETTINGS.subnet,
        inventory=Inventory((Machine("52:54:00:00:00:01", ip=address),)),
    )
    with pytest.raises(ServerError, match=f"inventory: {address} of 52:54:00:00:00:01 is"):
        render("isc", settings)


@pytest.mark.parametrize("kind", KINDS)
def test_both_uefi_architectures_and_each_machine(kind: str) -> None:
    text = render(kind, SETTINGS)
    assert "/ltsp/amd64/ipxe/snponly.efi" in text
    assert "/ltsp/amd64/ipxe/undionly.kpxe" in text
    assert "http://10.9.0.2:8080/ltsp/amd64/boot.ipxe" in text
    assert "grub" not in text
    text = render(kind, VARIANTS["grub"])
    assert "/ltsp/amd64/grub/x86_64-efi/core.efi" in text
    assert "/ltsp/amd64/grub/i386-pc/core.0" in text
    assert "boot.ipxe" not in text
    seven_and_nine = {"isc": "00:0[79]", "dnsmasq": "client-arch,[79]", "kea": "0x000[79]"}[kind]
    assert len(set(re.findall(seven_and_nine, text))) == 2
    for machine in SETTINGS.inventory.machines:
        assert machine.mac in text


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"server": "ltsp-1"}, "--server"),
        ({"router": "10.9.0"}, "--router"),
        ({"dns": ("one.one",)}, "--dns"),
        ({"name": "../etc"}, "--name"),
        ({"domain": 'x"; include "/etc/shadow'}, "--domain"),
        ({"interface": "eth0\nport=53"}, "--interface"),
        ({"bind": True}, "interface"),
        ({"others": {"arm46": "web"}}, "--name-for arm46=web"),
        ({"others": {"amd64": "web"}}, "--name-for amd64=web"),
        ({"others": {"arm64": "a/b"}}, "--name-for arm64=a/b"),
        ({"subnet": ipaddress.IPv4Network("10.8.0.0/16")}, "10.9.0.11"),
    ],
)
def test_what_no_server_would_take_is_refused(changes: dict[str, object], flag: str) -> None:
    with pytest.raises(ServerError, match=flag):
        render("isc", replace(SETTINGS, **changes))  # type: ignore[arg-type]


def test_range_and_subnet() -> None:
    subnet = parse_subnet("10.9.3.4/16")
    assert str(subnet) == "10.9.0.0/16"
    assert parse_range("10.9.1.1 - 10.9.2.2", subnet) == ("10.9.1.1", "10.9.2.2")
    for text in ("10.9.1.1", "10.9.2.2-10.9.1.1", "10.8.1.1-10.9.1.1", "a-b"):
        with pytest.raises(ServerError):
            parse_range(text, subnet)
    with pytest.raises(ServerError, match="--subnet"):
        parse_subnet("10.9.0.0/33")


def test_command_with_inventory(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text("- {mac: 52:54:00:aa:bb:01, ip: 10.9.0.11, hostname: node-1}\n")
    argv = ["dnsmasq", "--server=10.9.0.2", "--subnet=10.9.0.0/16", f"--inventory={inventory}"]
    result = CliRunner().invoke(dhcp_config_command, argv)
    assert result.exit_code == 0, result.output
    assert "dhcp-host=52:54:00:aa:bb:01,10.9.0.11,node-1\n" in result.output

    inventory.write_text("- {mac: 52:54:00:aa:bb, ip: 10.9.0.11}\n")
    result = CliRunner().invoke(dhcp_config_command, argv)
    assert result.exit_code == 1
    assert "inventory.yaml:1: [0].mac: '52:54:00:aa:bb' is not a MAC address" in result.output


@pytest.mark.parametrize("variant", VARIANTS)
def test_dnsmasq_takes_it(variant: str, tmp_path: Path) -> None:
    config = tmp_path / "dnsmasq.conf"
    config.write_text(render("dnsmasq", VARIANTS[variant]))
    done = subprocess.run(
        ["/usr/sbin/dnsmasq", "--test", f"--conf-file={config}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    config.write_text(config.read_text() + "dhcp-nonsense=1\n")
    assert subprocess.run(["/usr/sbin/dnsmasq", "--test", f"--conf-file={config}"]).returncode != 0


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.parametrize("variant", VARIANTS)
def test_dhcpd_takes_it(variant: str) -> None:
    root = unpack("isc-dhcp-server")
    argv = ["/usr/sbin/dhcpd", "-t", "-cf", "/etc/tested.conf"]
    text = render("isc", VARIANTS[variant])
    done = run_in(root, argv, {"/etc/tested.conf": text})
    assert done.returncode == 0, done.stderr
    broken = run_in(root, argv, {"/etc/tested.conf": text.replace("unsigned integer 16", "")})
    assert broken.returncode != 0


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.parametrize("variant", VARIANTS)
def test_kea_takes_it(variant: str) -> None:
    root = unpack("kea-dhcp4-server")
    argv = ["/usr/sbin/kea-dhcp4", "-t", "/etc/tested.conf"]
    text = render("kea", VARIANTS[variant]).replace('"eth0"', '"lo"')
    done = run_in(root, argv, {"/etc/tested.conf": text})
    assert done.returncode == 0, done.stdout + done.stderr
    broken = run_in(root, argv, {"/etc/tested.conf": text.replace("substring(", "nonsense(")})
    assert broken.returncode != 0


def test_kea_is_json_but_for_its_first_line() -> None:
    for settings in VARIANTS.values():
        comment, _, rest = render("kea", settings).partition("\n")
        assert comment.startswith("//")
        assert json.loads(rest)["Dhcp4"]["subnet4"][0]["subnet"] == str(settings.subnet)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--range", "10.9.0.1-10.9.0.99"], "--range holds 10.9.0.1, which is the boot server's"),
        (["--range", "10.9.0.200-10.9.0.255"], "10.9.0.255, which is the broadcast address"),
        (
            ["--range", "10.9.0.2-10.9.0.99", "--router", "10.9.0.9"],
            "--range holds 10.9.0.9, which is the router's",
        ),
        (["--router", "10.8.0.1"], "--router 10.8.0.1 is not in 10.9.0.0/24"),
        (["--router", "224.0.0.1"], "--router 224.0.0.1 is a group's"),
        (["--server", "10.9.0.300"], "--server '10.9.0.300' is not an IPv4 address"),
        (["--server", "0.0.0.0"], "--server 0.0.0.0 is no machine's"),
        (["--http-port", "0"], "0 is not in the range 1<=x<=65535"),
        (["--lease-time", "-5"], "-5 is not in the range"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_would_give_a_machine_the_wrong_address_is_refused(
    kind: str, words: list[str], says: str
) -> None:
    server = [] if "--server" in words else ["--server", "10.9.0.1"]
    result = CliRunner().invoke(dhcp_config_command, [kind, *server, *words])
    assert result.exit_code in (1, 2)
    assert says in result.output
