"""final: kernel, initramfs, boot loaders, squashfs, bill of materials and manifest as one directory
for the store."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from imagebuild.apt import AptView
from imagebuild.architecture import ARCHITECTURES, LOADERS, Grub
from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Recipe
from imagebuild.run import run as run_command
from imagebuild.sbom import cyclonedx, notices, spdx
from imagebuild.sbom.document import About
from imagebuild.sbom.parts import Package, Parts, list_packages
from imagebuild.stage import Inputs, StageContext, code_files
from imagebuild.stages import basesystem, ltsp_base, ltsp_image
from imagebuild.store.manifest import MANIFEST_NAME, SBOMS, FileEntry, Manifest
from imagebuild.store.verity import Verity

NAME = "final"
TOOLS = {"grub-mkimage": "grub-common"}
CODE = (
    *ltsp_image.CODE,
    "imagebuild/sbom/document.py",
    "imagebuild/sbom/spdx.py",
    "imagebuild/sbom/cyclonedx.py",
    "imagebuild/sbom/notices.py",
    "imagebuild/stages/ltsp_base.py",
    "imagebuild/store/manifest.py",
    "imagebuild/stages/final.py",
)
IMAGE = "image"

MODULES = (
    "net tftp http linux normal configfile echo test regexp sleep reboot halt serial terminal"
    " minicmd ls cat true eval loadenv all_video"
    " gzio progress"
)
IPXE = Path("/usr/lib/ipxe")
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
        [*code_files(CODE), *find_ipxe(recipe)],
    )


def find_ipxe(recipe: Recipe) -> list[tuple[str, Path]]:
    """This machine's iPXE loaders by their names; BuildError where it lacks one. None where the
    architecture's come from the archive."""
    architecture = ARCHITECTURES[recipe.architecture]
    if architecture.loader_packages:
        return []
    names = [one.ipxe for one in architecture.firmware if one.ipxe]
    found = [(f"ipxe/{name}", IPXE / name) for name in names]
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
    for firmware in ARCHITECTURES[context.recipe.architecture].firmware:
        context.say(f"boot loader {firmware.grub.platform}")
        make_boot_loader(context, firmware.grub, image / "boot/grub" / firmware.grub.platform)
    copy_ipxe(context, image / "boot/ipxe")
    context.say("digests")
    packages = json.loads((parts_of / ltsp_image.PACKAGES).read_text())
    files = list_files(image)
    parts = Parts.from_json((parts_of / ltsp_image.PARTS).read_text())
    files |= write_boms(
        context.recipe, image, files, parts, context.ids, list_loaders(context.recipe)
    )
    verity = read_verity(parts_of / ltsp_image.VERITY)
    manifest = make_manifest(context.recipe, files, packages, context.ids, verity)
    (image / MANIFEST_NAME).write_bytes(manifest.to_bytes())


def _loaders(context: StageContext, place: Path) -> Path:
    """Where boot loaders are that Debian's packages have at `place`: on this machine, or as
    basesystem unpacked them."""
    if not ARCHITECTURES[context.recipe.architecture].loader_packages:
        return place
    return context.products[basesystem.NAME] / basesystem.LOADERS / place.relative_to("/")


def make_boot_loader(context: StageContext, grub: Grub, directory: Path) -> None:
    """A GRUB network directory: the core, every module, and what loads them by name."""
    directory.mkdir(parents=True)
    source = _loaders(context, ltsp_base.GRUB) / grub.platform
    for path in sorted(source.iterdir()):
        if path.suffix in (".mod", ".lst"):
            shutil.copyfile(path, directory / path.name)
    core = directory / grub.core
    run_command(
        boot_loader_argv(context.recipe.name, grub, source, core),
        log=context.log,
        what=f"cannot make {core.name}",
    )


def copy_ipxe(context: StageContext, directory: Path) -> None:
    """iPXE for machines whose addresses come from another DHCP server (docs/dhcp.md); what the
    recipe's release has of it, where the loaders come from the archive."""
    for firmware in ARCHITECTURES[context.recipe.architecture].firmware:
        path = _loaders(context, IPXE) / firmware.ipxe
        if path.is_file():
            directory.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, directory / firmware.ipxe_file)


def boot_loader_argv(name: str, grub: Grub, source: Path, core: Path) -> list[str]:
    """grub-mkimage's command line. source: the platform's directory.

    The prefix has no device: GRUB takes the one that it was loaded from, so
    grub.cfg is asked from the same server at `/ltsp/<name>/grub/grub.cfg`.
    """
    argv = ["grub-mkimage", "--format", grub.target, "--directory", str(source)]
    argv += ["--prefix", f"/ltsp/{name}/grub", "--output", str(core)]
    return [*argv, *grub.modules, *MODULES.split()]


def list_files(image: Path) -> dict[str, FileEntry]:
    """Every file of an image's directory, by its path there."""
    return {
        str(path.relative_to(image)): FileEntry.of(path)
        for path in sorted(image.rglob("*"))
        if path.is_file()
    }


def list_loaders(recipe: Recipe, machine: Path = Path("/")) -> list[Package]:
    """The packages that boot loaders come from, as this machine has them installed; none where
    the architecture's come from the archive: they are of the image's own release."""
    architecture = ARCHITECTURES[recipe.architecture]
    if architecture.loader_packages:
        return []
    names = {firmware.grub.package for firmware in architecture.firmware} | {"ipxe"}
    return [one for one in list_packages(machine) if one.name in names]


def write_boms(
    recipe: Recipe,
    image: Path,
    files: Mapping[str, FileEntry],
    parts: Parts,
    ids: Mapping[str, str],
    loaders: Sequence[Package] = (),
) -> dict[str, FileEntry]:
    """The bill of materials in each format, and the notices; their entries. GRUB's modules are not
    named one by one: what is in the image's directory besides is what a machine boots."""
    named = (ltsp_image.SQUASHFS, ltsp_image.KERNEL, ltsp_image.INITRD)
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
            if path in named or path.rpartition("/")[2] in LOADERS
        },
    )
    renderers: Mapping[str, Callable[[About, Parts], bytes]] = {
        "spdx": spdx.render,
        "cyclonedx": cyclonedx.render,
        "notices": partial(notices.render, loaders=loaders),
    }
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
    verity: Verity | None = None,
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
        verity=verity,
    )


def read_verity(path: Path) -> Verity | None:
    """What ltsp-image says of the hash tree; None where it made none."""
    return Verity(**json.loads(path.read_text())) if path.is_file() else None


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
