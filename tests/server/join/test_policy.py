"""Whether a machine may have a certificate: by what is known of it, never by what it says."""

import dataclasses

import pytest

from server.farm.inventory import Inventory, Machine
from server.join.policy import (
    Lease,
    Refusal,
    judge_count,
    judge_lease,
    judge_name,
    name_csr,
    name_machine,
    shorten_key,
)
from server.machines.identity import CachedFile, Identifier, Identity, parse_hosts, parse_neighbours
from tests.server.join.cluster import BOOT, MAC, NOW, make_request

OTHER = "52:54:00:00:00:02"
STRANGER = "52:54:00:00:00:99"
LIST = Inventory(
    (
        Machine(MAC, "10.9.0.11", "Node-1"),
        Machine(OTHER, "10.9.0.12", None),
        Machine("52:54:00:00:00:03", None, "node-525400000099"),
    )
)


def known(mac: str | None, how: str = "neighbour table", hostname: str | None = None) -> Identity:
    return Identity("10.9.0.11", mac, hostname, how)


def cause_of(result: str | Refusal | None) -> str:
    assert isinstance(result, Refusal)
    return result.cause


def test_a_listed_machine_has_the_inventorys_name() -> None:
    assert name_machine(known(MAC), LIST, "listed") == "node-1"
    assert name_machine(known(MAC, "address_map of farm.yaml"), LIST, "listed") == "node-1"
    # Without a name there it calls itself by its MAC.
    assert name_machine(known(OTHER), LIST, "listed") == "node-525400000002"


def test_a_name_of_the_hosts_file_counts_for_nothing() -> None:
    """The address of a machine that is off, taken by one that the inventory does not have."""
    neighbours = f"IP\n10.9.0.11 0x1 0x2 {STRANGER} * eth0\n10.9.0.77 0x1 0x2 {STRANGER} * eth0\n"
    identifier = Identifier(
        LIST,
        {},
        CachedFile(None, parse_neighbours),
        CachedFile(None, parse_hosts),
    )
    identifier._neighbours._table = parse_neighbours(neighbours)
    identifier._hosts._table = parse_hosts("10.9.0.77 node-7\n")
    identity = identifier.identify("10.9.0.77")
    assert identity.hostname == "node-7"
    assert cause_of(name_machine(identity, LIST, "listed")) == "join_not_listed"
    assert name_machine(identity, Inventory(), "any") == "node-525400000099"
    # Another's address: its own MAC is what counts.
    assert name_machine(identifier.identify("10.9.0.11"), Inventory(), "any") == "node-525400000099"


@pytest.mark.parametrize(
    "identity",
    [
        known(None, ""),
        known(MAC, "inventory"),  # by its address alone
        known(MAC, ""),
    ],
)
@pytest.mark.parametrize("machines", ["listed", "any"])
def test_without_a_mac_that_was_seen_there_is_none(identity: Identity, machines: str) -> None:
    assert cause_of(name_machine(identity, LIST, machines)) == "join_not_listed"


def test_any_machine_gets_no_name_that_the_inventory_gave_another() -> None:
    assert cause_of(name_machine(known(STRANGER), LIST, "listed")) == "join_not_listed"
    assert cause_of(name_machine(known(STRANGER), LIST, "any")) == "join_name"
    assert name_machine(known(STRANGER), Inventory(), "any") == "node-525400000099"


def test_a_request_is_for_its_sender() -> None:
    request = make_request("node-1")
    assert judge_name(request, "node-1", MAC) is None
    refusal = judge_name(request, "node-2", OTHER)
    assert refusal is not None
    assert refusal.cause == "join_name"
    assert refusal.words == (
        f"the request is for system:node:node-1, and this machine ({OTHER}) is node-2"
    )


@pytest.mark.parametrize(
    ("age", "watched", "cause", "left"),
    [
        (0.0, 0.0, "join_alive", 40),
        (14.9, 39.9, "join_alive", 1),
        # However old it looks by the clocks of node and server: a starved kubelet is late, and a
        # clock may be wrong.
        (15.0, 0.0, "join_watched", 25),
        (39.0, 15.0, "join_watched", 1),
        (40.0, 0.0, "join_watched", 15),
        (900.0, 14.5, "join_watched", 1),
        (NOW - 1, 14.5, "join_watched", 1),
        # The node's clock runs ahead.
        (-5.0, 0.0, "join_alive", 40),
        (-7200.0, 39.5, "join_alive", 1),
    ],
)
def test_a_kubelet_that_may_live(age: float, watched: float, cause: str, left: int) -> None:
    lease = Lease("7", NOW - age)
    refusal = judge_lease("node-1", lease, NOW, 15.0, watched)
    assert refusal is not None
    assert refusal.cause == cause
    if cause == "join_alive":
        assert f"renewed its lease {max(age, 0):.0f} s ago" in refusal.words
        assert refusal.wait == 0
    else:
        assert f"looks {age:.0f} s old" in refusal.words
        assert f"within the next {left} s" in refusal.words
        assert refusal.wait == min(5, left)
    assert judge_lease("node-1", lease, NOW + left, 15.0, watched + left) is None


def test_a_lease_that_its_own_node_let_go() -> None:
    assert judge_lease("node-1", Lease("7", 0.0), NOW, 15.0) is None
    # Not what a kubelet writes whose clock begins with the epoch.
    for renewed in (0.000001, 1.0, -1.0):
        assert cause_of(judge_lease("node-1", Lease("7", renewed), NOW, 15.0)) == "join_watched"


def test_a_kubelet_that_renews_more_rarely() -> None:
    lease = Lease("7", NOW - 30.0, 120.0)  # each 30 seconds
    assert cause_of(judge_lease("node-1", lease, NOW + 90.0, 15.0, 34.9)) == "join_watched"
    assert judge_lease("node-1", lease, NOW + 90.0, 15.0, 35.0) is None
    usual = dataclasses.replace(lease, duration=40.0)
    assert judge_lease("node-1", usual, NOW + 10.0, 15.0, 15.0) is None
    assert judge_lease("node-1", None, NOW, 15.0) is None


def test_what_the_timeline_remembers_of_a_boot() -> None:
    request = make_request()
    mine, other = shorten_key(request.key), "0" * 16
    assert judge_count(request, BOOT, "", 1) is None
    assert judge_count(request, BOOT, mine, 1) is None
    assert cause_of(judge_count(request, BOOT, other, 1)) == "join_twice"
    assert judge_count(request, BOOT, other, 2) is None
    assert judge_count(request, BOOT, f"{other} {mine}", 2) is None
    assert cause_of(judge_count(request, BOOT, f"{other} {'1' * 16}", 2)) == "join_twice"
    assert judge_count(request, "another-boot", other, 1) is None


def test_one_name_for_each_boot_of_each_machine() -> None:
    request = make_request()
    name = name_csr(MAC, request)
    assert name == name_csr(MAC, make_request()), "whatever its key"
    others = {
        name_csr(OTHER, request),
        name_csr(MAC, make_request(boot="another-boot")),
        name_csr(MAC, make_request("node-2")),
        name_csr(MAC, request, slot=1),
        name_csr(MAC, request, renewal=1),
    }
    assert len(others | {name}) == 6
    assert name.startswith("bootfarm-")
    assert len(name) < 64
