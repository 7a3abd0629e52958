"""The record of images that nodes read."""

from pathlib import Path

import pytest

from imagebuild.errors import BuildError
from imagebuild.inuse import FILE, GRACE_SECONDS, InUse, read_in_use, write_in_use

A, B = "a" * 64, "b" * 64


def test_what_is_connected_is_spared_however_long_ago_that_was_written() -> None:
    assert InUse(frozenset({A})).spared(now=1e12) == {A}


def test_an_image_that_was_left_is_spared_for_its_time() -> None:
    left = InUse(frozenset({A, B})).after({B}, now=100.0)
    assert left == InUse(frozenset({B}), {A: 100.0})
    assert left.spared(100.0 + GRACE_SECONDS - 1) == {A, B}
    assert left.spared(100.0 + GRACE_SECONDS) == {B}


def test_the_time_of_leaving_is_kept_and_coming_back_ends_it() -> None:
    left = InUse(frozenset({A})).after((), now=100.0)
    assert left.after((), now=200.0).left == {A: 100.0}
    assert left.after({A}, now=200.0) == InUse(frozenset({A}))
    assert left.after((), now=100.0 + GRACE_SECONDS) == InUse()


def test_written_and_read(tmp_path: Path) -> None:
    record = InUse(frozenset({A}), {B: 12.5})
    write_in_use(tmp_path, record)
    assert read_in_use(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_nothing_written_is_nothing_in_use(tmp_path: Path) -> None:
    assert read_in_use(tmp_path) == InUse()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "connected": 3, "left": {}}']
)
def test_a_record_that_cannot_be_read_stops_the_collection(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(BuildError, match=r"in-use\.json"):
        read_in_use(tmp_path)
