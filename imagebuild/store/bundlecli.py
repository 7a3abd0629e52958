"""`bootfarm bundle`: images and files for a site without internet, in one file and out of it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from imagebuild.errors import BuildError, interruptible
from imagebuild.options import examples
from imagebuild.store.bundle import Wanted, gather_files, load_bundle, write_bundle
from imagebuild.store.cli import open_store, parse_reference
from imagebuild.store.images import CURRENT, PREVIOUS, Store
from imagebuild.store.options import STORE_OPTION
from imagebuild.store.shown import format_size
from imagebuild.wholefile import write_beside

_STREAM = "-"


@click.group(
    "bundle",
    epilog=examples(
        "bootfarm bundle make farm.bundle amd64",
        "bootfarm bundle load farm.bundle --store /var/lib/bootfarm/store",
    ),
)
def bundle_group() -> None:
    """Carry images, and files beside them, to a site without internet.

    A preview. One file holds all of it, each byte under a SHA-256; the same content gives
    the same file.
    """


@bundle_group.command(
    "make",
    epilog=examples(
        "bootfarm bundle make farm.bundle",
        "bootfarm bundle make farm.bundle amd64 amd64:canary --add farm.tar --add debs/",
        "bootfarm bundle make - amd64 | ssh site bootfarm bundle load -",
    ),
)
@STORE_OPTION
@click.option(
    "--add",
    "added",
    multiple=True,
    metavar="PATH",
    type=click.Path(path_type=Path, exists=True),
    help="A file or a directory that goes along: a container's archive, packages. May be repeated.",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
def make_command(
    store_path: Path, added: tuple[Path, ...], file: Path, images: tuple[str, ...]
) -> None:
    """Write IMAGEs of the store, or each `current` one, into FILE (- is standard output).

    An IMAGE gets, where the bundle is loaded, the tag by which it is named here. Prints
    each `<name>@<digest>`, and at last the file's SHA-256, to compare it by at the site.
    """
    store = open_store(store_path)
    wanted = _find(store, images)
    to_stream = str(file) == _STREAM
    with interruptible("bootfarm bundle make", "no bundle was written"):
        files = gather_files(added)
        with _written(file) as out:
            digest = write_bundle(out, wanted, files)
    for one in wanted:
        click.echo(f"{one.image.name}@{one.image.digest}", err=to_stream)
    many = f"{len(files)} added file{'' if len(files) == 1 else 's'}"
    size = "" if to_stream else f", {format_size(file.stat().st_size)}"
    click.echo(f"{many}{size}, sha256 {digest}", err=to_stream)


def _find(store: Store, references: tuple[str, ...]) -> list[Wanted]:
    """The images by digest, each with all tags that it is named by."""
    if not references:
        references = tuple(
            f"{image.name}:{CURRENT}" for image in store.images() if CURRENT in image.tags
        )
        if not references:
            raise BuildError(
                f"no image of {store.path} is {CURRENT}", hint="name the images that go along"
            )
    found: dict[tuple[str, str], Wanted] = {}
    for reference in references:
        name, which = parse_reference(reference)
        image = store.get(name, which)
        tags = {which} if which in image.tags and which != PREVIOUS else set()
        before = found.get((name, image.digest))
        tags |= set(before.tags) if before else set()
        found[name, image.digest] = Wanted(image, tuple(sorted(tags)))
    return list(found.values())


@contextlib.contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    """The whole bundle in the place of `path`, or nothing; BuildError tells a full disk."""
    try:
        if str(path) == _STREAM:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        else:
            with write_beside(path, mode=0o644, durable=True) as out:
                yield out
    except BrokenPipeError:
        raise BuildError("nobody reads the bundle any more: it is not whole") from None
    except OSError as error:
        raise BuildError(f"cannot write {path}: {error.strerror or error}") from None


@bundle_group.command(
    "load",
    epilog=examples(
        "bootfarm bundle load farm.bundle --store /var/lib/bootfarm/store",
        "bootfarm bundle load farm.bundle --tag canary --files /srv/farm-files",
    ),
)
@STORE_OPTION
@click.option(
    "--tag", "tags", multiple=True, help="A tag: instead of the bundle's; may be repeated."
)
@click.option(
    "--files",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A new directory: where added files go. Without it they are only checked.",
)
@click.argument(
    "file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
)
def load_command(store_path: Path, tags: tuple[str, ...], files: Path | None, file: Path) -> None:
    """Publish the images of FILE (- is standard input) in the store, with their tags.

    Nothing is published before the whole bundle was read and each SHA-256 was right.
    Prints each `<name>@<digest>`.
    """
    with interruptible("bootfarm bundle load", "what the store has is whole"):
        try:
            with _read(file) as source:
                loaded = load_bundle(source, Store(store_path), files=files, tags=tags or None)
        except OSError as error:
            where = error.filename or store_path
            raise BuildError(
                f"cannot load {file} into {where}: {error.strerror or error}",
                hint="is there room for it, and may you write there?",
            ) from None
    for image, given in zip(loaded.images, loaded.tags, strict=True):
        click.echo(f"{image.name}@{image.digest}")
        if not given:
            click.echo(
                f"it got no tag, and `images gc` removes what has none: bootfarm images tag"
                f" {image.name}@{image.digest[:12]} TAG",
                err=True,
            )
    if loaded.files:
        many = f"{len(loaded.files)} added file{'' if len(loaded.files) == 1 else 's'}"
        what = f"in {files}" if loaded.written else "checked, not written: --files DIR writes them"
        click.echo(f"{many}: {what}", err=True)


@contextlib.contextmanager
def _read(path: Path) -> Iterator[IO[bytes]]:
    if str(path) == _STREAM:
        yield sys.stdin.buffer
    else:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            yield file


COMMANDS: list[click.Command] = [bundle_group]
