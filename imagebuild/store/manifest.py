"""What an image is: `manifest.json`, format 1 (docs/contracts.md, "The store").

The manifest's bytes are canonical JSON (sorted keys, no spaces, one final
newline), so equal content has equal bytes, and their SHA-256 is the image's
digest: it verifies the manifest, and the manifest verifies every file.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagebuild.errors import BuildError
from imagebuild.store.verity import Verity

FORMAT = 1
"""Of manifest.json (docs/contracts.md); readers refuse others."""
MANIFEST_NAME = "manifest.json"
ROOTFS = "rootfs.squashfs"
"""The key of an image's root file system among `files`, and its path in the image."""
SBOMS = {"spdx": "sbom.spdx.json", "cyclonedx": "sbom.cdx.json", "notices": "notices.txt"}
"""The keys of its bill of materials, by format; images of an older builder have none."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20
"""Bytes read at once of a file that is hashed."""


class ManifestError(BuildError):
    """A manifest, or a file that it describes, is not what it says."""


def is_image_name(text: str) -> bool:
    """Whether `text` may name an image: `[a-z0-9][a-z0-9._-]{0,62}`."""
    return _NAME.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether `text` is 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True)
class FileEntry:
    """One file of an image: its size in bytes and the SHA-256 of its bytes in hex."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileEntry":
        """The entry of the file at `path`, which is read whole."""
        digest = hashlib.sha256()
        size = 0
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return cls(size, digest.hexdigest())


@dataclass(frozen=True)
class Manifest:
    """An image's description; field by field as in docs/contracts.md.

    `files` maps paths relative to the image's directory (POSIX, no `..`) to
    their entries; manifest.json itself is not among them. `verity`: of the root file
    system, where its recipe asked for it; without it there is no such key.
    """

    name: str
    distribution: str
    release: str
    architecture: str
    kernel: str
    cmdline: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    lts_defaults: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    verity: Verity | None = None

    def to_bytes(self) -> bytes:
        """The canonical bytes of `manifest.json`."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "name": self.name,
            "distribution": self.distribution,
            "release": self.release,
            "architecture": self.architecture,
            "kernel": self.kernel,
            "cmdline": list(self.cmdline),
            "versions": dict(self.versions),
            "packages": dict(self.packages),
            "lts_defaults": dict(self.lts_defaults),
            "files": {
                path: {"size": entry.size, "sha256": entry.sha256}
                for path, entry in self.files.items()
            },
            "stages": dict(self.stages),
        }
        if self.verity is not None:
            data["verity"] = vars(self.verity)
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode() + b"\n"

    @property
    def digest(self) -> str:
        """SHA-256 of `to_bytes()` in hex: the image's name in the store."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all the image's files together, the manifest aside."""
        return sum(entry.size for entry in self.files.values())


def parse_manifest(data: bytes) -> Manifest:
    """Read `manifest.json`; ManifestError names the key that is wrong.

    Unknown keys of a known format are refused too: they would be lost by
    `to_bytes`, and the digest with them.
    """
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise ManifestError(f"{MANIFEST_NAME} is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ManifestError(f"{MANIFEST_NAME}: expected an object, got {type(raw).__name__}")
    if raw.get("format") != FORMAT:
        raise ManifestError(
            f"{MANIFEST_NAME}: format {raw.get('format')!r} is not {FORMAT}",
            hint="build the image again, or use the bootfarm that made it",
        )
    reader = _Reader(raw)
    manifest = Manifest(
        name=reader.text("name"),
        distribution=reader.text("distribution"),
        release=reader.text("release"),
        architecture=reader.text("architecture"),
        kernel=reader.text("kernel"),
        cmdline=reader.texts("cmdline"),
        versions=reader.mapping("versions"),
        packages=reader.mapping("packages"),
        lts_defaults=reader.mapping("lts_defaults"),
        files=reader.files("files"),
        stages=reader.mapping("stages"),
        verity=reader.verity("verity"),
    )
    if unknown := sorted(set(raw) - reader.seen - {"format"}):
        raise ManifestError(f"{MANIFEST_NAME}: unknown key {unknown[0]!r}")
    if not is_image_name(manifest.name):
        raise ManifestError(f"{MANIFEST_NAME}: name {manifest.name!r} is not an image name")
    return manifest


class _Reader:
    """Takes typed values out of a decoded JSON object and remembers which."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.seen: set[str] = set()

    def _get(self, key: str, kind: type) -> Any:
        self.seen.add(key)
        value = self.raw.get(key)
        if not isinstance(value, kind):
            what = "missing" if value is None else f"of type {type(value).__name__}"
            raise ManifestError(f"{MANIFEST_NAME}: {key} is {what}, expected {kind.__name__}")
        return value

    def text(self, key: str) -> str:
        return str(self._get(key, str))

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._get(key, list)
        if not all(isinstance(value, str) for value in values):
            raise ManifestError(f"{MANIFEST_NAME}: {key} holds something that is not a string")
        return tuple(values)

    def mapping(self, key: str) -> dict[str, str]:
        values = self._get(key, dict)
        if not all(isinstance(value, str) for value in values.values()):
            raise ManifestError(f"{MANIFEST_NAME}: {key} holds something that is not a string")
        return dict(values)

    def verity(self, key: str) -> Verity | None:
        self.seen.add(key)
        if key not in self.raw:
            return None
        values = self._get(key, dict)
        names = {"data_blocks", "hash_start", "root", "salt"}
        if set(values) != names:
            raise ManifestError(
                f"{MANIFEST_NAME}: {key}: expected exactly {', '.join(sorted(names))}"
            )
        blocks, start = values["data_blocks"], values["hash_start"]
        if type(blocks) is not int or type(start) is not int or not 0 < blocks < start < 1 << 48:
            raise ManifestError(f"{MANIFEST_NAME}: {key}: data_blocks and hash_start are no blocks")
        for name in ("root", "salt"):
            if not isinstance(values[name], str) or not is_digest(values[name]):
                raise ManifestError(f"{MANIFEST_NAME}: {key}.{name} is not 64 hex digits")
        return Verity(blocks, start, values["root"], values["salt"])

    def files(self, key: str) -> dict[str, FileEntry]:
        entries: dict[str, FileEntry] = {}
        for path, entry in self._get(key, dict).items():
            where = f"{MANIFEST_NAME}: {key}.{path}"
            parts = path.split("/")
            if path.startswith("/") or {"", ".", ".."} & set(parts) or "\0" in path:
                raise ManifestError(f"{where}: not a plain relative path")
            if path == MANIFEST_NAME or not isinstance(entry, dict):
                raise ManifestError(f"{where}: not a file entry")
            size, sha256 = entry.get("size"), entry.get("sha256")
            if set(entry) != {"size", "sha256"} or type(size) is not int or size < 0:
                raise ManifestError(f"{where}: expected exactly size and sha256")
            if not isinstance(sha256, str) or not is_digest(sha256):
                raise ManifestError(f"{where}: sha256 is not 64 hex digits")
            entries[path] = FileEntry(size, sha256)
        return entries


def find_lack(directory: Path, manifest: Manifest) -> str:
    """Which file of an image's directory is not there, or has another size than the manifest
    says; or "". Contents are not read."""
    for path, entry in manifest.files.items():
        try:
            size = (directory / path).stat().st_size
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        if size != entry.size:
            return f"{path} has {size:,} bytes, and its manifest says {entry.size:,}"
    return ""


def find_difference(directory: Path, manifest: Manifest) -> tuple[str, str] | None:
    """What of an image's directory is not as its manifest says, and the remedy; every file is
    read."""
    present = {
        str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()
    } - {MANIFEST_NAME}
    if extra := sorted(present - set(manifest.files)):
        return f"{directory / extra[0]} is not in the manifest", ""
    for path, entry in manifest.files.items():
        file = directory / path
        if file.is_symlink() or not file.is_file():
            return f"{file} is in the manifest, but not a file in the directory", ""
        if FileEntry.of(file) != entry:
            return (
                f"{file} is not what the manifest says (size or SHA-256 differ)",
                "the copy is damaged or incomplete: copy or build it again",
            )
    return None
