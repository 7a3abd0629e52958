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
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.store.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    ManifestError,
    find_lack,
    is_digest,
    is_image_name,
    parse_manifest,
)
from imagebuild.store.signatures import copy_signatures, signatures_of

CURRENT = "current"
PREVIOUS = "previous"

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
        for name in _listdir(self._images):
            if not is_image_name(name):
                continue
            tags = self._tags(name)
            for digest in _listdir(self._images / name):
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
        return _tree_size(self.path)

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
            if self._is_whole(name, digest):
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
        if self._is_whole(manifest.name, manifest.digest):
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
                self._tag_path(name, tag_or_digest).unlink()
                return image
            if image.tags and not force:
                raise StoreError(
                    f"{name}@{image.digest[:12]} is tagged {', '.join(image.tags)}",
                    hint="remove its tags first, or give --force",
                )
            for tag in image.tags:
                self._tag_path(name, tag).unlink()
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
            for entry in _listdir(self._tmp):
                size = _remove_abandoned(self._tmp / entry, dry_run=dry_run)
                if size is not None:
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
        for tag in _listdir(directory):
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
        digests = [entry for entry in _listdir(self._images / name) if is_digest(entry)]
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
        if tag == CURRENT and CURRENT in tags:
            self._replace_link(name, PREVIOUS, tags[CURRENT])
        self._replace_link(name, tag, digest)

    def _replace_link(self, name: str, tag: str, digest: str) -> None:
        path = self._tag_path(name, tag)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.writing() as staging:
            link = staging / tag
            link.symlink_to(f"../{digest}")
            link.rename(path)
        _sync_directory(path.parent)

    def _move_in(self, source: Path, target: Path) -> None:
        _make_readable(source)
        if source.stat().st_dev != target.parent.stat().st_dev:
            with self.writing() as staging:
                shutil.copytree(source, staging / "image", symlinks=True)
                _sync_tree(staging / "image")
                (staging / "image").rename(target)
            shutil.rmtree(source)
        else:
            _sync_tree(source)
            source.rename(target)
        _sync_directory(target.parent)

    def _is_whole(self, name: str, digest: str) -> bool:
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
            _sync_directory(path.parent)
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


def check_tag(tag: str) -> None:
    """Raise StoreError for what no store takes as a tag."""
    if _TAG.fullmatch(tag) is None or is_digest(tag) or _PREFIX.fullmatch(tag):
        raise StoreError(
            f"{tag!r} is not a tag",
            hint="letters, digits, dots, dashes and underscores, at most 63, not like a digest",
        )


def _listdir(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


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
    present = {
        str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()
    } - {MANIFEST_NAME}
    if extra := sorted(present - set(manifest.files)):
        raise StoreError(f"{directory / extra[0]} is not in the manifest")
    for path, entry in manifest.files.items():
        file = directory / path
        if file.is_symlink() or not file.is_file():
            raise StoreError(f"{file} is in the manifest, but not a file in the directory")
        if FileEntry.of(file) != entry:
            raise StoreError(
                f"{file} is not what the manifest says (size or SHA-256 differ)",
                hint="the copy is damaged or incomplete: copy or build it again",
            )


def _tree_size(path: Path) -> int:
    total = 0
    for directory, _, files in os.walk(path):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(directory, file)).st_size
    return total


def _remove_abandoned(path: Path, *, dry_run: bool = False) -> int | None:
    """Remove what a dead writer left; its bytes, or None when its writer lives.

    A writer holds a shared lock on its directory for as long as it lives; the
    exclusive one is kept until the directory is gone (see `Store.writing`).
    """
    if path.is_symlink() or not path.is_dir():
        if not dry_run:
            path.unlink(missing_ok=True)
        return 0
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = _tree_size(path)
        if not dry_run:
            shutil.rmtree(path)
    except BlockingIOError:
        return None
    finally:
        os.close(held)
    return size


def _make_readable(directory: Path) -> None:
    """Servers run as another user: files 0644, directories 0755."""
    os.chmod(directory, 0o755)
    for path in directory.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        elif path.is_dir():
            _sync_directory(path)
    _sync_directory(directory)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
