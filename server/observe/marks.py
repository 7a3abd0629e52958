"""What lists filter and count machines by: state, cause, phase, image, labels.

A Mark is small and plain, so that ten thousand of them are looked through in some
milliseconds.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from imagebuild.store.images import Image
from server.diagnosis import Finding
from server.nodes.node import Node
from server.nodes.phases import PHASES
from server.quantities import sort_naturally

STATES: Final = ("look", "booting", "unseen", "ready", "off")
"""Of machines, in the order in which a list has them: trouble first."""
PLAYED: Final = "played"
"""The state of what is no machine: played by `bootfarm simulate` and `bootfarm doctor`."""
ALL_STATES: Final = (*STATES, PLAYED)
MAINTENANCE: Final = "maintenance"
"""Of machines that somebody works on, where they are counted for alerts."""
SEEN: Final = tuple(state for state in STATES if state != "unseen")
OLD: Final = "old"
"""In place of an image: whatever is older than its image's `current`."""
SORTS: Final = ("trouble", "name", "seen", "since", "phase", "image")
LABEL_PREFIX: Final = "label."
_AMOUNT: Final = re.compile(
    r"\b\d+(\.\d+)? (s|min|h|d|days|B|KiB|MiB|GiB|times|tries)\b( \d+ (s|min|h)\b)?"
    r"|\b(once|twice|three times|four times|five times|six times)\b"
)
_QUERY_MAX: Final = 80
"""Characters of a filter's word that are looked at."""

T = TypeVar("T")
ImageKey = tuple[str, str]
"""Name and digest; both "" where no image was booted."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What is the matter with one machine or many, in words that hold for all of them.

    id: the rule, and behind `~` what its words are about, as far as these differ.
    """

    id: str
    rule: str
    phase: str
    severity: str
    words: str
    check: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """One machine, as it was when it was last looked at. sort: what its name sorts by.
    maintenance: somebody works on it."""

    key: str
    state: str
    name: str
    sort: str
    cause: Cause | None = None
    phase: str = ""
    image: ImageKey = ("", "")
    labels: tuple[tuple[str, str], ...] = ()
    since: float = 0.0
    seen: float = 0.0
    maintenance: bool = False


def name_cause(finding: Finding, node: Node) -> Cause:
    """What a finding says, without what is this machine's alone: its names, ages, amounts."""

    def level(text: str) -> str:
        for own in (node.mac, node.ip, node.hostname):
            if own and len(own) > 2:
                text = re.sub(rf"(?<![\w.:-]){re.escape(own)}(?![\w:-])", "it", text)
        return _AMOUNT.sub("…", text)

    words = level(finding.headline)
    short = hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:6]
    check = tuple(map(level, finding.check))
    name = f"{finding.rule}~{short}"
    return Cause(name, finding.rule, finding.phase, finding.severity, words, check)


@dataclass(frozen=True)
class ImageWords:
    """An image as people know it. tags: those that lead to it now. is_old: not what its
    name's `current` is, and no other tag keeps it but `previous`."""

    name: str
    digest: str
    tags: tuple[str, ...] = ()
    is_old: bool = False

    @property
    def tag(self) -> str:
        """The tag to show beside the digest, or ""."""
        return self.tags[0] if self.tags else ""


NO_IMAGE: Final = ImageWords("", "")


class Shelf:
    """The store's images by digest, as they are at one moment. keys: of all of them."""

    def __init__(self, images: Sequence[Image] = ()) -> None:
        self.keys = frozenset((image.name, image.digest) for image in images)
        self._tags: dict[str, tuple[str, ...]] = {}
        self._current: dict[str, str] = {}
        for image in images:
            first = sorted(image.tags, key=lambda tag: (tag != "current", tag == "previous", tag))
            self._tags[image.digest] = tuple(first)
            if "current" in image.tags:
                self._current[image.name] = image.digest

    def find(self, key: ImageKey) -> ImageWords:
        """What there is to say of an image that was booted."""
        name, digest = key
        tags = self._tags.get(digest, ())
        current = self._current.get(name)
        kept = any(tag != "previous" for tag in tags)
        is_old = bool(digest) and current is not None and digest != current and not kept
        return ImageWords(name, digest, tags, is_old)

    def judge(self, wanted: str) -> Callable[[ImageKey], bool]:
        """Whether an image is meant: by `old`, `name`, `name:tag`, `:tag`, a digest's beginning."""
        if wanted == OLD:
            return lambda key: self.find(key).is_old
        wanted = wanted.removeprefix("sha256:")
        name, colon, tag = wanted.partition(":")
        if colon:
            return lambda key: (not name or key[0] == name) and tag in self.find(key).tags
        digest = wanted.rpartition("@")[2].lower()
        is_digest = re.fullmatch(r"[0-9a-f]{6,64}", digest) is not None
        return lambda key: key[0] == wanted or (is_digest and key[1].startswith(digest))


@dataclass(frozen=True)
class Filter:
    """Which machines are wanted. states: () for all but what is played. cause: a rule's id
    or a cause's; phase: one of PHASES; image: see Shelf.judge; labels: name to value."""

    states: tuple[str, ...] = ()
    cause: str = ""
    phase: str = ""
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    wanted: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it lets all machines through, but for their state."""
        return not (self.cause or self.phase or self.image or self.labels or self.wanted)


def read_filter(query: Mapping[str, str]) -> Filter:
    """A filter of a URL's query: state (some, with commas), cause, phase, image, label.<name>, q.

    What is no state or phase is left out.
    """
    states = tuple(word for word in query.get("state", "").split(",") if word in ALL_STATES)
    phase = query.get("phase", "")
    labels = {
        key.removeprefix(LABEL_PREFIX): value
        for key, value in query.items()
        if key.startswith(LABEL_PREFIX) and value
    }
    return Filter(
        states,
        query.get("cause", "")[:_QUERY_MAX],
        phase if phase in PHASES else "",
        query.get("image", "").strip()[:_QUERY_MAX],
        labels,
        query.get("q", "").strip()[:_QUERY_MAX],
    )


@dataclass
class Counts:
    """How many machines there are of each kind. maintained: those in maintenance, by state;
    places: by label's name, value, and state, or MAINTENANCE. Both of all machines only."""

    states: Counter[str] = field(default_factory=Counter)
    causes: Counter[Cause] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    images: Counter[ImageKey] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    places: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    maintained: Counter[str] = field(default_factory=Counter)

    def add(self, mark: Mark, number: int = 1) -> None:
        """Count one more machine, or with -1 one less."""
        _count(self.states, mark.state, number)
        if mark.state == PLAYED:
            return
        if mark.maintenance:
            _count(self.maintained, mark.state, number)
        if mark.cause is not None:
            _count(self.causes, mark.cause, number)
        if mark.phase:
            _count(self.phases, mark.phase, number)
        if mark.image[1]:
            _count(self.images, mark.image, number)
        for label in mark.labels:
            _count(self.labels, label, number)
            state = MAINTENANCE if mark.maintenance else mark.state
            _count(self.places, (*label, state), number)


def _count(counter: Counter[T], key: T, number: int) -> None:
    counter[key] += number
    if not counter[key]:
        del counter[key]


def choose(
    marks: Iterable[Mark], wanted: Filter, shelf: Shelf, has_text: Callable[[Mark], bool]
) -> tuple[list[Mark], Counts]:
    """The machines that fit, and counts for each further choice: of the states, those that fit
    all but the state; of phases, all but the phase; and so on."""
    found: list[Mark] = []
    counts = Counts()
    is_image = shelf.judge(wanted.image) if wanted.image else None
    images: dict[ImageKey, bool] = {}
    for mark in marks:
        if wanted.wanted and not has_text(mark):
            continue
        played = mark.state == PLAYED
        misses: list[str] = []
        if (mark.state not in wanted.states) if wanted.states else played:
            misses.append("state")
        cause = mark.cause
        if wanted.cause and (cause is None or wanted.cause not in (cause.id, cause.rule)):
            misses.append("cause")
        if wanted.phase and mark.phase != wanted.phase:
            misses.append("phase")
        if is_image is not None:
            fits = images.get(mark.image)
            if fits is None:
                fits = images[mark.image] = is_image(mark.image)
            if not fits:
                misses.append("image")
        if wanted.labels:
            own = dict(mark.labels)
            misses += [
                f"{LABEL_PREFIX}{name}"
                for name, value in wanted.labels.items()
                if own.get(name, "") != value
            ]
        if len(misses) > 1:
            continue
        missed = misses[0] if misses else ""
        if missed in ("", "state"):
            counts.states[mark.state] += 1
        if played and missed == "state":
            continue
        if cause is not None and missed in ("", "cause"):
            counts.causes[cause] += 1
        if mark.phase and missed in ("", "phase"):
            counts.phases[mark.phase] += 1
        if mark.image[1] and missed in ("", "image"):
            counts.images[mark.image] += 1
        for label in mark.labels:
            if not missed or missed == f"{LABEL_PREFIX}{label[0]}":
                counts.labels[label] += 1
        if not missed:
            found.append(mark)
    return found, counts


_STATE_ORDER: Final = {state: number for number, state in enumerate(ALL_STATES)}
_PHASE_ORDER: Final = {phase: number for number, phase in enumerate(("", *PHASES))}


def order(marks: Iterable[Mark], sort: str) -> list[Mark]:
    """Sort by `sort`: one of SORTS or `label.<name>`; else trouble first.

    Machines that are equal by that stand by name, so that each keeps its place.
    """
    named = sorted(marks, key=lambda mark: mark.sort)
    if sort == "seen":
        named.sort(key=lambda mark: -mark.seen)
    elif sort == "since":
        named.sort(key=lambda mark: -mark.since)
    elif sort == "phase":
        named.sort(key=lambda mark: _PHASE_ORDER[mark.phase])
    elif sort == "image":
        named.sort(key=lambda mark: mark.image)
    elif sort.startswith(LABEL_PREFIX):
        name = sort.removeprefix(LABEL_PREFIX)
        named.sort(key=lambda mark: sort_naturally(dict(mark.labels).get(name, "\uffff")))
    elif sort != "name":
        named.sort(key=lambda mark: _STATE_ORDER[mark.state])
    return named
