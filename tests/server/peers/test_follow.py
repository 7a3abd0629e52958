from collections.abc import Mapping

import pytest

from imagebuild.store.index import Conflict, Index, IndexFormatError, Tag, parse_index
from imagebuild.store.moves import Move
from server.peers.follow import Memory, Work, compare, note_followed, settle_conflicts

A, B, C = "a" * 64, "b" * 64, "c" * 64
CURRENT = ("amd64", "current")
ALL = {("amd64", digest): 7 for digest in (A, B, C)}
PEER = "http://10.9.0.2:8080"


def other(digest: str, moved: int, seen: Mapping[Tag, Move] | None = None) -> Index:
    return Index("x", 0.0, ALL, {CURRENT: Move(digest, moved)}, seen=seen or {})


def test_a_newer_move_is_followed_and_its_image_fetched_first() -> None:
    work = compare(PEER, {CURRENT: Move(A, 1)}, other(B, 2), {("amd64", A)}, Memory())
    assert work == Work((("amd64", B, PEER),), ((CURRENT, Move(B, 2)),))
    assert compare(PEER, {CURRENT: Move(A, 3)}, other(B, 2), {("amd64", A)}, Memory()) == Work()


def test_an_empty_store_takes_all_that_has_a_tag_or_is_read() -> None:
    index = Index("x", 0.0, ALL, {CURRENT: Move(B, 2)}, frozenset({C}))
    assert {one[1] for one in compare(PEER, {}, index, (), Memory()).pull} == {B, C}


def test_a_removal_is_followed_unless_the_tag_was_never_here() -> None:
    gone = other("", 5)
    have = {("amd64", A)}
    assert compare(PEER, {CURRENT: Move(A, 1)}, gone, have, Memory()).follow == (
        (CURRENT, Move("", 5)),
    )
    assert compare(PEER, {}, gone, have, Memory()) == Work()


def test_moved_on_both_is_a_conflict_that_both_tell() -> None:
    """Each moved it while it did not hear of the other; whoever looks first, it is told."""
    have = list(ALL)
    told = []
    for mine, theirs in ((Move(B, 20), Move(C, 30)), (Move(C, 30), Move(B, 20))):
        memory = Memory(agreed={PEER: {CURRENT: Move(A, 1)}})
        work = compare(PEER, {CURRENT: mine}, other(theirs.digest, theirs.moved), have, memory)
        assert work.follow == (((CURRENT, theirs),) if theirs.digest == C else ())
        told.append(memory.conflicts[CURRENT])
    assert told == [Conflict(*CURRENT, Move(C, 30), Move(B, 20))] * 2


def test_a_move_after_the_other_was_seen_is_none() -> None:
    have = list(ALL)
    # We moved to B; the other one followed, and then moved on to C.
    memory = Memory(agreed={PEER: {CURRENT: Move(A, 1)}})
    index = other(C, 30, seen={CURRENT: Move(B, 20)})
    assert compare(PEER, {CURRENT: Move(B, 20)}, index, have, memory).follow
    assert not memory.conflicts
    # The same as the other one sees it.
    memory = Memory(agreed={PEER: {CURRENT: Move(A, 1)}})
    note_followed(memory, PEER, CURRENT, Move(B, 20))
    assert compare(PEER, {CURRENT: Move(C, 30)}, other(B, 20), have, memory) == Work()
    assert not memory.conflicts


def test_a_conflict_is_heard_of_from_the_others_and_ends() -> None:
    conflict = Conflict(*CURRENT, Move(C, 30_000_000), Move(B, 20))
    index = Index("x", 0.0, ALL, {CURRENT: Move(C, 30_000_000)}, conflicts=(conflict,))
    own = {CURRENT: Move(C, 30_000_000)}
    memory = Memory()
    compare(PEER, own, index, list(ALL), memory)
    settle_conflicts(memory, own, 40.0)
    assert memory.conflicts == {CURRENT: conflict}
    settle_conflicts(memory, {CURRENT: Move(A, 31_000_000)}, 40.0)
    assert memory.conflicts == {}
    memory.conflicts[CURRENT] = conflict
    settle_conflicts(memory, own, 30.0 + 86_401)
    assert memory.conflicts == {}


def test_an_index_comes_back_as_it_was() -> None:
    conflict = Conflict(*CURRENT, Move(C, 30), Move("", 20))
    seen = {CURRENT: Move(C, 30)}
    index = Index(
        *("x", 5.5, ALL, {CURRENT: Move(C, 30), ("amd64", "x"): Move("", 3)}, frozenset({A}), seen),
        *((conflict,), {"nbd": 10809}, A, {"inventory": "0123"}),
    )
    assert parse_index(index.to_bytes()) == index


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format":1', b'"format":2'),
        (b'"amd64"', b'"../etc"'),
        (b'"current"', b'"../../x"'),
        (b"a" * 64, b"a" * 63 + b"/"),
        (b'"time":0.0', b'"time":NaN'),
        (b'"moved":2', b'"moved":-2'),
        (b'"moved":2', b'"moved":"2"'),
        (b'"size":7', b'"size":1e400'),
        (b'"seen":{}', b'"seen":[]'),
        (b"{", b"<"),
    ],
)
def test_what_is_no_index_is_refused(old: bytes, new: bytes) -> None:
    data = other(A, 2).to_bytes()
    assert old in data
    with pytest.raises(IndexFormatError):
        parse_index(data.replace(old, new))
