"""`rootfs.list`: a line for each file of the squashfs (docs/contracts.md)."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from imagebuild.errors import BuildError

_TYPES = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}


def render_listing(root: Path) -> str:
    """`<mode octal> <uid> <gid> <type> <size> <path>[ -> target]`, sorted by path.

    Types are f d l c b p s; the size is 0 for all but files. Paths begin with `/`.
    """
    return "".join(f"{line}\n" for _, line in sorted(_lines(root)))


def _lines(root: Path) -> Iterator[tuple[str, str]]:
    pending = [(root, "/")]
    while pending:
        place, path = pending.pop()
        info = os.lstat(place)
        kind = _TYPES[stat.S_IFMT(info.st_mode)]
        if "\n" in path:
            raise BuildError(f"the image has a file with a newline in its name: {path!r}")
        size = info.st_size if kind == "f" else 0
        mode = stat.S_IMODE(info.st_mode)
        target = f" -> {os.readlink(place)}" if kind == "l" else ""
        yield path, f"{mode:04o} {info.st_uid} {info.st_gid} {kind} {size} {path}{target}"
        if kind == "d":
            pending += [(place / name, f"{path.rstrip('/')}/{name}") for name in os.listdir(place)]
