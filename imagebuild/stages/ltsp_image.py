"""ltsp-image: outputs of builder, runtime, Kubernetes, settings, initramfs, cleanup, squashfs."""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from imagebuild.apt import AptView
from imagebuild.chroot import apt as chrootapt
from imagebuild.chroot import configure, runtime
from imagebuild.chroot.kernel import has_module, kernel_version
from imagebuild.chroot.listing import render_listing
from imagebuild.errors import BuildError
from imagebuild.recipe import compatibility
from imagebuild.recipe.ingredients import ContainerRuntime, Recipe, Repository
from imagebuild.run import run as run_command
from imagebuild.sbom.parts import Parts, list_built, list_packages
from imagebuild.stage import Inputs, StageContext, code_files, tree_files
from imagebuild.stages import basesystem, builder
from imagebuild.store.verity import append_tree

NAME = "ltsp-image"
TOOLS = {"mksquashfs": "squashfs-tools", "chroot": "coreutils"}
CODE = (
    *builder.CODE,
    "imagebuild/chroot/configure.py",
    "imagebuild/chroot/runtime.py",
    "imagebuild/chroot/listing.py",
    "imagebuild/recipe/compatibility.py",
    "imagebuild/recipe/places.py",
    "imagebuild/sbom/__init__.py",
    "imagebuild/sbom/licences.py",
    "imagebuild/sbom/parts.py",
    "imagebuild/stages/ltsp_image.py",
    "imagebuild/store/__init__.py",
    "imagebuild/store/verity.py",
)

SQUASHFS = "rootfs.squashfs"
LISTING = "rootfs.list"
KERNEL = "vmlinuz"
INITRD = "initrd.img"
PACKAGES = "packages.json"
PARTS = "parts.json"
VERITY = "verity.json"
"""In the product, where the recipe says `verity`: fields of store.verity.Verity."""

_READ = (
    *("container_runtime", "kubernetes", "services", "initramfs", "lts_defaults", "console"),
    *("squashfs", "mirrors"),
)
"""Fields of the recipe that this stage reads as they are."""
_NEVER = ("etc/ssh/ssh_host_*", "var/lib/systemd/random-seed", "usr/sbin/policy-rc.d")


def inputs(recipe: Recipe, apt: AptView) -> Inputs:
    """Everything of the recipe that stages before did not use, and the node's own files."""
    chosen = _without_paths(recipe.container_runtime)
    whole = dataclasses.asdict(dataclasses.replace(recipe, container_runtime=chosen))
    files = code_files(CODE)
    files += [*tree_files(configure.ROOTFS, "rootfs"), ("rootfs.links", configure.LINKS)]
    for index, file in enumerate(recipe.files):
        files += [(f"files/{index}/{path.name}", path) for path in _sources(file.source)]
    files += _registry_cas(recipe.container_runtime)
    files += [(f"keys/{item.name}", apt.key(item)) for item in recipe.repositories]
    files += [item for repository in apt.repositories() for item in _indexes(repository)]
    packages = apt.resolve(
        [*basesystem.packages(recipe), *runtime.packages(recipe)], "container_runtime, kubernetes"
    )
    refuse_pairs(recipe, packages)
    values = {
        "packages": packages,
        "pins": [{"package": pin.package, "version": pin.version} for pin in apt.pins],
        "repositories": [
            {key: getattr(item, key) for key in ("name", "uri", "suite", "components")}
            for item in recipe.repositories
            if item in apt.repositories() or item.directory is None
        ],
        # Sources of files count by their bytes, not by their paths on this machine.
        "files": [{**file, "source": ""} for file in whole["files"]],
        **{name: whole[name] for name in _READ},
        **({"verity": True} if recipe.verity else {}),
    }
    return Inputs(values, files)


def refuse_pairs(recipe: Recipe, packages: Mapping[str, str]) -> compatibility.Versions:
    """The versions of kubelet and runtime in `packages`.

    BuildError where the two cannot work together.
    """
    versions = compatibility.packaged_versions(packages)
    refusal = compatibility.find_refusal(recipe, versions)
    if refusal is not None:
        raise BuildError(f"{recipe.file}: {refusal.key}: {refusal.what}", hint=refusal.hint)
    return versions


def _registry_cas(chosen: ContainerRuntime | None) -> list[tuple[str, Path]]:
    mirrors = chosen.mirrors if chosen else ()
    return [
        (f"registry-ca/{index}", Path(mirror.ca))
        for index, mirror in enumerate(mirrors)
        if mirror.ca
    ]


def _without_paths(chosen: ContainerRuntime | None) -> ContainerRuntime | None:
    """The runtime as the id has it: CAs count by their bytes (`_registry_cas`), not their paths."""
    if chosen is None:
        return None
    mirrors = tuple(dataclasses.replace(mirror, ca="") for mirror in chosen.mirrors)
    return dataclasses.replace(chosen, mirrors=mirrors)


def _indexes(repository: Repository) -> list[tuple[str, Path]]:
    """The indexes of a `file:` repository, which hold each package's digest.

    A package that was built anew under its old version so is another input.
    """
    directory = repository.directory
    if directory is None:
        return []
    suite = repository.suite
    place = directory / suite.lstrip("/") if suite.endswith("/") else directory / "dists" / suite
    pattern = "Packages*" if suite.endswith("/") else "*/binary-*/Packages*"
    label = f"repositories/{repository.name}"
    return [
        (f"{label}/{path.relative_to(place)}", path)
        for path in sorted(place.glob(pattern))
        if path.is_file()
    ]


def _sources(pattern: str) -> list[Path]:
    directory = Path(pattern).parent
    if not pattern:
        return []
    return [path for path in sorted(directory.glob(Path(pattern).name)) if path.is_file()]


def run(context: StageContext) -> None:
    """Finish the root in `context.root` and squash it into `context.product`."""
    root, recipe = context.root, context.recipe
    if recipe.verity:
        refuse_without_verity(context)
    builder.unpack_outputs(context.products[builder.NAME] / builder.OUTPUTS, root)
    chrootapt.prepare(context)
    chrootapt.add_repositories(context)
    context.say("runtime and Kubernetes")
    chrootapt.update(context)
    chrootapt.install(context, runtime.packages(recipe), "container_runtime, kubernetes")
    context.say("settings")
    settle(context)
    # Before the initramfs, whose hooks copy settings (open-iscsi's the initiator's name).
    brought = {file.path for file in recipe.files}
    configure.remove_identity(root, brought)
    context.say("initramfs")
    make_initramfs(context)
    context.say("cleanup")
    packages = chrootapt.installed(root)
    (context.product / PACKAGES).write_text(json.dumps(packages, sort_keys=True))
    (context.product / PARTS).write_text(list_parts(context).to_json())
    chrootapt.finish(context)
    configure.clean(root)
    configure.leave_to_boot(root)
    configure.remove_identity(root, brought)
    epoch = build_epoch(root)
    configure.date_passwords(root, epoch // 86400)
    configure.date_files(root, epoch)
    refuse_leftovers(root)
    (context.product / LISTING).write_text(
        render_listing(root), encoding="utf-8", errors="surrogateescape"
    )
    context.say("squashfs")
    squash(context)
    if recipe.verity:
        context.say("hash tree")
        verity = append_tree(context.product / SQUASHFS)
        (context.product / VERITY).write_text(json.dumps(vars(verity), sort_keys=True))


def refuse_without_verity(context: StageContext) -> None:
    """BuildError where the image's kernel cannot check blocks."""
    for module in ("dm-mod", "dm-verity"):
        if not has_module(context.root, module):
            kernel = kernel_version(context.root)
            raise BuildError(
                f"{context.recipe.file}: verity: the kernel {kernel} has no {module}",
                hint="take a kernel.package that has it, as Debian's linux-image-amd64 and"
                " linux-image-cloud-amd64, or leave `verity: true` out",
            )


def list_parts(context: StageContext) -> Parts:
    """What the bill of materials is made of."""
    return Parts(
        build_epoch(context.root),
        list_packages(context.root),
        list_built(context.products[builder.NAME] / builder.OUTPUTS),
    )


def settle(context: StageContext) -> None:
    """Install the node's own files, and what the recipe says beside packages."""
    root, recipe = context.root, context.recipe
    configure.install_rootfs(root)
    versions = refuse_pairs(recipe, chrootapt.installed(root))
    gates: frozenset[str] = frozenset()
    if runtime.asks_for_gates(recipe, versions):
        gates = runtime.parse_gates(context.chroot.run(["kubelet", "--help"]))
    runtime.configure(root, recipe, versions, gates)
    configure.disable_apparmor_profiles(root)
    configure.write_lts_defaults(root, recipe)
    configure.write_initramfs_modules(root, recipe)
    configure.set_console(root, recipe)
    for file in recipe.files:
        configure.add_file(root, file)
    set_services(context)
    catch_up(context)


def catch_up(context: StageContext) -> None:
    """Run what systemd would run at every boot of a root that is not marked as done."""
    context.chroot.run(["ldconfig"])
    context.chroot.run(["systemd-sysusers"], what="cannot make the users of sysusers.d")
    configure.mark_updated(context.root)


def set_services(context: StageContext) -> None:
    """Enable and disable units.

    Units of the distribution that update by themselves, or that a node has no use for, are
    off before the recipe speaks.
    """
    services = context.recipe.services
    known = {path.name for path in _units(context.root)}
    off = [unit for unit in _OFF if unit in known]
    if off:
        context.chroot.run(["systemctl", "--quiet", "mask", *off])
    if context.recipe.container_runtime:
        if "apparmor.service" in known:
            # 6.6 s of boot for profiles that are disabled; dockerd loads its own.
            context.chroot.run(["systemctl", "--quiet", "disable", "apparmor.service"])
        # reenable: docker.service is one of our own by now.
        context.chroot.run(["systemctl", "--quiet", "reenable", *runtime.units(context.recipe)])
    for verb in ("enable", "disable", "mask"):
        for index, unit in enumerate(getattr(services, verb)):
            context.chroot.run(
                ["systemctl", "--quiet", verb, unit],
                what=f"{context.recipe.file}: services.{verb}[{index}]: cannot {verb} {unit}",
                hint="the package that brings the unit must be among packages:",
            )


_OFF = (
    # A node is updated by another image.
    *("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"),
    # They keep something for the next boot on a root that forgets: seconds of each boot for
    # nothing. pstore's would move a crash's record from the firmware into memory.
    *("systemd-networkd-persistent-storage.service", "systemd-random-seed.service"),
    "systemd-pstore.service",
)


def _units(root: Path) -> list[Path]:
    return [
        path
        for directory in ("usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system")
        for path in (root / directory).glob("*.*")
    ]


def make_initramfs(context: StageContext) -> None:
    """Run depmod, so that modules of the builder are found; then make the one initramfs."""
    kernel = kernel_version(context.root)
    chroot = context.chroot
    chroot.run(["depmod", "-a", kernel])
    for path in (context.root / "boot").glob("initrd.img-*"):
        path.unlink()
    output = chroot.run(
        ["/bin/sh", "-c", 'update-initramfs -c -k "$1" 2>&1', "sh", kernel],
        env={"SOURCE_DATE_EPOCH": str(build_epoch(context.root))},
        what="cannot make the initramfs",
    )
    initrd = context.root / f"boot/initrd.img-{kernel}"
    if not initrd.is_file():
        raise BuildError(f"update-initramfs made no {initrd.name}:\n{output}")
    shutil.copyfile(initrd, context.product / INITRD)
    shutil.copyfile(context.root / f"boot/vmlinuz-{kernel}", context.product / KERNEL)
    initrd.unlink()


def refuse_leftovers(root: Path) -> None:
    """Check that nothing is in the image that must not be there."""
    for pattern in _NEVER:
        for path in root.glob(pattern):
            raise BuildError(f"/{path.relative_to(root)} would be in the image")


def build_epoch(root: Path) -> int:
    """Seconds since 1970 of the newest changelog of a package: the same for the same packages."""
    times = [int(path.stat().st_mtime) for path in root.glob("usr/share/doc/*/changelog.Debian*")]
    return max(times, default=0)


def squash(context: StageContext) -> None:
    """Run mksquashfs, with no time stamp newer than the newest package's."""
    epoch = build_epoch(context.root)
    for path in [context.root, *context.root.rglob("*")]:
        if path.lstat().st_mtime > epoch:
            os.utime(path, (epoch, epoch), follow_symlinks=False)
    run_command(
        squash_argv(context.root, context.product / SQUASHFS, context.recipe.squashfs.level, epoch),
        log=context.log,
        what="cannot make the squashfs",
    )


def squash_argv(root: Path, target: Path, level: int, epoch: int) -> list[str]:
    """mksquashfs's command line."""
    argv = ["mksquashfs", str(root), str(target), "-comp", "zstd", "-Xcompression-level"]
    argv += [str(level), "-b", "131072", "-noappend", "-no-progress", "-xattrs"]
    return [*argv, "-mkfs-time", str(epoch)]
