"""apt inside of the image's root: sources, installing, and what must not stay behind."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from imagebuild.apt import (
    CANONICAL,
    parse_simulated,
    render_distribution,
    render_pins,
    render_repository,
)
from imagebuild.dpkg import read_installed
from imagebuild.recipe.ingredients import Recipe, Repository
from imagebuild.run import run as run_command
from imagebuild.stage import StageContext

LOCAL_REPOSITORIES = "var/lib/bootfarm/repositories"
REPACKED = "var/tmp/bootfarm-repacked"
_BUILD_CONF = "etc/apt/apt.conf.d/99bootfarm-build"
_POLICY = "usr/sbin/policy-rc.d"

IMAGE_CONF = """\
// Recommends and Suggests are never installed; nothing updates by itself:
// another image is the update.
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::AutoRemove::RecommendsImportant "false";
APT::AutoRemove::SuggestsImportant "false";
APT::Periodic::Enable "0";
APT::Periodic::Update-Package-Lists "0";
APT::Periodic::Unattended-Upgrade "0";
"""

_BUILD_LINES = (
    'Acquire::Languages "none";',
    'Acquire::Retries "3";',
    'APT::Sandbox::User "root";',
    'Dpkg::Use-Pty "0";',
    'DPkg::Options { "--force-confdef"; "--force-confold"; "--force-unsafe-io"; };',
)


def write_image_conf(root: Path) -> None:
    """The image's own apt settings, in force from the first installed package on."""
    (root / "etc/apt/apt.conf.d/01bootfarm").write_text(IMAGE_CONF)


def prepare(context: StageContext) -> None:
    """Write the build's sources and pins, and keep services from starting.

    `update` fetches the indexes.
    """
    root, apt = context.root, context.apt
    _clear_sources(root)
    sources = root / "etc/apt/sources.list.d"
    (sources / f"{context.recipe.distribution}.sources").write_text(apt.inside())
    (root / "etc/apt/preferences.d/bootfarm").write_text(render_pins(apt.pins))
    (root / _BUILD_CONF).write_text("\n".join((*_BUILD_LINES, *apt.proxies)) + "\n")
    policy = root / _POLICY
    policy.write_text("#!/bin/sh\n# No service starts while the image is built.\nexit 101\n")
    policy.chmod(0o755)
    if not context.isolate:
        _copy_resolver(root)


def add_repositories(context: StageContext) -> None:
    """Add the recipe's further repositories.

    A `file:` one is copied in for the time of the build.
    """
    root = context.root
    keyrings = root / "etc/apt/keyrings"
    keyrings.mkdir(parents=True, exist_ok=True)
    for repository in context.recipe.repositories:
        key = context.apt.key(repository)
        target = keyrings / f"{repository.name}{key.suffix}"
        shutil.copyfile(key, target)
        if repository not in context.apt.repositories():
            continue
        uri = repository.uri
        if repository.directory is not None:
            copy = root / LOCAL_REPOSITORIES / repository.name
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(repository.directory.resolve(), copy)
            uri = f"file:/{LOCAL_REPOSITORIES}/{repository.name}"
        source = root / f"etc/apt/sources.list.d/{repository.name}.sources"
        source.write_text(render_repository(repository, uri, f"/etc/apt/keyrings/{target.name}"))


def update(context: StageContext) -> None:
    """Fetch the package indexes."""
    context.chroot.run(
        ["apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any"],
        what="cannot read the package indexes in the image",
        hint="check mirrors: and repositories: of the recipe, and the network",
    )


def upgrade(context: StageContext) -> None:
    """Bring every installed package to its newest version."""
    context.chroot.run(["apt-get", "dist-upgrade", "-y", "-q"], env=_INSTALL_ENVIRONMENT)


# The initramfs is made once, at the end (kernel's postinst.d honours INITRD).
_INSTALL_ENVIRONMENT = {"INITRD": "No"}


def install(context: StageContext, packages: Iterable[str], where: str) -> None:
    """Install packages without their Recommends.

    Maintainer scripts that the recipe skips never run: such a package is
    repacked without them, under the same name and version, first.
    """
    names = list(dict.fromkeys(packages))
    if not names:
        return
    chroot = context.chroot
    skips = context.recipe.skip_maintainer_scripts
    if skips:
        simulated = chroot.run(["apt-get", "install", "-s", "-qq", *names])
        versions = parse_simulated(simulated)
        for package in sorted(set(skips) & set(versions)):
            path = _repack(context, package, versions[package], skips[package])
            names = [name for name in names if name != package] + [path]
    chroot.run(
        ["apt-get", "install", "-y", "-q", *names],
        env=_INSTALL_ENVIRONMENT,
        what=f"{context.recipe.file}: {where}: cannot install",
        hint="a maintainer script that cannot run in a chroot: skip_maintainer_scripts",
    )
    shutil.rmtree(context.root / REPACKED, ignore_errors=True)


def _repack(context: StageContext, package: str, version: str, scripts: Iterable[str]) -> str:
    """Download a package and take scripts out of it; the new .deb's path in the root."""
    context.say(f"{package}: without {', '.join(scripts)}")
    (context.root / REPACKED).mkdir(parents=True, exist_ok=True)
    script = (
        'cd "$1"; package=$2; version=$3; shift 3\n'
        'apt-get download -q "$package=$version"\n'
        'dpkg-deb -R "${package}"_*.deb tree; rm "${package}"_*.deb\n'
        'for script; do rm -f "tree/DEBIAN/$script"; done\n'
        'dpkg-deb -b --root-owner-group tree "$package.deb"; rm -r tree\n'
    )
    words = ["/bin/sh", "-ec", script, "repack", f"/{REPACKED}", package, version, *scripts]
    context.chroot.run(words, what=f"cannot repack {package} {version}")
    return f"/{REPACKED}/{package}.deb"


def unpack(context: StageContext, packages: Iterable[str], target: Path) -> None:
    """Download packages and unpack their files below `target`, outside of the root; nothing of
    them is installed, and none of their scripts runs."""
    place = context.root / REPACKED
    place.mkdir(parents=True, exist_ok=True)
    script = 'cd "$1"; shift; apt-get download -q "$@"'
    names = list(packages)
    context.chroot.run(
        ["/bin/sh", "-ec", script, "download", f"/{REPACKED}", *names],
        what=f"cannot download {' '.join(names)}",
    )
    target.mkdir(parents=True)
    for path in sorted(place.glob("*.deb")):
        run_command(
            ["dpkg-deb", "--extract", path, target],
            log=context.log,
            what=f"cannot unpack {path.name}",
        )
    shutil.rmtree(place)


def installed(root: Path) -> dict[str, str]:
    """Name to version of every package that dpkg's status file of `root` calls installed."""
    return {fields["Package"]: fields["Version"] for fields in read_installed(root)}


def finish(context: StageContext) -> None:
    """Write the sources that a running node may use, and remove what only the build needed.

    No `file:` repository, no proxy, no mirror that only this machine has: where the
    recipe names none, the distribution's own.
    """
    root, recipe = context.root, context.recipe
    _clear_sources(root)
    mirrors = recipe.mirrors or CANONICAL[recipe.distribution]
    sources = root / "etc/apt/sources.list.d"
    (sources / f"{recipe.distribution}.sources").write_text(render_distribution(recipe, mirrors))
    kept = [repository for repository in recipe.repositories if repository.directory is None]
    for repository in recipe.repositories:
        key = f"{repository.name}{context.apt.key(repository).suffix}"
        if repository in kept:
            text = render_repository(repository, repository.uri, f"/etc/apt/keyrings/{key}")
            (sources / f"{repository.name}.sources").write_text(text)
        else:
            (root / "etc/apt/keyrings" / key).unlink(missing_ok=True)
    pinned = _pinned_by(recipe, kept)
    preferences = root / "etc/apt/preferences.d/bootfarm"
    preferences.unlink(missing_ok=True)
    if pins := [pin for pin in context.apt.pins if pin.package in pinned]:
        preferences.write_text(render_pins(pins))
    shutil.rmtree(root / "var/lib/bootfarm/repositories", ignore_errors=True)
    (root / _BUILD_CONF).unlink(missing_ok=True)
    (root / _POLICY).unlink(missing_ok=True)
    (root / "etc/apt/apt.conf.d/20auto-upgrades").unlink(missing_ok=True)
    for directory in ("var/lib/apt/lists", "var/cache/apt", "var/lib/apt/periodic"):
        empty_directory(root / directory)


def empty_directory(directory: Path) -> None:
    """Remove everything in a directory, which need not exist. The directory itself stays."""
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _pinned_by(recipe: Recipe, repositories: list[Repository]) -> set[str]:
    names = {package for repository in repositories for package in repository.pin}
    kubernetes = recipe.kubernetes
    if kubernetes and any(item.name == kubernetes.repository for item in repositories):
        names |= set(kubernetes.packages)
    return names


def _clear_sources(root: Path) -> None:
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    directory = root / "etc/apt/sources.list.d"
    directory.mkdir(parents=True, exist_ok=True)
    empty_directory(directory)


def _copy_resolver(root: Path) -> None:
    source, target = Path("/etc/resolv.conf"), root / "etc/resolv.conf"
    if source.is_file():
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
