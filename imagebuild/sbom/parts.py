"""What an image is made of: packages with source and licences, and files from the builder."""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from imagebuild.dpkg import read_installed
from imagebuild.sbom.licences import read_licences

_SOURCE: Final = re.compile(r"(\S+)(?: \((\S+)\))?")
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Package:
    """An installed package. source, source_version: what it was built from. licences: SPDX
    expressions, None where its copyright file does not say them in machine-readable form."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    maintainer: str = ""
    homepage: str = ""
    licences: tuple[str, ...] | None = None


@dataclass(frozen=True)
class BuiltFile:
    """A file that the builder made. path: from the root, with its slash. size: in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Parts:
    """epoch: the image's own time, in seconds since 1970 (stages/ltsp_image.py, build_epoch)."""

    epoch: int
    packages: tuple[Package, ...] = ()
    built: tuple[BuiltFile, ...] = ()

    def to_json(self) -> str:
        """For the next stage."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Parts":
        """What `to_json` gave."""
        data = json.loads(text)
        packages = [
            Package(**{**one, "licences": _tuple_or_none(one["licences"])})
            for one in data["packages"]
        ]
        built = [BuiltFile(**one) for one in data["built"]]
        return cls(data["epoch"], tuple(packages), tuple(built))


def _tuple_or_none(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def list_packages(root: Path) -> tuple[Package, ...]:
    """Every package that dpkg's status file of `root` calls installed, by name and architecture."""
    return tuple(sorted(_read_status(root), key=lambda one: (one.name, one.architecture)))


def _read_status(root: Path) -> Iterator[Package]:
    for fields in read_installed(root):
        name, version = fields["Package"], fields["Version"]
        source = _SOURCE.match(fields.get("Source", name))
        yield Package(
            name,
            version,
            fields.get("Architecture", ""),
            source[1] if source else name,
            (source[2] if source else None) or version,
            fields.get("Maintainer", ""),
            fields.get("Homepage", ""),
            _find_licences(root, name),
        )


def _find_licences(root: Path, name: str) -> tuple[str, ...] | None:
    """Of /usr/share/doc/NAME/copyright, which may be a link, but not one out of the root."""
    path = (root / "usr/share/doc" / name / "copyright").resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        return None
    return read_licences(path.read_text(encoding="utf-8", errors="replace"))


def list_built(archive: Path) -> tuple[BuiltFile, ...]:
    """The files of the builder's outputs (builder.pack_outputs), by path."""
    found = []
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is None:
                continue
            digest = hashlib.sha256()
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
            found.append(BuiltFile(f"/{member.name}", member.size, digest.hexdigest()))
    return tuple(sorted(found, key=lambda one: one.path))
