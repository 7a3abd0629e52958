"""The store's images, watched."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuild.store.images import CURRENT, PREVIOUS, Image, Store
from imagebuild.store.manifest import find_lack, is_digest, is_image_name
from server.farm.defaultimage import DefaultImage, list_defaults
from server.sources.signers import SignersSource
from server.sources.stamp import Stamp
from server.troubles import Trouble

NEWS_AT_ONCE: Final = 50
"""Changes of one look at the store that are told one by one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class News:
    """One change of the store. tag: the tag that came, moved or went; "": the image itself did.

    digest: what there is now, before: what there was; "" for nothing.
    """

    image: str
    tag: str
    digest: str
    before: str

    @property
    def words(self) -> str:
        """As the log has it."""
        if not self.tag:
            what = "is new in the store" if self.digest else "is gone from the store"
            return f"{self.image}@{(self.digest or self.before)[:12]} {what}"
        name = f"{self.image}:{self.tag}"
        if not self.digest:
            return f"the tag {name} was removed; it was {self.before[:12]}"
        if not self.before:
            return f"the tag {name} is new: {self.digest[:12]}"
        return f"the tag {name} moved from {self.before[:12]} to {self.digest[:12]}"


def list_news(old: Sequence[Image], new: Sequence[Image]) -> list[News]:
    """What became of one state of a store in another: images, then tags, sorted."""

    def digests(images: Sequence[Image]) -> set[tuple[str, str]]:
        return {(image.name, image.digest) for image in images}

    def tags(images: Sequence[Image]) -> dict[tuple[str, str], str]:
        return {(image.name, tag): image.digest for image in images for tag in image.tags}

    came, went = digests(new) - digests(old), digests(old) - digests(new)
    news = [News(name, "", digest, "") for name, digest in sorted(came)]
    news += [News(name, "", "", digest) for name, digest in sorted(went)]
    before, now = tags(old), tags(new)
    for name, tag in sorted(before.keys() | now.keys()):
        one, other = before.get((name, tag), ""), now.get((name, tag), "")
        if one != other:
            news.append(News(name, tag, other, one))
    return news


class StoreSource:
    """The images that are served. tell: is given each change after the first look.

    signers: whose signatures are wanted, already read; nobody's by default.
    """

    def __init__(self, path: Path, signers: SignersSource | None = None) -> None:
        self.path = path
        self.images: tuple[Image, ...] = ()
        self._signers = signers or SignersSource()
        self._found: tuple[Image, ...] = ()  # those that may not be served, too
        self._damaged: tuple[str, ...] = ()
        self._vanished = ""
        self._store = Store(path)
        self._seen: tuple[object, ...] | None = None
        self._stamps: tuple[object, ...] = ()
        # The folders whose stamps are looked at, and the images that they are of.
        self._watched: tuple[tuple[Image, ...] | None, list[Path]] = (None, [])
        self._looked = False
        # Name to what `current` named last, of each image that ever had it here.
        self._was_current: dict[str, str] = {}
        self.tell: Callable[[News], None] = lambda news: None

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the store's bytes, a line each."""
        return (self._vanished, *self._damaged) if self._vanished else self._damaged

    @property
    def found(self) -> tuple[Image, ...]:
        """All images of the store, those that may not be served, too."""
        return self._found

    @property
    def refused(self) -> tuple[tuple[Image, str], ...]:
        """The images that may not be served, each with the reason in a line."""
        return self._signers.refused

    def troubles(self, default_image: DefaultImage) -> Iterator[Trouble]:
        """What is wrong with the store. default_image: farm.yaml's."""
        if self._vanished:
            words = (
                f"{self._vanished}; what was there before stays on offer, and its files are gone"
            )
            hint = "is the disk mounted? Build or import an image"
            yield Trouble("store", f"{words}: {hint}", stops=True)
        for text in self._damaged:
            yield Trouble("store", text)
        yield from self._signers.troubles()
        names = sorted({image.name for image in self._found})
        defaults = list_defaults(default_image)
        for architecture, default in defaults if names else ():
            if default not in names:
                key = f"default_image{'.' * bool(architecture)}{architecture}"
                yield Trouble(
                    "default_image",
                    f"{key} {default!r} of farm.yaml is not in the store {self.path},"
                    f" which has {', '.join(names)}: machines that name no image get none; correct"
                    " it, or build or import that image",
                )
        for name in names:
            if (lack := self._lacks_current(name, names, {one for _, one in defaults})) is not None:
                yield Trouble("current", lack)

    def _lacks_current(self, name: str, names: list[str], defaults: set[str]) -> str | None:
        """Why it is wrong that an image has no `current`; None where it has, or need not have."""
        mine = [image for image in self._found if image.name == name]
        tags = {tag for image in mine for tag in image.tags}
        if CURRENT in tags:
            return None
        was = self._was_current.get(name, "")
        if not was and PREVIOUS not in tags and name not in defaults and len(names) > 1:
            return None  # published under other tags, for those that ask for these
        there = [image.digest for image in mine]
        lost = f"; it was {was[:12]}" if was else ""
        digest = mine[0].digest if len(mine) == 1 else ""
        digest = was if was in there else digest
        again = f"{name}@{digest[:12] if digest else 'DIGEST'}"
        return (
            f"image {name} in {self.path} has no tag `current`{lost}: machines that ask for {name}"
            f" get no image; `bootfarm images tag {again} current` gives it one"
        )

    def look_again(self) -> None:
        """Read all manifests at the next thorough look."""
        self._seen = None

    def poll(self, *, quick: bool = False) -> bool:
        """Look for new images and moved tags. True when there were any.

        quick: by the directories' time stamps only, which the file system's
        clock may tick too slowly for.
        """
        edited = self._signers.poll()
        stamps = self._stamp()
        if quick and stamps == self._stamps and not edited:
            return False
        self._stamps = stamps
        seen = self._fingerprint()
        if seen == self._seen and not edited:
            self._vanished = ""
            return False
        if not seen and not self._found:
            self._seen, self._looked = seen, True  # it was empty before, too
            return False
        images = tuple(self._store.images())
        if not images and self._found:
            if not self._vanished:
                self._vanished = f"the store {self.path} holds no image any more"
                _log.error("%s; what was there before stays on offer", self._vanished)
            return False
        self._vanished = ""
        self._seen = seen
        before, self._found = self._found, images
        self.images = self._signers.choose(images)
        if self._looked:
            self._tell_news(list_news(before, images))
        self._looked = True
        self._was_current |= {image.name: image.digest for image in images if CURRENT in image.tags}
        loaded = {(image.name, image.digest) for image in images}
        self._damaged = tuple(
            f"image {name}@{digest[:12]} in {self.path} is damaged and not served"
            for name, digest in _list_digests(self.path)
            if (name, digest) not in loaded
        ) + tuple(
            f"image {image.name}@{image.digest[:12]} in {self.path} is damaged: {lack}"
            for image in images
            if (lack := find_lack(image.path, image.manifest))
        )
        return True

    def _tell_news(self, news: list[News]) -> None:
        for one in news[:NEWS_AT_ONCE]:
            level = logging.WARNING if one.tag == CURRENT and not one.digest else logging.INFO
            _log.log(level, "store %s: %s", self.path, one.words)
            self.tell(one)
        if len(news) > NEWS_AT_ONCE:
            _log.info("store %s: %d more changes", self.path, len(news) - NEWS_AT_ONCE)

    def _names(self) -> list[Path]:
        try:
            return sorted(path for path in (self.path / "images").iterdir() if path.is_dir())
        except OSError:
            return []

    def _stamp(self) -> tuple[object, ...]:
        if not self._stamps:
            return tuple(map(Stamp.of, self._list_watched(self._names())))
        if self._watched[0] is not self._found:
            names = sorted({image.name for image in self._found})
            folders = [self.path / "images" / name for name in names]
            self._watched = (self._found, self._list_watched(folders))
        return tuple(map(Stamp.of, self._watched[1]))

    def _list_watched(self, folders: list[Path]) -> list[Path]:
        return [
            self.path / "images",
            *(path for folder in folders for path in (folder, folder / "tags")),
        ]

    def _fingerprint(self) -> tuple[object, ...]:
        """Every digest and where every tag leads."""
        digests = _list_digests(self.path)
        found: list[object] = list(digests)
        folders = [self.path / "images" / name / digest for name, digest in digests]
        found += self._signers.list_stamps(folders)
        for name in self._names():
            try:
                tags = sorted(os.listdir(name / "tags"))
            except OSError:
                continue
            for tag in tags:
                try:
                    found.append((name.name, tag, os.readlink(name / "tags" / tag)))
                except OSError:
                    continue
        return tuple(found)


class NoStore(StoreSource):
    """No store at all: only what `--export` and `--boot-tree` name is served."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def poll(self, *, quick: bool = False) -> bool:
        """False: there is nothing that could change."""
        return False


def _list_digests(store: Path) -> list[tuple[str, str]]:
    found = []
    try:
        for name in os.listdir(store / "images"):
            if is_image_name(name):
                for digest in os.listdir(store / "images" / name):
                    if is_digest(digest):
                        found.append((name, digest))
    except OSError:
        pass  # gone while we looked; the next look tells
    return sorted(found)
