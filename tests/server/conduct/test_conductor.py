from pathlib import Path

import pytest

from imagebuild.store.images import Store
from server.errors import ServerError
from server.rollout.spec import SpecError
from server.rollout.state import (
    BACK,
    DONE,
    GATE,
    LEFT,
    ON_HOLD,
    PROVEN,
    REBOOTING,
    UNDONE,
    WAITING,
    StateError,
    pack,
)
from server.rollout.step import OrderError
from tests.server.conduct.small import SmallFarm

CANDIDATE = {"image": "amd64:candidate", "waves": "1,100%", "max_unavailable": "2"}


@pytest.fixture
def farm(tmp_path: Path) -> SmallFarm:
    return SmallFarm(tmp_path)


def test_people_reboot_machine_by_machine_until_the_tag_moves(farm: SmallFarm) -> None:
    target, before = farm.digest("candidate"), farm.digest("current")
    farm.conductor.start(CANDIDATE)
    farm.turn()
    assert farm.phases() == [REBOOTING, WAITING, WAITING]
    # A machine that is not reached yet boots what lts.conf says.
    assert farm.boot(farm.machines[2]) == before
    assert farm.boot(farm.machines[0]) == target
    farm.turn(4)
    assert farm.phases() == [PROVEN, REBOOTING, REBOOTING]
    assert farm.digest("current") == before
    for machine in farm.machines[1:]:
        assert farm.boot(machine) == target
    farm.turn(6)
    assert farm.conductor.rollout is not None
    assert farm.conductor.rollout.state == DONE
    assert farm.digest("current") == target
    assert farm.digest("previous") == before
    assert not farm.overlay.pins


def test_a_bad_image_is_pinned_back_with_the_findings_own_words(farm: SmallFarm) -> None:
    before = farm.digest("current")
    farm.sick = {machine.mac for machine in farm.machines}
    farm.conductor.start(CANDIDATE)
    farm.turn()
    farm.boot(farm.machines[0])
    farm.turn(4)
    rollout = farm.conductor.rollout
    assert rollout is not None
    assert rollout.state == ON_HOLD
    assert rollout.reason.startswith("node-1: ")
    assert "kubelet is dead" in rollout.reason or "join" in rollout.reason.lower()
    assert farm.phases() == [REBOOTING, WAITING, WAITING]
    assert farm.boot(farm.machines[0]) == before
    farm.turn(6)
    assert farm.phases() == [BACK, WAITING, WAITING]
    assert farm.digest("current") == before


def test_a_server_that_starts_again_goes_on_where_it_was(farm: SmallFarm) -> None:
    farm.conductor.start(CANDIDATE)
    farm.turn()
    before, overlay = farm.conductor.rollout, farm.overlay
    farm.overlay = type(overlay)()
    farm.conductor = farm.make_conductor()
    assert farm.conductor.rollout == before
    assert farm.overlay == overlay
    assert farm.boot(farm.machines[0]) == farm.digest("candidate")
    farm.turn(4)
    assert farm.phases()[0] == PROVEN


def test_what_nbd_says_has_to_agree(farm: SmallFarm) -> None:
    farm.conductor.start(CANDIDATE)
    farm.turn()
    farm.boot(farm.machines[0])
    farm.attached = {farm.digest("current"): [farm.machines[0].mac]}
    farm.turn(4)
    assert farm.phases()[0] == GATE
    assert farm.conductor.rollout is not None
    reason = next(iter(farm.conductor.rollout.machines.values())).reason
    assert "over NBD, and says that it runs" in reason
    farm.attached = {farm.digest("candidate"): [farm.machines[0].mac]}
    farm.turn(4)
    assert farm.phases()[0] == PROVEN


def test_where_nbd_is_served_elsewhere_its_own_report_counts(farm: SmallFarm) -> None:
    farm.attached = None
    farm.conductor.start(CANDIDATE)
    farm.turn()
    farm.boot(farm.machines[0])
    farm.turn(4)
    assert farm.phases()[0] == PROVEN


def test_what_lts_conf_pins_and_who_is_in_maintenance_is_left_alone(tmp_path: Path) -> None:
    farm = SmallFarm(tmp_path)
    digest = farm.digest("current")
    farm = SmallFarm(tmp_path, conf=f"[node-1]\nIMAGE = amd64@{digest[:12]}\n")
    farm.nodes.annotate(farm.machines[1].mac, "new fan", True)
    farm.conductor.start(CANDIDATE)
    farm.turn(2)
    assert farm.phases() == [LEFT, LEFT, REBOOTING]
    assert farm.conductor.rollout is not None
    one, two, _ = farm.conductor.rollout.machines.values()
    assert one.reason.startswith(f"lts.conf pins IMAGE to amd64@{digest[:12]}")
    assert two.reason == "somebody works on it"


def test_undo(farm: SmallFarm) -> None:
    before = farm.digest("current")
    farm.conductor.start(CANDIDATE)
    farm.turn()
    farm.boot(farm.machines[0])
    farm.turn(4)
    farm.conductor.order("undo")
    farm.turn()
    assert farm.phases() == [REBOOTING, WAITING, WAITING], "two were not rebooted yet"
    assert farm.boot(farm.machines[1]) == before
    assert farm.boot(farm.machines[0]) == before
    farm.turn(8)
    assert farm.conductor.rollout is not None
    assert farm.conductor.rollout.state == UNDONE
    assert not farm.overlay.pins


def test_images_that_it_may_need_are_kept(farm: SmallFarm) -> None:
    assert farm.conductor.list_digests() == frozenset()
    farm.conductor.start(CANDIDATE)
    assert farm.conductor.list_digests() == {farm.digest("candidate"), farm.digest("current")}


def test_orders_that_cannot_be(farm: SmallFarm) -> None:
    with pytest.raises(OrderError, match="there is no rollout"):
        farm.conductor.order("pause")
    with pytest.raises(ServerError, match="no tag 'nosuch'"):
        farm.conductor.start({"image": "amd64:nosuch"})
    with pytest.raises(SpecError, match="no machine is selected"):
        farm.conductor.start({"image": "amd64:candidate", "select": "rack=r9"})
    with pytest.raises(OrderError, match="no cluster by which an agent would hear"):
        farm.conductor.start({**CANDIDATE, "reboot": "agent"})
    assert farm.conductor.rollout is None
    farm.conductor.start({**CANDIDATE, "select": "rack=r1"})
    assert len(farm.phases()) == 2
    with pytest.raises(OrderError, match="a rollout of amd64:candidate is running"):
        farm.conductor.start(CANDIDATE)


def test_without_the_lead_nothing_is_ordered(tmp_path: Path) -> None:
    farm = SmallFarm(tmp_path, cluster=True)
    farm.conductor.leader = "boot-2"
    with pytest.raises(OrderError, match="does not lead the rollouts: boot-2 does"):
        farm.conductor.start(CANDIDATE)
    farm.conductor.leads = True
    with pytest.raises(OrderError, match="the cluster has not answered"):
        farm.conductor.start(CANDIDATE)


def test_a_state_that_cannot_be_written_changes_nothing(farm: SmallFarm) -> None:
    farm.state.rmdir()
    with pytest.raises(ServerError, match=r"cannot be written to .*rollout\.json"):
        farm.conductor.start(CANDIDATE)
    assert farm.conductor.rollout is None
    assert not farm.overlay.pins


def test_a_state_that_cannot_be_read_is_told_at_the_start(farm: SmallFarm) -> None:
    (farm.state / "rollout.json").write_text("{}")
    with pytest.raises(StateError, match=r"rollout\.json cannot be read"):
        farm.make_conductor()


def test_of_two_states_the_one_that_is_further_counts(farm: SmallFarm) -> None:
    first = farm.conductor.start(CANDIDATE)
    farm.turn()
    mine = farm.conductor.rollout
    farm.conductor.adopt(pack(first))
    assert farm.conductor.rollout is mine
    farm.conductor.adopt(pack(first), is_leaders=True)
    assert farm.conductor.rollout == first
    assert mine is not None
    farm.conductor.adopt(pack(mine))
    assert farm.conductor.rollout == mine


def test_a_tag_that_cannot_be_moved_is_told_and_tried_again(
    farm: SmallFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.conductor.start({**CANDIDATE, "select": "node-1"})
    farm.turn()
    farm.boot(farm.machines[0])

    def refuse(*_: object) -> None:
        raise ServerError("the store is read-only")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "tag", refuse)
        farm.turn(8)
        assert "tag current cannot be moved: the store is read-only" in farm.conductor.problem
    farm.turn(3)
    assert farm.conductor.rollout is not None
    assert farm.conductor.rollout.state == DONE
    assert farm.conductor.problem == ""


def test_a_state_that_cannot_be_written_stops_it_until_it_can(farm: SmallFarm) -> None:
    farm.conductor.start(CANDIDATE)
    aside = farm.state.rename(farm.state.with_name("aside"))
    farm.turn(2)
    assert "cannot be written" in farm.conductor.problem
    assert farm.phases() == [WAITING, WAITING, WAITING]
    assert not farm.overlay.pins
    aside.rename(farm.state)
    farm.turn()
    assert farm.phases() == [REBOOTING, WAITING, WAITING]
    assert farm.conductor.problem == ""
