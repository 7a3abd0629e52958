"""The builder's commands: `bootfarm build` and `bootfarm images`."""

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from imagebuild import imagecli
from imagebuild.errors import BuildError
from imagebuild.ingredients import Squashfs
from imagebuild.inuse import read_in_use
from imagebuild.manifest import is_image_name
from imagebuild.pipeline import Options, build, cache_directory
from imagebuild.progress import Progress
from imagebuild.recipe import load_recipe
from imagebuild.store import CURRENT, Image, Store

_STORE = click.option(
    "--store",
    "store_path",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: Path(os.environ.get("BOOTFARM_STORE", "store")),
    show_default="$BOOTFARM_STORE, else ./store",
    help="The directory of images.",
)


@click.command("build")
@click.argument("recipe", type=click.Path(path_type=Path))
@_STORE
@click.option("--name", help="Name the image otherwise than the recipe does.")
@click.option(
    "--tag",
    "tags",
    multiple=True,
    help="Tag the image with this instead of `current`; may be repeated.",
)
@click.option(
    "--squashfs-level",
    type=click.IntRange(1, 22),
    help="zstd level: 3 is quick, 15 (default) small, 19 smaller and slow.",
)
@click.option("--fresh", is_flag=True, help="Run every stage, whatever the cache has.")
@click.option(
    "--log", type=click.Path(path_type=Path, dir_okay=False), help="Where commands' output goes."
)
def build_command(
    recipe: Path,
    store_path: Path,
    name: str | None,
    tags: tuple[str, ...],
    squashfs_level: int | None,
    fresh: bool,
    log: Path | None,
) -> None:
    """Build RECIPE's node image and publish it in the store.

    Needs root. Runs what has changed of the five stages ltsp-base, basesystem,
    builder, ltsp-image and final; finished stages and downloaded packages
    are kept in $BOOTFARM_CACHE (~/.cache/bootfarm). The last line on
    standard output is `<name>@<digest>`.
    """
    parsed = load_recipe(recipe)
    if name is not None:
        if not is_image_name(name):
            raise BuildError(f"--name {name!r}: not an image name")
        parsed = dataclasses.replace(parsed, name=name)
    if squashfs_level is not None:
        parsed = dataclasses.replace(parsed, squashfs=Squashfs(squashfs_level))
    with _interruptible(), Progress() as progress:
        options = Options(
            cache_directory(), progress.event, progress.line if progress.live else None, fresh, log
        )
        image = build(parsed, Store(store_path), options, tags or (CURRENT,))
    click.echo(f"{image.name}@{image.digest}")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a build as Ctrl-C does: commands killed, work removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        raise BuildError(
            "interrupted: nothing was published", hint="run it again to go on"
        ) from None
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@click.group("images")
def images_group() -> None:
    """List, tag, roll back and remove the images of a store.

    An IMAGE is NAME (its `current`), NAME:TAG or NAME@DIGEST; the first 12
    digits of a digest are enough.
    """


@images_group.command("list")
@_STORE
def list_command(store_path: Path) -> None:
    """Show every image, its tags and sizes."""
    store = Store(store_path)
    images = store.images()
    rows = [("IMAGE", "TAGS", "SIZE", "KERNEL", "VERSIONS"), *(_row(image) for image in images)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[4]]).rstrip())
    click.echo(f"{len(images)} images; the store takes {format_size(store.size())}")


def _row(image: Image) -> tuple[str, str, str, str, str]:
    versions = " ".join(f"{key}={value}" for key, value in sorted(image.manifest.versions.items()))
    return (
        f"{image.name}@{image.digest[:12]}",
        ",".join(image.tags) or "-",
        format_size(image.size),
        image.manifest.kernel,
        versions,
    )


@images_group.command("tag")
@_STORE
@click.argument("image")
@click.argument("tag")
def tag_command(store_path: Path, image: str, tag: str) -> None:
    """Let TAG name IMAGE. Moving `current` keeps what it named as `previous`."""
    tagged = Store(store_path).tag(*parse_reference(image), tag)
    click.echo(f"{tagged.name}:{tag} is {tagged.digest}")


@images_group.command("rollback")
@_STORE
@click.argument("name")
def rollback_command(store_path: Path, name: str) -> None:
    """Swap NAME's `current` and `previous`."""
    image = Store(store_path).rollback(name)
    click.echo(f"{image.name}:{CURRENT} is {image.digest}")


@images_group.command("rm")
@_STORE
@click.option("--force", is_flag=True, help="Remove an image although it is tagged.")
@click.argument("image")
def rm_command(store_path: Path, image: str, force: bool) -> None:
    """Remove the tag NAME:TAG, or the image NAME@DIGEST itself."""
    name, reference = parse_reference(image)
    if reference == CURRENT and ":" not in image:
        raise BuildError(
            f"{image!r}: which one?", hint=f"{name}:TAG removes a tag, {name}@DIGEST an image"
        )
    removed = Store(store_path).remove(name, reference, force=force)
    if reference in removed.tags:
        click.echo(f"removed the tag {name}:{reference} of {removed.digest}")
    else:
        click.echo(f"removed {name}@{removed.digest} ({format_size(removed.size)})")


@images_group.command("gc")
@_STORE
@click.option(
    "--state",
    "states",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    envvar="BOOTFARM_STATE",
    help="State directory of a server of this store; may be repeated. [$BOOTFARM_STATE]",
)
@click.option("--no-server", is_flag=True, help="No server serves this store: no node reads it.")
@click.option(
    "--in-use", "in_use", multiple=True, help="A digest that nodes still read; may be repeated."
)
def gc_command(
    store_path: Path, states: tuple[Path, ...], no_server: bool, in_use: tuple[str, ...]
) -> None:
    """Remove images without tags, and what interrupted writers left.

    Spares what nodes are attached to, or were in the last 10 minutes, as the server's
    state directory says.
    """
    if not states and not no_server:
        raise BuildError(
            "cannot tell which images nodes still read",
            hint="give --state DIR as `bootfarm serve` has it, or --no-server if there is none",
        )
    now = time.time()
    spared = {digest for state in states for digest in read_in_use(state).spared(now)}
    store = Store(store_path)
    collected = store.collect_garbage(spared | set(in_use))
    for image in collected.images:
        click.echo(f"removed {image.name}@{image.digest} ({format_size(image.size)})")
    if collected.abandoned:
        click.echo(f"removed {collected.abandoned} directories of interrupted writers")
    click.echo(f"freed {format_size(collected.freed)}; the store takes {format_size(store.size())}")


@images_group.command("import")
@_STORE
@click.option("--tag", "tags", multiple=True, help="Instead of `current`; may be repeated.")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
def import_command(store_path: Path, directory: Path, tags: tuple[str, ...]) -> None:
    """Copy an image's directory (.../images/NAME/DIGEST) into the store, verifying each file."""
    image = Store(store_path).import_image(directory, tags=tags or (CURRENT,))
    click.echo(f"{image.name}@{image.digest}")


def parse_reference(text: str) -> tuple[str, str]:
    """`name`, `name:tag` or `name@digest` to (name, tag or digest)."""
    for separator in "@:":
        name, found, reference = text.partition(separator)
        if found:
            if not reference:
                raise BuildError(f"{text!r}: nothing after the {separator}")
            return name, reference
    return text, CURRENT


def format_size(size: int) -> str:
    """Bytes for people: `812 kB`, `70.3 MB` (powers of 1000)."""
    if size < 1000:
        return f"{size} B"
    if size < 1_000_000:
        return f"{size / 1000:.0f} kB"
    if size < 1_000_000_000:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.2f} GB"


COMMANDS: list[click.Command] = [build_command, images_group, *imagecli.COMMANDS]
