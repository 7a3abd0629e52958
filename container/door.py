"""The front door inside the container: the server's commands and the health check.

Before `serve` binds anything, the node image that is baked into the container
is imported into the store volume, so that replacing the container keeps what
live nodes still read.
"""

import contextlib
import fcntl
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from container.healthcheck import healthcheck_command
from imagebuild.errors import BuildError
from imagebuild.store import bundlecli
from imagebuild.store import cli as store_cli
from imagebuild.store.images import CURRENT, Image, Store
from imagebuild.wholefile import write_whole
from server.cli import COMMANDS
from server.commands.serve import PROBLEMS
from server.farm.config import load_config

BAKED = Path("/usr/share/bootfarm/store")
REMEMBERED = "baked.json"


def import_baked(baked: Path, store: Store, state: Path | None) -> list[Image]:
    """Copy what is baked in into the store; the images that became `current` by it.

    An image becomes `current` when another one was baked in at the last start:
    a mere restart leaves the tags as people have set them since. `state` is
    where that is remembered; without it every start sets them.
    """
    memory = state / REMEMBERED if state is not None else None
    images = Store(baked).images()
    taken: list[Image] = []
    with _alone(store.path):
        last = _recall(memory)
        for image in images:
            if last.get(image.name) == image.digest and _has_current(store, image.name):
                store.import_image(image.path, tags=())
            else:
                taken.append(store.import_image(image.path, tags=(CURRENT,)))
        if memory is not None:
            _remember(memory, {**last, **{image.name: image.digest for image in images}})
    return taken


@contextlib.contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Within this context no other container copies into the store: the second finds it done."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / ".import.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _has_current(store: Store, name: str) -> bool:
    return any(image.name == name and CURRENT in image.tags for image in store.images())


def _recall(memory: Path | None) -> dict[str, str]:
    try:
        data = json.loads(memory.read_text()) if memory is not None else {}
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _remember(memory: Path, digests: dict[str, str]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_whole(memory, json.dumps(digests, sort_keys=True).encode() + b"\n")


def with_import(serve: click.Command) -> click.Command:
    """`serve`, which first imports what is baked in."""
    original = serve.callback
    assert original is not None

    @functools.wraps(original)
    def callback(**words: Any) -> Any:
        if BAKED.is_dir() and not words["check"]:
            problem = _import_for(words, BAKED)
            click.get_current_context().meta[PROBLEMS] = (problem,) if problem else ()
        return original(**words)

    copy = click.Command(serve.name, callback=callback, params=serve.params, help=serve.help)
    return copy


def _import_for(words: dict[str, Any], baked: Path) -> str:
    """Import for the `serve` that is given these words; what was wrong with it."""
    config = load_config(words["config_file"]) if words["config_file"] else None
    path = words["store"] or (config.store if config else None)
    state = words["state"] or (config.state if config else None)
    if path is None:
        return ""  # serve says what is missing
    store = Store(path)
    try:
        for image in import_baked(baked, store, state):
            click.echo(f"{image.name}:{CURRENT} is now {image.digest}, which this container brings")
    except (BuildError, OSError) as error:
        reason = error.message if isinstance(error, BuildError) else str(error)
        message = f"the container's image cannot be imported into {path}: {reason}"
        if not store.images():
            raise BuildError(
                message, hint="the volume must be writable for user 10069 and have room for it"
            ) from None
        # Nodes that run now read from this store: they go first.
        message += "; what is there already is served"
        click.echo(f"Error: {message}", err=True)
        return message
    return ""


ALL = (*COMMANDS, *store_cli.COMMANDS, *bundlecli.COMMANDS)


def make_door(commands: Sequence[click.Command] = ALL) -> click.Group:
    """The click group of the container."""

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    def door() -> None:
        """Serve node images to bare metal; this container brings one."""

    for command in commands:
        door.add_command(with_import(command) if command.name == "serve" else command)
    door.add_command(healthcheck_command)
    return door


def main() -> None:
    """The container's entry point."""
    run: Callable[[], Any] = make_door()
    sys.exit(run())
