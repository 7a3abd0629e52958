"""`make release-check` finds what a release would lack, in trees that lack it."""

import subprocess
from pathlib import Path

import pytest

from tests.release import find_faults, read_notes

CHANGES = """\
# Changelog

## [Unreleased]

## [1.2.3] - 2026-11-29
### Added
- A.

## [1.2.2] - 2026-11-01
- Old.
"""


def commit(house: Path) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "add", "--all"], cwd=house, check=True)
    subprocess.run(["git", *who, "commit", "--quiet", "-m", "x"], cwd=house, check=True)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A tree that can be released."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    (tmp_path / "README.md").write_text("bootfarm\n")
    commit(tmp_path)
    return tmp_path


def test_a_tree_that_can_be_released(house: Path) -> None:
    assert find_faults(house) == []
    assert read_notes(house, "1.2.3") == "### Added\n- A."


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("README.md", "pip install bootfarm-1.2.3.whl\n", "README.md:1:pip install"),
        ("CHANGELOG.md", CHANGES.replace("[1.2.3]", "[1.2.4]"), "no section `## [1.2.3]"),
        ("CHANGELOG.md", CHANGES.replace("### Added\n- A.\n", ""), "no section `## [1.2.3]"),
        ("CHANGELOG.md", CHANGES.replace("## [Unreleased]\n", ""), "no section [Unreleased]"),
        ("pyproject.toml", '[project]\nversion = "1.2"\n', "not MAJOR.MINOR.PATCH"),
    ],
)
def test_what_is_missing(house: Path, file: str, text: str, fault: str) -> None:
    (house / file).write_text(text)
    commit(house)
    assert any(fault in found for found in find_faults(house))


def test_a_tree_that_is_not_committed(house: Path) -> None:
    (house / "new").write_text("x")
    assert find_faults(house) == ["1 change not committed (new); commit"]


def test_a_version_that_was_released(house: Path) -> None:
    subprocess.run(["git", "tag", "v1.2.3"], cwd=house, check=True)
    assert find_faults(house) == []
    (house / "new").write_text("x")
    commit(house)
    assert len(find_faults(house)) == 1
    assert "v1.2.3 is another commit" in find_faults(house)[0]
