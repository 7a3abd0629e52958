import threading

import pytest

from server.background import Background
from server.errors import ServerError


def test_what_is_quick_is_waited_for() -> None:
    background = Background(seconds=30)
    job = background.submit(lambda: 6 * 7)
    assert background.wait(job)
    assert job.outcome == 42


def test_an_exception_is_an_outcome() -> None:
    background = Background(seconds=30)
    job = background.submit(lambda: 1 // 0)
    assert background.wait(job)
    assert isinstance(job.outcome, ZeroDivisionError)
    assert background.wait(background.submit(lambda: 1)), "the thread goes on"


def test_a_slow_job_is_waited_for_once() -> None:
    background = Background(seconds=0.01)
    gate = threading.Event()
    slow = background.submit(gate.wait)
    assert not background.wait(slow)
    # From here on a wait would be for ever, if there were one.
    background._seconds = threading.TIMEOUT_MAX
    quick = background.submit(lambda: "quick")
    assert not background.wait(quick)
    assert not background.wait(slow)
    gate.set()
    assert slow.done.wait(30)
    assert background.wait(quick)
    assert quick.outcome == "quick"


def test_a_job_that_nobody_wants_is_not_done() -> None:
    background = Background(seconds=30)
    gate = threading.Event()
    background.submit(gate.wait)
    job = background.submit(lambda: pytest.fail("was done"))
    job.cancelled = True
    gate.set()
    assert background.wait(job)
    assert isinstance(job.outcome, ServerError)
