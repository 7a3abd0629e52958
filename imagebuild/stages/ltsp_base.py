"""ltsp-base: what serving needs of the machine; here, the boot loaders' platforms.

In the container this stage installs them; on a host it makes sure that they are there.
"""

from pathlib import Path

from imagebuild.apt import AptView
from imagebuild.architecture import ARCHITECTURES
from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Recipe
from imagebuild.stage import GROUND, Inputs, StageContext, code_files, tree_files

NAME = "ltsp-base"
TOOLS = {"grub-mkimage": "grub-common"}
CODE = (*GROUND, "imagebuild/stages/ltsp_base.py")

GRUB = Path("/usr/lib/grub")


def platforms(recipe: Recipe) -> dict[str, str]:
    """The platforms of GRUB that this machine must have, and the package of each: none where
    the architecture's loaders come from the archive (`basesystem`)."""
    architecture = ARCHITECTURES[recipe.architecture]
    if architecture.loader_packages:
        return {}
    return {one.grub.platform: one.grub.package for one in architecture.firmware}


def inputs(recipe: Recipe, apt: AptView) -> Inputs:
    """The boot loaders' own bytes: `final` copies their modules and links their cores."""
    files = code_files(CODE)
    for platform in platforms(recipe):
        files += tree_files(GRUB / platform, platform)
    return Inputs({}, files)


def run(context: StageContext) -> None:
    """Check that each platform that nodes boot from is installed."""
    for platform, package in platforms(context.recipe).items():
        if not (GRUB / platform / "kernel.img").is_file():
            raise BuildError(
                f"GRUB's platform {platform} is missing: {GRUB / platform}",
                hint=f"apt-get install {package}",
            )
