"""Nothing is lost between stages: a tree with all that files can have, up to the squashfs."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from imagebuild.chroot import configure
from imagebuild.pipeline import copy_tree
from imagebuild.recipe.ingredients import AddedFile
from imagebuild.run import run
from imagebuild.stages import builder, ltsp_image

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

# VFS_CAP_REVISION_2 with CAP_NET_RAW, effective: `setcap cap_net_raw=ep` (linux/capability.h).
NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")
OLD = 1_500_000_000
"""Before the newest changelog of a package: the squashfs keeps such a time."""


def make_tree(root: Path) -> None:
    """One of each kind below /opt/x, and what configure needs of a root."""
    place = root / "opt/x"
    place.mkdir(parents=True)
    for name, mode, owner in (
        ("plain", 0o644, (0, 0)),
        ("setuid", 0o4755, (0, 0)),
        ("setgid", 0o2755, (0, 8)),
        ("both", 0o6711, (1234, 8)),
        ("secret", 0o600, (1234, 1234)),
        ("capable", 0o755, (0, 0)),
        ("with-attribute", 0o444, (1, 1)),
        ("name with blanks ü", 0o640, (0, 8)),
        ("-begins-with-a-dash", 0o640, (0, 0)),
    ):
        path = place / name
        path.write_text(name)
        os.chown(path, *owner)
        path.chmod(mode)
    os.setxattr(place / "capable", "security.capability", NET_RAW)
    os.setxattr(place / "with-attribute", "user.origin", b"build \x00 7")
    os.link(place / "plain", place / "hard-link")
    (place / "link").symlink_to("plain")
    (place / "link-out").symlink_to("/etc/passwd")
    (place / "dangling").symlink_to("nowhere")
    os.chown(place / "link", 1234, 8, follow_symlinks=False)
    os.mkfifo(place / "pipe", 0o620)
    os.mknod(place / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    for name, mode, owner in (("sticky", 0o1777, (0, 0)), ("drop", 0o2770, (0, 8))):
        (place / name).mkdir()
        os.chown(place / name, *owner)
        (place / name).chmod(mode)
    os.setxattr(place / "drop", "user.origin", b"directory")
    for path in sorted(place.rglob("*"), reverse=True):
        os.utime(path, (OLD, OLD + len(path.name)), follow_symlinks=False)


def describe(place: Path) -> dict[str, object]:
    """Everything of each file below `place` that an image has of it."""
    first: dict[int, str] = {}
    found: dict[str, object] = {}
    for path in sorted(place.rglob("*")):
        info = path.lstat()
        name = str(path.relative_to(place))
        attributes = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        }
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        elif path.is_symlink():
            content = os.readlink(path)
        same = first.setdefault(info.st_ino, name)
        found[name] = (
            *(oct(info.st_mode), info.st_uid, info.st_gid, int(info.st_mtime), info.st_rdev),
            *(content, attributes, same),
        )
    return found


def test_everything_that_a_file_has_comes_from_a_build_into_the_squashfs(tmp_path: Path) -> None:
    built, root, copy = tmp_path / "built", tmp_path / "root", tmp_path / "copy"
    make_tree(built)
    made = describe(built / "opt/x")
    assert len(made) == 17
    root.mkdir()
    builder.pack_outputs(built, ["/opt/x"], tmp_path / "outputs.tar")
    builder.unpack_outputs(tmp_path / "outputs.tar", root)
    assert describe(root / "opt/x") == made

    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1234:1234::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nmail:x:8:\n")
    added = AddedFile("/opt/x/both", "ours", "", 0o6755, "user:mail")
    configure.add_file(root, added)
    changelog = root / "usr/share/doc/x/changelog.Debian.gz"
    configure.write_file(changelog, "")
    os.utime(changelog, (OLD + 10**6, OLD + 10**6))
    copy_tree(root, copy)
    epoch = ltsp_image.build_epoch(copy)
    for path in copy.rglob("*"):
        if path.lstat().st_mtime > epoch:
            os.utime(path, (epoch, epoch), follow_symlinks=False)
    image = tmp_path / "image.squashfs"
    run(ltsp_image.squash_argv(copy, image, 1, epoch))
    subprocess.run(
        ["unsquashfs", "-no-progress", "-quiet", "-d", tmp_path / "seen", image], check=True
    )
    seen = describe(tmp_path / "seen/opt/x")
    both = seen.pop("both")
    made.pop("both")
    assert isinstance(both, tuple)
    assert both[:3] == (oct(stat.S_IFREG | 0o6755), 1234, 8)
    assert both[5] == b"ours"
    assert seen == made
