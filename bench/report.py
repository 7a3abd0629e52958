"""The table that a person reads."""

from statistics import median
from typing import Any, Final

NAMES: Final = {
    "mib_per_s": "MiB/s",
    "requests_per_s": "requests/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "hot_p99_ms": "hot p99 ms",
    "quiet_p99_ms": "quiet p99 ms",
    "cpu_s_per_gib": "CPU s/GiB",
    "cpu_us_per_request": "CPU us/request",
    "bytes_per_node": "bytes/node",
    "greedy_mib_per_s": "greedy MiB/s",
    "hot_requests_per_s": "hot requests/s",
    "cpu_s": "CPU s",
}


def render(report: dict[str, Any]) -> str:
    """All rows: a line for each figure with the median and the spread of each server."""
    machine = report["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB,"
        f" {machine['system']}, Linux {machine['kernel']}, Python {machine['python']}",
        f"{report['date']}, {report['runs']} interleaved runs of {report['seconds']:g} s,"
        f" load average before and after: {report['load_average']}",
    ]
    for row in report["rows"]:
        lines += ["", row["title"]]
        lines += _render_figures(row["figures"])
        lines += [_render_goal(goal) for goal in row["goals"]]
    return "\n".join(lines)


def _render_figures(figures: dict[str, list[dict[str, float]]]) -> list[str]:
    keys = list(next(iter(figures.values()))[0])
    head = ["", *(NAMES.get(key, key) for key in keys)]
    table = [head]
    for server, runs in figures.items():
        cells = [server]
        for key in keys:
            values = [run[key] for run in runs]
            cells.append(f"{_short(median(values))} ({_short(min(values))}..{_short(max(values))})")
        table.append(cells)
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]


def _render_goal(goal: dict[str, Any]) -> str:
    sign = ">=" if goal["at_least"] else "<="
    verdict = "met" if goal["met"] else "NOT met"
    name = NAMES.get(goal["figure"], goal["figure"])
    return (
        f"  {name}: {goal['ratio']:.2f} of {goal['against']}'s"
        f" ({goal['least']:.2f}..{goal['most']:.2f}), goal {sign} {goal['goal']:g}: {verdict}"
    )


def _short(value: float) -> str:
    if value == 0 or value >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"
