"""What a store does with directories: measures, syncs, makes readable and removes them."""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path


def listdir(path: Path) -> list[str]:
    """The names in a directory, sorted; none where there is no such directory."""
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def tree_size(path: Path) -> int:
    """Bytes of all files below a directory."""
    total = 0
    for directory, _, files in os.walk(path):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(directory, file)).st_size
    return total


def remove_abandoned(path: Path, *, dry_run: bool = False) -> int | None:
    """Remove what a dead writer left; its bytes, or None when its writer lives.

    A writer holds a shared lock on its directory for as long as it lives; the
    exclusive one is kept until the directory is gone (see `Store.writing`).
    """
    if path.is_symlink() or not path.is_dir():
        if not dry_run:
            path.unlink(missing_ok=True)
        return 0
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = tree_size(path)
        if not dry_run:
            shutil.rmtree(path)
    except BlockingIOError:
        return None
    finally:
        os.close(held)
    return size


def make_readable(directory: Path) -> None:
    """Servers run as another user: files 0644, directories 0755."""
    os.chmod(directory, 0o755)
    for path in directory.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def sync_tree(directory: Path) -> None:
    """Have all files and directories below a directory on the disk."""
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        elif path.is_dir():
            sync_directory(path)
    sync_directory(directory)


def sync_directory(path: Path) -> None:
    """Have the names in a directory on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
