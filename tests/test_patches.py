"""patches/: each is used, and says what it does and why (DEP-3)."""

import re
from pathlib import Path

import pytest
import yaml

from imagebuild.chroot.patches import series_files

HOUSE = Path(__file__).parent.parent
SERIES = sorted(path.parent for path in (HOUSE / "patches").glob("*/series"))
WANTED = ("Description", "Author", "Forwarded", "Last-Update")


def test_there_are_some() -> None:
    assert SERIES


@pytest.mark.parametrize("series", SERIES, ids=lambda path: path.name)
def test_every_file_is_in_its_series_with_its_headers(series: Path) -> None:
    named = series_files(series)
    assert {path.name for path in series.iterdir()} == {path.name for path in named} | {"series"}
    for patch in named:
        head = patch.read_text().partition("\n--- a/")[0]
        fields = dict(re.findall(r"^([A-Z][A-Za-z-]+): (\S.*)$", head, re.M))
        assert set(WANTED) <= set(fields), patch
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", fields["Last-Update"]), patch


@pytest.mark.parametrize("series", SERIES, ids=lambda path: path.name)
def test_a_shipped_recipe_applies_it_and_the_docs_say_why(series: Path) -> None:
    recipes = HOUSE / "recipes"
    used = {
        (recipes / item["series"]).resolve()
        for path in recipes.glob("*.yaml")
        for item in yaml.safe_load(path.read_text()).get("patches", [])
    }
    assert series in used
    assert f"patches/{series.name}" in (HOUSE / "docs/recipes.md").read_text()
