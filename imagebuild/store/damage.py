"""What is wrong with a store, as far as a look at it tells: no file is read but the manifests."""

import os
from collections.abc import Iterator
from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.store.images import Store, StoreError, mend
from imagebuild.store.manifest import find_lack, is_digest, is_image_name


def find_damage(store: Store) -> list[StoreError]:
    """An error for each image that `Store.images` leaves out, each file that is missing or has
    another size than the manifest says, each tag that leads nowhere.

    `Store.verify` reads the contents of one image.
    """
    images = store.path / "images"
    return [
        error
        for name in filter(is_image_name, _list(images))
        for error in (*_look_at_images(store, name), *_look_at_tags(images / name))
    ]


def _look_at_images(store: Store, name: str) -> Iterator[StoreError]:
    for digest in filter(is_digest, _list(store.path / "images" / name)):
        try:
            image = store.get(name, digest)
        except BuildError as error:
            yield StoreError(error.message, hint=mend(name, digest))
            continue
        if lack := find_lack(image.path, image.manifest):
            yield StoreError(f"image {name}@{digest[:12]}: {lack}", hint=mend(name, digest))


def _look_at_tags(directory: Path) -> Iterator[StoreError]:
    for tag in _list(directory / "tags"):
        path = directory / "tags" / tag
        if not path.is_dir():
            yield StoreError(f"{path} leads to no image", hint="remove it, or tag an image so")


def _list(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
