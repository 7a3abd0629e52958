import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from server.rollout.overlay import NO_OVERLAY, Pin, make_overlay
from server.rollout.state import DONE, LAST, UNDONE, StateError, pack, unpack
from server.rollout.words import describe, describe_machine
from tests.server.rollout.world import NEW, OLD, make


def test_as_json_and_back() -> None:
    world, rollout = make(3, 1)
    for _ in range(6):
        rollout = world.turn(rollout)
        assert unpack(pack(rollout)) == rollout


def test_two_thousand_machines_fit_into_a_configmap() -> None:
    _, rollout = make(2000)
    key = "52:54:00:00:00:00"
    assert len(rollout.machines) > 200
    assert len(pack(rollout)) / len(rollout.machines) < 400, key


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("format"),
        lambda data: data.update(format=2),
        lambda data: data.update(state="flying"),
        lambda data: data.update(wave="1"),
        lambda data: data.update(wave=True),
        lambda data: data.update(more=1),
        lambda data: data.pop("digest"),
        lambda data: data["spec"].update(waves=["7%"]),
        lambda data: data["machines"][0].update(phase="flying"),
        lambda data: data["machines"][0].update(goal="moon"),
        lambda data: data["machines"][0].update(since="now"),
        lambda data: data["machines"][0].update(key=""),
        lambda data: data["machines"].append(7),
    ],
)
def test_what_is_damaged_is_said(damage: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(pack(make(1)[1]))
    damage(data)
    with pytest.raises(StateError) as raised:
        unpack(json.dumps(data), "state/rollout.json")
    assert raised.value.message.startswith("state/rollout.json ")
    assert raised.value.hint


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
def test_what_is_no_state_at_all(text: str) -> None:
    with pytest.raises(StateError):
        unpack(text)


def test_the_overlay_is_of_machines_that_are_reached() -> None:
    world, rollout = make(2)
    assert make_overlay(None) is NO_OVERLAY
    assert make_overlay(rollout) is NO_OVERLAY
    rollout = world.run(rollout, [DONE])
    key = "52:54:00:00:00:00"
    running = replace(rollout, state="running")
    assert make_overlay(running).find(key) == Pin("amd64", NEW)
    assert make_overlay(running).find(None) is None
    assert make_overlay(running).digests == {NEW}
    # Done: the tag says it, and only who is back on its last image stays there.
    back = replace(rollout.machines[key], goal=LAST)
    rollout = rollout.with_machine(back)
    assert make_overlay(rollout).pins == {key: Pin("amd64", OLD, is_back=True)}
    assert make_overlay(replace(rollout, state=UNDONE)) is NO_OVERLAY


def test_in_words() -> None:
    world, rollout = make(2)
    rollout = world.turn(rollout)
    told = describe(rollout)
    assert (told["wave"], told["waves"]) == (1, 2)
    assert told["counts"]["cordoned"] == 1
    key = "52:54:00:00:00:00"
    assert describe_machine(rollout, key) == f"Rollout of amd64@{NEW[:12]}: cordoned"
    assert describe_machine(rollout, "nobody") == ""
