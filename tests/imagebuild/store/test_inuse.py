"""The records of images that nodes read."""

import threading
from pathlib import Path

import pytest

from imagebuild.errors import BuildError
from imagebuild.store.inuse import DIRECTORY, GRACE_SECONDS, InUse, InUseRecord, read_in_use

A, B, C = "a" * 64, "b" * 64, "c" * 64


def test_what_is_connected_is_spared_however_long_ago_that_was_written() -> None:
    assert InUse(frozenset({A})).spared(now=1e12) == {A}


def test_an_image_that_was_left_is_spared_for_its_time() -> None:
    left = InUse(frozenset({A, B})).after({B}, now=100.0)
    assert left == InUse(frozenset({B}), {A: 100.0})
    assert left.spared(100.0 + GRACE_SECONDS - 1) == {A, B}
    assert left.spared(100.0 + GRACE_SECONDS) == {B}
    assert left.spared(109.0, grace=10) == {A, B}
    assert left.spared(110.0, grace=10) == {B}


def test_the_time_of_leaving_is_kept_and_coming_back_ends_it() -> None:
    left = InUse(frozenset({A})).after((), now=100.0)
    assert left.after((), now=200.0).left == {A: 100.0}
    assert left.after({A}, now=200.0) == InUse(frozenset({A}))
    assert left.after((), now=100.0 + GRACE_SECONDS) == InUse()


def test_merged_keeps_the_later_time() -> None:
    one, two = InUse(frozenset({A}), {B: 5.0}), InUse(frozenset({C}), {B: 7.0})
    assert one.merged(two) == two.merged(one) == InUse(frozenset({A, C}), {B: 7.0})


def test_written_and_read(tmp_path: Path) -> None:
    record = InUseRecord(tmp_path, now=0.0)
    record.note({A, B}, now=1.0)
    record.note({A}, now=12.5)
    assert read_in_use(tmp_path) == InUse(frozenset({A}), {B: 12.5})
    assert sorted(path.suffix for path in (tmp_path / DIRECTORY).iterdir()) == [".json", ".lock"]


def test_records_of_servers_that_live_count_together(tmp_path: Path) -> None:
    one, two = InUseRecord(tmp_path, now=0.0), InUseRecord(tmp_path, now=0.0)
    one.note({A}, now=1.0)
    two.note({B}, now=2.0)
    assert read_in_use(tmp_path).connected == {A, B}
    one.note((), now=3.0)
    assert read_in_use(tmp_path) == InUse(frozenset({B}), {A: 3.0})


def test_the_next_server_takes_over_what_one_that_ended_has_left(tmp_path: Path) -> None:
    old = InUseRecord(tmp_path, now=0.0)
    lives = InUseRecord(tmp_path, now=0.0)
    old.note({A, B}, now=5.0)
    old.note({A}, now=10.0)
    lives.note({C}, now=10.0)
    old.close()
    assert read_in_use(tmp_path).spared(now=1e12) == {A, C}, "its nodes wait for the next one"
    new = InUseRecord(tmp_path, now=1000.0)
    assert new.present == InUse(frozenset(), {A: 1000.0})
    assert read_in_use(tmp_path) == InUse(frozenset({C}), {A: 1000.0})
    new.note({A}, now=1001.0)
    assert read_in_use(tmp_path) == InUse(frozenset({A, C}))
    assert len(list((tmp_path / DIRECTORY).glob("*.lock"))) == 2


def test_a_collection_never_misses_a_record_that_changes_hands(tmp_path: Path) -> None:
    """Readers look while servers come and go: A is in one record or the other at any time."""
    servers = [InUseRecord(tmp_path, now=0.0)]
    servers[0].note({A}, now=0.0)
    done = threading.Event()
    missed: list[InUse] = []

    def look() -> None:
        while not done.is_set():
            if A not in (found := read_in_use(tmp_path)).spared(now=1.0):
                missed.append(found)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(50):
        servers[-1].close()
        servers.append(InUseRecord(tmp_path, now=0.0))
    done.set()
    reader.join()
    assert missed == []


def test_nothing_written_is_nothing_in_use(tmp_path: Path) -> None:
    assert read_in_use(tmp_path) == InUse()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "connected": 3, "left": {}}']
)
def test_a_record_that_cannot_be_read_stops_the_collection_and_no_server(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / "1.json").write_text(text)
    with pytest.raises(BuildError, match=r"in-use\.d/1\.json"):
        read_in_use(tmp_path)
    InUseRecord(tmp_path, now=0.0)
    with pytest.raises(BuildError, match=r"in-use\.d/1\.json"):
        read_in_use(tmp_path)
