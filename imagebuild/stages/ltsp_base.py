"""ltsp-base: what serving needs of the machine; here, the boot loaders' platforms.

In the container this stage installs them; on a host it makes sure that they are there.
"""

from pathlib import Path

from imagebuild.apt import AptView
from imagebuild.errors import BuildError
from imagebuild.ingredients import Recipe
from imagebuild.stage import Inputs, StageContext

NAME = "ltsp-base"
TOOLS = {"grub-mkimage": "grub-common"}

GRUB = Path("/usr/lib/grub")
PLATFORMS = {"i386-pc": "grub-pc-bin", "x86_64-efi": "grub-efi-amd64-bin"}


def inputs(recipe: Recipe, apt: AptView) -> Inputs:
    """The boot loaders' own bytes (their largest part stands for the whole)."""
    files = [
        (f"{platform}/{name}", GRUB / platform / name)
        for platform in PLATFORMS
        for name in ("kernel.img", "normal.mod", "net.mod", "linux.mod")
        if (GRUB / platform / name).is_file()
    ]
    return Inputs({}, files)


def run(context: StageContext) -> None:
    """Check that each platform that nodes boot from is installed."""
    for platform, package in PLATFORMS.items():
        if not (GRUB / platform / "kernel.img").is_file():
            raise BuildError(
                f"GRUB's platform {platform} is missing: {GRUB / platform}",
                hint=f"apt-get install {package}",
            )
