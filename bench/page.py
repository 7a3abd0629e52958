"""The status page: its bytes and the time to render it, with few nodes and with many."""

import time
from statistics import median
from typing import Any, Final

from server.events import Event
from server.nodes.timelines import Nodes
from server.observe.overview import Overview
from server.web.page import render_nodes

FEW: Final = 100
MANY: Final = 10_000
GOAL: Final = 3.0
"""So many times the time with FEW nodes, at most."""
PAGE: Final = "page"
PAGE_TITLE: Final = f"the status page with {MANY} nodes and with {FEW}"
PHASES: Final = ("init", "root", "join", "ready")
HEALTH: Final = {"status": "ok", "problems": [], "images": {}, "services": {}, "nodes": 0}


def make_overview(count: int, now: float) -> Overview:
    """A farm of `count` nodes in all states."""
    nodes = Nodes(limit=MANY)
    overview = Overview(nodes)
    for number in range(count):
        node = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        phase = PHASES[number % len(PHASES)]
        nodes.record(Event(now - number % 60, node, "beacon", phase, {}))
    for _ in range(count):
        overview.turn(now)
    return overview


def measure_page(runs: int) -> dict[str, Any]:
    """A row of the bench: interleaved renderings of the first page of both farms."""
    now = time.time()
    farms = {f"{count} nodes": make_overview(count, now) for count in (MANY, FEW)}
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in farms}
    for run in range(20 * runs + 1):
        for name, overview in farms.items():
            began = time.process_time()
            response = render_nodes(overview, HEALTH, {}, now)
            took = time.process_time() - began
            if run:  # the first one compiles the template
                size = len(response.body)
                figures[name].append({"ms": took * 1e3, "bytes": float(size)})
    goals = []
    for figure in ("ms", "bytes"):
        ratios = [
            many[figure] / few[figure]
            for many, few in zip(figures[f"{MANY} nodes"], figures[f"{FEW} nodes"], strict=True)
        ]
        goals.append(
            {
                "figure": figure,
                "against": f"{FEW} nodes",
                "goal": GOAL,
                "at_least": False,
                "ratio": median(ratios),
                "least": min(ratios),
                "most": max(ratios),
                "met": median(ratios) <= GOAL,
            }
        )
    return {
        "key": PAGE,
        "title": PAGE_TITLE,
        "main": "ms",
        "figures": figures,
        "goals": goals,
    }
