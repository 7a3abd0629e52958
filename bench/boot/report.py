"""The table of `make bench-boot` that a person reads."""

from statistics import median
from typing import Any, Final

BEGIN, END = "<!-- bench-boot: written by `make bench-boot` -->", "<!-- /bench-boot -->"
OURS, PEER = "bootfarm", "LTSP"
GOALS: Final = {"login": 0.45, "qemu_cpu": 0.5, "to_node": 0.5}
"""At most this part of LTSP's, by figure."""
PARTS: Final = (
    ("power-on to kernel", None, "kernel"),
    ("kernel to /init", "kernel", "init"),
    ("initramfs to systemd", "init", "systemd"),
    ("systemd to login", "systemd", "login"),
)
Round = dict[str, Any]


def figures_of(boot: Round) -> dict[str, float]:
    """What the table has of one boot: its sums, and its parts where both marks were seen."""
    marks = boot["marks"]
    found = {
        "login": marks["login"],
        "qemu_cpu": boot["cpu"]["login"],
        "to_node": boot["to_node"] / 1e6,
        "packets": boot["packets_to"] + boot["packets_from"],
        "server_cpu": boot["server_cpu"],
    }
    for title, begin, end in PARTS:
        if end in marks and (begin is None or begin in marks):
            for figure, values in (("s", marks), ("CPU s", boot["cpu"])):
                found[f"{title}, {figure}"] = values[end] - (values[begin] if begin else 0.0)
    return found


def render_page(report: dict[str, Any]) -> str:
    """Medians of every side for each firmware; ratios round by round, ours to LTSP's."""
    machine = report["machine"]
    lines = [
        f"{report['date']}: {machine['cores']} cores of an {machine['cpu']},"
        f" {machine['memory_gib']} GiB, {machine['system']}, Linux {machine['kernel']};"
        f" QEMU by TCG, one core and 1 GiB a machine; load average before:"
        f" {report['load_average']:.1f}.",
    ]
    for firmware in dict.fromkeys(boot["firmware"] for boot in report["rounds"]):
        boots = [boot for boot in report["rounds"] if boot["firmware"] == firmware]
        lines += ["", *_render_firmware(firmware, boots)]
    return "\n".join(lines)


def _render_firmware(firmware: str, boots: list[Round]) -> list[str]:
    sides = list(dict.fromkeys(boot["side"] for boot in boots))
    rounds = 1 + max(boot["round"] for boot in boots)
    values = {side: [figures_of(boot) for boot in boots if boot["side"] == side] for side in sides}
    lines = [
        f"| {firmware.upper()}, medians of {rounds} interleaved boots | {' | '.join(sides)} |"
        " ours to LTSP's (least..most) | goal |",
        "|---" * (len(sides) + 3) + "|",
    ]
    for key in values[OURS][0]:
        cells = [_number(median(row[key] for row in values[side] if key in row)) for side in sides]
        lines.append(f"| {_title(key)} | {' | '.join(cells)} | {_ratio(values, key)} |")
    return lines


def _ratio(values: dict[str, list[dict[str, float]]], key: str) -> str:
    """The cell of the ratio, and that of the goal."""
    pairs = zip(values[OURS], values.get(PEER, []), strict=False)
    ratios = sorted(
        ours[key] / peer[key] for ours, peer in pairs if ours.get(key) and peer.get(key)
    )
    if not ratios:
        return " | "
    middle = median(ratios)
    text = f"{middle:.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"
    if key not in GOALS:
        return f"{text} | "
    verdict = "met" if middle <= GOALS[key] else "missed"
    return f"{text} | ≤ {GOALS[key]}: {verdict}"


def _title(key: str) -> str:
    return {
        "login": "power-on to `login:`, s",
        "qemu_cpu": "QEMU's CPU s",
        "to_node": "MB to the machine",
        "packets": "packets, both ways",
        "server_cpu": "servers' CPU s",
    }.get(key, key)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
