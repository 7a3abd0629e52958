"""A view of an archive that has every package, at version 1; no apt is asked."""

from collections.abc import Sequence
from pathlib import Path

from imagebuild.apt import AptView
from imagebuild.recipe.ingredients import Mirrors, Recipe, Repository


class AnyApt(AptView):
    """For the inputs of stages: what is asked for is what is answered."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.mirrors = recipe.mirrors or Mirrors("http://archive", "http://security")
        self.pins = ()

    def resolve(self, packages: Sequence[str], where: str) -> dict[str, str]:
        return dict.fromkeys(packages, "1")

    def key(self, repository: Repository) -> Path:
        return Path(repository.key)
