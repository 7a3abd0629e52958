"""The builder's commands: `bootfarm build`; store/cli.py and docker/cli.py have the others."""

import contextlib
import dataclasses
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import click

from imagebuild.check import check_recipe
from imagebuild.chroot.configure import ROOTFS
from imagebuild.docker import cli as docker_cli
from imagebuild.docker.cli import MIRRORS_OPTION, REPOSITORY_OPTION
from imagebuild.errors import BuildError, Interrupted, interruptible
from imagebuild.options import Renamed, examples
from imagebuild.pipeline import Options, build, cache_directory
from imagebuild.progress import Progress
from imagebuild.recipe.ingredients import Squashfs
from imagebuild.recipe.keys import describe
from imagebuild.recipe.mirrors import load_recipe_with
from imagebuild.signing import cli as signing_cli
from imagebuild.store import bundlecli
from imagebuild.store import cli as store_cli
from imagebuild.store.images import CURRENT, Store
from imagebuild.store.manifest import is_image_name
from imagebuild.store.options import STORE_OPTION


@click.command(
    "build",
    epilog=examples(
        "bootfarm build recipes/production.yaml",
        "bootfarm build recipes/production.yaml --tag canary --lock production.lock",
        "bootfarm build recipes/*.yaml --check",
    ),
)
@click.argument(
    "recipes", metavar="RECIPE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@STORE_OPTION
@click.option("--name", help="The image's name: instead of the recipe's.")
@click.option(
    "--tag",
    "tags",
    multiple=True,
    help="A tag: instead of `current`; may be repeated.",
)
@REPOSITORY_OPTION
@MIRRORS_OPTION
@click.option(
    "--squashfs-level",
    type=click.IntRange(1, 22),
    help="zstd level: 3 is quick, 15 (default) small, 19 smaller and slow.",
)
@click.option(
    "--lock",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Build from the package versions of FILE; where it is not there, write it: the same"
    " bytes again, on another machine and when the mirrors have moved on.",
)
@click.option("--fresh", is_flag=True, help="Use nothing of the cache: run every stage.")
@click.option(
    "log",
    "--log-file",
    cls=Renamed,
    older=("--log",),
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where commands' output goes.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Only check: tell all that is wrong with RECIPE, its files and its packages.",
)
@click.option("--no-network", is_flag=True, help="With --check: ask no mirror.")
def build_command(
    recipes: tuple[Path, ...],
    store_path: Path,
    name: str | None,
    tags: tuple[str, ...],
    repositories: tuple[str, ...],
    mirrors_file: Path | None,
    squashfs_level: int | None,
    lock: Path | None,
    fresh: bool,
    log: Path | None,
    check: bool,
    no_network: bool,
) -> None:
    """Build RECIPE's node image and publish it in the store.

    Needs root. Runs what has changed of the five stages ltsp-base, basesystem,
    builder, ltsp-image and final; finished stages and downloaded packages
    are kept in $BOOTFARM_CACHE (~/.cache/bootfarm). The last line on
    standard output is `<name>@<digest>`.

    With --check, for which nobody needs root, of any number of recipes: exit status 0 if
    nothing is wrong, else 1.
    """
    if check:
        if lock is not None:
            raise click.UsageError("--lock is for a build: --check asks what mirrors have now")
        _check(recipes, mirrors_file, repositories, not no_network)
    if no_network:
        raise click.UsageError("--no-network is for --check")
    if len(recipes) > 1:
        raise click.UsageError("several recipes are for --check; build them one after the other")
    (recipe,) = recipes
    if not ROOTFS.is_dir():
        raise BuildError(
            f"this bootfarm has not the node's own files ({ROOTFS}): as installed by pip, it"
            " checks recipes and builds no image",
            hint="build in a checkout (make install), or with the Debian package bootfarm-build",
        )
    parsed = load_recipe_with(recipe, mirrors_file, repositories)
    if name is not None:
        if not is_image_name(name):
            raise BuildError(f"--name {name!r}: not an image name")
        parsed = dataclasses.replace(parsed, name=name)
    if squashfs_level is not None:
        parsed = dataclasses.replace(parsed, squashfs=Squashfs(squashfs_level))
    with _interruptible(), Progress() as progress:
        options = Options(
            cache_directory(),
            progress.event,
            progress.line if progress.live else None,
            fresh,
            log,
            lock,
        )
        image = build(parsed, Store(store_path), options, tags or (CURRENT,))
    click.echo(f"{image.name}@{image.digest}")


def _check(
    recipes: Sequence[Path], mirrors: Path | None, repositories: Sequence[str], network: bool
) -> None:
    """Print what is wrong with each recipe, and exit."""
    with interruptible("bootfarm build --check", "nothing was changed"), Progress() as progress:
        line = progress.line if progress.live else None
        options = Options(cache_directory(), progress.event, line)
        reports = [
            check_recipe(recipe, mirrors, repositories, options, network=network)
            for recipe in recipes
        ]
    click.echo("\n".join(report.render() for report in reports))
    click.get_current_context().exit(1 if any(report.faults for report in reports) else 0)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a build as Ctrl-C does: commands killed, work removed."""
    came = signal.SIGINT

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = signal.Signals(number)
        raise KeyboardInterrupt

    old = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            "bootfarm build: interrupted: nothing was published",
            hint="stages that were finished are kept: run it again to go on",
            number=came,
        ) from None
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@click.command("recipe", epilog=examples("bootfarm schema recipe >docs/schemas/recipe.schema.json"))
def recipe_schema() -> None:
    """Print a recipe's JSON Schema."""
    click.echo(json.dumps(describe(), indent=2, ensure_ascii=False))


COMMANDS: list[click.Command] = [
    build_command,
    *store_cli.COMMANDS,
    *signing_cli.COMMANDS,
    *bundlecli.COMMANDS,
    *docker_cli.COMMANDS,
]
