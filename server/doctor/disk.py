"""On the server's machine: room on the disks, and the images' bytes against their manifests."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imagebuild.store.images import Image, Store, StoreError
from server.doctor.findings import found
from server.doctor.target import Survey, Target
from server.doctor.verdict import Verdict, good

STATE_BYTES: Final = 64 * 1024 * 1024
"""Bytes that must be free for timelines and logs."""


def check_space(target: Target, survey: Survey) -> Iterator[Verdict]:
    """Free bytes where store and state are."""
    if target.store is not None and target.store.is_dir():
        largest = max((image.size for image in Store(target.store).images()), default=0)
        free = shutil.disk_usage(target.store).free
        words = f"{_mib(free)} free, the largest image takes {_mib(largest)}"
        short = free < largest
        subject = str(target.store)
        yield found("space.store", subject, words) if short else good("space", subject, words)
    if target.state is not None and (place := _existing(target.state)) is not None:
        free = shutil.disk_usage(place).free
        subject, words = str(target.state), f"{_mib(free)} free"
        full = free < STATE_BYTES
        yield found("space.state", subject, words) if full else good("space", subject, words)


def check_store(target: Target, survey: Survey) -> Iterator[Verdict]:
    """Every byte of the images with the tag `current`; with --full, of all."""
    if target.store is None:
        yield found("store.unknown", target.server, "no store was named")
        return
    if not target.store.is_dir():
        yield found("store.unknown", str(target.store), "no such directory on this machine")
        return
    store = Store(target.store)
    images = store.images()
    if not images:
        yield found("store.empty", str(target.store), "no image")
    yield from _find_unreadable(target.store, images)
    for image in images:
        if target.full or "current" in image.tags:
            name = f"{image.name}@{image.digest[:12]}"
            target.progress(f"reading {name}, {_mib(image.size)}")
            try:
                store.verify(image)
            except (StoreError, OSError) as error:
                yield found("store.damaged", name, str(error))
            else:
                yield good("store", name, f"{_mib(image.size)} are as the manifest says")


def _find_unreadable(path: Path, images: list[Image]) -> Iterator[Verdict]:
    """Directories of images whose manifest is broken, so that the store leaves them out."""
    known = {image.path for image in images}
    for directory in sorted(path.glob("images/*/*")):
        if directory.is_dir() and directory.name != "tags" and directory not in known:
            words = "its manifest is missing, or is not the one that the directory's name says"
            yield found("store.damaged", str(directory), words)


def _existing(path: Path) -> Path | None:
    return next((place for place in (path, *path.parents) if place.is_dir()), None)


def _mib(size: int) -> str:
    return f"{size / 1048576:.1f} MiB"
