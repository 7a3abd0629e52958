"""Content-addressed images and their tags (docs/contracts.md, "The store").

Readers need no lock: an image appears and disappears by one rename, and is
never changed in between; a tag is a symlink that is replaced by rename.
Writers take one lock for each store, and work below `tmp/` until they are done, so a
writer that dies at any moment leaves nothing but a directory there, which
the next garbage collection removes.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.store.disk import (
    listdir,
    make_readable,
    remove_abandoned,
    sync_directory,
    sync_tree,
    tree_size,
)
from imagebuild.store.manifest import (
    MANIFEST_NAME,
    Manifest,
    ManifestError,
    find_difference,
    find_lack,
    is_digest,
    is_image_name,
    parse_manifest,
)
from imagebuild.store.moves import (
    GONE,
    Move,
    forget_gone,
    next_move,
    read_gone,
    read_moved,
    write_gone,
    write_moved,
)
from imagebuild.store.signatures import copy_signatures, signatures_of

CURRENT = "current"
PREVIOUS = "previous"
INCOMING = ".incoming"
"""Below it lies what is being fetched from another server, and can be gone on with."""
STALE_SECONDS = 86_400.0
"""What nobody went on with for so long is garbage."""

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")
_PREFIX = re.compile(r"[0-9a-f]{12,63}")
_log = logging.getLogger(__name__)


class StoreError(BuildError):
    """A store, image or tag is not there, or is not what it should be."""


@dataclass(frozen=True)
class Image:
    """A published image: `size` in bytes without the manifest; `path` never changes content."""

    name: str
    digest: str
    tags: tuple[str, ...]
    path: Path
    manifest: Manifest
    size: int


@dataclass(frozen=True)
class Collected:
    """What a garbage collection removed: images, abandoned writers' directories, bytes."""

    images: tuple[Image, ...]
    abandoned: int
    freed: int


class Store:
    """A directory of images. Opening one makes nothing; the first `publish` does."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._images = self.path / "images"
        self._tmp = self.path / "tmp"

    # Reading

    def names(self) -> list[str]:
        """The names of images that have at least one digest, sorted."""
        return sorted({image.name for image in self.images()})

    def images(self) -> list[Image]:
        """Every published image, sorted by name, `current` first, then by digest.

        A directory whose manifest cannot be read or does not match its digest
        is left out, with a warning in the log: one bad image must not take
        the others away.
        """
        found: list[Image] = []
        for name in listdir(self._images):
            if not is_image_name(name):
                continue
            tags = self._tags(name)
            for digest in listdir(self._images / name):
                if not is_digest(digest):
                    continue
                try:
                    found.append(self._load(name, digest, tags))
                except BuildError as error:
                    _log.warning("%s", error.message)
        return sorted(
            found, key=lambda image: (image.name, CURRENT not in image.tags, image.digest)
        )

    def get(self, name: str, tag_or_digest: str = CURRENT) -> Image:
        """One image by tag, digest, or a digest's first 12 or more digits."""
        if not is_image_name(name):
            raise StoreError(f"{name!r} is not an image name", hint=_NAME_HINT)
        tags = self._tags(name)
        digest = self._resolve(name, tag_or_digest, tags)
        return self._load(name, digest, tags)

    def size(self) -> int:
        """Bytes that the store's files take, abandoned ones included."""
        return tree_size(self.path)

    def moves(self, name: str) -> dict[str, Move]:
        """Each tag of an image with the time when it moved, and those that were removed."""
        found = read_gone(self.path, name)
        for tag, digest in self._tags(name).items():
            if (moved := read_moved(self._tag_path(name, tag))) is not None:
                found[tag] = Move(digest, moved)
        return found

    def all_moves(self) -> dict[tuple[str, str], Move]:
        """The moves of all images' tags, by name and tag."""
        names = {*listdir(self._images), *listdir(self.path / GONE)}
        known = sorted(filter(is_image_name, names))
        return {(name, tag): move for name in known for tag, move in self.moves(name).items()}

    def verify(self, image: Image) -> None:
        """Read every file of `image` and compare it with the manifest."""
        _verify_files(image.path, image.manifest)

    # Writing

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """A fresh directory below `tmp/` of this store, for what will be published.

        Whatever is left of it afterwards is removed; if the writer dies, the
        next garbage collection does that.
        """
        self._tmp.mkdir(parents=True, exist_ok=True)
        while True:
            directory = Path(tempfile.mkdtemp(dir=self._tmp))
            held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(held, fcntl.LOCK_SH)
            if directory.exists():  # a collection may come between the two lines above
                break
            os.close(held)
        try:
            os.chmod(directory, 0o755)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(held)

    def publish(
        self, name: str, directory: Path | str, *, tags: Collection[str] = (CURRENT,)
    ) -> Image:
        """Verify `directory` against its manifest, and make it an image of this store.

        The directory is used up (renamed, or copied when it is on another file
        system). `tags` are set afterwards, each in one step; what `current`
        named before is kept as `previous`. Publishing an image that exists
        already only sets the tags. On any error the store is as it was.
        """
        source = Path(directory)
        for tag in tags:
            check_tag(tag)
        manifest = _read_manifest(source)
        if manifest.name != name:
            raise StoreError(
                f"{source}: the manifest is of image {manifest.name!r}, not {name!r}",
                hint="publish it under its own name, or build it again with --name",
            )
        _verify_files(source, manifest)
        digest = manifest.digest
        with self._locked():
            target = self._images / name / digest
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.is_whole(name, digest):
                shutil.rmtree(source)
            else:
                if target.exists():
                    self._delete(target, replaced=True)
                self._move_in(source, target)
            for tag in sorted(tags):
                self._set_tag(name, tag, digest)
        return self.get(name, digest)

    def import_image(self, directory: Path | str, *, tags: Collection[str] = (CURRENT,)) -> Image:
        """Copy an image's directory (`.../<digest>/`) from elsewhere into this store.

        The source stays as it is. An image that is here already, and whole as far as its
        files' sizes tell, is not copied again; its signatures that lie beside the source
        come along.
        """
        source = Path(directory).resolve()
        manifest = _read_manifest(source)
        existing = self._images / manifest.name / manifest.digest
        if self.is_whole(manifest.name, manifest.digest):
            copy_signatures(source, existing)
            for tag in tags:
                self.tag(manifest.name, manifest.digest, tag)
            return self.get(manifest.name, manifest.digest)
        with self.writing() as staging:
            target = staging / "image"
            target.mkdir()
            for path in [*manifest.files, MANIFEST_NAME]:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                if (source / path).is_symlink():
                    raise StoreError(f"{source / path} is a link, not a file of an image")
                try:
                    shutil.copyfile(source / path, target / path)
                except OSError as error:
                    raise StoreError(f"cannot copy {source / path}: {error.strerror}") from None
            # Signatures first: a server that wants them must not see the image without.
            copy_signatures(source, existing)
            try:
                return self.publish(manifest.name, target, tags=tags)
            except BaseException:
                if not existing.exists():
                    shutil.rmtree(signatures_of(existing), ignore_errors=True)
                raise

    def tag(self, name: str, tag_or_digest: str, tag: str) -> Image:
        """Let `tag` name the given image; moving `current` keeps the old one as `previous`."""
        check_tag(tag)
        with self._locked():
            digest = self.get(name, tag_or_digest).digest
            self._set_tag(name, tag, digest)
        return self.get(name, digest)

    def follow(self, name: str, tag: str, move: Move) -> bool:
        """Let a tag be moved, or removed, as another store has it; False where our own move is
        the newer one. Unlike `tag` it keeps the move's time, and `previous` as it is."""
        check_tag(tag)
        with self._locked():
            before = self.moves(name).get(tag)
            if not move.beats(before) or (before is not None and before.digest == move.digest):
                return False
            if move.digest:
                self.get(name, move.digest)
                self._replace_link(name, tag, move)
            else:
                self._remove_tag(name, tag, move.moved)
        return True

    def rollback(self, name: str) -> Image:
        """Swap `current` and `previous`; StoreError when there is no previous image."""
        with self._locked():
            tags = self._tags(name)
            if not tags and name not in (names := self.names()):
                raise StoreError(
                    f"no image {name!r} in the store {self.path}: no previous image either",
                    hint=f"it holds: {', '.join(names) or 'nothing yet; run bootfarm build'}",
                )
            if PREVIOUS not in tags:
                raise StoreError(
                    f"image {name} has no previous image to roll back to",
                    hint=f"tag one by hand: bootfarm images tag {name}@DIGEST {CURRENT}",
                )
            self._load(name, tags[PREVIOUS], tags)
            self._set_tag(name, CURRENT, tags[PREVIOUS])
        return self.get(name, CURRENT)

    def remove(self, name: str, tag_or_digest: str, *, force: bool = False) -> Image:
        """Take a tag away, or (given a digest) the image itself.

        An image with tags is refused unless `force`, which removes them too.
        Returns the image as it was before.
        """
        with self._locked():
            image = self.get(name, tag_or_digest)
            if tag_or_digest in image.tags:
                self._remove_tag(name, tag_or_digest)
                return image
            if image.tags and not force:
                raise StoreError(
                    f"{name}@{image.digest[:12]} is tagged {', '.join(image.tags)}",
                    hint="remove its tags first, or give --force",
                )
            for tag in image.tags:
                self._remove_tag(name, tag)
            self._delete(image.path)
        return image

    def remove_damaged(self, name: str, digest: str) -> bool:
        """Take away an image that cannot be loaded, and its tags; False where there is none.

        digest: whole, or its first 12 digits or more.
        """
        with self._locked():
            tags = self._tags(name)
            try:
                digest = self._resolve(name, digest, {})
            except StoreError:
                return False
            for tag in (tag for tag, target in tags.items() if target == digest):
                self._tag_path(name, tag).unlink()
            self._delete(self._images / name / digest)
        return True

    def collect_garbage(self, in_use: Collection[str] = (), *, dry_run: bool = False) -> Collected:
        """Remove images that no tag names and no node uses, and dead writers' directories.

        `in_use` holds the digests that nodes are connected to. dry_run: only say what
        would go.
        """
        removed: list[Image] = []
        freed = 0
        with contextlib.nullcontext() if dry_run else self._locked():
            for image in self.images():
                if not image.tags and image.digest not in in_use:
                    if not dry_run:
                        self._delete(image.path)
                    removed.append(image)
                    freed += image.size
            abandoned = 0
            for entry in listdir(self._tmp):
                size = remove_abandoned(self._tmp / entry, dry_run=dry_run)
                if size is not None:
                    freed += size
                    abandoned += 1
            for entry in listdir(self.path / INCOMING):
                path = self.path / INCOMING / entry
                age = time.time() - (read_moved(path) or 0) / 1e6
                if age > STALE_SECONDS and (size := remove_abandoned(path, dry_run=dry_run)):
                    freed += size
                    abandoned += 1
        return Collected(tuple(removed), abandoned, freed)

    # Inside

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _tags(self, name: str) -> dict[str, str]:
        """Tag to digest; links that lead nowhere are no tags."""
        tags: dict[str, str] = {}
        directory = self._images / name / "tags"
        for tag in listdir(directory):
            if _TAG.fullmatch(tag) is None:
                continue
            with contextlib.suppress(OSError):
                digest = os.path.basename(os.readlink(directory / tag))
                if is_digest(digest) and (self._images / name / digest).is_dir():
                    tags[tag] = digest
        return tags

    def _tag_path(self, name: str, tag: str) -> Path:
        return self._images / name / "tags" / tag

    def _resolve(self, name: str, reference: str, tags: dict[str, str]) -> str:
        if reference in tags:
            return tags[reference]
        digests = [entry for entry in listdir(self._images / name) if is_digest(entry)]
        if reference in digests:
            return reference
        if _PREFIX.fullmatch(reference):
            matches = [digest for digest in digests if digest.startswith(reference)]
            if len(matches) == 1:
                return matches[0]
        if not digests:
            raise StoreError(
                f"no image {name!r} in the store {self.path}",
                hint=f"it holds: {', '.join(self.names()) or 'nothing yet; run bootfarm build'}",
            )
        raise StoreError(
            f"image {name} has no tag or digest {reference!r}",
            hint=f"its tags: {', '.join(sorted(tags)) or 'none'}; see bootfarm images list",
        )

    def _load(self, name: str, digest: str, tags: dict[str, str]) -> Image:
        path = self._images / name / digest
        manifest = _read_manifest(path)
        if manifest.digest != digest:
            raise StoreError(
                f"{path / MANIFEST_NAME} does not match its digest: the image is damaged",
                hint=mend(name, digest),
            )
        mine = tuple(sorted(tag for tag, target in tags.items() if target == digest))
        return Image(name, digest, mine, path, manifest, manifest.size)

    def _set_tag(self, name: str, tag: str, digest: str) -> None:
        tags = self._tags(name)
        if tags.get(tag) == digest:
            return
        moves = self.moves(name)
        if tag == CURRENT and CURRENT in tags:
            old = Move(tags[CURRENT], next_move(moves.get(PREVIOUS)))
            self._replace_link(name, PREVIOUS, old)
        self._replace_link(name, tag, Move(digest, next_move(moves.get(tag))))

    def _remove_tag(self, name: str, tag: str, moved: int | None = None) -> None:
        write_gone(self.path, name, tag, moved or next_move(self.moves(name).get(tag)))
        self._tag_path(name, tag).unlink(missing_ok=True)

    def _replace_link(self, name: str, tag: str, move: Move) -> None:
        path = self._tag_path(name, tag)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.writing() as staging:
            link = staging / tag
            link.symlink_to(f"../{move.digest}")
            write_moved(link, move.moved)
            link.rename(path)
        forget_gone(self.path, name, tag)
        sync_directory(path.parent)

    def _move_in(self, source: Path, target: Path) -> None:
        make_readable(source)
        if source.stat().st_dev != target.parent.stat().st_dev:
            with self.writing() as staging:
                shutil.copytree(source, staging / "image", symlinks=True)
                sync_tree(staging / "image")
                (staging / "image").rename(target)
            shutil.rmtree(source)
        else:
            sync_tree(source)
            source.rename(target)
        sync_directory(target.parent)

    def is_whole(self, name: str, digest: str) -> bool:
        """Whether the image is here, and whole as far as its files' sizes tell."""
        try:
            image = self._load(name, digest, {})
            return not find_lack(image.path, image.manifest)
        except BuildError:
            return False

    def _delete(self, path: Path, *, replaced: bool = False) -> None:
        """Rename an image out of sight in one step, then remove it from the disk, with its
        signatures unless it is to be `replaced`."""
        with self.writing() as staging:
            path.rename(staging / "image")
            sync_directory(path.parent)
            if not replaced:
                with contextlib.suppress(FileNotFoundError):
                    signatures_of(path).rename(staging / "signatures")


def mend(name: str, digest: str) -> str:
    """The remedy for an image that is damaged."""
    return (
        "build or import it again, which replaces it, or take it away:"
        f" bootfarm images rm {name}@{digest[:12]} --force"
    )


_NAME_HINT = "lower-case letters, digits, dots, dashes and underscores, at most 63"


def is_tag(text: str) -> bool:
    """Whether `text` may be a tag: nothing that looks like a digest."""
    return _TAG.fullmatch(text) is not None and not is_digest(text) and not _PREFIX.fullmatch(text)


def check_tag(tag: str) -> None:
    """Raise StoreError for what no store takes as a tag."""
    if not is_tag(tag):
        raise StoreError(
            f"{tag!r} is not a tag",
            hint="letters, digits, dots, dashes and underscores, at most 63, not like a digest",
        )


def _read_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from None
    try:
        manifest = parse_manifest(data)
    except ManifestError as error:
        raise StoreError(f"{directory}: {error.message}", hint=error.hint) from None
    if hashlib.sha256(data).hexdigest() != manifest.digest:
        raise StoreError(f"{path} is not in canonical form, so its digest would be wrong")
    return manifest


def _verify_files(directory: Path, manifest: Manifest) -> None:
    if (found := find_difference(directory, manifest)) is not None:
        raise StoreError(found[0], hint=found[1])
