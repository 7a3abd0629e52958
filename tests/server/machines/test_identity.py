from pathlib import Path

import pytest

from server.content import Refused
from server.farm.inventory import Inventory, Machine, parse_inventory
from server.ltsconf import LtsConfError, LtsTemplate, make_facts
from server.machines.identity import (
    CachedFile,
    Identifier,
    make_identifier,
    parse_hosts,
    parse_neighbours,
)

ARP = """\
IP address       HW type     Flags       HW address            Mask     Device
10.9.0.11        0x1         0x2         52:54:00:00:00:01     *        br0
10.9.0.12        0x1         0x0         00:00:00:00:00:00     *        br0
10.9.0.13        0x1         0x6         52:54:00:00:00:03     *        br0
garbage
10.9.0.14        0x1         zz          52:54:00:00:00:04     *        br0
"""
HOSTS = """\
127.0.0.1 localhost
10.9.0.13 node-3.example.org node-3 # a comment
::1 localhost
10.9.0.99
"""
INVENTORY = Inventory(
    (
        Machine("52:54:00:00:00:01", "10.9.0.11", "node-1"),
        Machine("52:54:00:00:00:05", "10.9.0.15", "node-5"),
    )
)


def test_parse_neighbours_takes_complete_entries_only() -> None:
    assert parse_neighbours(ARP) == {
        "10.9.0.11": "52:54:00:00:00:01",
        "10.9.0.13": "52:54:00:00:00:03",
    }


def test_the_kernel_writes_what_we_parse() -> None:
    heading = Path("/proc/net/arp").read_text().splitlines()[0].split()
    assert heading == ARP.splitlines()[0].split()


def test_parse_hosts() -> None:
    assert parse_hosts(HOSTS) == {"10.9.0.13": "node-3"}


@pytest.fixture
def arp(tmp_path: Path) -> Path:
    (tmp_path / "arp").write_text(ARP)
    (tmp_path / "hosts").write_text(HOSTS)
    return tmp_path / "arp"


def test_identify(arp: Path) -> None:
    address_map = {"10.8.0.7": "52:54:00:00:00:07", "10.9.0.11": "52:54:00:00:00:99"}
    identifier = make_identifier(INVENTORY, address_map, arp.with_name("hosts"), arp)

    one = identifier.identify("10.9.0.11")
    assert (one.mac, one.hostname, one.how) == ("52:54:00:00:00:01", "node-1", "neighbour table")
    three = identifier.identify("10.9.0.13")
    assert (three.mac, three.hostname) == ("52:54:00:00:00:03", "node-3")
    five = identifier.identify("10.9.0.15")
    assert (five.mac, five.hostname, five.how) == ("52:54:00:00:00:05", "node-5", "inventory")
    routed = identifier.identify("10.8.0.7")
    assert (routed.mac, routed.how) == ("52:54:00:00:00:07", "address_map of farm.yaml")
    stranger = identifier.identify("10.9.0.77")
    assert (stranger.mac, stranger.hostname, stranger.how) == (None, None, "")


def test_a_machine_on_another_ones_address_does_not_get_its_name(arp: Path) -> None:
    inventory = Inventory((Machine("52:54:00:00:00:08", "10.9.0.11", "node-8"),))
    one = make_identifier(inventory, {}, None, arp).identify("10.9.0.11")
    assert (one.mac, one.hostname) == ("52:54:00:00:00:01", None)


@pytest.mark.parametrize(
    ("inventory", "address_map"),
    [
        (Inventory((Machine("52:54:00:00:00:08", "10.9.0.13"),)), {}),
        (Inventory((Machine("52:54:00:00:00:08", None, "Node-3"),)), {}),
        (Inventory(), {"10.9.0.13": "52:54:00:00:00:08"}),
    ],
)
def test_the_hosts_file_gives_no_machine_the_name_of_another(
    arp: Path, inventory: Inventory, address_map: dict[str, str]
) -> None:
    identifier = make_identifier(inventory, address_map, arp.with_name("hosts"), arp)
    three = identifier.identify("10.9.0.13")
    assert (three.mac, three.hostname) == ("52:54:00:00:00:03", None)
    assert identifier.recall("10.9.0.13", three.mac).hostname is None


def test_serial_and_uuid_are_the_inventorys(arp: Path) -> None:
    machines = parse_inventory([{"mac": "52:54:00:00:00:01", "serial": "S 1", "uuid": "u-1"}], "x")
    identifier = make_identifier(machines, {}, None, arp)
    assert identifier.identify("10.9.0.11").known == {"serial": "S 1", "uuid": "u-1"}
    assert identifier.identify("10.9.0.77").known == {}


def test_where_a_machine_stands_is_for_templates(arp: Path) -> None:
    entry = {
        "mac": "52:54:00:00:00:01",
        "labels": {"rack": "r1", "unit": 17},
        "bmc": "https://10.0.0.17/",
    }
    machines = parse_inventory([entry, {"mac": "52:54:00:00:00:02"}], "x")
    identity = make_identifier(machines, {}, None, arp).identify("10.9.0.11")
    assert identity.known == {
        "labels": {"rack": "r1", "unit": "17"},
        "bmc": "https://10.0.0.17/",
    }
    text = b"# jinja2\n[default]\nNOTE=rack {{ node.labels.rack | default('?') }}"
    text += b" {{ node.bmc | default('-') }}\n"
    template = LtsTemplate.parse(text)
    for known, note in ((identity.known, "rack r1 https://10.0.0.17/"), ({}, "rack ? -")):
        conf = template.render(make_facts(identity.node_id, **known))
        assert conf.resolve(identity.node_id)["NOTE"] == note
    with pytest.raises(LtsConfError, match=r"node\.labels\.row is undefined"):
        LtsTemplate.parse(b"# jinja2\n[default]\nA={{ node.labels.row }}\n").render(
            make_facts(identity.node_id, **identity.known)
        )


def test_a_claim_may_only_agree(arp: Path) -> None:
    identifier = make_identifier(INVENTORY, {}, None, arp)
    assert identifier.identify("10.9.0.11", "52-54-00-00-00-01").mac == "52:54:00:00:00:01"
    with pytest.raises(Refused, match="52:54:00:00:00:01"):
        identifier.identify("10.9.0.11", "52:54:00:00:00:02")
    with pytest.raises(Refused, match="not a MAC"):
        identifier.identify("10.9.0.11", "node-1")
    # Nothing is known of this address, so its claim counts for nothing.
    assert identifier.identify("10.9.0.77", "52:54:00:00:00:01").mac is None


def test_the_table_is_read_again_when_it_is_old(tmp_path: Path) -> None:
    now = 0.0
    file = tmp_path / "arp"
    file.write_text(ARP)
    table = CachedFile(file, parse_neighbours, seconds=1.0, clock=lambda: now)
    assert table.get("10.9.0.11")
    file.write_text("")
    assert table.get("10.9.0.11")
    now = 1.0
    assert table.get("10.9.0.11") is None
    file.unlink()
    now = 2.0
    assert table.get("10.9.0.11") is None


def test_secrets_go_by_the_table_as_it_is_now(tmp_path: Path) -> None:
    now = 0.0
    file = tmp_path / "arp"
    file.write_text(ARP)
    table = CachedFile(file, parse_neighbours, seconds=1.0, clock=lambda: now)
    identifier = Identifier(INVENTORY, {}, table, CachedFile(None, parse_hosts))
    assert identifier.identify("10.9.0.11").hostname == "node-1"
    file.write_text(ARP.replace("52:54:00:00:00:01", "52:54:00:00:00:66"))
    now = 0.01
    assert identifier.identify("10.9.0.11").mac == "52:54:00:00:00:01", "the copy serves"
    taker = identifier.identify("10.9.0.11", fresh=True)
    assert (taker.mac, taker.hostname) == ("52:54:00:00:00:66", None)


def test_who_is_not_in_the_table_is_looked_for_again_at_once(tmp_path: Path) -> None:
    now = 0.0
    file = tmp_path / "arp"
    file.write_text("")
    table = CachedFile(file, parse_neighbours, seconds=1.0, clock=lambda: now)
    assert table.get("10.9.0.11") is None
    file.write_text(ARP)
    assert table.get("10.9.0.11") is None, "within a breath the copy serves"
    now = 0.01
    assert table.get("10.9.0.11") == "52:54:00:00:00:01"


def test_a_table_that_is_long_to_read_is_not_read_for_each_stranger(tmp_path: Path) -> None:
    now = 0.0
    reads = []

    def parse_slowly(text: str) -> dict[str, str]:
        nonlocal now
        reads.append(now)
        now += 0.015
        return {}

    file = tmp_path / "arp"
    file.write_text("")
    table = CachedFile(file, parse_slowly, seconds=1.0, clock=lambda: now)
    while now < 1.0:
        table.get("10.8.0.7")
        now += 0.001
    assert 2 <= len(reads) <= 5, "a twentieth of the time at most"
