"""The thread that asks the cluster for a rollout, and does there what is to be done."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from server.conduct.cluster import LEASE_SECONDS, Cluster, ConflictError, View
from server.conduct.conductor import Conductor
from server.errors import ServerError
from server.rollout.actions import Action
from server.rollout.state import pack

PAUSE: Final = 3.0
"""Seconds between two looks at the cluster."""
IDLE: Final = 10.0
"""The same, while there is no rollout: the lease is renewed."""
IDLE_LOOK: Final = 30.0
"""Between two lists of all Nodes, while there is no rollout: one may begin by them at any time."""
MARGIN: Final = 10.0
"""Seconds of the lease that are left when nothing more is begun."""
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Hand:
    """Carries out what the conductor decides. in_loop: has a call made in the loop's thread, and
    gives what it returns; `turn` may be called without a thread, too."""

    def __init__(
        self,
        cluster: Cluster,
        conductor: Conductor,
        in_loop: Callable[[Callable[[], Any]], Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._conductor = conductor
        self._in_loop = in_loop
        self._clock = clock
        self._version: str | None = None
        self._written = ""
        self._led_at = self._looked_at = float("-inf")
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="rollout", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more. The lease runs out by itself."""
        self._ending.set()

    def turn(self) -> bool:
        """One look, one step, and what follows from it. Whether a rollout is under way.

        Raises ServerError: the cluster does not answer, or refuses; nothing is lost by it.
        """
        led_at = self._clock()
        leads = self._cluster.lead()
        self._led_at = led_at
        self._in_loop(lambda: self._note_leader(leads))
        if not leads:
            text, _ = self._cluster.read_state()
            self._version = None
            if text:
                self._in_loop(lambda: self._conductor.adopt(text, is_leaders=True))
            return self._is_under_way()
        if self._version is None:
            # Whoever led before may have come further than the file of this server knows.
            text, version = self._cluster.read_state()
            if text:
                self._in_loop(lambda: self._conductor.adopt(text))
            self._version, self._written = version, text
        if not self._is_under_way() and led_at - self._looked_at < IDLE_LOOK:
            return False
        self._looked_at = led_at
        view = self._cluster.look(self._in_loop(self._conductor.list_looked_at))
        text, actions = self._in_loop(lambda: self._step(view))
        if text and text != self._written:
            try:
                self._version = self._cluster.write_state(text, self._version)
            except ConflictError:
                self._version = None
                raise
            self._written = text
        self._do(actions, led_at)
        return self._is_under_way()

    def _step(self, view: View) -> tuple[str, list[Action]]:
        actions = self._conductor.step(view)
        rollout = self._conductor.rollout
        return pack(rollout) if rollout is not None else "", actions

    def _do(self, actions: list[Action], led_at: float) -> None:
        """All of them; what fails is told, and asked for again in the next turn."""
        failed: ServerError | None = None
        for action in actions:
            if self._clock() - led_at > LEASE_SECONDS - MARGIN or self._ending.is_set():
                break  # another server may lead by now
            try:
                self._cluster.do(action)
            except ServerError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _note_leader(self, leads: bool) -> None:
        self._conductor.leads = leads
        self._conductor.leader = self._cluster.leader

    def _is_under_way(self) -> bool:
        rollout = self._conductor.rollout
        return rollout is not None and not rollout.is_over

    def _run(self) -> None:
        said = ""
        while not self._ending.is_set():
            problem, pause = "", PAUSE
            try:
                pause = PAUSE if self.turn() else IDLE
            except ServerError as error:
                problem = error.one_line()
            except Exception as error:
                _log.exception("the rollout's thread failed")
                problem = f"the rollout's thread failed ({type(error).__name__}); the log says more"
            if problem and problem != said:
                _log.warning("rollout: %s", problem)
            said = problem
            self._tell(problem)
            self._ending.wait(pause)

    def _tell(self, problem: str) -> None:
        """Show what is the matter; who cannot renew its lease for long leads no more."""
        is_cut_off = bool(problem) and self._clock() - self._led_at > LEASE_SECONDS

        def note() -> None:
            self._conductor.problem = problem
            if is_cut_off:
                self._conductor.leads = False

        try:
            self._in_loop(note)
        except ServerError as error:
            _log.debug("rollout: %s", error.message)
