"""`bootfarm container`: the farm as a container image, by the Docker SDK.

The SDK takes its time to import, so only the commands that need it do.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from imagebuild.docker.buildstream import BuildStream
from imagebuild.errors import BuildError, interruptible
from imagebuild.options import examples
from imagebuild.progress import Progress
from imagebuild.recipe.ingredients import Squashfs
from imagebuild.recipe.mirrors import load_recipe_with
from imagebuild.store.cli import Pointing
from imagebuild.store.images import CURRENT, Store
from imagebuild.wholefile import write_beside

if TYPE_CHECKING:
    from imagebuild.docker.engine import BuildRequest, Engine

_ENGINE = click.option(
    "--engine", "url", default="", metavar="URL", help="The Docker engine.  [default: DOCKER_HOST]"
)
REPOSITORY_OPTION = click.option(
    "--repository",
    "repositories",
    multiple=True,
    metavar="NAME=URI[,key=FILE]",
    help="Take the recipe's repository NAME from URI instead (http:, https: or file:); also"
    " ,fingerprint= ,sha256= ,suite= ,components=A+B. May be repeated.",
)
MIRRORS_OPTION = click.option(
    "--mirrors",
    "mirrors_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A YAML file with mirrors and repositories that stand in the place of the recipe's.",
)


def need_sdk() -> None:
    """Raise BuildError where the Docker SDK is not installed, which bootfarm can do without."""
    if importlib.util.find_spec("docker") is None:
        raise BuildError(
            "the Docker SDK for Python is not installed",
            hint="pip install 'bootfarm[container]', or apt-get install python3-docker",
        )


@click.group(
    "container",
    cls=Pointing,
    elsewhere=dict.fromkeys(("list", "tag", "rollback", "rm", "gc", "import", "show"), "images"),
    epilog=examples(
        "bootfarm container build recipes/production.yaml -t registry.example/farm:1",
        "bootfarm container push registry.example/farm:1",
    ),
)
def container_group() -> None:
    """Build, push and open the container image that serves a node image.

    `bootfarm build` makes a node image on this machine; these do the same in
    a Docker engine, with the server around it. `bootfarm images` is for what a
    store holds.
    """


@container_group.command(
    "build",
    epilog=examples(
        "bootfarm container build recipes/production.yaml -t registry.example/farm:1",
        "bootfarm container build recipes/production.yaml --context - | docker build -",
    ),
)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "-t",
    "--tag",
    "names",
    multiple=True,
    metavar="NAME[:TAG]",
    help="A tag: the name of the result, which gets its digest as a tag, too; may be repeated.",
)
@click.option(
    "--base-image",
    metavar="IMAGE",
    help="What to begin with.  [default: debian:bookworm-slim, by digest]",
)
@click.option("--mirror", metavar="URI", help="Debian's archive for base image and build.")
@click.option("--security-mirror", metavar="URI", help="Debian's security archive.")
@REPOSITORY_OPTION
@MIRRORS_OPTION
@click.option(
    "--build-arg", "extra", multiple=True, metavar="KEY=VALUE", help="Any other argument."
)
@click.option("--network", metavar="NAME", help="Network of the build's steps, as `host`.")
@click.option("--squashfs-level", type=click.IntRange(1, 22), help="zstd level: 15 by default.")
@click.option("--fresh", is_flag=True, help="Use nothing of the cache: that of the engine.")
@click.option(
    "--context",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write the build context (a tar) to this file, or - and build nothing:"
    " for `docker build -` with BuildKit.",
)
@_ENGINE
def build_command(
    recipe: Path,
    names: tuple[str, ...],
    base_image: str | None,
    mirror: str | None,
    security_mirror: str | None,
    repositories: tuple[str, ...],
    mirrors_file: Path | None,
    extra: tuple[str, ...],
    network: str | None,
    squashfs_level: int | None,
    fresh: bool,
    context: Path | None,
    url: str,
) -> None:
    """Build RECIPE's node image and the server into a container image.

    The five stages run inside `docker build`, without privileges. The last
    line on standard output is `<name>@<digest>` of the node image.
    """
    need_sdk()
    from imagebuild.docker.engine import BuildRequest, Engine, parse_reference, write_context

    parsed = load_recipe_with(recipe, mirrors_file, repositories)
    if squashfs_level is not None:
        parsed = dataclasses.replace(parsed, squashfs=Squashfs(squashfs_level))
    if context is not None:
        with interruptible("bootfarm container build --context", "nothing was written"):
            _write_context(context, lambda file: write_context(parsed, file))
        return
    arguments = _arguments(extra)
    given = {
        "BASE_IMAGE": base_image,
        "DEBIAN_MIRROR": mirror,
        "DEBIAN_SECURITY_MIRROR": security_mirror,
    }
    arguments.update({key: value for key, value in given.items() if value})
    arguments.setdefault("VERSION", _find_version())
    references = tuple(parse_reference(name) for name in names)
    request = BuildRequest(parsed, references, arguments, network or "", fresh)
    _build(Engine(url), request)


def _write_context(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """The whole context in the place of `path`, or nothing; `-` is standard output."""
    if str(path) == "-":
        write(sys.stdout.buffer)
        return
    if path.exists() and not path.is_file():  # a pipe, as `>(docker build -)` makes one
        with path.open("wb") as pipe:
            write(pipe)
        return
    with write_beside(path) as file:
        write(file)


def _find_version() -> str:
    """bootfarm's own, for the container's label; "" where it runs from a plain directory."""
    try:
        return importlib.metadata.version("bootfarm")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _build(engine: "Engine", request: "BuildRequest") -> None:
    kept = "the engine keeps the steps that were finished: run it again to go on"
    with interruptible("bootfarm container build: no image was made", kept), Progress() as progress:
        stream = BuildStream(progress.event, progress.line)
        built = engine.build(request, stream.feed)
        stream.close()
    for reference in built.references:
        click.echo(reference)
    click.echo(f"{built.name}@{built.digest}")


_OWN_OPTIONS = {
    "RECIPE": "the recipe is this command's argument",
    "REPOSITORIES": "here it is --repository",
    "MIRRORS": "here it is --mirrors",
}


def _arguments(words: tuple[str, ...]) -> dict[str, str]:
    arguments: dict[str, str] = {}
    for word in words:
        key, found, value = word.partition("=")
        if not found or not key:
            raise BuildError(f"--build-arg {word!r}: expected KEY=VALUE")
        if key in _OWN_OPTIONS:
            raise BuildError(f"--build-arg {key}: {_OWN_OPTIONS[key]}")
        arguments[key] = value
    return arguments


@container_group.command("push", epilog=examples("bootfarm container push registry.example/farm:1"))
@click.argument("references", nargs=-1, required=True, metavar="NAME[:TAG]...")
@_ENGINE
def push_command(references: tuple[str, ...], url: str) -> None:
    """Push images that were built here to their registries.

    Credentials are those of `docker login`. Prints `<reference>@<digest>` of
    what the registry has now, a line for each.
    """
    need_sdk()
    from imagebuild.docker.engine import Engine, parse_reference

    parsed = [parse_reference(text) for text in references]
    engine = Engine(url)
    for reference in parsed:
        shown: dict[str, str] = {}
        left = "layers that are there stay: run it again to go on"
        with interruptible(f"bootfarm container push: {reference} was not pushed", left):
            digest = engine.push(reference, lambda message, shown=shown: _show_push(message, shown))  # type: ignore[misc]
        click.echo(f"{reference}@{digest}")


def _show_push(message: dict[str, Any], shown: dict[str, str]) -> None:
    """Print a line for each layer when its state changes; on a terminal, its progress too."""
    layer, status = str(message.get("id", "")), str(message.get("status", ""))
    if layer and status and shown.get(layer) != status:
        shown[layer] = status
        if status in ("Pushed", "Layer already exists") or status.startswith("Mounted"):
            click.echo(f"  {layer}: {status}", err=True)
    detail = message.get("progressDetail") or {}
    if layer and sys.stderr.isatty() and detail.get("total"):
        percent = 100 * int(detail.get("current", 0)) // int(detail["total"])
        click.echo(f"\r\x1b[K  {layer}: {min(percent, 100)} %", nl=False, err=True)


@container_group.command(
    "extract",
    epilog=examples("bootfarm container extract registry.example/farm:1 --store store"),
)
@click.argument("reference")
@click.option(
    "--store",
    "store_path",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: Path(os.environ.get("BOOTFARM_STORE", "store")),
    show_default="$BOOTFARM_STORE, else ./store",
    help="The store: where the node image goes.",
)
@click.option("--tag", "tags", multiple=True, help="A tag: instead of `current`; may be repeated.")
@_ENGINE
def extract_command(reference: str, store_path: Path, tags: tuple[str, ...], url: str) -> None:
    """Take the node image out of a container image and publish it in a store."""
    need_sdk()
    from imagebuild.docker.engine import Engine, parse_reference

    name = str(parse_reference(reference)) if not reference.startswith("sha256:") else reference
    with interruptible("bootfarm container extract", "what the store has is whole"):
        images = Engine(url).extract(name, Store(store_path), tags or (CURRENT,))
    for image in images:
        click.echo(f"{image.name}@{image.digest}")


# The name that it had first, a letter from `images`.
_image_group = Pointing(
    "image",
    commands=container_group.commands,
    elsewhere=container_group.elsewhere,
    help="The old name of `bootfarm container`.",
    epilog=container_group.epilog,
    hidden=True,
)

COMMANDS: list[click.Command] = [container_group, _image_group]
