"""The doctor on a wire: a site of three machines (DHCP, bootfarm, doctor) on one bridge."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rack.namespace import Namespace
from rack.process import Process, wait_for
from tests.server.doctor.site import LOADERS
from tests.server.farm import FILES, publish

MAIN = (sys.executable, "-c", "from bootfarm import main; main()")
SERVER, SITE, OTHER, DOCTOR = "10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.9"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@dataclass
class Wire:
    """br0 in the doctor's namespace; each other machine at a cable of it."""

    directory: Path
    doctor: Namespace = field(default_factory=Namespace)
    machines: dict[str, Namespace] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.doctor.run(
            ["ip", "-batch", "-"],
            stdin="link set lo up\nlink add br0 type bridge\nlink set br0 up\n"
            f"address add {DOCTOR}/16 dev br0\n",
        )

    def plug(self, address: str) -> Namespace:
        """A machine with that address on its net0."""
        machine = self.machines[address] = Namespace()
        cable = f"c{len(self.machines)}"
        self.doctor.run(["ip", "link", "add", cable, "type", "veth", "peer", "name", "net0"])
        # The doctor's namespace names the other by its process in ours.
        enter = ["nsenter", f"--net=/proc/{self.doctor.pid}/ns/net"]
        move = [*enter, "ip", "link", "set", "net0", "netns", str(machine.pid)]
        subprocess.run(move, check=True)
        self.doctor.run(["ip", "link", "set", cable, "master", "br0", "up"])
        machine.run(
            ["ip", "-batch", "-"],
            stdin=f"link set lo up\naddress add {address}/16 dev net0\nlink set net0 up\n",
        )
        return machine

    def dnsmasq(self, address: str, *options: str) -> None:
        """A DHCP server that we did not write."""
        machine = self.plug(address)
        argv = ["dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--no-ping"]
        argv += ["--interface=net0", "--bind-interfaces", "--log-dhcp", "--log-facility=-"]
        argv += [f"--dhcp-leasefile={self.directory}/leases-{address}", "--dhcp-authoritative"]
        argv += ["--dhcp-range=10.9.50.1,10.9.50.50,255.255.0.0", *options]
        log = self.directory / f"dnsmasq-{address}"
        process = machine.start("dnsmasq", argv, log)
        self.processes.append(process)
        wait_for(lambda: "sockets bound" in log.read_text(), 20, "dnsmasq", processes=(process,))

    def serve(self, *options: str, again: bool = False) -> None:
        """A bootfarm with an image; again: on the machine that has one already."""
        store = self.directory / "store"
        image = publish(store, files={**FILES, **LOADERS, "vmlinuz": b"kernel" * 4000})
        assert image.tags == ("current",)
        argv = [*MAIN, "serve", "--store", str(store), *options]
        argv += ["--state", str(self.directory / "state")]
        log = self.directory / ("serve again" if again else "serve")
        machine = self.machines[SERVER] if again else self.plug(SERVER)
        self.processes.append(machine.start("serve", argv, log))
        wait_for(lambda: "bootfarm is ready" in log.read_text(), 30, "the server")

    def examine(self, *options: str, at: str = DOCTOR) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and verdicts of the doctor, on its own machine or on another."""
        place = self.doctor if at == DOCTOR else self.machines[at]
        argv = [*MAIN, "doctor", "--server", SERVER, "--json", "--wait", "4", *options]
        document = json.loads(place.run(argv, check=False))
        return document["exit_code"], document["verdicts"]

    def close(self) -> None:
        for machine in (*self.machines.values(), self.doctor):
            machine.close()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    wire = Wire(tmp_path)
    yield wire
    wire.close()


def faults(verdicts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(v["id"], v["subject"]) for v in verdicts if v["level"] in ("warn", "fail")]


def words_of(verdicts: list[dict[str, Any]], subject: str) -> str:
    (words,) = [v["words"] for v in verdicts if (v["id"], v["subject"]) == ("dhcp.ok", subject)]
    return str(words)


@pytest.mark.parametrize("at", [DOCTOR, SERVER])
def test_a_site_with_our_proxy(wire: Wire, at: str) -> None:
    """Also from the server's own machine, whose answers never reach a cable."""
    wire.dnsmasq(SITE)
    wire.serve("--dhcp", "proxy")
    code, verdicts = wire.examine(at=at)
    assert (code, faults(verdicts)) == (0, []), verdicts
    assert f"{SITE}, offers 10.9.50." in words_of(verdicts, "address")
    assert "names /ltsp/amd64/ipxe/undionly.kpxe" in words_of(verdicts, "BIOS")
    assert "names /ltsp/amd64/ipxe/snponly.efi" in words_of(verdicts, "UEFI x64")
    assert f"http://{SERVER}:8080" in words_of(verdicts, "UEFI HTTP boot")
    assert "boot.ipxe" in words_of(verdicts, "iPXE's loader")
    # Nothing was taken.
    assert (wire.directory / f"leases-{SITE}").read_text() == ""
    assert "DHCPREQUEST" not in (wire.directory / f"dnsmasq-{SITE}").read_text()


def test_a_site_that_names_the_wrong_things(wire: Wire) -> None:
    wire.dnsmasq(SITE, f"--dhcp-boot=/ltsp/amd64/grub/i386-pc/core.0,,{SERVER}")
    wire.dnsmasq(OTHER, "--dhcp-boot=pxelinux.0", "--dhcp-option=3,10.9.0.77")
    wire.serve()
    code, verdicts = wire.examine()
    assert code == 2
    found = faults(verdicts)
    for id_, subject in (
        ("dhcp.two-servers", "network"),
        ("dhcp.contradiction", "network"),
        ("dhcp.loaders-differ", "BIOS"),
        ("dhcp.wrong-loader", "UEFI x64"),
        ("dhcp.no-http-boot", "UEFI HTTP boot"),
    ):
        assert (id_, subject) in found, verdicts


def test_no_dhcp_at_all_and_a_narrow_path(wire: Wire) -> None:
    wire.serve()
    wire.doctor.run(["ip", "link", "set", "c1", "mtu", "1400"])
    code, verdicts = wire.examine()
    assert code == 2
    found = [id_ for id_, _ in faults(verdicts)]
    assert "dhcp.silent" in found
    assert "mtu.small" in found, verdicts
    assert "mtu.path" in found, verdicts


def test_a_machine_of_the_inventory_and_a_stranger(wire: Wire) -> None:
    wire.dnsmasq(SITE)
    listed = "52:54:00:00:00:01"
    farm = wire.directory / "farm.yaml"
    farm.write_text(f"unlisted: refuse\ndhcp: proxy\ninventory: [{{mac: {listed}}}]\n")
    wire.serve("--config", str(farm))
    assert ("dhcp.no-loader", "BIOS") in faults(wire.examine()[1])
    code, verdicts = wire.examine("--mac", listed)
    assert (code, faults(verdicts)) == (0, [])
    # Its address is the doctor's own all the same, and that is not listed.
    assert "menu.unlisted" in {v["id"] for v in verdicts}


def test_a_firewall_that_drops_tftps_answers(wire: Wire) -> None:
    """The remedy that the doctor names is the one that helps."""
    wire.dnsmasq(SITE)
    wire.serve("--dhcp", "proxy")
    for port, verdict in (("4011", "ACCEPT"), ("1024:65535", "DROP")):
        rule = ["-A", "OUTPUT", "-p", "udp", "--sport", port, "-j", verdict]
        wire.machines[SERVER].run(["iptables", *rule])
    code, verdicts = wire.examine("--no-dhcp")
    assert code == 2
    (lost,) = [v for v in verdicts if v["id"].startswith("tftp.")]
    assert lost["id"] == "tftp.answers-lost", lost
    assert "single_port: true" in lost["remedy"]
    farm = wire.directory / "farm.yaml"
    farm.write_text("dhcp: proxy\ntftp: {single_port: true}\n")
    wire.processes[-1].stop()
    wire.serve("--config", str(farm), again=True)
    assert wire.examine()[0] == 0
