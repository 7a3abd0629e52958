"""builder: a throw-away copy of basesystem in which drivers and tools are built from source.

Only the declared outputs leave it, as `outputs.tar` with paths from the root.
"""

import dataclasses
import hashlib
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from imagebuild.apt import AptView
from imagebuild.chroot import apt as chrootapt
from imagebuild.chroot.kernel import kernel_version
from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Build, Recipe
from imagebuild.run import run as run_command
from imagebuild.stage import Inputs, StageContext, code_files, tree_files
from imagebuild.stages import basesystem

NAME = "builder"
TOOLS = {"chroot": "coreutils"}
CODE = (*basesystem.CODE, "imagebuild/chroot/kernel.py", "imagebuild/stages/builder.py")
OUTPUTS = "outputs.tar"

NBDROOT_SOURCES = Path(__file__).parents[1] / "rootfs/usr/src/bootfarm"
NBDROOT = "/usr/lib/bootfarm/nbdroot"
VERITYROOT = "/usr/lib/bootfarm/verityroot"
SHARED = ("background.c", "clock.c", "log.c")
"""Sources of nbdroot that verityroot is made of, too."""
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s")
_SOURCES = "usr/src/bootfarm"
_WORK = "usr/src/bootfarm-build"
_COMPILER = ("gcc", "libc6-dev", "make")


def inputs(recipe: Recipe, apt: AptView) -> Inputs:
    """The builds, the packages that they need, and the sources' digests."""
    return Inputs(
        {
            "packages": apt.resolve(
                [*basesystem.packages(recipe), *all_packages(recipe)], "builds"
            ),
            "builds": [
                {**dataclasses.asdict(build), "file": build.file.name if build.file else ""}
                for build in recipe.builds
            ],
            **({"verity": True} if recipe.verity else {}),
        },
        [*code_files(CODE), *tree_files(NBDROOT_SOURCES, "nbdroot")],
    )


def all_packages(recipe: Recipe) -> list[str]:
    """Every package that the builds want, besides those of the base system."""
    packages = list(_COMPILER)
    for build in recipe.builds:
        packages += [*build.packages, *([build.dkms, "dkms"] if build.dkms else [])]
        if build.dkms:
            packages.append(headers_package(recipe))
    return packages


def headers_package(recipe: Recipe) -> str:
    """The headers' package beside the recipe's kernel package."""
    return recipe.kernel_package.replace("linux-image-", "linux-headers-", 1)


def run(context: StageContext) -> None:
    """Build everything in `context.root` and pack the outputs."""
    if not context.isolate:
        # Where /proc cannot be mounted, what asks for the number of processors still works.
        shutil.copyfile("/proc/cpuinfo", context.root / "proc/cpuinfo")
    chrootapt.prepare(context)
    chrootapt.update(context)
    kernel = kernel_version(context.root)
    context.say("compiler")
    chrootapt.install(context, _COMPILER, "builds")
    patterns = [NBDROOT]
    build_nbdroot(context)
    if context.recipe.verity:
        patterns.append(VERITYROOT)
        build_verityroot(context)
    for build in context.recipe.builds:
        context.say(build.name)
        if build.dkms:
            build_dkms(context, build, kernel)
        else:
            build_from_source(context, build, kernel)
        _require_outputs(context, build)
        patterns += build.outputs
    context.say("outputs")
    pack_outputs(context.root, patterns, context.product / OUTPUTS)


def build_nbdroot(context: StageContext) -> None:
    """The static program that attaches the node's root."""
    shutil.copytree(NBDROOT_SOURCES, context.root / _SOURCES, dirs_exist_ok=True)
    (context.root / NBDROOT.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    context.chroot.run(
        ["gcc", *FLAGS, "-o", NBDROOT, *_list_sources("*.c")],
        what="cannot compile nbdroot",
    )


def build_verityroot(context: StageContext) -> None:
    """The static program that sets up dm-verity and tells of blocks that are wrong."""
    sources = [path for one in ("verity/*.c", *SHARED) for path in _list_sources(one)]
    context.chroot.run(
        ["gcc", *FLAGS, '-DPROGRAM="verityroot"', f"-I/{_SOURCES}", "-o", VERITYROOT, *sources],
        what="cannot compile verityroot",
    )


def _list_sources(pattern: str) -> list[str]:
    """Sources of ours by their paths in the builder."""
    found = sorted(NBDROOT_SOURCES.glob(pattern))
    return [f"/{_SOURCES}/{path.relative_to(NBDROOT_SOURCES)}" for path in found]


def build_dkms(context: StageContext, build: Build, kernel: str) -> None:
    """Install a -dkms package and build its modules for the image's kernel.

    Its own postinst would build for the kernel that this machine runs.
    """
    where = f"builds.{build.name}"
    headers = headers_package(context.recipe)
    chrootapt.install(context, [headers, *build.packages, "dkms", build.dkms], where)
    context.chroot.run(
        ["dkms", "autoinstall", "-k", kernel],
        what=f"{context.recipe.file}: {where}: {build.dkms} does not build for {kernel}",
    )


def build_from_source(context: StageContext, build: Build, kernel: str) -> None:
    """Run a build's commands in its directory.

    They see KERNEL (the image's version), SOURCE (the fetched file, when there
    is one) and JOBS (processors); each must end with 0.
    """
    where = f"{context.recipe.file}: builds.{build.name}"
    chrootapt.install(context, build.packages, f"builds.{build.name}.packages")
    work = f"/{_WORK}/{build.name}"
    directory = context.root / work.lstrip("/")
    directory.mkdir(parents=True)
    environment = {"KERNEL": kernel, "JOBS": str(os.cpu_count() or 1)}
    source = fetch_source(build, context.cache, where)
    if source is not None:
        name = build.file.name if build.file else build.url.rsplit("/", 1)[-1] or "source"
        shutil.copyfile(source, directory / name)
        environment["SOURCE"] = f"{work}/{name}"
    for index, command in enumerate(build.commands):
        context.chroot.shell(
            f"cd {work}\n{command}", env=environment, what=f"{where}.commands[{index}]"
        )


def fetch_source(build: Build, cache: Path, where: str) -> Path | None:
    """The build's source file, fetched once and verified; None when it has none."""
    if build.file is not None:
        actual = hashlib.sha256(build.file.read_bytes()).hexdigest()
        if actual != build.sha256:
            raise BuildError(f"{where}.sha256: {build.file} has {actual}, not {build.sha256}")
        return build.file
    if not build.url:
        return None
    target = cache / "sources" / build.sha256
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(build.url, timeout=60) as response, partial.open("wb") as out:
            while chunk := response.read(1 << 20):
                digest.update(chunk)
                out.write(chunk)
    except (urllib.error.URLError, OSError) as error:
        raise BuildError(
            f"{where}.url: cannot fetch {build.url}: {error}",
            hint="check the URL and the network, or keep the file beside the recipe (file:)",
        ) from None
    if digest.hexdigest() != build.sha256:
        partial.unlink()
        raise BuildError(
            f"{where}.sha256: {build.url} has {digest.hexdigest()}, not {build.sha256}",
            hint="another file than the recipe means: look at it before correcting sha256",
        )
    partial.rename(target)
    return target


def _require_outputs(context: StageContext, build: Build) -> None:
    for index, pattern in enumerate(build.outputs):
        if not find_outputs(context.root, pattern):
            raise BuildError(
                f"{context.recipe.file}: builds.{build.name}.outputs[{index}]:"
                f" nothing matches {pattern} after the build",
                hint=f"log: {context.log.path}" if context.log.path else "",
            )


def find_outputs(root: Path, pattern: str) -> list[Path]:
    """What matches an absolute pattern below `root`, directories with all that is in them.

    Paths are relative to the root and free of symlinks in their directories
    (/lib is /usr/lib); a match that leads out of the root is refused.
    """
    real = root.resolve()
    found: set[Path] = set()
    for match in sorted(root.glob(pattern.lstrip("/"))):
        place = match.parent.resolve() / match.name
        if not place.is_relative_to(real):
            raise BuildError(f"output {pattern}: {match} leads out of the image")
        found.add(place.relative_to(real))
        if match.is_dir() and not match.is_symlink():
            found |= {path.relative_to(real) for path in place.rglob("*")}
    return sorted(found)


# Extended attributes of every namespace: file capabilities are one.
_XATTRS = ("--xattrs", "--xattrs-include=*")


def pack_outputs(root: Path, patterns: list[str], target: Path) -> None:
    """A tar of everything that the patterns match: owners, modes, times, links, extended
    attributes and capabilities are kept."""
    paths = sorted({path for pattern in patterns for path in find_outputs(root, pattern)})
    names = target.with_suffix(".names")
    names.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in paths))
    times = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"
    argv: list[str | Path] = ["tar", "--create", "--file", target, "--directory", root]
    argv += ["--format=posix", times]
    argv += [*_XATTRS, "--numeric-owner", "--no-recursion", "--null", "--verbatim-files-from"]
    run_command([*argv, "--files-from", names], what="cannot pack the builder's outputs")
    names.unlink()


def unpack_outputs(archive: Path, root: Path) -> None:
    """Lay the outputs into `root`; directories on the way are made as usual ones."""
    keep = ["--numeric-owner", "--same-owner", "--same-permissions", "--keep-directory-symlink"]
    run_command(
        ["tar", "--extract", "--file", archive, "--directory", root, *_XATTRS, *keep],
        what="cannot unpack the builder's outputs",
    )
