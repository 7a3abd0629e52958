import ipaddress
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from dnslib import DNSRecord

from server.farm.inventory import Inventory, Machine
from server.ltsconf import LtsConf, LtsTemplate
from server.machines.identity import make_identifier
from server.machines.names import HOSTS_SECONDS, MAX_ADDRESSES, Directory, make_label, surround
from server.nodes.node import Node
from server.protocols.dns import DnsServer, Zone
from server.site import Site

NETWORK = ipaddress.IPv4Network("10.9.0.0/16")
MAC = "52:54:00:00:00:0{}".format
INVENTORY = Inventory((Machine(MAC(1), "10.9.1.1", "node-1"), Machine(MAC(2), "10.9.1.2")))


class Farm:
    """A directory, and the DNS server that answers from it."""

    def __init__(
        self, tmp_path: Path, ltsconf: str = "", inventory: Inventory = INVENTORY, hosts: str = ""
    ) -> None:
        (tmp_path / "arp").write_text("")
        (tmp_path / "hosts").write_text(hosts)
        self.site = Site(images=(), ltsconf=LtsConf.parse(ltsconf.encode()))
        self.identifier = make_identifier(inventory, {}, tmp_path / "hosts", tmp_path / "arp")
        machines = {machine.mac: machine.ip for machine in inventory.machines if machine.ip}
        fixed = {"boot": "10.9.0.1", "api": "10.9.0.20"}
        self.directory = Directory(lambda: self.site, self.identifier, fixed, [NETWORK], machines)
        zone = Zone("rack.test", "10.9.0.1", (NETWORK,))
        self.server = DnsServer(zone, lambda: self.directory.names)
        self.turn()

    def turn(self, now: float = 0.0) -> None:
        self.directory.turn(lambda: now)

    def edit(self, text: str) -> None:
        self.site = Site(images=(), ltsconf=LtsConf.parse(text.encode()))
        self.turn()

    def see(self, key: str, ip: str, mac: str | None = None, hostname: str | None = None) -> None:
        self.directory.change(key, Node(key, mac, ip, hostname))
        self.turn()

    def ask(self, name: str, kind: str = "A") -> list[str]:
        answer = self.server.answer(bytes(DNSRecord.question(name, kind).pack()), udp=True)
        assert answer is not None
        return sorted(str(record.rdata) for record in DNSRecord.parse(answer).rr)

    def forward(self, label: str) -> list[str]:
        return self.ask(f"{label}.rack.test")

    def reverse(self, ip: str) -> list[str]:
        name = ".".join(reversed(ip.split("."))) + ".in-addr.arpa"
        return [found.removesuffix(".rack.test.") for found in self.ask(name, "PTR")]


def test_the_server_the_api_and_listed_machines(tmp_path: Path) -> None:
    farm = Farm(tmp_path)
    assert farm.forward("boot") == ["10.9.0.1"]
    assert farm.forward("api") == ["10.9.0.20"]
    assert farm.reverse("10.9.0.20") == ["api"]
    assert farm.forward("node-1") == ["10.9.1.1"]
    assert farm.reverse("10.9.1.1") == ["node-1"]
    assert farm.forward("node-525400000002") == ["10.9.1.2"]
    assert farm.reverse("10.9.1.2") == ["node-525400000002"], "as it calls itself"
    assert farm.forward("node-525400000001") == []


def test_the_name_that_lts_conf_gives_comes_first_and_follows_edits(tmp_path: Path) -> None:
    farm = Farm(tmp_path, f"[{MAC(1)}]\nHOSTNAME = Web.example.org\n")
    assert farm.reverse("10.9.1.1") == ["web"]
    assert farm.forward("web") == farm.forward("node-1") == ["10.9.1.1"]
    farm.edit("[node-1]\nHOSTNAME = db\n[default]\nHOSTNAME_BASE = w\n")
    assert farm.reverse("10.9.1.1") == ["db"]
    assert farm.forward("web") == []
    assert farm.forward("w2") == ["10.9.1.2"]
    farm.edit("[default]\nHOSTNAME_EXTRA = MAC\n")
    assert farm.reverse("10.9.1.2") == ["ltsp525400000002"]
    farm.edit("")
    assert farm.reverse("10.9.1.1") == ["node-1"]


def test_nodes_that_were_seen(tmp_path: Path) -> None:
    farm = Farm(tmp_path, "[10.9.7.7]\nHOSTNAME = seven\n")
    farm.see(MAC(9), "10.9.7.9", MAC(9))
    assert farm.reverse("10.9.7.9") == ["node-525400000009"]
    farm.see(MAC(7), "10.9.7.7", MAC(7))
    assert farm.forward("seven") == ["10.9.7.7"]
    farm.see("10.9.7.8", "10.9.7.8")  # whose MAC nobody knows
    assert farm.reverse("10.9.7.8") == []
    farm.directory.change(MAC(9), None)
    farm.turn()
    assert farm.reverse("10.9.7.9") == farm.forward("node-525400000009") == []
    assert farm.forward("seven") == ["10.9.7.7"]


def test_a_node_that_moves_and_its_successor(tmp_path: Path) -> None:
    farm = Farm(tmp_path)
    farm.see(MAC(7), "10.9.7.7", MAC(7))
    farm.see(MAC(8), "10.9.7.7", MAC(8))
    assert farm.reverse("10.9.7.7") == ["node-525400000008"]
    farm.see(MAC(7), "10.9.7.1", MAC(7))
    assert farm.forward("node-525400000007") == ["10.9.7.1"]
    assert farm.reverse("10.9.7.7") == ["node-525400000008"]


def test_nobody_takes_a_name_or_an_address_of_farm_yaml(tmp_path: Path) -> None:
    farm = Farm(tmp_path, "[default]\nHOSTNAME = api\n")
    farm.see(MAC(7), "10.9.0.20", MAC(7))
    farm.see(MAC(8), "10.9.7.8", MAC(8), "boot")
    assert farm.forward("api") == ["10.9.0.20"]
    assert farm.reverse("10.9.0.20") == ["api"]
    assert farm.forward("boot") == ["10.9.0.1"]
    assert farm.reverse("10.9.7.8") == []


def test_many_nodes_of_one_name(tmp_path: Path) -> None:
    farm = Farm(tmp_path, "[default]\nHOSTNAME = same\n")
    for number in range(40):
        farm.see(f"52:54:00:00:01:{number:02x}", f"10.9.7.{number}", f"52:54:00:00:01:{number:02x}")
    assert len(farm.directory.names.addresses["same"]) == MAX_ADDRESSES
    assert farm.reverse("10.9.7.39") == ["same"]


def test_the_hosts_file(tmp_path: Path) -> None:
    farm = Farm(tmp_path, hosts="10.9.3.1 switch-1.rack.test\n192.0.2.1 elsewhere\n")
    assert farm.forward("switch-1") == ["10.9.3.1"]
    assert farm.forward("elsewhere") == []
    (tmp_path / "hosts").write_text("10.9.3.1 switch-2\n")
    farm.identifier._hosts._read = float("-inf")
    farm.turn(HOSTS_SECONDS + 1)
    assert farm.forward("switch-1") == []
    assert farm.reverse("10.9.3.1") == ["switch-2"]


def test_a_template_names_nobody(tmp_path: Path) -> None:
    farm = Farm(tmp_path)
    text = b"# jinja2\n[default]\nHOSTNAME = x\n"
    farm.site = Site(images=(), ltsconf=LtsTemplate.parse(text, lambda name: None))
    farm.turn()
    assert farm.reverse("10.9.1.1") == ["node-1"]


def test_a_turn_is_bounded(tmp_path: Path) -> None:
    machines = tuple(
        Machine(
            f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", f"10.9.8.{number}", f"n{number}"
        )
        for number in range(100)
    )
    farm = Farm(tmp_path, inventory=Inventory(machines))
    farm.edit("[default]\nA = 1\n")
    farm.site = Site(images=(), ltsconf=LtsConf.parse(b"[default]\nHOSTNAME_BASE = w\n"))
    times = iter(range(1000))
    turns = 0
    while farm.forward("w99") == []:
        farm.directory.turn(lambda: next(times) * 0.004)
        turns += 1
    assert 25 < turns < 60


@pytest.mark.parametrize(
    ("name", "label"),
    [("Web.example.org", "web"), ("a_b", "a-b"), ("-x-", "x"), ("...", ""), ("é", ""), ("", "")],
)
def test_labels(name: str, label: str) -> None:
    assert make_label(name) == label


def test_networks() -> None:
    found = surround(["10.9.0.1", "10.9.0.20", "192.0.2.7"], [NETWORK])
    assert [str(network) for network in found] == ["10.9.0.0/16", "192.0.2.0/24"]


def test_names_are_those_that_the_node_takes(tmp_path: Path) -> None:
    """What init.d/hostname.sh makes of the same values; both are asked."""
    rootfs = Path(__file__).parents[3] / "imagebuild/rootfs/usr/lib/bootfarm"
    cases: list[Mapping[str, str]] = [
        {"HOSTNAME": "Web_1"},
        {"HOSTNAME": "-"},
        {"HOSTNAME_BASE": "w"},
        {"HOSTNAME_BASE": "w", "HOSTNAME_EXTRA": "mac"},
        {"HOSTNAME_EXTRA": "IP"},
        {"HOSTNAME": "---", "HOSTNAME_BASE": "w"},
        {},
    ]
    for values in cases:
        farm = Farm(
            tmp_path, "[default]\nA = 1\n" + "".join(f"{k} = {v}\n" for k, v in values.items())
        )
        script = "\n".join(
            [
                f"flat_get() {{ case $2 in {_cases(values)} *) return 1 ;; esac; }}",
                f"state_get() {{ case $1 in mac) echo {MAC(2)} ;; ip) echo 10.9.1.2 ;; esac; }}",
                "dhcp_get() { :; }",
                f". {rootfs}/init.d/hostname.sh",
                "FLAT=x choose_hostname",
            ]
        )
        done = subprocess.run(["dash", "-c", script], capture_output=True, text=True, check=True)
        assert farm.reverse("10.9.1.2") == [done.stdout.strip()], values


def _cases(values: Mapping[str, str]) -> str:
    return " ".join(f"{key}) echo '{value}' ;;" for key, value in values.items())


def test_farm_yaml_may_change_names_and_machines(tmp_path: Path) -> None:
    farm = Farm(tmp_path)
    farm.see(MAC(2), "10.9.1.2", MAC(2))
    assert farm.forward("node-1") == ["10.9.1.1"]
    machines = (Machine(MAC(2), "10.9.1.2", "node-2"), Machine(MAC(3), "10.9.1.3", "node-3"))
    inventory = Inventory(machines)
    farm.identifier.adopt(inventory, {}, tmp_path / "hosts")
    farm.directory.adopt({"boot": "10.9.0.1", "api": "10.9.0.20"}, inventory.addresses)
    farm.turn()
    assert farm.forward("node-1") == []
    assert farm.reverse("10.9.1.1") == []
    assert farm.forward("node-2") == ["10.9.1.2"]
    assert farm.reverse("10.9.1.3") == ["node-3"]
    farm.directory.adopt({"boot": "10.9.0.1", "node-3": "10.9.0.30"}, inventory.addresses)
    farm.turn()
    assert farm.forward("api") == []
    assert farm.forward("node-3") == ["10.9.0.30"], "what is fixed is nobody else's"
    assert farm.reverse("10.9.0.20") == []
    assert farm.forward("node-2") == ["10.9.1.2"]
