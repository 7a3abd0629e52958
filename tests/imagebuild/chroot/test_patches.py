from pathlib import Path

import pytest

from imagebuild.chroot.patches import apply_series, series_files
from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import PatchSeries

GOOD = "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"


@pytest.fixture
def series(tmp_path: Path) -> Path:
    directory = tmp_path / "patches"
    directory.mkdir()
    (directory / "0001-good.patch").write_text("Description: x\n" + GOOD)
    (directory / "series").write_text("# first\n0001-good.patch # why\n\n")
    (tmp_path / "root/usr").mkdir(parents=True)
    (tmp_path / "root/usr/x").write_text("one\ntwo\nthree\n")
    return directory


def test_series(series: Path, tmp_path: Path) -> None:
    assert series_files(series) == [series / "0001-good.patch"]
    apply_series(PatchSeries(series, "/usr"), tmp_path / "root")
    assert (tmp_path / "root/usr/x").read_text() == "one\nTWO\nthree\n"
    assert sorted(path.name for path in (tmp_path / "root/usr").iterdir()) == ["x"]


def test_no_fuzz(series: Path, tmp_path: Path) -> None:
    """A context line differs: patch(1) would apply it with fuzz 1."""
    (tmp_path / "root/usr/x").write_text("ONE\ntwo\nthree\n")
    with pytest.raises(BuildError, match=r"0001-good\.patch: does not apply below /usr") as caught:
        apply_series(PatchSeries(series, "/usr"), tmp_path / "root")
    assert "refresh the patch" in caught.value.hint
    assert (tmp_path / "root/usr/x").read_text() == "ONE\ntwo\nthree\n"
    assert sorted(path.name for path in (tmp_path / "root/usr").iterdir()) == ["x"]


def test_a_patch_that_is_applied_already(series: Path, tmp_path: Path) -> None:
    patch = PatchSeries(series, "/usr")
    apply_series(patch, tmp_path / "root")
    with pytest.raises(BuildError, match="does not apply"):
        apply_series(patch, tmp_path / "root")
    assert (tmp_path / "root/usr/x").read_text() == "one\nTWO\nthree\n"


@pytest.mark.parametrize("name", ["none.patch", "../patches/0001-good.patch"])
def test_a_series_that_names_nothing(series: Path, name: str) -> None:
    (series / "series").write_text(f"0001-good.patch\n{name}\n")
    with pytest.raises(BuildError, match="series:2: no patch"):
        series_files(series)


def test_a_directory_that_the_image_has_not(series: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no directory /opt/x"):
        apply_series(PatchSeries(series, "/opt/x"), tmp_path / "root")
