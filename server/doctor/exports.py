"""Each NBD export: whether it opens, its size, and whether its bytes are the image's."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from server.doctor.findings import found
from server.doctor.nbdclient import NbdError, NbdExport, NbdRefusedError, sample_offsets
from server.doctor.target import BootImage, Survey, Target
from server.doctor.tree import shorten
from server.doctor.verdict import Verdict, good
from server.doctor.web import fetch

ROOTFS: Final = "rootfs.squashfs"
SAMPLE: Final = 64 * 1024
SAMPLES: Final = 16


def check_nbd(target: Target, survey: Survey) -> Iterator[Verdict]:
    """The export of each image's name and of its digest; bytes as its manifest or its file."""
    if "nbd" not in target.services:
        return
    names = [
        (f"/opt/ltsp/{image.name}{suffix}", image)
        for image in survey.images
        for suffix in (f"@{image.digest}", "")
        if ROOTFS in image.manifest.files
    ]
    if not names:
        yield from _check_speaks(target)
    for name, image in names:
        try:
            with NbdExport(target.server, target.nbd_port, name) as export:
                yield from _check_export(target, export, name, image)
        except NbdRefusedError as error:
            yield found("nbd.no-export", shorten(name), str(error))
        except (OSError, NbdError) as error:
            yield found("nbd.down", f"{target.server} port {target.nbd_port}", str(error))
            return


def _check_speaks(target: Target) -> Iterator[Verdict]:
    """No image is known: at least whether NBD is spoken there."""
    try:
        NbdExport(target.server, target.nbd_port, "bootfarm-doctor").close()
    except NbdRefusedError:
        pass
    except (OSError, NbdError) as error:
        yield found("nbd.down", f"{target.server} port {target.nbd_port}", str(error))


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
