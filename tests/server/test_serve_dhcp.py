"""`bootfarm serve --dhcp` on a wire of its own, asked by a machine without an address."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rack.namespace import Namespace
from server.protocols.dhcp_wire import Message, MessageType, Option, pack
from tests.server.farm import FILES, publish
from tests.server.services.test_dhcp import SERVER, Wire, discover
from tests.server.test_serve import BOOTFARM

LISTED, STRANGER = "52:54:00:00:00:01", "52:54:00:00:00:02"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


class Bench:
    """A server on one end of a cable, and the other end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.namespace = Namespace()
        self.process: subprocess.Popen[str] | None = None
        self.namespace.run(
            ["ip", "-batch", "-"],
            stdin="link set lo up\nlink add net0 type veth peer name peer0\n"
            f"address add {SERVER}/16 dev net0\nlink set net0 up\nlink set peer0 up\n",
        )
        self.wire = Wire(self.namespace, "peer0")

    def serve(self, farm: str, *options: str) -> str:
        """Start a server; the line that says that it is ready, or what it says instead."""
        (self.directory / "farm.yaml").write_text(farm)
        argv = [*BOOTFARM, "--store", str(self.directory / "store"), *options]
        argv += ["--config", str(self.directory / "farm.yaml")]
        argv += ["--state", str(self.directory / "state")]
        with (self.directory / "log").open("w") as log:
            self.process = subprocess.Popen(
                self.namespace.enter_argv(argv), stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        return self.process.stdout.readline() or (self.directory / "log").read_text()

    def ask(self, mac: str, address: str = "") -> tuple[str, Message]:
        """DISCOVER, or REQUEST for an address; who answered, and what."""
        options: dict[int, bytes] = {
            Option.MESSAGE_TYPE: bytes((MessageType.REQUEST,)),
            Option.REQUESTED_ADDRESS: socket.inet_aton(address or SERVER),
            Option.SERVER_ID: socket.inet_aton(SERVER),
            Option.VENDOR_CLASS: b"PXEClient:Arch:00000:UNDI:002001",
        }
        request = pack(Message(op=1, xid=6, mac=mac, options=options))
        self.wire.send(request if address else discover(mac))
        source, _, message = self.wire.receive()
        return source, message

    def json(self, path: str) -> Any:
        url = f"http://{SERVER}:8080{path}"
        return json.loads(self.namespace.run(["curl", "-sS", "--fail", url]))

    def close(self) -> None:
        self.wire.close()
        self.namespace.close()
        if self.process is not None:
            self.process.wait(10)
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    ipxe = {"boot/ipxe/undionly.kpxe": b"ipxe", "boot/ipxe/snponly.efi": b"ipxe for UEFI"}
    publish(tmp_path / "store", files={**FILES, **ipxe})
    bench = Bench(tmp_path)
    yield bench
    bench.close()


INVENTORY = f"inventory: [{{mac: {LISTED}, ip: 10.9.0.11, hostname: node-1}}]\n"


def test_alone_on_a_bench(bench: Bench) -> None:
    said = bench.serve(INVENTORY, "--dhcp", "full", "--dhcp-range", "10.9.1.1-10.9.1.9")
    assert "dhcp 67+4011; 1 image" in said
    source, offer = bench.ask(LISTED)
    assert (source, offer.type, offer.yiaddr) == (SERVER, MessageType.OFFER, "10.9.0.11")
    assert offer.file == b"/ltsp/amd64/ipxe/undionly.kpxe"
    _, ack = bench.ask(LISTED, offer.yiaddr)
    assert ack.type == MessageType.ACK
    assert ack.options[Option.HOSTNAME] == b"node-1"
    assert bench.ask(STRANGER)[1].yiaddr == "10.9.1.1"
    assert "10.9.0.11" in (bench.directory / "state" / "dhcp-leases").read_text()
    node = bench.json(f"/api/nodes/{LISTED}")
    assert node["phase"] == "dhcp"
    assert bench.json("/healthz")["services"]["dhcp"] == [67, 4011]


def test_beside_another_server_and_only_listed_machines(bench: Bench) -> None:
    assert "dhcp 67+4011" in bench.serve(f"{INVENTORY}dhcp: proxy\nunlisted: refuse\n")
    bench.wire.send(discover(STRANGER))
    _, offer = bench.ask(LISTED)
    assert (offer.mac, offer.yiaddr) == (LISTED, "0.0.0.0")
    assert offer.file == b"/ltsp/amd64/ipxe/undionly.kpxe"
    assert "not in the inventory" in bench.json(f"/api/nodes/{STRANGER}")["error"]
    url = f"tftp://{SERVER}//ltsp/amd64/ipxe/undionly.kpxe"
    assert bench.namespace.run(["curl", "-sS", url]) == "ipxe"


def test_a_machine_of_another_architecture_has_a_line_that_says_so(bench: Bench) -> None:
    assert "dhcp 67+4011" in bench.serve(f"{INVENTORY}dhcp: proxy\n")
    options: dict[int, bytes] = {
        Option.MESSAGE_TYPE: bytes((MessageType.DISCOVER,)),
        Option.VENDOR_CLASS: b"PXEClient:Arch:00011:UNDI:003000",
        Option.ARCHITECTURE: b"\x00\x0b",
    }
    bench.wire.send(pack(Message(op=1, xid=7, mac=STRANGER, options=options)))
    assert bench.ask(LISTED)[1].mac == LISTED, "nothing is offered to the other"
    node = bench.json(f"/api/nodes/{STRANGER}")
    words = "image amd64:current is for amd64 machines, and this machine is arm64"
    assert node["error"].startswith(f"dhcp: {words}; build or import an image for arm64")


def test_an_unlisted_machine_is_held_at_a_menu(bench: Bench) -> None:
    machine = "10.9.0.50"
    bench.namespace.run(
        ["ip", "-batch", "-"],
        stdin=f"neigh add {machine} lladdr {STRANGER} dev net0\naddress add {machine}/32 dev lo\n",
    )
    farm = f"{INVENTORY}dhcp: proxy\nunlisted: menu\naddress: {SERVER}\n"
    assert "dhcp 67+4011" in bench.serve(farm)
    url = f"http://{SERVER}:8080/ltsp/amd64/boot.ipxe"
    menu = bench.namespace.run(["curl", "-sS", "--fail", "--interface", machine, url])
    assert f"menu {STRANGER} {machine} is not in the inventory" in menu
    assert f"- {{mac: {STRANGER}}}" in menu
    node = bench.json(f"/api/nodes/{STRANGER}")
    phase = node["boot"]["phases"]["menu"]
    assert phase["status"] == "start"
    assert "its boot menu waits for somebody" in phase["detail"]
    assert node["error"] == ""


def test_a_range_of_another_network(bench: Bench) -> None:
    said = bench.serve("dhcp: full\ndhcp_range: 10.7.0.1-10.7.0.9\n")
    assert "in the network of 10.7.0.1-10.7.0.9" in said
    assert "Traceback" not in said


def test_limits_by_address_are_the_farms(bench: Bench) -> None:
    said = bench.serve("dhcp: proxy\ndhcp_limits: {client_rte: 1}\n")
    assert "dhcp_limits.client_rte: unknown key" in said
    assert "'client_rate'" in said
    assert bench.process is not None
    bench.process.wait(10)
    assert "dhcp 67+4011" in bench.serve(
        "dhcp: proxy\ndhcp_limits: {client_rate: 0.001, client_burst: 2}\n"
    )
    for _ in range(5):
        bench.wire.send(discover(STRANGER))
    # Another machine's answer comes after all that the first one is given.
    bench.wire.send(discover(LISTED))
    macs = [bench.wire.receive()[2].mac for _ in range(3)]
    assert macs == [STRANGER, STRANGER, LISTED]
