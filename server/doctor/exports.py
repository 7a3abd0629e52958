"""Each NBD export: whether it opens, its size, and whether its bytes are the image's."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from imagebuild.store.manifest import ROOTFS, ManifestError, parse_manifest
from server.doctor.findings import found
from server.doctor.nbdclient import (
    NbdError,
    NbdExport,
    NbdRefusedError,
    list_exports,
    sample_offsets,
)
from server.doctor.target import BootImage, Survey, Target
from server.doctor.tree import shorten
from server.doctor.verdict import Verdict, good
from server.doctor.web import fetch

SAMPLE: Final = 64 * 1024
"""Bytes read at one place of an export."""
SAMPLES: Final = 16
"""Places that are read, spread over the export."""
_OF_DIGEST: Final = re.compile(r"/?opt/ltsp/([^/@]+)@([0-9a-f]{64})")


def check_nbd(target: Target, survey: Survey) -> Iterator[Verdict]:
    """Each export that the server lists: its size and bytes as the image's manifest says."""
    if "nbd" not in target.services:
        return
    where = f"{target.server} port {target.nbd_port}"
    try:
        listed = list_exports(target.server, target.nbd_port)
    except (OSError, NbdError) as error:
        yield found("nbd.down", where, str(error))
        return
    images = {
        f"/opt/ltsp/{image.name}{suffix}": image
        for image in survey.images
        for suffix in (f"@{image.digest}", "")
    }
    for name in [*images, *(name for name in listed if name not in images)]:
        target.progress(f"NBD {name}")
        image = images.get(name) or _find_other(target, name)
        try:
            with NbdExport(target.server, target.nbd_port, name) as export:
                if image is None or ROOTFS not in image.manifest.files:
                    yield from _check_readable(export, name)
                else:
                    yield from _check_export(target, export, name, image)
        except NbdRefusedError as error:
            yield found("nbd.no-export", shorten(name), str(error))
        except (OSError, NbdError) as error:
            yield found("nbd.down", where, str(error))
            return


def _find_other(target: Target, name: str) -> BootImage | None:
    """The image of a digest's export, where that is not the image that would boot here."""
    match = _OF_DIGEST.fullmatch(name)
    if match is None:
        return None
    try:
        path = f"/ltsp/{match[1]}/@{match[2]}/manifest.json"
        page = fetch(target.server, target.http_port, path)
        if page.status != 200 or hashlib.sha256(page.body).hexdigest() != match[2]:
            return None
        return BootImage(match[1], match[2], parse_manifest(page.body))
    except (OSError, ManifestError):
        return None


def _check_readable(export: NbdExport, name: str) -> Iterator[Verdict]:
    """Read places of an export that no manifest describes, as one of `serve --export`."""
    try:
        for offset in sample_offsets(export.size, SAMPLE, SAMPLES, name):
            export.read(offset, min(SAMPLE, export.size - offset))
    except (OSError, NbdError) as error:
        yield found("nbd.unread", shorten(name), str(error))
        return
    words = f"{export.size} bytes; {SAMPLES} places can be read, with nothing to compare with"
    yield good("nbd", shorten(name), words)


def _check_export(
    target: Target, export: NbdExport, name: str, image: BootImage
) -> Iterator[Verdict]:
    entry = image.manifest.files[ROOTFS]
    if export.size != entry.size:
        yield found(
            "nbd.size", shorten(name), f"{export.size} bytes, the manifest says {entry.size}"
        )
        return
    try:
        if target.full and "@" in name:
            yield _compare_all(target, export, name, entry.sha256)
        else:
            yield _compare_sample(target, export, name, image)
    except (OSError, NbdError) as error:
        yield found("nbd.unread", shorten(name), str(error))


def _compare_all(target: Target, export: NbdExport, name: str, sha256: str) -> Verdict:
    sha = hashlib.sha256()
    done = 0
    for chunk in export.chunks():
        sha.update(chunk)
        done += len(chunk)
        target.progress(f"NBD {name}: {done * 100 // export.size} %")
    if sha.hexdigest() != sha256:
        return found("nbd.differs", shorten(name), f"all of it hashes to {sha.hexdigest()[:12]}")
    return good("nbd", shorten(name), f"all {export.size} bytes are as the manifest says")


def _compare_sample(target: Target, export: NbdExport, name: str, image: BootImage) -> Verdict:
    """Some places of the export beside the same places of the file."""
    read, source = _reader(target, image)
    offsets = sample_offsets(export.size, SAMPLE, SAMPLES, image.digest)
    for offset in offsets:
        length = min(SAMPLE, export.size - offset)
        if export.read(offset, length) != read(offset, length):
            words = f"{length} bytes at {offset} are not those of {source}"
            return found("nbd.differs", shorten(name), words)
    count = sum(min(SAMPLE, export.size - offset) for offset in offsets)
    words = f"{export.size} bytes; {count} bytes in {len(offsets)} places are those of {source}"
    return good("nbd", shorten(name), words)


def _reader(target: Target, image: BootImage) -> tuple[Callable[[int, int], bytes], str]:
    """Another way to the image's bytes: the store where it is at hand, else HTTP."""
    if target.store is not None:
        path = target.store / "images" / image.name / image.digest / ROOTFS
        if path.is_file():
            return lambda offset, length: _read_file(path, offset, length), "the store's file"
    web = f"/ltsp/{image.name}/@{image.digest}/{ROOTFS}"

    def read(offset: int, length: int) -> bytes:
        return fetch(target.server, target.http_port, web, span=(offset, length)).body

    return read, "the file over HTTP"


def _read_file(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)
