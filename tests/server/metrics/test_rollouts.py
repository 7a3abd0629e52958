from dataclasses import replace

from server.metrics.metrics import Metrics
from server.metrics.rollouts import RolloutFacts
from server.rollout.state import BACK, DONE, ON_HOLD, PHASES, STATES, Rollout
from tests.server.metrics.scrape import Scrape, scrape
from tests.server.metrics.test_metrics import present
from tests.server.rollout.world import SICK, make


def see(facts: RolloutFacts) -> Scrape:
    return scrape(Metrics(replace(present(), rollout=lambda: facts), max_nodes=1))


def states(seen: Scrape) -> set[str]:
    return {name for name in STATES if seen.get("bootfarm_rollout_state", state=name) == 1}


def count(seen: Scrape, metric: str) -> dict[str, float | None]:
    """By phase, those that are not 0; every phase has its series at any time."""
    found = {phase: seen.get(metric, phase=phase) for phase in PHASES}
    return {phase: number for phase, number in found.items() if number != 0}


def test_without_a_rollout_all_series_are_there_and_0() -> None:
    seen = see(RolloutFacts())
    assert states(seen) == set()
    assert count(seen, "bootfarm_rollout_machines") == {}
    assert seen.get("bootfarm_rollout_wave") == seen.get("bootfarm_rollout_leads") == 0


def held() -> Rollout:
    """One machine of four is back by itself."""
    world, rollout = make(4, wrong={"node-1": SICK})
    while rollout.state != ON_HOLD or rollout.machines["52:54:00:00:00:00"].phase != BACK:
        rollout = world.turn(rollout)
    return rollout


def test_a_rollout_that_holds() -> None:
    seen = see(RolloutFacts(held(), leads=True, has_problem=True))
    assert states(seen) == {ON_HOLD}
    assert count(seen, "bootfarm_rollout_machines") == {"back": 1, "waiting": 3}
    assert count(seen, "bootfarm_rollout_failed_machines") == {"back": 1}
    assert (seen.get("bootfarm_rollout_wave"), seen.get("bootfarm_rollout_waves")) == (1, 3)
    assert (seen.get("bootfarm_rollout_leads"), seen.get("bootfarm_rollout_problem")) == (1, 1)


def test_one_that_is_over_counts_no_machines() -> None:
    seen = see(RolloutFacts(replace(held(), state=DONE), leads=True))
    assert states(seen) == {DONE}
    assert count(seen, "bootfarm_rollout_machines") == {}
    assert count(seen, "bootfarm_rollout_failed_machines") == {}
