"""One row: its servers in turn, A B C A B C, and what comes of it."""

import sys
from statistics import median
from typing import Any

from bench.data import chill
from bench.rows import HOT_BYTES, LOWER_IS_BETTER, Figures, Goal, Row, Scale
from bench.servers import Server, Servers

Result = dict[str, Any]


def run_row(row: Row, runs: int, scale: Scale, servers: Servers, ours: list[str]) -> Result:
    """Interleaved runs of a row by all its servers. The first of `ours` is held to the goals."""
    names = [*ours, *row.peers]
    all_servers = [servers.get(name) for name in names]
    figures: dict[str, list[Figures]] = {name: [] for name in names}
    count = min(runs, row.runs or runs)
    print(f"{row.title}: {count} runs of {', '.join(names)}", file=sys.stderr, flush=True)
    try:
        if not (row.cold or row.fresh):
            for server in all_servers:
                server.start()
        for _ in range(count):
            for server in all_servers:
                figures[server.name].append(_run_once(row, scale, server, servers))
    finally:
        for server in all_servers:
            server.stop()
    return {
        "key": row.key,
        "title": row.title,
        "main": row.main,
        "figures": figures,
        "goals": [judge(goal, row, figures, ours[0]) for goal in row.goals],
    }


def _run_once(row: Row, scale: Scale, server: Server, servers: Servers) -> Figures:
    if not (row.cold or row.fresh):
        return row.run(scale, server)
    if row.cold:
        chill(servers.data.image, HOT_BYTES)
    server.start()
    try:
        return row.run(scale, server)
    finally:
        server.stop()


def find_best(row: Row, figures: dict[str, list[Figures]], peers: tuple[str, ...]) -> str:
    """The peer whose median of the row's main figure is the best."""

    def score(name: str) -> float:
        value = median(run[row.main] for run in figures[name])
        return -value if row.main in LOWER_IS_BETTER else value

    return max(peers, key=score)


def judge(goal: Goal, row: Row, figures: dict[str, list[Figures]], ours: str) -> Result:
    """The median of the ratios, run by run, of ours to the best peer's; and whether it is met."""
    best = find_best(row, figures, goal.against or row.peers)
    ratios = [
        mine[goal.figure] / theirs[goal.figure] if theirs[goal.figure] else float("inf")
        for mine, theirs in zip(figures[ours], figures[best], strict=True)
    ]
    ratio = median(ratios)
    return {
        "figure": goal.figure,
        "against": best,
        "goal": round(goal.factor, 2),
        "at_least": goal.at_least,
        "ratio": ratio,
        "least": min(ratios),
        "most": max(ratios),
        "met": ratio >= goal.factor if goal.at_least else ratio <= goal.factor,
    }
