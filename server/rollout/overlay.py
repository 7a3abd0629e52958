"""Which machines boot another image than lts.conf says, as long as a rollout has them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from server.rollout.state import DONE, GATE, LAST, REBOOTING, TARGET, UNDONE, Rollout


@dataclass(frozen=True)
class Pin:
    """The image that a machine boots in place of lts.conf's. is_back: its last good one.

    is_trial: nobody knows yet that it boots with it, and an agent is to call it back: what fails
    before the agent can hear anything has to end in a reboot, too.
    """

    image: str
    digest: str
    is_back: bool = False
    is_trial: bool = False

    @property
    def words(self) -> str:
        """Why, in a few words."""
        why = "its last good image, by the rollout" if self.is_back else "by the rollout"
        return f"{self.image}@{self.digest[:12]}, {why}"


@dataclass(frozen=True)
class Overlay:
    """Pins by MAC."""

    pins: Mapping[str, Pin] = field(default_factory=dict)

    def find(self, mac: str | None) -> Pin | None:
        """The pin of a machine; None where lts.conf decides alone."""
        return self.pins.get(mac) if mac is not None else None

    @property
    def digests(self) -> frozenset[str]:
        """Of all images that are pinned."""
        return frozenset(pin.digest for pin in self.pins.values())


NO_OVERLAY: Final = Overlay()


def make_overlay(rollout: Rollout | None) -> Overlay:
    """What a rollout lays over lts.conf: the images of the machines that it has reached.

    When it is done, the tag says what machines boot, and only those stay pinned that did not
    hold with the target; when it is undone, none.
    """
    if rollout is None or rollout.state == UNDONE:
        return NO_OVERLAY
    pins = {}
    for key, one in rollout.machines.items():
        if not one.is_reached or (rollout.state == DONE and one.goal == TARGET):
            continue
        if one.goal == LAST and one.last_digest:
            pins[key] = Pin(one.last_image, one.last_digest, is_back=True)
        elif one.goal == TARGET:
            is_trial = rollout.spec.reboot == "agent" and one.phase in (REBOOTING, GATE)
            pins[key] = Pin(rollout.image, rollout.digest, is_trial=is_trial)
    return Overlay(pins) if pins else NO_OVERLAY
