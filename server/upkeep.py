"""What a running server does again and again beside serving."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from server.conduct.conductor import Conductor
from server.conduct.hand import Hand
from server.health import Health
from server.machines.names import Directory
from server.metrics.metrics import Metrics
from server.nodes.given import GivenValues
from server.nodes.timelines import Nodes
from server.observe.door import Door
from server.observe.feed import Changes
from server.observe.logbook import LogBook
from server.observe.overview import Overview
from server.observe.recording import Recorder
from server.observe.roots import Roots
from server.peers.peers import Peers
from server.services.running import Running
from server.sources.keeper import COLLECT_SECONDS, Keeper
from server.sources.sources import Sources

POLL_SECONDS = 1.0
"""Between two thorough looks at lts.conf, secrets and store; the data path looks by itself."""
NAMES_SECONDS = 0.2
"""Between two steps through the nodes whose names DNS gives."""
WORKERS_POLL_SECONDS = 0.1
"""Between two looks with worker processes: they cannot look themselves."""
SAVE_SECONDS = 2.0
"""What a crash may cost of timelines and logs."""
SAVE_AT_ONCE = 200
"""Nodes that are written in one turn, some 20 ms of the loop."""
LOOK_SECONDS = 0.25
"""Between two steps through the nodes whose state silence may have changed."""
CHANGES_SECONDS = 1.0
"""Between two messages to the pages that follow."""
LEFT_OUT_SECONDS = 10.0
"""Between two lines of the log that tell how many errors were left out of it."""
ROOTS_SECONDS = 5.0
"""Between two looks at whose root is attached."""
IN_USE_SECONDS = 1.0
"""Between two notes of which images nodes are attached to."""
PEERS_SECONDS = 0.5
"""Between two steps of following other servers and registries."""

Duty = tuple[float, Callable[[], object]]
"""Seconds between two turns, and what is done in one."""


@dataclass(frozen=True)
class Upkeep:
    """The duties of one server. timelines: where they are kept, or None. conductor, hand: of
    rollouts, where there are any.
    """

    sources: Sources
    door: Door
    nodes: Nodes
    given: GivenValues
    logbook: LogBook
    overview: Overview
    metrics: Metrics
    changes: Changes
    health: Health
    running: Running
    state: Path | None
    timelines: Path | None
    keeper: Keeper | None
    recorder: Recorder | None
    names: Directory | None
    roots: Roots
    peers: Peers | None
    conductor: Conductor | None = None
    hand: Hand | None = None

    def begin(self) -> None:
        """Do once, before the first turn, what has to be done then."""
        self.look_at_roots()
        if self.hand is not None:
            self.hand.start()
        if self.names is not None:
            self.names.turn()
        if self.keeper is not None:
            # Nodes that read from the server before this one have their time to come back.
            self.note_in_use()

    def duties(self) -> Iterator[Duty]:
        """(seconds between two turns, action) of each duty, in order."""
        yield POLL_SECONDS, self.sources.poll
        if self.names is not None:
            yield NAMES_SECONDS, self.names.turn
        yield POLL_SECONDS, self._count_findings
        if self.running.pool is not None:
            yield WORKERS_POLL_SECONDS, self.sources.site
        yield SAVE_SECONDS, self.save_some
        if self.recorder is not None:
            yield POLL_SECONDS, self.recorder.poll
        yield LOOK_SECONDS, self._look_around
        yield ROOTS_SECONDS, self.look_at_roots
        if self.peers is not None:
            yield PEERS_SECONDS, self.peers.turn
        if self.conductor is not None:
            yield POLL_SECONDS, self.conductor.turn
        yield LEFT_OUT_SECONDS, self.door.tell_left_out
        yield CHANGES_SECONDS, self.changes.flush
        if self.keeper is not None:
            yield IN_USE_SECONDS, self.note_in_use
            yield COLLECT_SECONDS, self._collect

    def end(self) -> None:
        """Do once, after the last turn, what has to be done then."""
        if self.hand is not None:
            self.hand.stop()
        if self.recorder is not None:
            self.recorder.close()
        self.save(None)

    def save_some(self) -> None:
        """Write what has changed, of SAVE_AT_ONCE nodes at most."""
        self.save(SAVE_AT_ONCE)

    def save(self, most: int | None) -> None:
        """Write timelines and logs that have changed, of at most `most` nodes."""
        if self.timelines is None:
            return
        try:
            self.nodes.save(self.timelines, most)
            self.given.save()
            self.logbook.save(most)
        except OSError as error:
            where = error.filename or self.state
            words = f"timelines and logs cannot be written to {where}: {error.strerror}"
            self.health.fail("state", words)
        else:
            self.health.mended("state")

    def note_in_use(self) -> None:
        """Write down which images nodes are attached to, where that has changed."""
        assert self.keeper is not None
        try:
            read = {digest for digest in self.running.attached() if digest}
            if self.conductor is not None:
                read |= self.conductor.list_digests()
            self.keeper.note(sorted(read))
        except OSError as error:
            words = f"which images nodes read cannot be written to {self.state}/in-use.d"
            self.health.fail("in-use", f"{words}: {error.strerror}")
        else:
            self.health.mended("in-use")

    def look_at_roots(self) -> None:
        """Have nodes judged again whose root has gone for long, or is back."""
        for node in self.roots.turn(time.time()):
            self.metrics.findings.change(node.key, node)

    def _collect(self) -> None:
        """Have images removed that nobody needs any more."""
        assert self.keeper is not None
        self.keeper.collect(self.sources.store.found)
        if self.keeper.problem:
            self.health.fail("collect", self.keeper.problem)
        else:
            self.health.mended("collect")

    def _count_findings(self) -> None:
        self.metrics.findings.advance(time.time())

    def _look_around(self) -> None:
        """Keep the states of nodes up to date; tell followers which changed by silence."""
        self.nodes.mind_clock(time.time(), time.monotonic())
        for key in self.overview.turn(time.time()):
            self.changes.note(key)
