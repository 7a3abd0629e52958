"""The builder's commands: `bootfarm build`; imagescli and imagecli have the others."""

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from imagebuild import imagecli, imagescli
from imagebuild.errors import BuildError
from imagebuild.imagescli import STORE_OPTION
from imagebuild.ingredients import Squashfs
from imagebuild.manifest import is_image_name
from imagebuild.pipeline import Options, build, cache_directory
from imagebuild.progress import Progress
from imagebuild.recipe import load_recipe
from imagebuild.store import CURRENT, Store


@click.command("build")
@click.argument("recipe", type=click.Path(path_type=Path))
@STORE_OPTION
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


COMMANDS: list[click.Command] = [build_command, *imagescli.COMMANDS, *imagecli.COMMANDS]
