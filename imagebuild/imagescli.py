"""`bootfarm images`: the images of a store. The container has this command, too."""

import os
import time
from pathlib import Path

import click

from imagebuild.errors import BuildError
from imagebuild.inuse import read_in_use
from imagebuild.store import CURRENT, Image, Store

STORE_OPTION = click.option(
    "--store",
    "store_path",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: Path(os.environ.get("BOOTFARM_STORE", "store")),
    show_default="$BOOTFARM_STORE, else ./store",
    help="The directory of images.",
)


@click.group("images")
def images_group() -> None:
    """List, tag, roll back and remove the images of a store.

    An IMAGE is NAME (its `current`), NAME:TAG or NAME@DIGEST; the first 12
    digits of a digest are enough.
    """


@images_group.command("list")
@STORE_OPTION
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
@STORE_OPTION
@click.argument("image")
@click.argument("tag")
def tag_command(store_path: Path, image: str, tag: str) -> None:
    """Let TAG name IMAGE. Moving `current` keeps what it named as `previous`."""
    tagged = Store(store_path).tag(*parse_reference(image), tag)
    click.echo(f"{tagged.name}:{tag} is {tagged.digest}")


@images_group.command("rollback")
@STORE_OPTION
@click.argument("name")
def rollback_command(store_path: Path, name: str) -> None:
    """Swap NAME's `current` and `previous`."""
    image = Store(store_path).rollback(name)
    click.echo(f"{image.name}:{CURRENT} is {image.digest}")


@images_group.command("rm")
@STORE_OPTION
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
@STORE_OPTION
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
@STORE_OPTION
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


COMMANDS: list[click.Command] = [images_group]
