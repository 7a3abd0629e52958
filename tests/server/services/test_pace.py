from collections.abc import Callable

import pytest

from server.services.pace import Pace, Turns


class Loop:
    """Time by hand, and the timers that were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[str], None], arg: str) -> None:
        self.timers.append((self.now + delay, lambda: callback(arg)))

    def run_next(self) -> None:
        self.timers.sort(key=lambda timer: timer[0])
        self.now, call = self.timers.pop(0)
        call()


def test_who_waits_is_served_in_order_by_one_timer() -> None:
    loop, pace = Loop(), Pace(0.5, 0.0)
    turns = Turns(loop, pace)
    served: list[int] = []

    def serve(number: int) -> None:
        served.append(number)
        pace.spend("a", 0.125, loop.now)

    assert not turns.must_wait("a")
    serve(0)
    assert turns.must_wait("a")
    assert not turns.must_wait("b")
    for number in range(1, 1001):
        turns.wait("a", lambda number=number: serve(number))  # type: ignore[misc]
    assert len(loop.timers) == 1
    runs = 0
    while loop.timers:
        loop.run_next()
        runs += 1
        assert len(loop.timers) <= 1
    assert served == list(range(1001))
    assert runs == 1000
    assert loop.now == 0.25 * 1000
    assert turns.must_wait("a"), "what the last one cost"
    loop.now += 0.25
    assert not turns.must_wait("a")


def test_what_costs_nothing_goes_at_once_and_a_fault_holds_up_nobody() -> None:
    loop, pace = Loop(), Pace(0.5, 0.0)
    turns = Turns(loop, pace)
    served: list[str] = []
    pace.spend("a", 0.1, 0.0)

    def fail() -> None:
        raise RuntimeError("a bug")

    turns.wait("a", lambda: served.append("closed meanwhile"))
    turns.wait("a", fail)
    turns.wait("a", lambda: served.append("last"))
    with pytest.raises(RuntimeError):
        loop.run_next()
    loop.run_next()
    assert served == ["closed meanwhile", "last"]
    assert loop.timers == []
    assert not turns.must_wait("a")
