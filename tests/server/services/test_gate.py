import pytest

from server.services.gate import Gate, Proven
from server.services.ratelimit import RateLimit


@pytest.fixture
def gate() -> Gate:
    return Gate(RateLimit(1.0, 2.0), RateLimit(1.0, 5.0), RateLimit(1.0, 3.0))


def test_strangers_do_not_take_what_known_clients_have(gate: Gate) -> None:
    allowed = [gate.allow(f"10.0.0.{number}", 0.0, known=False) for number in range(9)]
    assert allowed == [True] * 5 + [False] * 4
    assert gate.allow("10.9.9.9", 0.0, known=True)
    assert gate.allow("10.0.0.99", 1.0, known=False)


def test_one_client_takes_its_own_share_and_what_is_spare(gate: Gate) -> None:
    assert [gate.allow("10.0.0.1", 0.0, known=True) for _ in range(7)] == [True] * 5 + [False] * 2
    assert gate.allow("10.0.0.2", 0.0, known=True)
    assert gate.allow("10.0.0.3", 0.0, known=False)


def test_without_anything_spare() -> None:
    gate = Gate(RateLimit(0.0, 1.0), RateLimit(0.0, 9.0))
    assert gate.allow("10.0.0.1", 0.0, known=True)
    assert not gate.allow("10.0.0.1", 0.0, known=True)


def test_who_answered_has_proved_itself_and_the_first_are_forgotten_first() -> None:
    proven = Proven(lambda address: address == "10.0.0.1", most=2)
    for address in ("10.0.0.2", "10.0.0.3", "10.0.0.2", "10.0.0.4"):
        proven.note(address)
    known = [address for address in (f"10.0.0.{n}" for n in range(1, 6)) if address in proven]
    assert known == ["10.0.0.1", "10.0.0.2", "10.0.0.4"]
