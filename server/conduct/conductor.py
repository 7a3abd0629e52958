"""The one rollout of a server: its state kept, its steps made, people's orders taken.

Belongs to the loop's thread. What takes calls to a cluster is done by hand.py's thread, which
hands in what it saw and gets what is to be done.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from imagebuild.store.images import Image, Store
from imagebuild.wholefile import read_whole, write_whole
from server.background import Background, Job, shared_background
from server.boot.plan import choose_image
from server.conduct.cluster import View
from server.conduct.gather import Gatherer
from server.errors import ServerError
from server.rollout.actions import Action, MoveTag
from server.rollout.overlay import Overlay, make_overlay
from server.rollout.spec import Spec, parse_spec
from server.rollout.state import OVER, Machine, Rollout, StateError, pack, unpack
from server.rollout.step import OrderError, list_active, pause, resume, start, step, undo
from server.rollout.words import describe
from server.site import Site

FILE: Final = "rollout.json"
"""Below the state directory."""
LARGEST: Final = 64 << 20
FRESH_SECONDS: Final = 60.0
"""How old what the cluster said may be to begin a rollout by it."""
_log = logging.getLogger(__name__)


class Conductor:
    """Keeps and steps a rollout. has_cluster: `turn` is called with what the cluster says.

    lay_over: puts images over lts.conf's. changed: is called when there is something new to show.
    """

    def __init__(
        self,
        *,
        state: Path,
        store: Path,
        site: Callable[[], Site],
        gatherer: Gatherer,
        lay_over: Callable[[Overlay], None],
        changed: Callable[[], None] = lambda: None,
        has_cluster: bool = False,
        clock: Callable[[], float] = time.time,
        background: Background | None = None,
    ) -> None:
        self.rollout: Rollout | None = None
        self.problem = ""
        self.leader = ""
        self.leads = not has_cluster
        self.has_cluster = has_cluster
        self._file = state / FILE
        self._store = store
        self._site = site
        self._gatherer = gatherer
        self._lay_over = lay_over
        self._changed = changed
        self._clock = clock
        self._background = background or shared_background()
        self._view: tuple[float, View] | None = None
        self._moving: Job[Image] | None = None
        self._tag_problem = ""

    def load(self) -> None:
        """Go on with what was written down. StateError: it cannot be read."""
        try:
            text = read_whole(self._file, LARGEST)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateError(
                f"{self._file}: {error.strerror}", hint="make it readable for the server's user"
            ) from None
        self._take(unpack(text, str(self._file)))

    def adopt(self, text: str, *, is_leaders: bool = False) -> None:
        """Take a state that another server wrote, if it is newer, or if that one leads now.
        Raises StateError."""
        found = unpack(text, "the rollout in the cluster")
        mine = self.rollout
        is_newer = mine is None or (found.started, found.revision) > (mine.started, mine.revision)
        if is_newer or (is_leaders and found != mine):
            self._keep(found)

    def step(self, view: View | None) -> list[Action]:
        """One step by what is seen now; what is to be done in the cluster."""
        if view is not None:
            self._view = (self._clock(), view)
        if self.rollout is None or self.rollout.is_over:
            self._tag_problem = ""
            return []
        now = self._clock()
        seen = self._gatherer.look(self.rollout, view, now)
        found, actions = step(self.rollout, seen, now)
        if found is not self.rollout and found != self.rollout:
            self._log_steps(self.rollout, found)
            self._keep(found)
        for action in actions:
            if isinstance(action, MoveTag):
                self._move_tag(action)
        return [action for action in actions if not isinstance(action, MoveTag)]

    def turn(self) -> None:
        """One step without a cluster; for the loop, every second."""
        if self.has_cluster:
            return
        try:
            self.step(None)
        except ServerError as error:
            if self.problem != error.one_line():
                _log.error("rollout: %s", error.one_line())
            self.problem = error.one_line()
        else:
            self.problem = self._tag_problem

    def list_looked_at(self) -> frozenset[str]:
        """Names of Nodes whose pods have to be looked at now."""
        if self.rollout is None or self.rollout.is_over:
            return frozenset()
        return frozenset(one.name for one in list_active(self.rollout))

    def list_digests(self) -> frozenset[str]:
        """Digests of images that a rollout may need yet: nobody removes them meanwhile."""
        if self.rollout is None:
            return frozenset()
        if self.rollout.state in OVER:
            return make_overlay(self.rollout).digests
        last = {one.last_digest for one in self.rollout.machines.values()} - {""}
        return frozenset({self.rollout.digest, *last})

    # Orders

    def start(self, given: Mapping[str, Any]) -> Rollout:
        """Begin a rollout. Raises ServerError: it cannot be, and why."""
        self._check_leads()
        if self.rollout is not None and not self.rollout.is_over:
            raise OrderError(
                f"a rollout of {self.rollout.spec.image} is {self.rollout.state}",
                hint="`bootfarm rollout undo` takes it back, `resume` goes on with it",
            )
        spec = parse_spec(given)
        site = self._site()
        if not self.has_cluster and spec.reboot == "agent":
            spec = self._refuse_agent(given, spec)
        view = self._find_view()
        image, _ = choose_image(spec.image, site.images, site.default_image)
        tagged = site.find_image(image.name, spec.tag) if spec.tag else None
        members = self._gatherer.list_members(spec, view, image.digest)
        found = start(
            spec,
            members,
            name=secrets.token_hex(4),
            image=image.name,
            digest=image.digest,
            tag_before=tagged.digest if tagged is not None else "",
            now=self._clock(),
        )
        self._order(found, "begins")
        return found

    def order(self, do: str) -> Rollout:
        """pause, resume or undo. Raises OrderError."""
        self._check_leads()
        if self.rollout is None:
            raise OrderError("there is no rollout", hint="`bootfarm rollout start` begins one")
        if do == "undo":
            view = self._find_view()
            seen = self._gatherer.look(self.rollout, view, self._clock())
            found = undo(self.rollout, seen, self._clock())
        else:
            found = {"pause": pause, "resume": resume}[do](self.rollout)
        self._order(found, do)
        return found

    @property
    def has_problem(self) -> bool:
        """Whether something keeps rollouts up; `describe` has its words."""
        return bool(self.problem or self._tag_problem)

    def describe(self) -> dict[str, Any]:
        """As the API has it."""
        return {
            "enabled": True,
            "leads": self.leads,
            "leader": self.leader,
            "problem": self.problem or self._tag_problem,
            "rollout": describe(self.rollout) if self.rollout is not None else None,
        }

    def _refuse_agent(self, given: Mapping[str, Any], spec: Spec) -> Spec:
        """Without a cluster nobody hears an order: that has to be meant."""
        if "reboot" in given:
            raise OrderError(
                "reboot: agent: this server has no cluster by which an agent would hear of it",
                hint="say `reboot: hand`, or name the cluster: `rollout: {kubeconfig: FILE}`",
            )
        return replace(spec, reboot="hand")

    def _check_leads(self) -> None:
        if not self.leads:
            who = self.leader or "nobody yet"
            words = f"this server does not lead the rollouts: {who} does"
            raise OrderError(words, hint=self.problem or "ask that one, or try again in a moment")

    def _find_view(self) -> View | None:
        if not self.has_cluster:
            return None
        if self._view is None or self._clock() - self._view[0] > FRESH_SECONDS:
            raise OrderError(
                "the cluster has not answered in the last minute",
                hint=self.problem or "try again in a moment",
            )
        return self._view[1]

    # What is kept

    def _order(self, found: Rollout, words: str) -> None:
        _log.info("rollout of %s@%s: %s", found.image, found.digest[:12], words)
        self._keep(found)

    def _keep(self, found: Rollout) -> None:
        """Write it down first, then go by it. Raises ServerError where it cannot be written."""
        try:
            write_whole(self._file, pack(found).encode(), durable=True)
        except OSError as error:
            raise ServerError(
                f"the rollout cannot be written to {self._file}: {error.strerror}",
                hint="it goes on when that is mended",
            ) from None
        self._take(found)

    def _take(self, found: Rollout) -> None:
        self.rollout = found
        self._lay_over(make_overlay(found))
        self._changed()

    def _log_steps(self, before: Rollout, after: Rollout) -> None:
        if before.state != after.state:
            words = f": {after.reason}" if after.reason else ""
            _log.info("rollout of %s: %s%s", after.spec.image, after.state, words)
        for key, machine in after.machines.items():
            old: Machine | None = before.machines.get(key)
            if old is None or old.phase != machine.phase:
                reason = f": {machine.reason}" if machine.reason else ""
                _log.info("rollout: %s: %s%s", machine.name, machine.phase, reason)

    def _move_tag(self, action: MoveTag) -> None:
        """In another thread: the store has a lock. It is asked for again until it is seen."""
        if self._moving is not None:
            if not self._moving.done.is_set():
                return
            outcome = self._moving.outcome
            if isinstance(outcome, Exception):
                words = f"tag {action.tag} cannot be moved: {outcome}"
                if words != self._tag_problem:
                    _log.error("%s", words)
                self._tag_problem = words
            else:
                self._tag_problem = ""
        store = Store(self._store)
        self._moving = self._background.submit(
            lambda: store.tag(action.name, action.digest, action.tag)
        )
