"""The front door: what one half of the house knows of the other."""

from pathlib import Path

import pytest

import bootfarm
from imagebuild.recipe.read import load_recipe
from imagebuild.recipe.yamlnode import RecipeError

RECIPE = "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-amd64}\n"


def load(tmp_path: Path, defaults: str) -> dict[str, str]:
    assert bootfarm.main
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{RECIPE}lts_defaults: {defaults}\n")
    return dict(load_recipe(path).lts_defaults)


@pytest.mark.parametrize(
    ("defaults", "says", "hint"),
    [
        ('{TIMEZON: "UTC"}', "lts_defaults.TIMEZON: TIMEZON is no variable", "TIMEZONE"),
        ('{LTSP_NBD_TO_RAM: "maybe"}', "lts_defaults.LTSP_NBD_TO_RAM: ", "Write true or false"),
        ("{TIMEZONE: Europe/Pragu}", "'Europe/Pragu' is no time zone", "Europe/Prague"),
        ("{CRONTAB_01: '@daily root run'}", "begins with 'root'", "Remove root"),
        ("{FSTAB_01: /dev/sda1 /data ext4}", "3 fields", "device, mount point"),
        ("{LIKE: gpu}", "LIKE names a section", "remove"),
        ("{HOSTNAME: node}", "all nodes of the image the same name", "HOSTNAME_BASE"),
        ("{NBD_SWAP: 'true'}", "kubelet refuses", "Remove"),
        ("{IMAGE: ':x'}", "cannot name the image", "lts.conf"),
    ],
)
def test_lts_defaults_are_checked_when_a_recipe_is_read(
    tmp_path: Path, defaults: str, says: str, hint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, defaults)
    assert says in caught.value.message
    assert hint in (caught.value.hint or "")


def test_defaults_that_pass(tmp_path: Path) -> None:
    defaults = '{LTSP_NBD_TO_RAM: "true", TIMEZONE: NONE, MY_OWN: "x", RCFILE_01_A: "run"}'
    assert load(tmp_path, defaults)["MY_OWN"] == "x"


@pytest.mark.parametrize(
    "path", sorted((Path(bootfarm.__file__).parent / "recipes").glob("*.yaml")), ids=str
)
def test_the_recipes_that_are_shipped_pass(path: Path) -> None:
    assert load_recipe(path).name
