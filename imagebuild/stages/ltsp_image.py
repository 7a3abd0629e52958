"""ltsp-image: outputs of builder, runtime, Kubernetes, settings, initramfs, cleanup, squashfs."""

import json
import os
import shutil
from pathlib import Path

from imagebuild import chrootapt, configure, runtime
from imagebuild.apt import AptView
from imagebuild.errors import BuildError
from imagebuild.ingredients import Recipe
from imagebuild.kernel import kernel_version
from imagebuild.listing import render_listing
from imagebuild.run import run as run_command
from imagebuild.stage import Inputs, StageContext, tree_files, tree_links
from imagebuild.stages import basesystem, builder

NAME = "ltsp-image"
TOOLS = {"mksquashfs": "squashfs-tools", "chroot": "coreutils"}

SQUASHFS = "rootfs.squashfs"
LISTING = "rootfs.list"
KERNEL = "vmlinuz"
INITRD = "initrd.img"
PACKAGES = "packages.json"

_CODE = ("configure.py", "runtime.py", "chrootapt.py", "listing.py")
_NEVER = ("etc/ssh/ssh_host_*", "var/lib/systemd/random-seed", "usr/sbin/policy-rc.d")


def inputs(recipe: Recipe, apt: AptView) -> Inputs:
    """Everything of the recipe that stages before did not use, and the node's own files."""
    here = Path(__file__)
    files = [("ltsp_image.py", here)]
    files += [(name, here.parents[1] / name) for name in _CODE]
    files += tree_files(configure.ROOTFS, "rootfs")
    for index, file in enumerate(recipe.files):
        files += [(f"files/{index}/{path.name}", path) for path in _sources(file.source)]
    files += [(f"keys/{item.name}", apt.key(item)) for item in recipe.repositories]
    values = {
        "packages": apt.resolve(
            [*basesystem.packages(recipe), *runtime.packages(recipe)],
            "container_runtime, kubernetes",
        ),
        "pins": [[pin.package, pin.version] for pin in apt.pins],
        "links": tree_links(configure.ROOTFS),
        "repositories": [
            [item.name, item.uri, item.suite, item.components] for item in recipe.repositories
        ],
        "recipe": repr(
            (
                recipe.container_runtime,
                recipe.kubernetes,
                recipe.services,
                [(f.path, f.content, f.mode, f.owner, f.optional) for f in recipe.files],
                recipe.initramfs,
                recipe.lts_defaults,
                recipe.console,
                recipe.squashfs,
                recipe.mirrors,
            )
        ),
    }
    return Inputs(values, files)


def _sources(pattern: str) -> list[Path]:
    directory = Path(pattern).parent
    if not pattern:
        return []
    return [path for path in sorted(directory.glob(Path(pattern).name)) if path.is_file()]


def run(context: StageContext) -> None:
    """Finish the root in `context.root` and squash it into `context.product`."""
    root, recipe = context.root, context.recipe
    builder.unpack_outputs(context.products[builder.NAME] / builder.OUTPUTS, root)
    chrootapt.prepare(context)
    chrootapt.add_repositories(context)
    context.say("runtime and Kubernetes")
    chrootapt.update(context)
    chrootapt.install(context, runtime.packages(recipe), "container_runtime, kubernetes")
    context.say("settings")
    settle(context)
    context.say("initramfs")
    make_initramfs(context)
    context.say("cleanup")
    packages = chrootapt.installed(root)
    (context.product / PACKAGES).write_text(json.dumps(packages, sort_keys=True))
    chrootapt.finish(context)
    configure.clean(root)
    configure.leave_to_boot(root)
    configure.remove_identity(root)
    configure.date_passwords(root, build_epoch(root) // 86400)
    refuse_leftovers(root)
    (context.product / LISTING).write_text(
        render_listing(root), encoding="utf-8", errors="surrogateescape"
    )
    context.say("squashfs")
    squash(context)


def settle(context: StageContext) -> None:
    """The node's own files and what the recipe says beside packages."""
    root, recipe = context.root, context.recipe
    configure.install_rootfs(root)
    runtime.configure(root, recipe)
    configure.disable_apparmor_profiles(root)
    configure.write_lts_defaults(root, recipe)
    configure.write_initramfs_modules(root, recipe)
    configure.set_console(root, recipe)
    for file in recipe.files:
        configure.add_file(root, file)
    set_services(context)


def set_services(context: StageContext) -> None:
    """Units on and off; those of the distribution that update by themselves or that a node
    has no use for are off before the recipe speaks.
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
        if context.recipe.container_runtime.name == "docker":
            context.chroot.run(["systemctl", "--quiet", "reenable", "docker.service"])
    for verb in ("enable", "disable", "mask"):
        for index, unit in enumerate(getattr(services, verb)):
            context.chroot.run(
                ["systemctl", "--quiet", verb, unit],
                what=f"{context.recipe.file}: services.{verb}[{index}]: cannot {verb} {unit}",
                hint="the package that brings the unit must be among packages:",
            )


_OFF = ("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service")


def _units(root: Path) -> list[Path]:
    return [
        path
        for directory in ("usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system")
        for path in (root / directory).glob("*.*")
    ]


def make_initramfs(context: StageContext) -> None:
    """depmod first, so that what the builder made is found; then the one initramfs."""
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
    """A last look: nothing that must not be in an image is in it."""
    for pattern in _NEVER:
        for path in root.glob(pattern):
            raise BuildError(f"/{path.relative_to(root)} would be in the image")


def build_epoch(root: Path) -> int:
    """Seconds since 1970 of the newest changelog of a package: the same for the same packages."""
    times = [int(path.stat().st_mtime) for path in root.glob("usr/share/doc/*/changelog.Debian*")]
    return max(times, default=0)


def squash(context: StageContext) -> None:
    """mksquashfs, with no time stamp newer than the newest package's."""
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
