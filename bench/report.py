"""The table that a person reads."""

from statistics import median
from typing import Any, Final

BEGIN, END = "<!-- bench: written by `make bench` -->", "<!-- /bench -->"
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


def render_head(report: dict[str, Any]) -> str:
    """On which machine, and how."""
    machine = report["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB,"
        f" {machine['system']}, Linux {machine['kernel']}, Python {machine['python']}\n"
        f"{report['date']}, {report['runs']} interleaved runs of {report['seconds']:g} s,"
        f" load average before: {report['load_average'][0]}"
    )


def render_row(row: dict[str, Any]) -> str:
    """One row: its figures, and whether its goals are met; or why it could not be run."""
    if "error" in row:
        return f"{row['title']}\n  could not be run: {row['error']}"
    goals = [_render_goal(goal) for goal in row["goals"]]
    return "\n".join([row["title"], *_render_figures(row["figures"]), *goals])


def render_page(report: dict[str, Any]) -> str:
    """The goals as a table for docs/performance.md: medians of ours and of the best peer."""
    machine = report["machine"]
    lines = [
        f"{report['date']}: {machine['cores']} cores of an {machine['cpu']},"
        f" {machine['memory_gib']} GiB, {machine['system']}, Linux {machine['kernel']},"
        f" Python {machine['python']}; {report['runs']} interleaved runs of"
        f" {report['seconds']:g} s; load average before: {report['load_average'][0]}.",
        "",
        "| work | figure | ours | best peer | ratio (least..most) | goal |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        if "error" in row:
            lines.append(f"| {row['title']} | could not be run: {row['error']} | | | | |")
            continue
        title, ours = row["title"], next(iter(row["figures"]))
        shown = row["goals"] or [
            {"figure": key, "against": name}
            for name in list(row["figures"])[1:]
            for key in row["figures"][name][0]
        ]
        for goal in shown:
            key, peer = goal["figure"], goal["against"]
            mine, theirs = (
                median(run[key] for run in row["figures"][name]) for name in (ours, peer)
            )
            if "goal" in goal:
                sign = "≥" if goal["at_least"] else "≤"
                verdict = "met" if goal["met"] else "**not met**"
                ratio = f"{goal['ratio']:.2f} ({goal['least']:.2f}..{goal['most']:.2f})"
                aim = f"{sign} {goal['goal']:g}: {verdict}"
            else:
                ratio, aim = f"{mine / theirs:.2f}" if theirs else "", ""
            name = NAMES.get(key, key)
            lines.append(
                f"| {title} | {name} | {_short(mine)} | {peer} {_short(theirs)} | {ratio} | {aim} |"
            )
            title = ""
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
