"""final: kernel, initramfs, boot loaders, squashfs, bill of materials and manifest as one directory
for the store."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from imagebuild.apt import AptView
from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Recipe
from imagebuild.run import run as run_command
from imagebuild.sbom import cyclonedx, spdx
from imagebuild.sbom.document import About
from imagebuild.sbom.parts import Parts
from imagebuild.stage import Inputs, StageContext, code_files
from imagebuild.stages import ltsp_image
from imagebuild.stages.ltsp_base import GRUB, PLATFORMS
from imagebuild.store.manifest import MANIFEST_NAME, SBOMS, FileEntry, Manifest

NAME = "final"
TOOLS = {"grub-mkimage": "grub-common"}
CODE = (
    *ltsp_image.CODE,
    "imagebuild/sbom/document.py",
    "imagebuild/sbom/spdx.py",
    "imagebuild/sbom/cyclonedx.py",
    "imagebuild/stages/ltsp_base.py",
    "imagebuild/store/__init__.py",
    "imagebuild/store/manifest.py",
    "imagebuild/stages/final.py",
)
IMAGE = "image"

CORES = {"i386-pc": ("i386-pc-pxe", "core.0"), "x86_64-efi": ("x86_64-efi", "core.efi")}
_PLATFORM_MODULES = {
    "i386-pc": ("pxe", "vga_text"),
    "x86_64-efi": ("efinet", "efi_gop", "efi_uga"),
}
MODULES = (
    "net tftp http linux normal configfile echo test regexp sleep reboot halt serial terminal"
    " minicmd ls cat true eval loadenv all_video"
    " gzio progress"
)
IPXE = Path("/usr/lib/ipxe")
IPXE_LOADERS = ("undionly.kpxe", "snponly.efi")
"""For BIOS and for UEFI x64; both use the firmware's own driver of the card."""
_SHORT = re.compile(r"(?:\d+:)?(\d[\d.]*\d|\d)")
_SHOWN = (
    "kubelet kubeadm kubectl docker.io docker-ce cri-dockerd containerd containerd.io systemd"
    " openssh-server nbd-client kubernetes-cni containernetworking-plugins"
)


def inputs(recipe: Recipe, apt: AptView) -> Inputs:
    """What the manifest says beside the files, and the loaders that are taken as they are."""
    return Inputs(
        {
            "name": recipe.name,
            "cmdline": recipe.cmdline,
            "lts_defaults": dict(recipe.lts_defaults),
            "distribution": recipe.distribution,
        },
        [*code_files(CODE), *find_ipxe()],
    )


def find_ipxe() -> list[tuple[str, Path]]:
    """iPXE's loaders by their names; BuildError where this machine has none."""
    found = [(f"ipxe/{name}", IPXE / name) for name in IPXE_LOADERS]
    for _, path in found:
        if not path.is_file():
            raise BuildError(f"iPXE's loader is missing: {path}", hint="apt-get install ipxe")
    return found


def run(context: StageContext) -> None:
    """Make `context.product/image`, ready to be published."""
    image = context.product / IMAGE
    image.mkdir()
    parts_of = context.products[ltsp_image.NAME]
    for name in (ltsp_image.SQUASHFS, ltsp_image.LISTING, ltsp_image.KERNEL, ltsp_image.INITRD):
        os.link(parts_of / name, image / name)
    for platform in PLATFORMS:
        context.say(f"boot loader {platform}")
        make_boot_loader(context, platform, image / "boot/grub" / platform)
    copy_ipxe(image / "boot/ipxe")
    context.say("digests")
    packages = json.loads((parts_of / ltsp_image.PACKAGES).read_text())
    files = list_files(image)
    parts = Parts.from_json((parts_of / ltsp_image.PARTS).read_text())
    files |= write_boms(context.recipe, image, files, parts, context.ids)
    manifest = make_manifest(context.recipe, files, packages, context.ids)
    (image / MANIFEST_NAME).write_bytes(manifest.to_bytes())


def make_boot_loader(context: StageContext, platform: str, directory: Path) -> None:
    """A GRUB network directory: the core, every module, and what loads them by name."""
    directory.mkdir(parents=True)
    for path in sorted((GRUB / platform).iterdir()):
        if path.suffix in (".mod", ".lst"):
            shutil.copyfile(path, directory / path.name)
    core = directory / CORES[platform][1]
    run_command(
        boot_loader_argv(context.recipe.name, platform, core),
        log=context.log,
        what=f"cannot make {core.name}",
    )


def copy_ipxe(directory: Path) -> None:
    """iPXE for machines whose addresses come from another DHCP server (docs/dhcp.md)."""
    directory.mkdir(parents=True)
    for _, path in find_ipxe():
        shutil.copyfile(path, directory / path.name)


def boot_loader_argv(name: str, platform: str, core: Path) -> list[str]:
    """grub-mkimage's command line.

    The prefix has no device: GRUB takes the one that it was loaded from, so
    grub.cfg is asked from the same server at `/ltsp/<name>/grub/grub.cfg`.
    """
    target, _ = CORES[platform]
    argv = ["grub-mkimage", "--format", target, "--directory", str(GRUB / platform)]
    argv += ["--prefix", f"/ltsp/{name}/grub", "--output", str(core)]
    return [*argv, *_PLATFORM_MODULES[platform], *MODULES.split()]


def list_files(image: Path) -> dict[str, FileEntry]:
    """Every file of an image's directory, by its path there."""
    return {
        str(path.relative_to(image)): FileEntry.of(path)
        for path in sorted(image.rglob("*"))
        if path.is_file()
    }


def write_boms(
    recipe: Recipe,
    image: Path,
    files: Mapping[str, FileEntry],
    parts: Parts,
    ids: Mapping[str, str],
) -> dict[str, FileEntry]:
    """The bill of materials in each format; their entries. GRUB's modules are not named one by
    one: what is in the image's directory besides is what a machine boots."""
    named = (ltsp_image.SQUASHFS, ltsp_image.KERNEL, ltsp_image.INITRD)
    loaders = (*(core for _, core in CORES.values()), *IPXE_LOADERS)
    about = About(
        name=recipe.name,
        distribution=recipe.distribution,
        release=recipe.release,
        architecture=recipe.architecture,
        kernel=_kernel({package.name: "" for package in parts.packages}),
        stages=dict(ids),
        files={
            path: entry.sha256
            for path, entry in files.items()
            if path in named or path.rpartition("/")[2] in loaders
        },
    )
    renderers = {"spdx": spdx.render, "cyclonedx": cyclonedx.render}
    entries = {}
    for kind, name in SBOMS.items():
        (image / name).write_bytes(renderers[kind](about, parts))
        entries[name] = FileEntry.of(image / name)
    return entries


def make_manifest(
    recipe: Recipe,
    files: Mapping[str, FileEntry],
    packages: Mapping[str, str],
    ids: Mapping[str, str],
) -> Manifest:
    """The manifest of an image directory that is complete but for it. files: all in it."""
    return Manifest(
        name=recipe.name,
        distribution=recipe.distribution,
        release=recipe.release,
        architecture=recipe.architecture,
        kernel=_kernel(packages),
        cmdline=recipe.cmdline,
        versions=short_versions(packages),
        packages=packages,
        lts_defaults=recipe.lts_defaults,
        files=files,
        stages=dict(ids),
    )


def short_versions(packages: Mapping[str, str]) -> dict[str, str]:
    """Upstream's part of the versions that a person wants to see."""
    shown: dict[str, str] = {}
    for package in _SHOWN.split():
        if package in packages and (match := _SHORT.match(packages[package])):
            shown[package] = match[1]
    return shown


def _kernel(packages: Mapping[str, str]) -> str:
    """The kernel's release out of the package that carries it."""
    names = [
        match[1]
        for package in packages
        if (match := re.fullmatch(r"linux-image-(\d.*?)(?:-unsigned)?", package))
    ]
    return names[0] if names else ""
