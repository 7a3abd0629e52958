"""Files of a configuration: the main one, and includes looked up below a root directory.

The root is to the paths in an lts.conf what a chroot would be: `/etc/x`, `x`
and `../x` all are looked up below it, and a symbolic link, absolute or not,
leads to a place below it too. Nothing outside is ever opened.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from imagebuild.wholefile import read_whole
from server.ltsconf.errors import LtsConfError
from server.ltsconf.scan import Included, ReadInclude

MAX_SIZE = 64 * 2**20
"""Bytes of one file; a ConfigMap holds 1 MiB, and this is far beyond what people write."""
MAX_LINKS = 40
"""Symbolic links on one path, as Linux has it (MAXSYMLINKS)."""
# What the main file is called on a client of LTSP 5: an include may name it.
MAIN_PATH = b"/etc/lts.conf"


def read_main(path: Path, *, pipes: bool = False) -> Included:
    """The main file, wherever it is; raises LtsConfError.

    pipes: a pipe is read to its end, as of `<(git show HEAD:lts.conf)` or a FIFO that
    somebody writes into.
    """
    try:
        if pipes and path.is_fifo():
            return Included("main", str(path), read_whole(path, MAX_SIZE))
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise _make_too_large(str(path)) from None
        if error.errno == errno.EAGAIN:
            hint = "Name a file, or write into the pipe."
            raise LtsConfError(str(error.strerror), path=str(path), hint=hint) from None
        raise LtsConfError(
            f"cannot be read: {error.strerror}",
            path=str(path),
            hint="Name a file that is there and that this user can read.",
        ) from None
    found = _read(descriptor, str(path))
    if found is None or found.data is None:
        raise LtsConfError("is not a regular file", path=str(path), hint="Name a file.")
    return found


def _make_too_large(shown: str) -> LtsConfError:
    return LtsConfError(
        f"is larger than {MAX_SIZE} bytes",
        path=shown,
        hint="An lts.conf is a few kilobytes: is this the right file?",
    )


def make_reader(root: Path, main: Included) -> ReadInclude:
    """A reader for the includes of `main` below `root`.

    `/etc/lts.conf`, where the root has none, means `main` itself, as it does
    on a client.
    """

    def read_include(path: bytes) -> Included | None:
        found = _open_below(os.fsencode(root), path)
        if found is None and os.path.normpath(b"/" + path.lstrip(b"/")) == MAIN_PATH:
            return main
        return found

    return read_include


def read_nothing(path: bytes) -> Included | None:
    """A reader that finds no include: for texts without a directory."""
    return None


def _open_below(root: bytes, path: bytes) -> Included | None:
    resolved = _resolve_below(root, path)
    if resolved is None:
        return None
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        descriptor = os.open(resolved, flags)
    except (OSError, ValueError):
        return None
    try:
        return _read(descriptor, os.fsdecode(path))
    except LtsConfError:
        return None


def _resolve_below(root: bytes, path: bytes) -> bytes | None:
    """The real path of `path` below `root`, links followed inside; None when it has none.

    `root` itself may be reached by links. The parts below it are plain then.
    """
    if not path or len(path) > 4095:
        return None
    base = os.path.realpath(root)
    todo = path.split(b"/")[::-1]
    done: list[bytes] = []
    links = 0
    while todo:
        part = todo.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            if done:
                done.pop()
            continue
        here = os.path.join(base, *done, part)
        try:
            status = os.lstat(here)
        except (OSError, ValueError):
            return None
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MAX_LINKS:
                return None
            target = os.readlink(here)
            if target.startswith(b"/"):
                done = []
            todo += target.split(b"/")[::-1]
        else:
            if any(left not in (b"", b".") for left in todo) and not stat.S_ISDIR(status.st_mode):
                return None
            done.append(part)
    return os.path.join(base, *done)


def _read(descriptor: int, shown: str) -> Included | None:
    """Read and close; None for what is neither a file nor a directory."""
    try:
        status = os.fstat(descriptor)
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            return Included(identity, shown, None)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > MAX_SIZE:
            raise _make_too_large(shown)
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return Included(identity, shown, stream.read(MAX_SIZE))
    finally:
        os.close(descriptor)
