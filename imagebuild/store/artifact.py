"""A node image as an OCI artifact: made from the store, and read back (docs/images.md).

The artifact's config is the image's manifest.json, byte by byte, so its digest in the registry
is the digest of the image. Each further part is a blob with a media type of its own; the boot
loaders, some hundred small files, are one tar. The same image gives the same artifact.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any, Final

from imagebuild.errors import BuildError
from imagebuild.store.images import Image
from imagebuild.store.manifest import (
    MANIFEST_NAME,
    ROOTFS,
    SBOMS,
    FileEntry,
    Manifest,
    parse_manifest,
)

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
ARTIFACT: Final = "application/vnd.bootfarm.node-image.v1"
CONFIG: Final = "application/vnd.bootfarm.manifest.v1+json"
LOADERS: Final = "application/vnd.bootfarm.loaders.v1.tar"
OTHER: Final = "application/vnd.bootfarm.file.v1"
TYPES: Final = {
    "vmlinuz": "application/vnd.bootfarm.kernel.v1",
    "initrd.img": "application/vnd.bootfarm.initramfs.v1",
    ROOTFS: "application/vnd.bootfarm.rootfs.v1.squashfs",
    "rootfs.list": "application/vnd.bootfarm.rootfs-list.v1",
    SBOMS["spdx"]: "application/spdx+json",
    SBOMS["cyclonedx"]: "application/vnd.cyclonedx+json",
    SBOMS["notices"]: "text/plain",
}
"""File of an image to media type; others have OTHER, and those below boot/ are LOADERS."""
TITLE: Final = "org.opencontainers.image.title"
BOOT: Final = "boot/"
MOST_BYTES: Final = 8 << 20
"""Of an artifact's manifest and config."""


class ArtifactError(BuildError):
    """What a registry has under that name is no node image, or is damaged."""


def write_artifact(image: Image, directory: Path) -> str:
    """Lay an image out as an OCI layout in an empty directory; the artifact's digest (sha256:…).

    Files are linked, where they are on the same file system. Raises OSError.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    config = _put(blobs, (image.path / MANIFEST_NAME).read_bytes(), CONFIG)
    files = image.manifest.files
    layers = []
    for path in sorted(files):
        if not path.startswith(BOOT):
            entry = files[path]
            _link(image.path / path, blobs / entry.sha256)
            layers.append(_describe(TYPES.get(path, OTHER), entry.sha256, entry.size, path))
    if loaders := sorted(path for path in files if path.startswith(BOOT)):
        layers.append(_put(blobs, _pack_loaders(image.path, loaders), LOADERS, "boot.tar"))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT,
        "config": config,
        "layers": layers,
        "annotations": {
            TITLE: image.name,
            "org.opencontainers.image.version": image.manifest.kernel,
        },
    }
    top = _put(blobs, json.dumps(manifest, sort_keys=True).encode(), OCI_MANIFEST)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [top]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return str(top["digest"])


def read_artifact(layout: Path, target: Path) -> Manifest:
    """Put the files of an artifact, in an OCI layout, into an empty directory as an image has
    them.

    Raises ArtifactError. The files are to be verified against the manifest: `Store.publish` does.
    """
    blobs = layout / "blobs" / "sha256"
    try:
        index = json.loads((layout / "index.json").read_bytes())
        top = _read(blobs, index["manifests"][0]["digest"])
        raw = parse_oci_manifest(top)
        data = _read(blobs, raw["config"]["digest"])
        manifest = parse_manifest(data)
        (target / MANIFEST_NAME).write_bytes(data)
        for layer in raw["layers"]:
            blob = blobs / _hex(layer["digest"])
            if layer["mediaType"] == LOADERS:
                _unpack_loaders(blob, target, manifest)
                continue
            path = layer["annotations"][TITLE]
            if path not in manifest.files:
                raise ArtifactError(f"it has a file {path[:100]!r} that its manifest does not name")
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            _link(blob, target / path)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, tarfile.TarError) as error:
        raise ArtifactError(f"it cannot be read: {type(error).__name__} {error}") from None
    return manifest


def parse_oci_manifest(data: bytes) -> dict[str, Any]:
    """An artifact's manifest. Raises ArtifactError for that of something else."""
    try:
        raw = json.loads(data)
        kind = raw["config"]["mediaType"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"it is no OCI image or artifact: {error!r}") from None
    if kind != CONFIG:
        raise ArtifactError(
            f"it is no node image: its config is {str(kind)[:100]}",
            hint="`bootfarm images push` makes node images; a container image is another thing",
        )
    return dict(raw)


def image_digest(data: bytes) -> str:
    """The digest of the node image whose artifact has this manifest. Raises ArtifactError."""
    return _hex(parse_oci_manifest(data)["config"].get("digest"))


def _hex(digest: Any) -> str:
    kind, _, word = str(digest).partition(":")
    if kind != "sha256" or len(word) != 64 or set(word) - set("0123456789abcdef"):
        raise ArtifactError(f"{str(digest)[:100]!r} is no digest that is known here")
    return word


def _describe(kind: str, digest: str, size: int, title: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}
    return {**found, "annotations": {TITLE: title}} if title else found


def _put(blobs: Path, data: bytes, kind: str, title: str = "") -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return _describe(kind, digest, len(data), title)


def _read(blobs: Path, digest: Any) -> bytes:
    """A small blob, verified."""
    path = blobs / _hex(digest)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ArtifactError(f"its blob {path.name[:12]} is too large for what it is")
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"its blob {path.name[:12]} is not there: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != path.name:
        raise ArtifactError(f"its blob {path.name[:12]} is damaged")
    return data


def _link(source: Path, target: Path) -> None:
    """Another name for a file; a copy on another file system. A blob may have many names."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:
            shutil.copyfile(source, target)


def _pack_loaders(root: Path, paths: list[str]) -> bytes:
    """A tar without time, owner and order of its own."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in paths:
            info = tarfile.TarInfo(path)
            data = (root / path).read_bytes()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def _unpack_loaders(blob: Path, target: Path, manifest: Manifest) -> None:
    with tarfile.open(blob, mode="r:") as tar:
        for member in tar:
            entry: FileEntry | None = manifest.files.get(member.name)
            stream = tar.extractfile(member) if member.isreg() else None
            if entry is None or stream is None or member.size != entry.size:
                raise ArtifactError(f"its loaders hold {member.name[:100]!r}, which is not theirs")
            (target / member.name).parent.mkdir(parents=True, exist_ok=True)
            with (target / member.name).open("wb") as file:
                shutil.copyfileobj(stream, file)
