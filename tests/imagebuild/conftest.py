from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild.recipe.ingredients import Recipe
from imagebuild.recipe.read import load_recipe

MINIMAL = """\
name: amd64
release: bookworm
kernel: {package: linux-image-cloud-amd64}
"""


@pytest.fixture
def recipe_of(tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe out of the least one and further YAML."""

    def make(more: str = "", least: str = MINIMAL) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(least + more)
        return load_recipe(path)

    return make
