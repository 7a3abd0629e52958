import pytest

from server.services.throttle import Throttle, make_throttle


def test_a_seconds_worth_at_once_and_then_the_rate() -> None:
    throttle = Throttle("nbd", 1000.0)
    assert throttle.take("a", 1000, 5.0) == 0.0
    assert throttle.take("a", 500, 5.0) == pytest.approx(0.5)
    assert throttle.take("a", 0, 5.25) == pytest.approx(0.25)
    assert throttle.take("a", 0, 5.5) == 0.0
    assert throttle.take("a", 100, 5.5) == pytest.approx(0.1)
    # Idle time is not saved up beyond a second's worth.
    assert throttle.take("a", 1500, 500.0) == pytest.approx(0.5)


def test_addresses_do_not_pay_for_each_other() -> None:
    throttle = Throttle("nbd", 1000.0)
    assert throttle.take("a", 50_000, 0.0) == pytest.approx(49.0)
    assert throttle.take("b", 1000, 0.0) == 0.0


def test_bounded_memory() -> None:
    throttle = Throttle("nbd", 1000.0, max_keys=2)
    for client in ("a", "b", "c"):
        throttle.take(client, 5000, 0.0)
    assert throttle.take("a", 1, 0.0) == 0.0, "the one that was idle longest is forgotten"
    assert throttle.take("c", 1, 0.0) > 4.0


def test_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    throttle = Throttle("tftp", 1000.0)
    for now in (0.0, 1.0, 59.0, 61.0):
        throttle.take("10.9.0.5", 100_000, now)
    assert len(caplog.records) == 2
    assert "tftp: 10.9.0.5 wants more than tftp.limits.bytes_per_second (1000)" in caplog.text


def test_no_limit_no_throttle() -> None:
    assert make_throttle("nbd", 0.0) is None
    assert make_throttle("nbd", 1.0) is not None
