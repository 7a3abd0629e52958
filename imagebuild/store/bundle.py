"""Images of a store, and files beside them, in one file: for a site that has no internet.

A bundle is a plain tar. Its first member, `bundle.json`, says what follows and in which
order; a reader takes exactly that, and nothing else, from a stream (a pipe, a tape, a disk).
The same images and files give the same bytes: no times, no owners, nothing of the machine.

    bundle.json                              {"format": 1, "images": […], "files": […]}
    images/<name>/<digest>/manifest.json     then the files that it names, sorted
    files/<path>                             what was added

Every byte is under a SHA-256: bundle.json has those of the manifests (the images' digests)
and of the added files, the manifests have those of the images' files.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from imagebuild.errors import BuildError
from imagebuild.store.images import Image, Store, check_tag
from imagebuild.store.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    is_digest,
    is_image_name,
    parse_manifest,
)

FORMAT = 1
"""Of bundle.json; readers refuse others."""
INDEX_NAME = "bundle.json"
MOST_INDEX = 16 << 20
"""Bytes of bundle.json, and of a manifest in a bundle, that a reader takes into memory."""
MOST_HEAD = 64 << 10
"""Bytes of what a tar says of one member beside its plain head: its name, its size."""
_CHUNK = 1 << 20
_AGAIN = "the copy is damaged or incomplete: copy the bundle again, or make it anew"


class BundleError(BuildError):
    """A bundle is not what it says, or cannot be made."""


@dataclass(frozen=True)
class Wanted:
    """An image that goes into a bundle. tags: those that it gets where the bundle is loaded."""

    image: Image
    tags: tuple[str, ...]


@dataclass(frozen=True)
class AddedFile:
    """A file beside the images. path: in the bundle, relative, POSIX."""

    path: str
    source: Path
    entry: FileEntry


@dataclass(frozen=True)
class Loaded:
    """What a load left: the images with the tags that they got, and the paths of added files.

    written: whether the files were written; without a directory for them they are only checked.
    """

    images: tuple[Image, ...]
    tags: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]
    written: bool


# Making


def gather_files(paths: Sequence[Path]) -> tuple[AddedFile, ...]:
    """The files of these paths, read once for their sums; a directory with all that is below it.

    A file goes by its own name, one of a directory by the directory's name and its place in it.
    Raises BundleError for two of one name, a link, a device, a path that is not there.
    """
    found: dict[str, Path] = {}
    for given in paths:
        top = Path(os.path.abspath(given))
        try:
            listed = _walk(top) if top.is_dir() else [top]
        except OSError as error:
            raise BundleError(f"cannot read {error.filename}: {error.strerror}") from None
        for source in listed:
            path = source.relative_to(top.parent).as_posix()
            if path in found:
                raise BundleError(
                    f"{source} and {found[path]} would both be {path} in the bundle",
                    hint="rename one of them, or put both below one directory",
                )
            found[path] = source
    return tuple(_add(path, source) for path, source in sorted(found.items()))


def _walk(top: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise error

    listed: list[Path] = []
    for directory, folders, files in os.walk(top, onerror=fail):
        links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
        listed += [Path(directory, name) for name in (*files, *links)]
    return listed


def _add(path: str, source: Path) -> AddedFile:
    try:
        if not stat.S_ISREG(source.lstat().st_mode):
            raise BundleError(
                f"{source} is no plain file", hint="a bundle holds files only: no links, no devices"
            )
        return AddedFile(path, source, FileEntry.of(source))
    except OSError as error:
        raise BundleError(f"cannot read {source}: {error.strerror}") from None


def write_bundle(file: IO[bytes], wanted: Sequence[Wanted], files: Sequence[AddedFile]) -> str:
    """Write a bundle; the SHA-256 of its bytes, in hex.

    file: written from where it stands, never sought in. Raises BundleError where an image or
    a file is not what its sum says; then what was written is no bundle.
    """
    ordered = sorted(wanted, key=lambda one: (one.image.name, one.image.digest))
    index = {
        "format": FORMAT,
        "images": [
            {"name": one.image.name, "digest": one.image.digest, "tags": sorted(one.tags)}
            for one in ordered
        ],
        "files": [
            {"path": one.path, "size": one.entry.size, "sha256": one.entry.sha256} for one in files
        ],
    }
    summing = _Summing(file)
    with tarfile.open(fileobj=summing, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        _put(
            tar, INDEX_NAME, json.dumps(index, sort_keys=True, ensure_ascii=False).encode() + b"\n"
        )
        for one in ordered:
            place = _place(one.image.name, one.image.digest)
            _put(tar, f"{place}/{MANIFEST_NAME}", one.image.manifest.to_bytes())
            for path, entry in sorted(one.image.manifest.files.items()):
                _put_file(tar, f"{place}/{path}", one.image.path / path, entry)
        for added in files:
            _put_file(tar, f"files/{added.path}", added.source, added.entry)
    return summing.digest.hexdigest()


class _Summing:
    """Hands on what is written, and sums it up."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


class _Reading:
    """Hands on what is read, and sums it up."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        self._size += len(data)
        return data

    @property
    def entry(self) -> FileEntry:
        return FileEntry(self._size, self._digest.hexdigest())


def _place(name: str, digest: str) -> str:
    return f"images/{name}/{digest}"


def _head(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # a file, mode 0644, of nobody, of 1970
    member.size = size
    return member


def _put(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    with tempfile.SpooledTemporaryFile(MOST_INDEX) as file:
        file.write(data)
        file.seek(0)
        tar.addfile(_head(name, len(data)), file)


def _put_file(tar: tarfile.TarFile, name: str, source: Path, entry: FileEntry) -> None:
    try:
        with source.open("rb") as file:
            reading = _Reading(file)
            tar.addfile(_head(name, entry.size), reading)
            rest = reading.read(1)
    except FileNotFoundError as error:
        raise BundleError(f"cannot read {source}: {error.strerror}") from None
    except OSError as error:
        if error.errno is not None:  # of the disk, or of who reads the bundle
            raise
        raise BundleError(f"{source} became shorter, or is damaged") from None
    if rest or reading.entry != entry:
        raise BundleError(
            f"{source} is not what its SHA-256 says",
            hint="the disk or somebody changed it: `bootfarm build` or `images import` it again",
        )


# Loading


def load_bundle(
    file: IO[bytes], store: Store, *, files: Path | None = None, tags: Collection[str] | None = None
) -> Loaded:
    """Publish a bundle's images in the store, and write the files that came with them.

    Nothing is published and no tag moves before the whole bundle was read and found right.
    file: read once, from where it stands, to the bundle's end. files: a directory that does
    not exist yet; None: files are checked, and not written. tags: instead of the bundle's.
    Raises BundleError for what is not as it says, StoreError for what the store refuses.
    """
    if files is not None and os.path.lexists(files):
        raise BundleError(f"{files} is there already", hint="name a directory that is not yet")
    for tag in tags or ():
        check_tag(tag)
    with contextlib.ExitStack() as kept:
        try:
            tar = kept.enter_context(tarfile.open(fileobj=file, mode="r|", tarinfo=_Member))
            reader = _Reader(tar)
            index = _parse_index(reader.take_small(INDEX_NAME))
            staged = [
                kept.enter_context(_stage_image(reader, store, one.name, one.digest))
                for one in index.images
            ]
            beside = kept.enter_context(_beside(files)) if files is not None else None
            for added in index.files:
                _take_added(reader, added, beside)
            reader.end()
        except (tarfile.TarError, ValueError) as error:
            raise BundleError(f"this is no whole bundle: {error}", hint=_AGAIN) from None
        wanted = [one.tags if tags is None else tuple(tags) for one in index.images]
        images = tuple(
            _publish(store, one, directory, mine)
            for one, directory, mine in zip(index.images, staged, wanted, strict=True)
        )
        if beside is not None and files is not None:
            beside.rename(files)
    paths = tuple(one.path for one in index.files)
    return Loaded(images, tuple(wanted), paths, files is not None)


@dataclass(frozen=True)
class _IndexImage:
    name: str
    digest: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class _IndexFile:
    path: str
    entry: FileEntry


@dataclass(frozen=True)
class _Index:
    images: tuple[_IndexImage, ...]
    files: tuple[_IndexFile, ...]


def _parse_index(data: bytes) -> _Index:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raise BundleError(f"{INDEX_NAME} is not JSON", hint=_AGAIN) from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else None
        raise BundleError(
            f"{INDEX_NAME}: format {found!r} is not {FORMAT}",
            hint="use the bootfarm that made the bundle, or make it with this one",
        )
    if set(raw) != {"format", "images", "files"}:
        raise BundleError(f"{INDEX_NAME}: expected exactly format, images and files")
    index = _Index(
        tuple(_parse_image(one) for one in _list(raw, "images")),
        tuple(_parse_file(one) for one in _list(raw, "files")),
    )
    names = [(one.name, one.digest) for one in index.images]
    paths = [one.path for one in index.files]
    if len(set(names)) != len(names) or len(set(paths)) != len(paths):
        raise BundleError(f"{INDEX_NAME} names something twice")
    return index


def _list(raw: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(raw[key], list):
        raise BundleError(f"{INDEX_NAME}: {key} is no list")
    return list(raw[key])


def _parse_image(raw: Any) -> _IndexImage:
    if isinstance(raw, dict) and set(raw) == {"name", "digest", "tags"}:
        name, digest, tags = raw["name"], raw["digest"], raw["tags"]
        texts = isinstance(name, str) and isinstance(digest, str) and isinstance(tags, list)
        texts = texts and all(isinstance(tag, str) for tag in tags)
        if texts and is_image_name(name) and is_digest(digest):
            for tag in tags:
                check_tag(tag)
            return _IndexImage(name, digest, tuple(tags))
    raise BundleError(f"{INDEX_NAME}: {str(raw)[:80]} is no image with name, digest and tags")


def _parse_file(raw: Any) -> _IndexFile:
    if isinstance(raw, dict) and set(raw) == {"path", "size", "sha256"}:
        path, size, sha256 = raw["path"], raw["size"], raw["sha256"]
        plain = isinstance(path, str) and type(size) is int and isinstance(sha256, str)
        if plain and size >= 0 and is_digest(sha256) and _is_plain(path):
            return _IndexFile(path, FileEntry(size, sha256))
    raise BundleError(f"{INDEX_NAME}: {str(raw)[:80]} is no file with path, size and sha256")


def _is_plain(path: str) -> bool:
    """Whether a path leads nowhere but below where it begins."""
    return not {"", ".", ".."} & set(path.split("/")) and path.isprintable()


class _Member(tarfile.TarInfo):
    """A head of a tar that makes its reader take no more into memory than a name needs."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        """As tarfile's; BundleError for a head of heads (pax, GNU) of more than MOST_HEAD."""
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (not member.isreg() and member.size > MOST_HEAD):
            raise BundleError(f"the bundle has a head of {member.size} bytes", hint=_AGAIN)
        return member


class _Reader:
    """Takes one member after the other, each by the name that comes next."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def _next(self, name: str) -> tuple[tarfile.TarInfo, IO[bytes]]:
        member = self._tar.next()
        if member is None:
            raise BundleError(f"the bundle ends where {name} should come", hint=_AGAIN)
        file = self._tar.extractfile(member) if member.isreg() else None
        if member.name != name or file is None:
            raise BundleError(
                f"the bundle has {member.name[:200]!r} where {name} should come",
                hint=f"is it one of `bootfarm bundle make`? {_AGAIN}",
            )
        return member, file

    def take_small(self, name: str) -> bytes:
        """The bytes of a member that is taken into memory."""
        member, file = self._next(name)
        if member.size > MOST_INDEX:
            raise BundleError(f"{name} has {member.size} bytes, more than {MOST_INDEX}")
        return file.read()

    def take(self, name: str, entry: FileEntry, target: Path | None) -> None:
        """Copy a member to `target`, or nowhere; it must be what `entry` says."""
        member, file = self._next(name)
        if member.size != entry.size:
            raise BundleError(f"{name} has {member.size} bytes, not {entry.size}", hint=_AGAIN)
        reading = _Reading(file)
        if target is None:
            while reading.read(_CHUNK):
                pass
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                shutil.copyfileobj(reading, out, _CHUNK)
        if reading.entry != entry:
            raise BundleError(f"{name} is not what its SHA-256 says", hint=_AGAIN)

    def end(self) -> None:
        """Nothing more may come."""
        member = self._tar.next()
        if member is not None:
            raise BundleError(f"the bundle has {member.name[:200]!r}, which nothing announced")


@contextlib.contextmanager
def _stage_image(reader: _Reader, store: Store, name: str, digest: str) -> Iterator[Path | None]:
    """An image's directory below the store's tmp/; None if the store has the image already."""
    place = _place(name, digest)
    data = reader.take_small(f"{place}/{MANIFEST_NAME}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise BundleError(f"{place}/{MANIFEST_NAME} is not what its digest says", hint=_AGAIN)
    manifest: Manifest = parse_manifest(data)
    have = (store.path / place).is_dir()
    with contextlib.nullcontext() if have else store.writing() as staging:
        directory = staging / "image" if staging is not None else None
        if directory is not None:
            directory.mkdir()
            (directory / MANIFEST_NAME).write_bytes(data)
        for path, entry in sorted(manifest.files.items()):
            target = directory / path if directory is not None else None
            reader.take(f"{place}/{path}", entry, target)
        yield directory


def _publish(
    store: Store, one: _IndexImage, directory: Path | None, tags: tuple[str, ...]
) -> Image:
    if directory is not None:
        return store.publish(one.name, directory, tags=tags)
    for tag in tags:
        store.tag(one.name, one.digest, tag)
    return store.get(one.name, one.digest)


@contextlib.contextmanager
def _beside(directory: Path) -> Iterator[Path]:
    """A fresh directory beside the wanted one, gone afterwards unless it was renamed."""
    beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.absolute().parent))
    try:
        beside.chmod(0o755)
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _take_added(reader: _Reader, one: _IndexFile, beside: Path | None) -> None:
    target = beside / one.path if beside is not None else None
    try:
        reader.take(f"files/{one.path}", one.entry, target)
    except (FileExistsError, NotADirectoryError):
        raise BundleError(f"{INDEX_NAME}: {one.path} is a file and a directory") from None
