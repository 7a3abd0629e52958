"""The parts of the image that depend on the recipe; the static ones are in rootfs/.

Everything here writes plain files below a root and runs nothing.
"""

import glob
import os
import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import AddedFile, Recipe
from imagebuild.recipe.places import EMPTIED, REMOVED

ROOTFS = Path(__file__).parents[1] / "rootfs"
LINKS = Path(__file__).parents[1] / "rootfs.links"
"""Symbolic links of the node's own files, one a line: path from the root, and what it says."""
"""The node's own files at their final paths."""
NOT_IN_IMAGE = ("usr/src",)


def install_rootfs(root: Path, source: Path = ROOTFS, links: Path = LINKS) -> None:
    """Lay the node's own files into the image: root's, 0644 or 0755; then its links.

    A link whose place a package's directory has taken is left out: /opt/cni/bin
    with plugins of its own needs none to /usr/lib/cni.
    """
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if any(relative.is_relative_to(prefix) for prefix in NOT_IN_IMAGE):
            continue
        target = root / relative
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            mode = 0o755 if path.stat().st_mode & 0o111 else 0o644
            write_file(target, path.read_bytes(), mode)
    for place, says in read_links(links).items():
        target = root / place
        if target.is_dir() and not target.is_symlink():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(says)


def read_links(path: Path = LINKS) -> dict[str, str]:
    """Path from the root to what the link says, of rootfs.links."""
    rows = [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]
    return {place: says for place, says in rows}


def write_file(path: Path, data: str | bytes, mode: int = 0o644) -> None:
    """Write a file and the directories to it; what was there is replaced, a link too, and
    nothing of it stays: no owner, no extended attribute, no other name of the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.is_file():
        path.unlink()
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)


def disable_apparmor_profiles(root: Path) -> None:
    """Links in `disable/` for the profiles `sbin.*` and `usr.*`, as the article has it."""
    directory = root / "etc/apparmor.d"
    if not directory.is_dir():
        return
    disable = directory / "disable"
    disable.mkdir(exist_ok=True)
    for profile in sorted([*directory.glob("sbin.*"), *directory.glob("usr.*")]):
        link = disable / profile.name
        if profile.is_file() and not link.is_symlink():
            link.symlink_to(f"/etc/apparmor.d/{profile.name}")


def write_lts_defaults(root: Path, recipe: Recipe) -> None:
    """`/etc/lts.conf`, the flat text for a node that finds no server."""
    lines = [f'{key}="{value}"\n' for key, value in sorted(recipe.lts_defaults.items())]
    write_file(root / "etc/lts.conf", "".join(["# bootfarm lts.conf\n", *lines, "# end\n"]))


def write_initramfs_modules(root: Path, recipe: Recipe) -> None:
    """The recipe's modules, and those of its builds' outputs, into the initramfs."""
    path = root / "etc/initramfs-tools/modules"
    write_file(path, "".join(f"{module}\n" for module in recipe.initramfs.modules))
    all_drivers = "y" if recipe.initramfs.network_drivers == "all" else "n"
    write_file(
        root / "etc/initramfs-tools/conf.d/bootfarm-drivers",
        "# Read by hooks/bootfarm-drivers: every network driver with its firmware, or not.\n"
        f"BOOTFARM_ALL_NETWORK_DRIVERS={all_drivers}\nexport BOOTFARM_ALL_NETWORK_DRIVERS\n",
    )
    if recipe.verity:
        write_file(
            root / "etc/initramfs-tools/conf.d/bootfarm-verity",
            "# Read by hooks/bootfarm: the root is checked as it is read.\n"
            "BOOTFARM_VERITY=y\nexport BOOTFARM_VERITY\n",
        )


def set_console(root: Path, recipe: Recipe) -> None:
    """Root's password and keys; without them the account stays locked."""
    console = recipe.console
    shadow = root / "etc/shadow"
    password = console.password_hash or "!"
    text, count = re.subn(
        r"(?m)^root:[^:]*:", lambda _: f"root:{password}:", shadow.read_text(), count=1
    )
    if count != 1:
        raise BuildError(f"{shadow} has no line for root")
    shadow.write_text(text)
    if console.ssh_keys:
        directory = root / "root/.ssh"
        directory.mkdir(mode=0o700, exist_ok=True)
        keys = "".join(f"{key}\n" for key in console.ssh_keys)
        write_file(directory / "authorized_keys", keys, 0o600)


def add_file(root: Path, file: AddedFile) -> int:
    """Put one `files:` entry into the image and return how many files it was.

    A path below which a directory of the image is a link is followed inside
    the image only.
    """
    if file.content is not None:
        sources: list[tuple[str, bytes]] = [("", file.content.encode())]
    else:
        matches = sorted(glob.glob(file.source)) if file.path.endswith("/") else [file.source]
        found = [match for match in matches if os.path.isfile(match)]
        if not found and not file.optional:
            raise BuildError(f"files: {file.path}: nothing matches {file.source}")
        name = os.path.basename if file.path.endswith("/") else lambda _: ""
        sources = [(name(match), Path(match).read_bytes()) for match in found]
    uid, gid = owner_ids(root, file.owner)
    for name_part, data in sources:
        target = inside(root, file.path + name_part)
        write_file(target, data, 0o600)
        os.chown(target, uid, gid)
        target.chmod(file.mode)  # last: chown takes setuid and setgid away
    return len(sources)


def inside(root: Path, path: str) -> Path:
    """`path` of the image as a path of this machine, links followed as the image would."""
    place = root
    parts = [part for part in path.split("/") if part]
    for depth, part in enumerate(parts[:-1]):
        place = place / part
        if place.is_symlink():
            target = os.readlink(place)
            base = "/" if target.startswith("/") else "/" + str(place.parent.relative_to(root))
            joined = os.path.normpath(os.path.join(base, target))
            return inside(root, "/".join([joined.lstrip("/"), *parts[depth + 1 :]]))
    return place / parts[-1]


def owner_ids(root: Path, owner: str) -> tuple[int, int]:
    """`user:group` by the image's own passwd and group."""
    user, group = owner.split(":")
    return _lookup(root / "etc/passwd", user), _lookup(root / "etc/group", group)


def _lookup(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2])
    raise BuildError(f"the image has no {path.name} entry {name!r}", hint="files[].owner")


IDENTITY = (
    *("etc/ssh/ssh_host_*", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id"),
    *("var/lib/systemd/credential.secret", "etc/hostid", "var/lib/dhcp/duid*"),
    # Made anew on the node from its machine-id (init.d/identity.sh).
    *("etc/iscsi/initiatorname.iscsi", "etc/nvme/hostnqn", "etc/nvme/hostid"),
    "etc/openvswitch/system-id.conf",
    # Made anew on the node (usr/lib/bootfarm/local-keys).
    *("etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem"),
    "etc/bind/rndc.key",
)
"""What maintainer scripts make up so that machines differ; patterns below the root."""


def remove_identity(root: Path, brought: Collection[str] = ()) -> None:
    """Remove what must differ between nodes, unless the recipe itself brings it.

    brought: absolute paths of the recipe's `files:`.
    """
    for pattern in IDENTITY:
        for path in root.glob(pattern):
            if f"/{path.relative_to(root)}" not in brought:
                path.unlink()
    for link in (root / "etc/ssl/certs").glob("*.[0-9]"):  # by the certificate's subject
        if link.is_symlink() and not link.exists() and "snakeoil" in os.readlink(link):
            link.unlink()
    write_file(root / "etc/machine-id", "", 0o444)
    write_file(root / "etc/hostname", "")
    write_file(root / "etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n")
    write_file(root / "etc/resolv.conf", "")


def mark_updated(root: Path) -> None:
    """Write systemd's marks that /etc and /var fit /usr (ConditionNeedsUpdate=, systemd.unit(5)).

    The newest time stamp of a squashfs is theirs too, and a mark as new as /usr is enough.
    Without them each boot makes the linker's cache and the journal's catalogue anew.
    """
    for place in ("etc", "var"):
        write_file(root / place / ".updated", "# Made when the image was.\n")


def date_passwords(root: Path, day: int) -> None:
    """Date every account's password `day` (since 1970), not the day of the build."""
    shadow = root / "etc/shadow"
    text = re.sub(
        r"(?m)^([^:]*:[^:]*):\d+:", lambda match: f"{match[1]}:{day}:", shadow.read_text()
    )
    shadow.write_text(text)


def date_files(root: Path, epoch: int) -> None:
    """What maintainer scripts dated with the time of the build, dated `epoch` (seconds since
    1970): the same packages make the same bytes.
    """
    clock = root / "etc/fake-hwclock.data"
    if clock.is_file():
        clock.write_text(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(epoch))}\n")
    mdadm = root / "etc/mdadm/mdadm.conf"
    if mdadm.is_file():
        text = mdadm.read_text(encoding="utf-8", errors="surrogateescape")
        text = re.sub(r"(?m)^# This configuration was auto-generated on .*\n", "", text)
        mdadm.write_text(text, encoding="utf-8", errors="surrogateescape")


def clean(root: Path) -> None:
    """Remove logs, caches, temporary files, and what serves only for building or for booting from a
    disk.

    /boot/config-* stays: kubeadm reads it.
    """
    for directory in EMPTIED:
        _empty(root / directory)
    for pattern in REMOVED:
        for path in root.glob(pattern):
            if path.is_file() or path.is_symlink():
                path.unlink()


# By systemd-tmpfiles, which systemd's postinst runs too, but only where /proc is:
# `docker build` has none in the node's root.
_MADE_AT_BOOT = (
    *("etc/mtab", "root/.ssh", "var/cache/private", "var/lib/private", "var/log/private"),
    *("var/lib/systemd/coredump", "var/lib/systemd/pstore", "var/log/README"),
    # Debian 13 and later.
    *("etc/credstore", "etc/credstore.encrypted", "etc/default/locale", "etc/vconsole.conf"),
    *("var/lib/systemd/ephemeral-trees", "var/lib/systemd/network"),
)


def leave_to_boot(root: Path) -> None:
    """Remove what every boot makes anew, so that each way to build gives the same image."""
    for name in _MADE_AT_BOOT:
        path = root / name
        if path.is_symlink():
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    journal = root / "var/log/journal"
    if journal.is_dir():
        os.chown(journal, 0, 0)
        journal.chmod(0o755)


def _empty(directory: Path) -> None:
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
