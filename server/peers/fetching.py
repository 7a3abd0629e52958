"""Fetches images and moves tags in the store: the part that takes its time, done in a thread."""

from dataclasses import dataclass, field

from imagebuild.errors import HintedError
from imagebuild.store.images import Store
from imagebuild.store.incoming import Pace
from imagebuild.store.index import Tag
from imagebuild.store.moves import Move
from imagebuild.store.peer import Peer
from imagebuild.store.registry import Reference, Registry
from server.peers.follow import Work


@dataclass
class Task:
    """What is to be done. registries: reference to (name, digest) as it was last time."""

    store: Store
    pace: Pace
    plain_http: bool = False
    work: dict[str, Work] = field(default_factory=dict)
    registries: dict[str, tuple[str, str] | None] = field(default_factory=dict)

    def add(self, url: str, work: Work) -> None:
        """What is to be had from a peer; what another one gives already is left out."""
        known = {one[:2] for other in self.work.values() for one in other.pull}
        pull = tuple(one for one in work.pull if one[:2] not in known)
        if pull or work.follow:
            self.work[url] = Work(pull, work.follow)

    @property
    def is_any(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.work or self.registries)


@dataclass
class Fetched:
    """What came of it.

    followed: peer, tag and move. done: keys of problems that are over. failed: peer (or
    reference) and digest to the problem's key and words. registries: as in Task.
    """

    followed: list[tuple[str, Tag, Move]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    registries: dict[str, tuple[str, str]] = field(default_factory=dict)


def fetch(task: Task) -> Fetched:
    """Do the task; what fails does not keep the rest."""
    found = Fetched()
    for url, work in task.work.items():
        peer = Peer(url, task.pace)
        try:
            _fetch_from(peer, url, work, task.store, found)
        finally:
            peer.close()
    for text, before in task.registries.items():
        try:
            found.registries[text] = _follow_registry(task, text, before)
            found.done.append(text)
        except (HintedError, OSError) as error:
            found.failed[text, ""] = (text, f"{text} is not followed: {_tell(error)}")
    return found


def _fetch_from(peer: Peer, url: str, work: Work, store: Store, found: Fetched) -> None:
    lost: set[tuple[str, str]] = set()
    for name, digest, _ in work.pull:
        key = f"{name}@{digest}"
        try:
            peer.pull(store, name, digest)
            found.done.append(key)
        except (HintedError, OSError) as error:
            lost.add((name, digest))
            words = f"{name}@{digest[:12]} cannot be fetched from {url}: {_tell(error)}"
            found.failed[url, digest] = (key, words)
    for tag, move in work.follow:
        if (tag[0], move.digest) in lost:
            continue
        key = f"{tag[0]}:{tag[1]}"
        try:
            if store.follow(*tag, move):
                found.followed.append((url, tag, move))
            found.done.append(key)
        except (HintedError, OSError) as error:
            found.failed[url, move.digest] = (key, f"{key} cannot be moved: {_tell(error)}")


def _follow_registry(task: Task, text: str, before: tuple[str, str] | None) -> tuple[str, str]:
    """Fetch what a reference leads to now, and let its tag here lead to that where it moved there.

    Returns the image's name and digest.
    """
    reference = Reference.parse(text)
    registry = Registry(task.pace, plain_http=task.plain_http)
    digest = registry.look(reference)
    if before is not None and before[1] == digest:
        return before
    here = [image for image in task.store.images() if image.digest == digest]
    image = here[0] if here else registry.pull(task.store, reference, digest)
    task.store.tag(image.name, digest, reference.tag)
    return image.name, digest


def _tell(error: Exception) -> str:
    return error.one_line() if isinstance(error, HintedError) else str(error)
