"""What `/metrics` says of the rollout that is under way; labels are states and phases, no more."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from server.rollout.state import PHASES, STATES, Rollout
from server.rollout.words import count_phases, count_waves


@dataclass(frozen=True)
class RolloutFacts:
    """rollout: the last one, over or not, or None. leads: this server carries it out.

    has_problem: the cluster refuses or does not answer, or something cannot be written.
    """

    rollout: Rollout | None = None
    leads: bool = False
    has_problem: bool = False


def describe_rollout(facts: RolloutFacts) -> Iterable[Metric]:
    """Every series at any time. Machines and waves are 0 where no rollout is under way."""
    rollout = facts.rollout
    going = rollout if rollout is not None and not rollout.is_over else None
    states = GaugeMetricFamily(
        "bootfarm_rollout_state",
        "1 for the state that the last rollout is in (docs/rollouts.md).",
        labels=["state"],
    )
    for state in STATES:
        states.add_metric([state], int(rollout is not None and rollout.state == state))
    yield states
    machines = GaugeMetricFamily(
        "bootfarm_rollout_machines",
        "Machines of the rollout that is under way, by phase.",
        labels=["phase"],
    )
    failed = GaugeMetricFamily(
        "bootfarm_rollout_failed_machines",
        "Those that did not do what they should, by the phase that they are in since.",
        labels=["phase"],
    )
    counts = count_phases(going) if going is not None else dict.fromkeys(PHASES, 0)
    bad = Counter(one.phase for one in going.machines.values() if one.failed) if going else {}
    for phase in PHASES:
        machines.add_metric([phase], counts[phase])
        failed.add_metric([phase], bad.get(phase, 0))
    yield machines
    yield failed
    yield GaugeMetricFamily(
        "bootfarm_rollout_wave",
        "The wave that is under way, from 1; 0: none.",
        going.wave + 1 if going is not None else 0,
    )
    yield GaugeMetricFamily(
        "bootfarm_rollout_waves",
        "Waves that it has.",
        count_waves(going.spec, len(going.machines)) if going is not None else 0,
    )
    yield GaugeMetricFamily(
        "bootfarm_rollout_leads", "1 where this server carries rollouts out.", int(facts.leads)
    )
    yield GaugeMetricFamily(
        "bootfarm_rollout_problem",
        "1 while rollouts are kept up: the cluster refuses or does not answer, or the disk.",
        int(facts.has_problem),
    )
