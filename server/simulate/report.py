"""The storm in figures: the live table, the words at the end, and the JSON report."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from server.simulate.limits import Limits
from server.simulate.plan import SAMPLE, Plan
from server.simulate.tally import Result, Tally

FORMAT: Final = 1
"""Of the JSON report."""
MIB: Final = 1 << 20
REASONS: Final = 5
"""Failures of so many kinds are told; the JSON report has all."""


@dataclasses.dataclass(frozen=True)
class Storm:
    """All that is told of one. seconds: from the first start to the last end. interrupted: by
    Ctrl-C, so that it is told as far as it came."""

    plan: Plan
    nodes: int
    processes: int
    ramp: float
    tally: Tally
    limits: Limits
    alone: Result | None
    interrupted: bool = False

    @property
    def done(self) -> list[Result]:
        """Nodes that came up."""
        return [result for result in self.tally.results if not result.error]

    @property
    def failed(self) -> list[Result]:
        """Nodes that did not."""
        return [result for result in self.tally.results if result.error]

    @property
    def seconds(self) -> float:
        """From the first node's start to the last one's end."""
        results = self.tally.results
        if not results:
            return 0.0
        return max(r.ended for r in results) - min(r.started for r in results)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; 0 for none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def live_line(plan: Plan, tally: Tally, nodes: int, seconds: float, rate: float) -> str:
    """One line of the table: nodes by phase, MiB a second, nodes a minute, failures.

    seconds: since the start. rate: bytes a second since the line before.
    """
    done = sum(1 for result in tally.results if not result.error)
    failed = len(tally.results) - done
    phases = [f"{tally.phases.get(name, 0):>7}" for name in ("waiting", *plan.profile.phases)]
    minute = 60 * done / seconds if seconds > 0 else 0.0
    return (
        f"{seconds:>7.1f} {''.join(phases)} {done:>7} {failed:>6} {rate / MIB:>9.1f} {minute:>9.0f}"
    )


def live_head(plan: Plan) -> str:
    """The table's head."""
    phases = "".join(f"{name[:7]:>7}" for name in ("waiting", *plan.profile.phases))
    return f"{'seconds':>7} {phases} {'done':>7} {'failed':>6} {'MiB/s':>9} {'done/min':>9}"


def count_reasons(failed: Sequence[Result]) -> Counter[str]:
    """How many nodes failed for each reason."""
    return Counter(f"{result.phase}: {result.error}" for result in failed)


def say(storm: Storm) -> list[str]:
    """The end in words."""
    plan, tally, limits = storm.plan, storm.tally, storm.limits
    done, seconds = storm.done, max(storm.seconds, 1e-9)
    total = [result.ended - result.started for result in done]
    lines = [
        f"{len(done)} of {storm.nodes} nodes came up in {seconds:.1f} s:"
        f" {60 * len(done) / seconds:.0f} nodes a minute, {tally.bytes / seconds / MIB:.0f} MiB/s",
        f"a node took {percentile(total, 0.5):.1f} s (median),"
        f" {percentile(total, 0.99):.1f} s (p99)"
        + (f"; alone {storm.alone.ended - storm.alone.started:.1f} s" if storm.alone else ""),
    ]
    for phase in plan.profile.phases:
        times = [result.times.get(phase, 0.0) for result in done]
        lines.append(
            f"  {phase:<10} {percentile(times, 0.5):>8.2f} s {percentile(times, 0.99):>8.2f} s"
        )
    lines.append(
        f"checked: every length, {tally.checked_files} files and {tally.checked_reads} NBD reads"
        " by their SHA-256" + ("" if plan.expected.files else " (against nothing: --no-first-node)")
    )
    for reason, count in count_reasons(storm.failed).most_common(REASONS):
        lines.append(f"{count} failed: {reason}")
    lines.append(f"limited by {limits.verdict}: {limits.why}")
    if limits.server_cpu is not None:
        share = limits.server_cpu / max(len(done), 1)
        lines.append(f"server CPU: {limits.server_cpu:.1f} s, {share:.3f} s a node")
    return lines


def to_json(storm: Storm) -> dict[str, Any]:
    """The report of --json; docs/simulate.md explains it."""
    plan, tally = storm.plan, storm.tally
    done, seconds = storm.done, max(storm.seconds, 1e-9)
    total = [result.ended - result.started for result in done]

    def spread(values: Sequence[float]) -> dict[str, float]:
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        return {name: round(percentile(values, share), 4) for name, share in shares.items()}

    return {
        "format": FORMAT,
        "target": dataclasses.asdict(plan.target),
        "image": {"name": plan.image, "digest": plan.digest, "export": plan.export},
        "profile": {
            "name": plan.profile.name,
            "bytes": plan.profile.bytes,
            "steps": len(plan.steps),
        },
        "nodes": storm.nodes,
        "processes": storm.processes,
        "ramp_seconds": storm.ramp,
        "pace": plan.pace,
        "done": len(done),
        "failed": dict(count_reasons(storm.failed)),
        "seconds": round(seconds, 3),
        "nodes_per_minute": round(60 * len(done) / seconds, 2),
        "bytes": tally.bytes,
        "mib_per_second": round(tally.bytes / seconds / MIB, 2),
        "node_seconds": spread(total),
        "alone_seconds": round(storm.alone.ended - storm.alone.started, 4) if storm.alone else None,
        "phases": {
            phase: spread([result.times.get(phase, 0.0) for result in done])
            for phase in plan.profile.phases
        },
        "tftp_retransmissions": sum(result.retries for result in tally.results),
        "checked": {
            "files": tally.checked_files,
            "nbd_reads": tally.checked_reads,
            "every_nth": SAMPLE,
            "against_first_node": bool(plan.expected.files),
        },
        "client_cpu_seconds": round(tally.cpu, 3),
        "limits": dataclasses.asdict(storm.limits),
    }
