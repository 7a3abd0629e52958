"""When tags moved, and stores that follow each other."""

import os
import time
from pathlib import Path

from imagebuild.store.images import INCOMING, STALE_SECONDS, Store
from imagebuild.store.incoming import Pace, open_incoming
from imagebuild.store.moves import Move
from tests.server.farm import publish

CURRENT = ("amd64", "current")


def test_a_tag_has_the_time_of_its_move_and_a_removed_one_too(tmp_path: Path) -> None:
    before = time.time_ns() // 1000
    image = publish(tmp_path)
    store = Store(tmp_path)
    first = store.all_moves()[CURRENT]
    assert first.digest == image.digest
    assert before <= first.moved <= time.time_ns() // 1000
    store.tag("amd64", image.digest, "current")  # it leads there already: no move
    assert store.all_moves() == {CURRENT: first}
    store.remove("amd64", "current")
    gone = store.all_moves()[CURRENT]
    assert (gone.digest, gone.moved > first.moved) == ("", True)
    store.tag("amd64", image.digest, "current")
    assert store.all_moves()[CURRENT].moved > gone.moved
    assert store.all_moves()[CURRENT].digest == image.digest


def test_only_a_newer_move_is_followed_and_its_time_kept(tmp_path: Path) -> None:
    one, two = publish(tmp_path, kernel="1"), publish(tmp_path, kernel="2")
    store = Store(tmp_path)
    mine = store.all_moves()[CURRENT]
    assert not store.follow(*CURRENT, Move(one.digest, mine.moved - 1))
    later = Move(one.digest, mine.moved + 3_600_000_000)  # of a clock that is ahead by an hour
    assert store.follow(*CURRENT, later)
    assert store.all_moves()[CURRENT] == later
    assert store.get("amd64").digest == one.digest
    # A move that is made here now counts after the one that it replaced.
    store.tag("amd64", two.digest, "current")
    assert store.all_moves()[CURRENT].beats(later)
    gone = Move("", later.moved + 10)
    assert store.follow(*CURRENT, gone)
    assert store.all_moves()[CURRENT] == gone
    assert not store.follow(*CURRENT, later)


def test_what_nobody_went_on_fetching_is_garbage_after_a_day(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with open_incoming(store, "amd64@x") as directory:
        (directory / "part").write_bytes(b"x" * 100)
    assert store.collect_garbage().freed == 0
    old = Move("", int((time.time() - STALE_SECONDS - 60) * 1e6))
    os.utime(tmp_path / INCOMING / "amd64@x", ns=(old.moved * 1000, old.moved * 1000))
    assert store.collect_garbage().freed == 100
    assert list((tmp_path / INCOMING).iterdir()) == []


def test_the_pace_is_kept_by_all_that_share_it() -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(1000.0, clock=lambda: now[0], sleep=sleep)
    for _ in range(100):
        pace.take(100)
    assert 9.7 <= sum(slept) <= 10.0
    assert Pace(0.0, sleep=sleep).ahead(10**9) == 0.0
