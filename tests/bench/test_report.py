"""What the bench says: the best peer, ratios run by run, the page's table."""

from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import record
from bench.place import BenchError
from bench.report import BEGIN, END, render_page, render_row
from bench.rows import Goal, Row
from bench.run import judge

MACHINE = {
    "cpu": "CPU",
    "cores": 2,
    "memory_gib": 24,
    "kernel": "6",
    "system": "Debian",
    "python": "3.11",
}
FIGURES = {
    "ours": [{"mib_per_s": 10.0}, {"mib_per_s": 30.0}, {"mib_per_s": 20.0}],
    "slow": [{"mib_per_s": 1.0}, {"mib_per_s": 90.0}, {"mib_per_s": 2.0}],
    "fast": [{"mib_per_s": 10.0}, {"mib_per_s": 10.0}, {"mib_per_s": 40.0}],
}


def make_row(goal: Goal) -> Row:
    return Row("key", "title", "mib_per_s", ("slow", "fast"), (goal,), lambda *_: {})


def make_report(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": MACHINE,
        "date": "2026-11-21",
        "runs": 3,
        "seconds": 1.0,
        "load_average": [0.1],
        "rows": list(rows),
    }


@pytest.mark.parametrize(
    ("factor", "at_least", "met"),
    [(1.0, True, True), (1.01, True, False), (1.0, False, True), (0.99, False, False)],
)
def test_ratio_is_the_median_of_those_of_each_run_with_the_best_peer(
    factor: float, at_least: bool, met: bool
) -> None:
    goal = Goal("mib_per_s", factor, at_least=at_least)
    judged = judge(goal, make_row(goal), FIGURES, "ours")
    assert judged["against"] == "fast"
    assert (judged["least"], judged["ratio"], judged["most"]) == (0.5, 1.0, 3.0)
    assert judged["met"] is met


def test_goal_may_be_against_one_peer() -> None:
    goal = Goal("mib_per_s", 2.0, at_least=True, against=("slow",))
    judged = judge(goal, make_row(goal), FIGURES, "ours")
    assert (judged["against"], judged["ratio"], judged["met"]) == ("slow", 10.0, True)


def test_the_page_has_losses_rows_without_goals_and_rows_that_could_not_be_run() -> None:
    goal = Goal("mib_per_s", 1.2, at_least=True)
    row = {
        "key": "key",
        "title": "title",
        "figures": FIGURES,
        "goals": [judge(goal, make_row(goal), FIGURES, "ours")],
    }
    free = {"key": "free", "title": "free", "figures": FIGURES, "goals": []}
    broken = {"key": "broken", "title": "broken", "error": "no gcc"}
    page = render_page(make_report(row, free, broken))
    assert (
        "| title | MiB/s | 20 | fast 10 | 1.00 (0.50..3.00) | ≥ 1.2: **not met** |"
    ) in page.splitlines()
    assert "| free | MiB/s | 20 | slow 2 | 10.00 |  |" in page.splitlines()
    assert "| broken | could not be run: no gcc | | | | |" in page.splitlines()
    assert "could not be run: no gcc" in render_row(broken)


def test_only_what_is_between_the_marks_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    record(make_report(), page)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n2026-11-21: ")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text
    page.write_text("no marks")
    with pytest.raises(BenchError, match="marks"):
        record(make_report(), page)
    assert page.read_text() == "no marks"
