import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.dhcp_leases import Lease, LeaseTable, dump_lease, parse_lease

A, B, C, D = (f"52:54:00:00:00:0{number}" for number in range(1, 5))


def make(count: int = 2, **options: object) -> LeaseTable:
    return LeaseTable("10.9.1.1", f"10.9.1.{count}", **options)  # type: ignore[arg-type]


def bind(table: LeaseTable, mac: str, now: float, seconds: float = 100.0) -> str:
    address = table.offer(mac, None, now)
    assert address is not None
    assert table.confirm(mac, address, seconds, now)
    return address


def test_each_machine_gets_its_own_address_and_keeps_it() -> None:
    table = make()
    first, second = bind(table, A, 0), bind(table, B, 0)
    assert {first, second} == {"10.9.1.1", "10.9.1.2"}
    assert table.offer(A, None, 50) == first
    assert table.offer(A, second, 50) == first


def test_an_empty_range_gives_none_until_a_lease_ends() -> None:
    table = make()
    first = bind(table, A, 0, 100)
    bind(table, B, 0, 200)
    assert table.offer(C, None, 99) is None
    assert table.offer(C, None, 100) == first
    assert table.find(A) is None


def test_a_renewed_lease_is_not_given_away_at_its_first_end() -> None:
    table = make(1)
    address = bind(table, A, 0, 100)
    assert table.confirm(A, address, 100, 50)
    assert table.offer(B, None, 120) is None
    assert table.offer(B, None, 150) == address


def test_an_offer_is_held_for_a_minute_only() -> None:
    table = make(1)
    assert table.offer(A, None, 0) == "10.9.1.1"
    assert table.offer(B, None, 59) is None
    assert table.offer(B, None, 60) == "10.9.1.1"
    assert not table.confirm(A, "10.9.1.1", 100, 61)


def test_a_machine_comes_back_to_the_address_it_had() -> None:
    table = make(9)
    bind(table, A, 0)
    mine = bind(table, B, 0)
    assert table.offer(B, "10.9.1.8", 5000) == mine


def test_a_wanted_address_is_given_when_it_is_free_and_in_the_range() -> None:
    table = make(9)
    assert table.offer(A, "10.9.1.7", 0) == "10.9.1.7"
    assert table.offer(B, "10.9.1.7", 0) == "10.9.1.1"
    assert table.offer(C, "10.8.1.1", 0) == "10.9.1.2"


def test_nobody_can_take_bind_release_or_decline_the_address_of_another() -> None:
    table = make()
    mine = bind(table, A, 0)
    assert not table.confirm(B, mine, 100, 1)
    assert not table.release(B, mine, 1)
    assert not table.decline(B, mine, 1)
    lease = table.find(A)
    assert lease is not None
    assert (lease.address, lease.state) == (mine, "bound")


def test_a_released_address_is_free_at_once() -> None:
    table = make(1)
    mine = bind(table, A, 0)
    assert table.release(A, mine, 1)
    assert table.offer(B, None, 1) == mine


def test_a_declined_address_is_set_aside_for_a_while() -> None:
    table = make(2)
    bad = bind(table, A, 0)
    assert table.decline(A, bad, 1)
    assert not table.decline(A, bad, 2)
    other = bind(table, A, 2, 10_000)
    assert other != bad
    assert table.offer(B, bad, 600) is None
    assert table.offer(B, None, 601) == bad


def test_an_offer_that_was_not_taken_can_be_withdrawn() -> None:
    table = make(1)
    table.offer(A, None, 0)
    table.withdraw(A, 1)
    assert table.offer(B, None, 1) == "10.9.1.1"


def test_withdrawing_does_not_end_a_lease() -> None:
    table = make(1)
    bind(table, A, 0)
    table.withdraw(A, 1)
    assert table.offer(B, None, 1) is None


def test_reserved_addresses_are_for_their_machines_alone() -> None:
    table = make(2, reserved={A: "10.9.1.1", B: "10.9.9.9"})
    assert table.offer(C, "10.9.1.1", 0) == "10.9.1.2"
    assert table.offer(D, None, 0) is None
    assert table.offer(A, None, 0) == "10.9.1.1"
    assert table.offer(B, "10.9.1.2", 0) == "10.9.9.9"
    assert not table.confirm(C, "10.9.9.9", 100, 0)
    assert not table.confirm(A, "10.9.1.2", 100, 1000)


def test_excluded_addresses_are_never_given() -> None:
    table = make(2, excluded=("10.9.1.1",))
    assert table.offer(A, "10.9.1.1", 0) == "10.9.1.2"
    assert not table.confirm(B, "10.9.1.1", 100, 0)


def test_a_machine_that_moves_to_another_address_frees_the_first() -> None:
    table = make(2)
    first = bind(table, A, 0)
    other = "10.9.1.2" if first == "10.9.1.1" else "10.9.1.1"
    assert table.confirm(A, other, 100, 1)
    assert table.offer(B, None, 1) == first


@pytest.mark.parametrize(("first", "last"), [("10.9.1.2", "10.9.1.1"), ("10.0.0.0", "10.1.0.0")])
def test_a_range_is_1_to_65536_addresses(first: str, last: str) -> None:
    with pytest.raises(ValueError, match="is not a range"):
        LeaseTable(first, last)


def test_leases_survive_a_restart_and_offers_do_not() -> None:
    lines: list[str] = []
    table = make(9, record=lambda lease: lines.append(dump_lease(lease)))
    kept, gone = bind(table, A, 0), bind(table, B, 0)
    table.offer(C, None, 0)
    table.release(B, gone, 1)
    again = make(9)
    assert again.restore([*lines, "{", '{"address": "x"}', '"text"']) == 3
    assert again.find(A) == Lease(kept, A, 100, "bound")
    assert again.find(C) is None
    assert again.offer(D, gone, 2) == gone


def test_leases_outside_of_a_new_range_are_forgotten() -> None:
    again = make(1)
    assert again.restore([dump_lease(Lease("10.9.1.2", A, 9e9, "bound"))]) == 0
    assert again.find(A) is None


def test_a_line_of_wrong_types_is_none() -> None:
    good = {"address": "10.9.1.1", "mac": A, "until": 100.0, "state": "bound"}
    assert parse_lease(json.dumps(good)) == Lease("10.9.1.1", A, 100.0, "bound")
    declined = Lease("10.9.1.2", "", 100.0, "declined")
    assert parse_lease(dump_lease(declined)) == declined
    wrong: dict[str, tuple[object, ...]] = {
        "address": (5, None, "10.9.1.256", "10.9.1.1/24", []),
        "mac": (5, None, "xx", "52-54-00-00-00-01", []),
        "until": (None, "x", [], float("nan"), float("inf"), 10**400),
        "state": (None, "bond", [], 5),
    }
    for key, values in wrong.items():
        for value in values:
            assert parse_lease(json.dumps({**good, key: value})) is None, (key, value)
    assert parse_lease("[" * 100_000) is None


@given(st.text())
def test_any_line_is_a_lease_or_none(line: str) -> None:
    lease = parse_lease(line)
    assert lease is None or parse_lease(dump_lease(lease)) == lease


steps = st.tuples(
    st.sampled_from(["offer", "confirm", "release", "decline", "withdraw", "wait"]),
    st.sampled_from([A, B, C, D]),
    st.integers(0, 4),
)


@given(st.lists(steps, max_size=60))
def test_no_address_is_ever_bound_to_two_machines(plan: list[tuple[str, str, int]]) -> None:
    table = make(3, reserved={D: "10.9.1.3"}, offer_seconds=10.0, decline_seconds=20.0)
    now = 0.0
    bound: dict[str, tuple[str, float]] = {}  # address: machine that was told so, until
    for step, mac, number in plan:
        address = f"10.9.1.{number}"
        if step == "offer":
            given = table.offer(mac, address, now)
            if given is not None:
                holder, until = bound.get(given, ("", 0.0))
                assert holder in ("", mac) or until <= now
        elif step == "confirm":
            if table.confirm(mac, address, 30.0, now):
                holder, until = bound.get(address, ("", 0.0))
                assert holder in ("", mac) or until <= now
                bound = {key: value for key, value in bound.items() if value[0] != mac}
                bound[address] = (mac, now + 30.0)
                assert 1 <= number <= 3
                assert (number == 3) == (mac == D)
        elif step in ("release", "decline"):
            if getattr(table, step)(mac, address, now):
                bound.pop(address, None)
        elif step == "withdraw":
            table.withdraw(mac, now)
        else:
            now += 7.0 * number
        assert len(table) <= 3
        macs = [lease.mac for lease in table if lease.mac]
        assert len(macs) == len(set(macs))


def test_a_full_range_is_searched_in_constant_memory() -> None:
    table = make(3)
    for turn in range(2000):
        for mac in (A, B, C):
            bind(table, mac, turn)
    assert len(table._ends) <= 4 * (2 + 16)
    assert table.offer(D, None, 5000) is not None


def test_a_reserved_address_is_not_set_aside() -> None:
    table = make(2, reserved={A: "10.9.1.1"})
    assert table.offer(A, None, 0.0) == "10.9.1.1"
    assert table.decline(A, "10.9.1.1", 1.0)
    assert table.offer(A, None, 2.0) == "10.9.1.1"
    assert table.confirm(A, "10.9.1.1", 100.0, 3.0)
    assert not table.decline(B, "10.9.1.1", 4.0)


def test_reservations_may_change_while_it_runs() -> None:
    table = LeaseTable("10.9.1.1", "10.9.1.2", reserved={A: "10.9.1.1", B: "10.9.2.7"})
    assert table.offer(C, None, 0.0) == "10.9.1.2"
    assert table.confirm(C, "10.9.1.2", 3600.0, 0.0)
    assert table.offer(B, None, 0.0) == "10.9.2.7"
    # The address that C has belongs to B now, and A's is anybody's.
    table.reserve({B: "10.9.1.2"})
    assert not table.confirm(C, "10.9.1.2", 3600.0, 1.0), "C is refused when it renews"
    assert table.offer(B, None, 1.0) == "10.9.1.2"
    assert table.offer(C, None, 1.0) == "10.9.1.1"
    assert not table.is_reserved("10.9.2.7")
    table.reserve({})
    assert table.confirm(B, "10.9.1.2", 3600.0, 2.0), "who has it keeps it"
    assert table.offer(A, None, 2.0) is None
    assert table.offer(A, None, 5000.0) in ("10.9.1.1", "10.9.1.2"), "it is given on when it ends"
