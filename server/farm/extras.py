"""What is served besides the images: any file as an NBD export, any folder as the boot tree.

For diagnosis and for machines that are none of the farm's: `serve --export`,
`--boot-tree` (docs/farm.yaml.md). Both are read-only.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from server.content import Export, FileContent, NotFound, Refused
from server.errors import ServerError

MAX_NAME = 256
"""Bytes of an export's name that every client takes (NBD protocol, "Values")."""
IMAGES = "opt/ltsp/"


@dataclass(frozen=True)
class Folder:
    """A folder whose files are served as they lie, under their paths in it."""

    path: Path

    def find(self, parts: Sequence[str]) -> FileContent | None:
        """The file at a path, taken apart and without dots; None where the folder has none.

        Raises Refused when a link leads out of the folder, NotFound when there is
        something that is no file.
        """
        try:
            root = os.path.realpath(self.path, strict=True)
            real = os.path.realpath(os.path.join(root, *parts), strict=True)
            if os.path.commonpath([root, real]) != root:
                raise Refused("a link leads out of the boot tree")
            status = os.stat(real)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            raise NotFound("this is no file")
        stamp = f"{status.st_dev}-{status.st_ino}-{status.st_mtime_ns}"
        return FileContent(Path(real), status.st_size, stamp)


@dataclass(frozen=True)
class Extras:
    """What is served besides the images. exports: by name.

    folder: searched before the images' tree.
    """

    exports: Mapping[str, Export]
    folder: Folder | None = None

    def __bool__(self) -> bool:
        return bool(self.exports) or self.folder is not None

    def export(self, name: str) -> Export | None:
        """The export of that name, with or without a leading slash, as large as it is now.

        None for other names, and while the file cannot be looked at.
        """
        found = self.exports.get(name) or self.exports.get(name.removeprefix("/"))
        found = found or self.exports.get(f"/{name}")
        try:
            return replace(found, size=found.path.stat().st_size) if found is not None else None
        except OSError:
            return None


NO_EXTRAS = Extras({})


def check_export_name(name: str) -> str | None:
    """What is wrong with the name of a further export, or None."""
    if not name or not name.isprintable():
        return "a name is printable text and not empty"
    if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME:
        return f"a name has at most {MAX_NAME} bytes"
    if name.removeprefix("/").startswith(IMAGES):
        return f"names below /{IMAGES} belong to the images"
    return None


def open_extras(exports: Mapping[str, Path], folder: Path | None) -> Extras:
    """Look whether everything is there. ServerError names the export, the file and why not."""
    opened = {name: _open_export(name, path) for name, path in exports.items()}
    bare: dict[str, str] = {}
    for name in opened:
        other = bare.setdefault(name.removeprefix("/"), name)
        if other != name:
            raise ServerError(
                f"the exports {other} and {name} differ in a leading slash only",
                hint="clients write names with and without it: give one another name",
            )
    if folder is None:
        return Extras(opened)
    try:
        os.listdir(folder)
    except OSError as error:
        raise ServerError(
            f"--boot-tree {folder}: {error.strerror}",
            hint="give a folder that the server's user may read",
        ) from None
    return Extras(opened, Folder(folder.absolute()))


def refuse_own(folder: Path | None, own: Mapping[str, Path | None]) -> None:
    """Refuse to serve what is nobody's to read: ServerError names which of `own` (by the key that
    names it) lies in the folder, to which every machine of the network gets access."""
    if folder is None:
        return
    root = os.path.realpath(folder)
    for key, path in own.items():
        real = os.path.realpath(path) if path is not None else ""
        if path is not None and os.path.commonpath([root, real]) == root:
            raise ServerError(
                f"--boot-tree {folder}: {key} ({path}) lies in it, and would be served to all",
                hint="give a folder that holds only what machines may read",
            )


def _open_export(name: str, path: Path) -> Export:
    where = f"--export {name}={path}"
    if problem := check_export_name(name):
        raise ServerError(f"{where}: {problem}", hint="write --export NAME=FILE")
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
    except OSError as error:
        raise ServerError(
            f"{where}: {error.strerror}", hint="give a file that the server's user may read"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ServerError(
            f"{where}: not a regular file",
            hint="a device or a pipe cannot be mapped: copy it into a file first",
        )
    if status.st_size == 0:
        raise ServerError(f"{where}: the file is empty", hint="an export has at least one byte")
    return Export(name, path.absolute(), status.st_size, description=f"file {path.name}"[:200])


def _open_without_waiting(path: str, flags: int) -> int:
    """An opener for open(): a pipe does not keep the server from starting."""
    return os.open(path, flags | os.O_NONBLOCK)
