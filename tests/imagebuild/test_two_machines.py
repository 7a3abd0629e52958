"""The same recipe built on two machines from one lock: both make the same bytes, nothing of either
is in the image, and nothing of what the recipe, a build and a package bring is lost. The first one
writes the lock; the second one, which has no network, obeys it. Takes two minutes where nothing
else runs."""

import fcntl
import hashlib
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuild.pipeline import cache_directory
from imagebuild.run import run
from tests.imagebuild.test_build_integration import make_flat_repository

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

# Packages whose maintainer scripts make something up: keys, names, dates.
RECIPE = """\
name: twins
release: trixie
kernel: {package: linux-image-cloud-amd64}
packages: [openssh-server, open-iscsi, nvme-cli, ssl-cert, bind9, mdadm, dma, fake-hwclock, lvm2]
repositories:
  - {name: local, uri: "file:upstream", suite: /, key: upstream/Release.key}
container_runtime: {name: containerd, package: containerd.io, packages: [lossless]}
builds:
  - name: built
    file: tree.tar
    sha256: "%s"
    commands:
      - mkdir -p /usr/lib/built
      - tar -xpf "$SOURCE" -C /usr/lib/built --xattrs "--xattrs-include=*" --numeric-owner
    outputs: [/usr/lib/built/tree]
files:
  - {path: /usr/lib/added/setuid, source: tree/setuid, mode: "4755"}
  - {path: /usr/lib/added/setgid, source: tree/plain, mode: "2751", owner: "root:mail"}
  - {path: /usr/lib/added/secret, content: "hush", mode: "0600", owner: "sshd:nogroup"}
squashfs: {level: 1}
"""

MAKE = """\
import sys
from pathlib import Path
from imagebuild.pipeline import Options, run_stages
from imagebuild.recipe.read import load_recipe

options = Options(Path(sys.argv[2]), lock=Path(sys.argv[3]))
stages = run_stages(load_recipe(Path(sys.argv[1])), options, "final")
print(stages["final"] / "product/image")
"""

MACHINE = """\
set -e
hostname "$1"
echo "$1" >"$2/hostname"
echo "$3" >"$2/machine-id"
[ -e /etc/hostname ] && mount --bind "$2/hostname" /etc/hostname
[ -e /etc/machine-id ] && mount --bind "$2/machine-id" /etc/machine-id
umask "$4"
shift 4
exec "$@"
"""


@dataclass(frozen=True)
class Machine:
    """A machine to build on, and what tells it from another one. namespaces: it has of its own;
    processors: it may use."""

    name: str
    machine_id: str
    umask: str
    environment: Mapping[str, str]
    namespaces: tuple[str, ...] = ("--mount", "--uts")
    processors: str = "0-63"


MACHINES = (
    Machine("alpha", "0123456789abcdef0123456789abcdef", "022", {"TZ": "UTC"}),
    Machine(
        "second-machine.example",
        "fedcba9876543210fedcba9876543210",
        "077",
        {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "EMAIL": "somebody@second-machine.example"},
        ("--mount", "--uts", "--net"),
        "0",
    ),
)

CAP_NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""security.capability of `cap_net_raw=ep`: linux/capability.h, vfs_cap_data version 2."""
PAST = 981173106
"""2001-02-03: older than any package, so that the image does not make it older."""


def make_tree(tree: Path, *, attributes: bool) -> None:
    """All that a file system keeps of its files. attributes: extended ones, too."""
    tree.mkdir()
    (tree / "plain").write_text("plain\n")
    (tree / "setuid").write_text("#!/bin/true\n")
    (tree / "a name with blanks, ž and \\ in it").write_text("x")
    (tree / "nobody may").write_text("y")
    (tree / "sparse").write_bytes(b"")
    os.truncate(tree / "sparse", 5_000_000)
    for name in ("empty", "sticky", "group's", "deep/er"):
        (tree / name).mkdir(parents=True)
    (tree / "deep/er/file").write_text("z")
    (tree / "hard").hardlink_to(tree / "deep/er/file")
    (tree / "group's/harder").hardlink_to(tree / "hard")
    (tree / "relative").symlink_to("deep/er/file")
    (tree / "dangling").symlink_to("/nowhere/at all")
    os.mkfifo(tree / "fifo")
    for name, uid, gid in (("plain", 4321, 1234), ("deep", 1, 2), ("relative", 7, 8)):
        os.chown(tree / name, uid, gid, follow_symlinks=False)
    modes = {"setuid": 0o4755, "nobody may": 0, "sticky": 0o1777, "group's": 0o2750, "fifo": 0o620}
    for name, mode in modes.items():
        (tree / name).chmod(mode)
    if attributes:
        os.setxattr(tree / "setuid", "security.capability", CAP_NET_RAW)
        os.setxattr(tree / "plain", "user.note", b"\0binary\xff")
        os.setxattr(tree / "empty", "user.note", b"of a directory")
    for number, path in enumerate(sorted([tree, *tree.rglob("*")], reverse=True)):
        os.utime(path, (PAST + number, PAST + number), follow_symlinks=False)


def snapshot(root: Path) -> dict[str, str]:
    """Everything of every path below `root`, in words; hard links by the names that they share."""
    names: dict[tuple[int, int], list[str]] = {}
    for path in sorted(root.rglob("*")):
        seen = path.lstat()
        if stat.S_ISREG(seen.st_mode):
            names.setdefault((seen.st_dev, seen.st_ino), []).append(str(path.relative_to(root)))
    found = {}
    for path in sorted(root.rglob("*")):
        seen = path.lstat()
        words = [f"{seen.st_mode:o} {seen.st_uid}:{seen.st_gid} {int(seen.st_mtime)}"]
        if path.is_symlink():
            words.append(f"-> {os.readlink(path)}")
        elif stat.S_ISREG(seen.st_mode):
            words.append(hashlib.sha256(path.read_bytes()).hexdigest())
            shared = names[seen.st_dev, seen.st_ino]
            words += [f"links {shared}"] if len(shared) > 1 else []
        for name in sorted(os.listxattr(path, follow_symlinks=False)):
            words.append(f"{name}={os.getxattr(path, name, follow_symlinks=False)!r}")
        found[str(path.relative_to(root))] = " ".join(words)
    return found


def make_lossless(directory: Path) -> Path:
    """A package of such a tree; its capability comes by its postinst, as usual. The tree."""
    package = directory / "package"
    (package / "usr/lib/packaged").mkdir(parents=True)
    make_tree(package / "usr/lib/packaged/tree", attributes=False)
    (package / "DEBIAN").mkdir()
    (package / "DEBIAN/control").write_text(
        "Package: lossless\nVersion: 1\nArchitecture: all\nDepends: libcap2-bin\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: a tree\n"
    )
    script = package / "DEBIAN/postinst"
    script.write_text("#!/bin/sh\nset -e\nsetcap cap_net_raw=ep /usr/lib/packaged/tree/setuid\n")
    script.chmod(0o755)
    (directory / "upstream").mkdir()
    run(["dpkg-deb", "--build", package, directory / "upstream/lossless_1_all.deb"])
    return package / "usr/lib/packaged/tree"


@dataclass(frozen=True)
class Twins:
    """place: with what the recipe brings. images: of the two builds; roots, initrds: unpacked."""

    place: Path
    images: tuple[Path, Path]
    roots: tuple[Path, Path]
    initrds: tuple[Path, Path]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    place = tmp_path_factory.mktemp("twins")
    make_tree(place / "tree", attributes=True)
    make_lossless(place)
    make_flat_repository(place / "upstream")
    keep = ["--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner"]
    run(["tar", "-C", place, *keep, "-cf", place / "tree.tar", "tree"])
    digest = hashlib.sha256((place / "tree.tar").read_bytes()).hexdigest()
    (place / "recipe.yaml").write_text(RECIPE % digest)
    common = cache_directory()
    (common / "apt/archives").mkdir(parents=True, exist_ok=True)
    products = []
    with (common / "build.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # they share its packages
        for number, machine in enumerate(MACHINES):
            # A path of another length; indexes and packages are the same.
            cache = place / ("cache" * (number + 1))
            cache.mkdir()
            if number:
                (cache / "apt").symlink_to(place / "cache/apt")
            else:
                (cache / "apt").mkdir()
                (cache / "apt/archives").symlink_to(common / "apt/archives")
            products.append(build_on(machine, place / "recipe.yaml", cache))
            assert (cache / "locks").is_dir()
    roots, initrds = [], []
    for number, product in enumerate(products):
        roots.append(place / f"root{number}")
        run(["unsquashfs", "-q", "-n", "-d", roots[-1], product / "rootfs.squashfs"])
        initrds.append(place / f"initrd{number}")
        unpack_initrd((product / "initrd.img").read_bytes(), initrds[-1])
    yield Twins(place, (products[0], products[1]), (roots[0], roots[1]), (initrds[0], initrds[1]))
    shutil.rmtree(place)


def build_on(machine: Machine, recipe: Path, cache: Path) -> Path:
    """Build as if on that machine; the image's directory."""
    argv = ["unshare", *machine.namespaces, "--", "sh", "-c", MACHINE, "sh", machine.name]
    argv += [str(cache), machine.machine_id, machine.umask, "taskset", "-c", machine.processors]
    argv += [sys.executable, "-c", MAKE, str(recipe), str(cache), str(recipe.parent / "lock")]
    checkout = Path(__file__).parents[2]
    environment = {**os.environ, **machine.environment, "PYTHONPATH": str(checkout)}
    done = subprocess.run(argv, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(done.stdout.strip())


def unpack_initrd(data: bytes, target: Path) -> None:
    """An initramfs of initramfs-tools: cpio archives, one after the other, the last compressed."""
    target.mkdir()
    begin = data.index(b"\x28\xb5\x2f\xfd")  # zstd's magic number (RFC 8878, 3.1.1)
    plain = subprocess.run(["zstd", "-dc"], input=data[begin:], capture_output=True, check=True)
    for archive in (data[:begin], plain.stdout):
        while archive.startswith(b"070701"):
            argv = [
                "cpio",
                "--extract",
                "--make-directories",
                "--quiet",
                "--preserve-modification-time",
            ]
            subprocess.run(argv, cwd=target, input=archive, check=True)
            end = archive.index(b"TRAILER!!!") + len("TRAILER!!!")
            archive = archive[end:].lstrip(b"\0")


def differences(one: Path, another: Path) -> dict[str, tuple[str, str]]:
    """What differs."""
    first, second = snapshot(one), snapshot(another)
    return {
        path: (first.get(path, "not there"), second.get(path, "not there"))
        for path in sorted(first.keys() | second.keys())
        if first.get(path) != second.get(path)
    }


def test_two_machines_make_the_same_bytes(twins: Twins) -> None:
    """Squashfs, initramfs, kernel, boot loaders, bills of materials and manifest."""
    one, another = (
        {
            str(path.relative_to(image)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in image.rglob("*")
            if path.is_file()
        }
        for image in twins.images
    )
    assert {"rootfs.squashfs", "initrd.img", "vmlinuz", "manifest.json"} <= one.keys()
    assert [
        name for name in one.keys() | another.keys() if one.get(name) != another.get(name)
    ] == []


def test_two_machines_make_the_same_image(twins: Twins) -> None:
    found = differences(*twins.roots)
    assert found == {}, json.dumps(found, indent=1)[:5000]


def test_and_the_same_initramfs(twins: Twins) -> None:
    """But for the times of its directories, which cpio sets as it makes them."""
    found = {}
    for path, (one, another) in differences(*twins.initrds).items():
        first, second = (words.split(" ") for words in (one, another))
        if first[:2] + first[3:] != second[:2] + second[3:]:
            found[path] = (one, another)
    assert found == {}, json.dumps(found, indent=1)[:5000]
    assert (twins.initrds[0] / "scripts/bootfarm").is_file(), "it was unpacked"


def test_what_dates_itself_has_the_packages_date(twins: Twins) -> None:
    """mdadm's mkconf and fake-hwclock write down when they ran."""
    epoch = (twins.roots[0] / "etc/hostname").stat().st_mtime
    dated = time.strftime("%Y-%m-%d %H:%M:%S\n", time.gmtime(epoch))
    assert (twins.roots[0] / "etc/fake-hwclock.data").read_text() == dated
    assert "auto-generated" not in (twins.roots[0] / "etc/mdadm/mdadm.conf").read_text()


def test_no_file_holds_a_name_of_either_machine(twins: Twins) -> None:
    words = [machine.name for machine in MACHINES if len(machine.name) > 8]
    words += [machine.machine_id for machine in MACHINES]
    for tree in (*twins.roots, *twins.initrds):
        for path in tree.rglob("*"):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                assert not any(word.encode() in data for word in words), path


def test_nothing_of_a_builds_product_is_lost(twins: Twins) -> None:
    assert snapshot(twins.roots[0] / "usr/lib/built") == {
        "tree": describe(twins.place / "tree"),
        **below("tree", snapshot(twins.place / "tree")),
    }


def test_nothing_of_a_package_is_lost(twins: Twins) -> None:
    source = twins.place / "package/usr/lib/packaged/tree"
    os.setxattr(source / "setuid", "security.capability", CAP_NET_RAW)  # as its postinst does
    wanted = {"tree": describe(source), **below("tree", snapshot(source))}
    found = snapshot(twins.roots[0] / "usr/lib/packaged")
    assert without_times_of_directories(found) == without_times_of_directories(wanted)


def without_times_of_directories(found: Mapping[str, str]) -> dict[str, str]:
    """dpkg puts a directory down before what is in it, and leaves its time as that makes it."""
    shown = {}
    for path, words in found.items():
        mode, owner, _, *rest = words.split(" ")
        shown[path] = " ".join([mode, owner, *rest]) if mode.startswith("4") else words
    return shown


def describe(path: Path) -> str:
    """One directory as `snapshot` has it."""
    seen = path.lstat()
    return f"{seen.st_mode:o} {seen.st_uid}:{seen.st_gid} {int(seen.st_mtime)}"


def below(name: str, found: Mapping[str, str]) -> dict[str, str]:
    """The same one directory higher."""
    higher = {}
    for path, words in found.items():
        head, links, rest = words.partition("links [")
        shared = ", ".join(repr(f"{name}/{one[1:-1]}") for one in rest.rstrip("]").split(", "))
        higher[f"{name}/{path}"] = f"{head}{links}{shared}]" if links else words
    return higher


def test_nothing_of_the_recipes_files_is_lost(twins: Twins) -> None:
    added = twins.roots[0] / "usr/lib/added"
    groups = dict(
        line.split(":")[:3:2] for line in (twins.roots[0] / "etc/group").read_text().splitlines()
    )
    users = dict(
        line.split(":")[:3:2] for line in (twins.roots[0] / "etc/passwd").read_text().splitlines()
    )
    wanted = {
        "setuid": ("#!/bin/true\n", 0o4755, 0, 0),
        "setgid": ("plain\n", 0o2751, 0, int(groups["mail"])),
        "secret": ("hush", 0o600, int(users["sshd"]), int(groups["nogroup"])),
    }
    assert {path.name for path in added.iterdir()} == set(wanted)
    for name, (text, mode, uid, gid) in wanted.items():
        seen = (added / name).stat()
        found = (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid)
        assert ((added / name).read_text(), *found) == (text, mode, uid, gid)
    # When the recipe's files were checked out is no matter of the image's: they have its date.
    assert {int(path.stat().st_mtime) for path in added.iterdir()} == {
        int((twins.roots[0] / "etc/hostname").stat().st_mtime)
    }
