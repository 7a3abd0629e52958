"""What a server does about another one's tags and images; pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from imagebuild.store.index import Conflict, Index, Tag
from imagebuild.store.moves import Move

CONFLICT_SECONDS: Final = 86_400.0
"""So long is a conflict told, unless the tag moves again before."""


@dataclass
class Memory:
    """What is kept of the tags, over restarts.

    agreed: of each peer, the move of each tag with which both had the same. seen: the last
    move of each tag that was followed, from whomever. conflicts: those found or heard of.
    """

    agreed: dict[str, dict[Tag, Move]] = field(default_factory=dict)
    seen: dict[Tag, Move] = field(default_factory=dict)
    conflicts: dict[Tag, Conflict] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """pull: name and digest of images to fetch, and the peer that has them. follow: tags to
    move, once their images are there; a move without a digest removes the tag."""

    pull: tuple[tuple[str, str, str], ...] = ()
    follow: tuple[tuple[Tag, Move], ...] = ()


def compare(
    peer: str,
    own: Mapping[Tag, Move],
    theirs: Index,
    have: Collection[tuple[str, str]],
    memory: Memory,
) -> Work:
    """What to do after a look at a peer; notes in `memory` what both agree on, and conflicts.

    The newer move of a tag counts. It is a conflict where both have moved it since they last
    agreed, and the other server had not seen our move.
    """
    agreed = memory.agreed.setdefault(peer, {})
    wanted: dict[tuple[str, str], None] = {}
    follow: list[tuple[Tag, Move]] = []
    for tag, other in sorted(theirs.tags.items()):
        mine, base = own.get(tag), agreed.get(tag)
        if mine is not None and mine.digest == other.digest:
            agreed[tag] = mine if mine.beats(other) else other
            continue
        if mine is None and not other.digest:
            continue  # removed there, and never here
        if mine is not None and base is not None and _clash(tag, mine, other, base, theirs, memory):
            kept, lost = (mine, other) if mine.beats(other) else (other, mine)
            memory.conflicts[tag] = Conflict(*tag, kept, lost)
        if mine is not None and not other.beats(mine):
            continue
        image = (tag[0], other.digest)
        if other.digest and image not in have:
            if image not in theirs.images:
                continue
            wanted[image] = None
        follow.append((tag, other))
    for image in sorted(theirs.images):
        if image[1] in theirs.in_use and image not in have:
            wanted[image] = None
    for conflict in theirs.conflicts:
        known = memory.conflicts.get((conflict.name, conflict.tag))
        if known is None or conflict.kept.beats(known.kept):
            memory.conflicts[conflict.name, conflict.tag] = conflict
    return Work(tuple((*image, peer) for image in wanted), tuple(follow))


def _clash(tag: Tag, mine: Move, other: Move, base: Move, theirs: Index, memory: Memory) -> bool:
    both = base.digest not in (mine.digest, other.digest)
    here, there = memory.seen.get(tag), theirs.seen.get(tag)
    return both and here != other and there != mine


def note_followed(memory: Memory, peer: str, tag: Tag, move: Move) -> None:
    """A tag was moved here as it is on that peer."""
    memory.agreed.setdefault(peer, {})[tag] = move
    memory.seen[tag] = move


def settle_conflicts(memory: Memory, own: Mapping[Tag, Move], now: float) -> None:
    """Forget conflicts that are over: the tag has moved again, or a day has passed. now: in
    seconds since the epoch."""
    for tag, conflict in list(memory.conflicts.items()):
        mine = own.get(tag)
        moved_on = mine is not None and mine.moved > conflict.kept.moved
        if moved_on or now - conflict.kept.moved / 1e6 > CONFLICT_SECONDS:
            del memory.conflicts[tag]
