"""The farm's other servers, and registries: looked at again and again, and followed.

All methods belong to the loop's thread. Each peer is asked in a thread of its own, and one
more thread fetches, so that neither a server that is silent nor a long image holds up anybody.
"""

import functools
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from imagebuild.errors import BuildError, HintedError
from imagebuild.store.images import Image, Store
from imagebuild.store.incoming import Pace
from imagebuild.store.index import Index, list_images
from imagebuild.store.inuse import InUseRecord, read_in_use
from imagebuild.store.peer import Peer
from server.background import Background, Job
from server.farm.config import Config
from server.farm.peers import OtherServer
from server.peers.fetching import Fetched, Task, fetch
from server.peers.follow import Work, compare, note_followed, settle_conflicts
from server.peers.memory import pack_memory, read_memory, write_memory
from server.peers.prints import print_settings
from server.peers.state import PeerState, pack_states, tell_conflict
from server.troubles import Trouble

LOOK_SECONDS: Final = 3.0
"""So long may a peer be silent when it is looked at."""
AGAIN_SECONDS: Final = 30.0
"""After an image could not be had from a peer, it is asked for it again so much later."""
RECORD: Final = "peers"
"""The name of the record of what nodes of other servers read, in STATE/in-use.d."""
KEPT: Final = ("fetch", "in-use", "state")
"""Keys of problems that are of no image."""
INDEX_SECONDS: Final = 1.0
"""So old may the index be that others are given."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """This server as it is now: images of its store, digests that its nodes are attached to,
    ports of http and nbd, the digest of its lts.conf."""

    images: tuple[Image, ...] = ()
    attached: Collection[str] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    lts_conf: str = ""


@dataclass
class _Look:
    """A peer, and the look at it that is under way."""

    state: PeerState
    background: Background = field(default_factory=Background)
    job: Job[tuple[float, Index, float]] | None = None
    due: float = 0.0


class Peers:
    """One server's part in following the others.

    config: farm.yaml as it is in force. state: where tags are remembered and images noted that
    peers' nodes read; None: nowhere. adopt: is told of the other servers whenever one changed.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        store: Path | None,
        state: Path | None,
        facts: Callable[[], Facts],
        adopt: Callable[[tuple[OtherServer, ...]], None] = lambda servers: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.server = secrets.token_hex(8)
        self._config = config
        self._store = Store(store) if store is not None else None
        self._state = state
        self._facts = facts
        self._adopt = adopt
        self._clock = clock
        self._wall = wall
        self._looks: dict[str, _Look] = {}
        self._memory, self._registries = read_memory(state)
        self._kept = pack_memory(self._memory, self._registries)
        self._record: InUseRecord | None = None
        self._fetcher = Background()
        self._job: Job[Fetched] | None = None
        self._pace = Pace()
        self._registry_due = 0.0
        self._failed: dict[tuple[str, str], float] = {}
        self._problems: dict[str, str] = {}
        self._index: tuple[float, Index] | None = None

    # What others and people are told

    def index(self) -> Index:
        """What this server tells others, at most a second old."""
        now = self._clock()
        if self._index is None or now - self._index[0] >= INDEX_SECONDS:
            self._index = (now, self._make_index())
        return self._index[1]

    def pack_index(self) -> bytes:
        """The document of `index`."""
        return self.index().to_bytes()

    def describe(self) -> list[dict[str, Any]]:
        """farm.yaml's peers, in its order, for the API and the page."""
        states = {url: look.state for url, look in self._looks.items()}
        return pack_states(states, self._facts().lts_conf)

    def troubles(self) -> Iterator[Trouble]:
        """What of peers and registries wants a person."""
        if not self._config().fetching.is_on:
            return
        own, now = self.index(), self._wall()
        for look in self._looks.values():
            yield from look.state.troubles(own, now)
        for _, conflict in sorted(self._memory.conflicts.items()):
            yield tell_conflict(conflict)
        for _, words in sorted(self._problems.items()):
            yield Trouble("peers", words)
        for text in self._config().fetching.images:
            if (stray := self._tell_stray(text, own)) is not None:
                yield Trouble("peers", stray)

    # The duty

    def turn(self) -> None:
        """Look at peers whose time has come, take what came of looks and fetching, begin more."""
        settings = self._config().fetching
        self._pace.rate = settings.mbit * 125_000.0
        if set(settings.peers) != set(self._looks):
            self._looks = {
                url: self._looks.get(url) or _Look(PeerState(url)) for url in settings.peers
            }
        for url, look in self._looks.items():
            self._turn_look(url, look, settings.every)
        if not settings.is_on and self._record is None and self._job is None:
            self._problems = {}
            self._adopt(())
            return
        self._finish_fetch()
        if self._store is not None and settings.is_on:
            self._begin_fetch()
        settle_conflicts(self._memory, self.index().tags, self._wall())
        others = (look.state.other() for look in self._looks.values())
        self._adopt(tuple(other for other in others if other is not None))
        self._note_in_use()
        self._keep()

    def _turn_look(self, url: str, look: _Look, every: float) -> None:
        now = self._clock()
        if look.job is None and now >= look.due:
            look.due = now + every
            look.job = look.background.submit(functools.partial(_ask, url, self._wall))
        if look.job is None or not look.job.done.is_set():
            return
        outcome, look.job = look.job.outcome, None
        before = look.state.state
        if isinstance(outcome, Exception):
            words = outcome.one_line() if isinstance(outcome, HintedError) else repr(outcome)
            look.state.miss(words, self._wall())
        else:
            asked, index, answered = outcome
            look.state.hear(index, self.index(), asked, answered)
        if look.state.state != before:
            level = logging.WARNING if look.state.state == "away" else logging.INFO
            _log.log(level, "the server %s is %s %s", url, look.state.state, look.state.problem)

    def _begin_fetch(self) -> None:
        if self._job is not None or self._store is None:
            return
        now = self._clock()
        settings = self._config().fetching
        images = self._facts().images
        have = {(image.name, image.digest) for image in images}
        own = self.index().tags
        task = Task(self._store, self._pace, plain_http=settings.plain_http)
        wanted = {*KEPT, *settings.images}
        for url, look in self._looks.items():
            if look.state.state != "here" or look.state.index is None:
                continue
            work = compare(url, own, look.state.index, have, self._memory)
            wanted |= {f"{name}@{digest}" for name, digest, _ in work.pull}
            wanted |= {f"{name}:{tag}" for (name, tag), _ in work.follow}
            task.add(url, self._leave_out_failed(work, now))
        # What could not be had, and nobody wants any more, is no problem.
        self._problems = {key: words for key, words in self._problems.items() if key in wanted}
        if settings.images and now >= self._registry_due:
            self._registry_due = now + settings.registry_every
            task.registries = {text: self._registries.get(text) for text in settings.images}
        if task.is_any:
            self._job = self._fetcher.submit(functools.partial(fetch, task))

    def _leave_out_failed(self, work: Work, now: float) -> Work:
        """The work without images that could not be had from this peer lately, and their tags."""
        out = {one for one in work.pull if self._failed.get((one[2], one[1]), 0.0) > now}
        gone = {(name, digest) for name, digest, _ in out}
        follow = [(tag, move) for tag, move in work.follow if (tag[0], move.digest) not in gone]
        return Work(tuple(one for one in work.pull if one not in out), tuple(follow))

    def _finish_fetch(self) -> None:
        if self._job is None or not self._job.done.is_set():
            return
        outcome, self._job = self._job.outcome, None
        if isinstance(outcome, Exception):
            _log.error("images cannot be fetched", exc_info=outcome)
            self._problems["fetch"] = f"images cannot be fetched: {outcome!r}; the log says more"
            return
        self._problems.pop("fetch", None)
        self._index = None
        for url, tag, move in outcome.followed:
            note_followed(self._memory, url, tag, move)
            _log.info("%s:%s is %s now, as on %s", *tag, move.digest[:12] or "removed", url)
        for key in outcome.done:
            self._problems.pop(key, None)
        for (url, digest), (key, words) in outcome.failed.items():
            self._failed[url, digest] = self._clock() + AGAIN_SECONDS
            if self._problems.get(key) != words:
                _log.error("%s", words)
            self._problems[key] = words
        self._registries |= outcome.registries
        wanted = self._config().fetching.images
        self._registries = {
            text: self._registries[text] for text in wanted if text in self._registries
        }

    def _tell_stray(self, text: str, own: Index) -> str | None:
        """Where a followed tag leads elsewhere than its registry says."""
        found = self._registries.get(text)
        if found is None or text in self._problems:
            return None
        name, digest = found
        tag = text.rpartition(":")[2]
        move = own.tags.get((name, tag))
        if move is not None and move.digest == digest:
            return None
        here = move.digest[:12] if move is not None and move.digest else "not there"
        return (
            f"{name}:{tag} is {here} here, and {digest[:12]} in {text}: it was moved here, and"
            f" stays so until it moves there; `bootfarm images tag {name}@{digest[:12]} {tag}`"
            " follows again"
        )

    # Inside

    def _make_index(self) -> Index:
        facts, config = self._facts(), self._config()
        with_peers = bool(config.fetching.peers)
        return Index(
            server=self.server,
            time=self._wall(),
            images=list_images(facts.images),
            tags=self._store.all_moves() if self._store is not None else {},
            in_use=frozenset(facts.attached) | self._read_own_in_use(),
            seen=self._memory.seen,
            conflicts=tuple(one for _, one in sorted(self._memory.conflicts.items())),
            ports=facts.ports,
            lts_conf=facts.lts_conf if with_peers else "",
            settings=print_settings(config) if with_peers else {},
        )

    def _read_own_in_use(self) -> frozenset[str]:
        """What nodes of this server read, also those of a process beside this one."""
        if self._state is None:
            return frozenset()
        try:
            own = read_in_use(self._state, f"{RECORD}.json")
        except BuildError as error:
            _log.warning("%s", error.one_line())
            return frozenset()
        return own.spared(self._wall())

    def _note_in_use(self) -> None:
        """Write down what nodes of other servers read, so that no collection here removes it. A
        peer that is away counts as when it was last heard of."""
        if self._state is None or (not self._looks and self._record is None):
            return
        read: set[str] = set()
        for look in self._looks.values():
            if look.state.index is not None and look.state.state != "self":
                read |= look.state.index.in_use
        try:
            if self._record is None:
                self._record = InUseRecord(self._state, self._wall(), name=RECORD)
            self._record.note(read, self._wall())
        except OSError as error:
            words = f"what nodes of other servers read cannot be written to {self._state}"
            self._problems["in-use"] = f"{words}: {error.strerror}"
        else:
            self._problems.pop("in-use", None)

    def _keep(self) -> None:
        if self._state is None:
            return
        data = pack_memory(self._memory, self._registries)
        if data == self._kept:
            return
        try:
            write_memory(self._state, data)
        except OSError as error:
            words = f"what other servers' tags were cannot be written to {self._state}"
            self._problems["state"] = f"{words}: {error.strerror}"
        else:
            self._kept = data
            self._problems.pop("state", None)


def _ask(url: str, wall: Callable[[], float]) -> tuple[float, Index, float]:
    """A peer's index, and our time before and after."""
    peer = Peer(url, seconds=LOOK_SECONDS)
    try:
        asked = wall()
        return asked, peer.index(), wall()
    finally:
        peer.close()
