"""The bars of `make test-floods`; the floods themselves are not for every run."""

from typing import Any

from tests.floods.__main__ import GROWTH_BYTES, Outcome, render
from tests.floods.attack import FLOODS
from tests.floods.honest import ASKED


def felt(median: float = 2.0, failed: int = 0) -> dict[str, Any]:
    one = {"count": 9, "failed": failed, "why": ["cut"] * failed, "median": median, "worst": 99.0}
    return dict.fromkeys(ASKED, one)


def judge(before: dict[str, Any], during: dict[str, Any], grown: int = 0) -> list[str]:
    return Outcome(FLOODS[0], before, during, (0, grown)).faults()


def test_what_is_as_it_was_meets_the_bars() -> None:
    assert judge(felt(), felt()) == []
    assert judge(felt(), felt(15.0)) == [], "of little, more than three times is noise"
    assert judge(felt(20.0), felt(60.0), GROWTH_BYTES) == []


def test_each_bar_is_looked_at() -> None:
    assert len(judge(felt(), felt(failed=1))) == len(ASKED)
    assert len(judge(felt(failed=1), felt())) == len(ASKED)
    assert judge(felt(), {**felt(), "NBD": felt(15.1)["NBD"]}) == [
        "NBD: median 15.1 ms, at most 15.0 were allowed"
    ]
    assert judge(felt(), felt(), GROWTH_BYTES + 1) == ["the server took 256 MiB more"]


def test_failures_stand_in_the_table() -> None:
    table = render([Outcome(FLOODS[0], felt(), felt(3.0, 2), (1 << 20, 2 << 20))], "2026-11-29")
    assert "2.0 → 3.0, 2 failed" in table
    assert "| 1 → 2 |" in table
