"""Token buckets."""

from server.services.ratelimit import RateLimit


def test_burst_then_rate() -> None:
    limit = RateLimit(rate=2, burst=3)
    assert [limit.allow("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert not limit.allow("a", 0.4)
    assert limit.allow("a", 0.5)
    assert not limit.allow("a", 0.5)
    assert [limit.allow("a", 100.0) for _ in range(4)] == [True, True, True, False]


def test_keys_do_not_share() -> None:
    limit = RateLimit(rate=1, burst=1)
    assert limit.allow("a", 0.0)
    assert limit.allow("b", 0.0)
    assert not limit.allow("a", 0.0)


def test_cost() -> None:
    limit = RateLimit(rate=10, burst=100)
    assert limit.allow("a", 0.0, cost=90)
    assert not limit.allow("a", 0.0, cost=20)
    assert limit.allow("a", 1.0, cost=20)


def test_a_clock_that_stands_still_or_jumps_back_does_no_harm() -> None:
    limit = RateLimit(rate=1, burst=1)
    assert limit.allow("a", 10.0)
    assert not limit.allow("a", 5.0)


def test_memory_is_bounded_and_the_idle_go_first() -> None:
    limit = RateLimit(rate=0.001, burst=1, max_keys=3)
    for key in "abc":
        assert limit.allow(key, 0.0)
    assert not limit.allow("a", 1.0)  # a was seen again
    assert limit.allow("d", 1.0)  # b is forgotten
    assert not limit.allow("a", 1.0)
    assert limit.allow("b", 1.0)
    assert len(limit._buckets) == 3
