"""The lock of a recipe's packages: what `bootfarm build --lock FILE` writes and obeys.

JSON, with one package on each line, so that two locks can be compared with diff.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Recipe
from imagebuild.wholefile import read_whole, write_whole

FORMAT = 1
MOST = 16 << 20
"""Bytes of a lock; one of 600 packages has 150 KB."""
ARCHIVE, SECURITY = "archive", "security"
"""`source` of packages from the distribution's own archives; others are repositories' names."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9.+~:_-]{1,255}")
_PATH = re.compile(r"[A-Za-z0-9.+~:_%/-]{1,1000}")
_STALE = "remove it, or name another file, to lock anew"


@dataclass(frozen=True)
class LockedPackage:
    """One .deb. size: bytes. source: where it came from; path: its URI from there on."""

    name: str
    version: str
    architecture: str
    size: int
    sha256: str
    source: str
    path: str

    @property
    def file(self) -> str:
        """Its name in the archive, as apt has it: an epoch's colon is %3a."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


@dataclass(frozen=True)
class Lock:
    """What a recipe's packages were. file: where it stands.

    keys: a repository's name to the SHA-256 of its key's bytes. machine: package to version of
    what this machine adds to an image: boot loaders, mksquashfs.
    """

    file: Path
    distribution: str
    release: str
    architecture: str
    keys: Mapping[str, str]
    machine: Mapping[str, str]
    packages: tuple[LockedPackage, ...]

    def to_bytes(self) -> bytes:
        """The file's text: equal locks are equal bytes."""
        head = {
            "lock": FORMAT,
            **{key: getattr(self, key) for key in ("distribution", "release", "architecture")},
            "keys": dict(sorted(self.keys.items())),
            "machine": dict(sorted(self.machine.items())),
        }
        lines = [f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
        ordered = sorted(self.packages, key=lambda one: one.name)
        rows = ",\n".join(f"  {json.dumps(dataclasses.asdict(one))}" for one in ordered)
        return f'{{\n{"".join(lines)} "packages": [\n{rows}\n ]\n}}\n'.encode()

    def digest(self) -> str:
        """SHA-256 in hex of the packages; what only tells of machines does not count."""
        rows = [dataclasses.astuple(one)[:5] for one in self.packages]
        return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()

    def write(self) -> None:
        """Put it into its file, whole; BuildError where that cannot be."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, self.to_bytes(), mode=0o644)
        except OSError as error:
            raise BuildError(f"--lock: cannot write {self.file}: {error.strerror}") from None

    def check(self, recipe: Recipe) -> None:
        """BuildError where it was made for another distribution, release or architecture."""
        for key in ("distribution", "release", "architecture"):
            if getattr(self, key) != getattr(recipe, key):
                raise BuildError(
                    f"--lock: {self.file} is of {key} {getattr(self, key)}, and {recipe.file} of"
                    f" {getattr(recipe, key)}",
                    hint=_STALE,
                )


def read_lock(path: Path) -> Lock:
    """Read a lock; BuildError says what is wrong with it."""
    try:
        given = json.loads(read_whole(path, MOST))
    except OSError as error:
        raise BuildError(f"--lock: cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BuildError(f"--lock: {path} is no lock: {error}", hint=_STALE) from None
    if not isinstance(given, dict) or given.get("lock") != FORMAT:
        raise BuildError(f"--lock: {path} is no lock of format {FORMAT}", hint=_STALE)
    try:
        lock = Lock(
            path,
            **{key: _word(given[key]) for key in ("distribution", "release", "architecture")},
            keys={_word(name): _digest(value) for name, value in given["keys"].items()},
            machine={_word(name): _word(value) for name, value in given["machine"].items()},
            packages=tuple(_read_package(one) for one in given["packages"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BuildError(f"--lock: {path} is no whole lock: {error}", hint=_STALE) from None
    names = [one.name for one in lock.packages]
    if len(set(names)) != len(names):
        raise BuildError(f"--lock: {path} names a package twice", hint=_STALE)
    return lock


def _read_package(given: Any) -> LockedPackage:
    words = {key: _word(given[key]) for key in ("name", "version", "architecture", "source")}
    if type(given["size"]) is not int or given["size"] < 0:
        raise ValueError(f"size of {words['name']}: {given['size']!r}")
    path = given["path"]
    if not _PATH.fullmatch(path) or ".." in path.split("/"):
        raise ValueError(f"path of {words['name']}: {path!r}")
    return LockedPackage(**words, size=given["size"], sha256=_digest(given["sha256"]), path=path)


def _word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise ValueError(repr(value)[:100])
    return value


def _digest(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise ValueError(f"{value!r:.100} is no SHA-256")
    return value
