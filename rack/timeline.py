"""A node's boot as the server tells it (GET /api/nodes/<mac>), for people to read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imagebuild.store.shown import format_size

ALL_LINES = "all_lines"
"""The cause (server.causes) with which the phase rcfile ends well."""


@dataclass(frozen=True)
class Row:
    """One phase of a boot. at, end: seconds since the power-on when it was first
    and last seen."""

    phase: str
    at: float
    end: float
    status: str
    bytes: int = 0
    detail: str = ""


def rows_of(timeline: Mapping[str, Any], powered_on_at: float) -> list[Row]:
    """The phases of the present boot in their order; none before the first event."""
    boot = timeline.get("boot")
    if not boot:
        return []
    return [
        Row(
            phase,
            max(0.0, float(seen["first"]) - powered_on_at),
            max(0.0, float(seen["last"]) - powered_on_at),
            str(seen["status"]),
            int(seen.get("bytes", 0)),
            str(seen.get("detail", "")),
        )
        for phase, seen in boot["phases"].items()
        # What was seen before the power-on is the boot before this one.
        if float(seen["last"]) >= powered_on_at - 1.0
    ]


def is_up(timeline: Mapping[str, Any], powered_on_at: float) -> bool:
    """Whether the node itself has said, since its power-on, that its system runs, and that
    its RCFILE_* lines have all been run or one has failed.

    Not by the console: the kernel prints there whenever it likes, also behind `login: `.
    """
    seen = {row.phase for row in rows_of(timeline, powered_on_at)}
    if not {"systemd", "rcfile"} <= seen:
        return False
    # Not the phase systemd's own status: units that nothing waits for may still be starting.
    rcfile = timeline["boot"]["phases"]["rcfile"]
    return bool(rcfile["status"] == "error" or rcfile.get("cause") == ALL_LINES)


def describe_timeline(timeline: Mapping[str, Any]) -> str:
    """One line: the phases that were reached, and an error that was told."""
    boot = timeline.get("boot")
    if not boot or not boot["phases"]:
        return "nothing of this boot"
    started = float(boot["started"])
    words = [
        f"{phase} at {float(seen['first']) - started:.1f} s"
        + ("" if seen["status"] != "error" else " (ERROR)")
        for phase, seen in boot["phases"].items()
    ]
    error = str(timeline.get("error") or "")
    return ", ".join(words) + (f"; error: {error}" if error else "")


def name_bytes(row: Row) -> str:
    """The bytes that a phase served, in words; "" for none."""
    return format_size(row.bytes) if row.bytes else ""


def render_rows(rows: Sequence[Row]) -> str:
    """The table's text: phase, seconds from power-on, how long until the next, what was served."""
    lines = [f"{'phase':<10} {'at':>7} {'took':>7}  {'':<7} what"]
    for index, row in enumerate(rows):
        after = rows[index + 1].at if index + 1 < len(rows) else row.end
        took = max(0.0, after - row.at)
        what = " ".join(word for word in (name_bytes(row), row.detail) if word)
        line = f"{row.phase:<10} {row.at:>6.1f}s {took:>6.1f}s  {row.status:<7} {what}"
        lines.append(line.rstrip())
    return "\n".join(lines)
