"""One stage inside `docker build`: `python3 -m imagebuild.container STAGE`.

The Dockerfile's RUN lines call the stages that `bootfarm build` runs, with
directories of the layer instead of the cache's, and without mounts. What a
stage leaves lies where the host's cache has it too: `<work>/<stage>/product`
and `stage.json`; the one root file system is `<work>/root`, which builder and
ltsp-image find in their own copies of basesystem's layers.

Stages are imported by name and only when they run, so that a layer needs no
file of those after it.
"""

import argparse
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from imagebuild.apt import AptView
from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Recipe
from imagebuild.recipe.packing import PACKED, SLICES, pack_recipe, slice_recipe, unpack_recipe
from imagebuild.run import Log, can_isolate, check_emulation, check_tools
from imagebuild.stage import Stage, StageContext, stage_id

STAGES = tuple(SLICES)
WITH_APT = ("basesystem", "builder", "ltsp-image")
"""The stages that ask what apt would install."""
WORK = Path("/farm/work")
SLICED = Path("/farm/recipe")
BAKED = Path("/farm/baked")
"""What the final stage copies: `store/`, and `image` with the line `<name>@<digest>`."""


def slice_all(
    source: Path, target: Path, repositories: Sequence[str] = (), mirrors: Path | None = None
) -> None:
    """Write a packed slice of the recipe for each stage to `target/<stage>`.

    source: a recipe's YAML, or a packed recipe. repositories, mirrors: what `bootfarm build
    --repository … --mirrors FILE` takes.
    """
    recipe = _read_any(source)
    if repositories or mirrors is not None:
        elsewhere = importlib.import_module("imagebuild.recipe.mirrors")
        found = elsewhere.gather_mirrors(mirrors, repositories, recipe.distribution)
        recipe = cast(Recipe, elsewhere.take_from_elsewhere(recipe, found))
    for stage in STAGES:
        pack_recipe(slice_recipe(recipe, stage), target / stage)


def _read_any(source: Path) -> Recipe:
    if (source / PACKED).is_file():
        return unpack_recipe(source)
    # Imported only where a recipe is read from YAML: the layers of the stages have no YAML reader.
    reader = importlib.import_module("imagebuild.recipe.read")
    return cast(Recipe, reader.load_recipe(source))


def run_stage(name: str, recipe: Recipe, work: Path, log: Log) -> None:
    """Run one stage on directories below `work`."""
    stage = cast(Stage, importlib.import_module(f"imagebuild.stages.{name.replace('-', '_')}"))
    check_tools(stage.TOOLS)
    if name != "ltsp-base":
        check_emulation(recipe.architecture)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{name}: {text} ({time.monotonic() - started:.0f} s)", flush=True)

    before = STAGES[: STAGES.index(name)]
    apt = AptView(recipe, work / "cache", log)
    if name in WITH_APT:
        say("packages")
        apt.update()
    ids = {stage: _stage_id(work, stage) for stage in before}
    previous = ids[before[-1]] if before else ""
    ids[name] = stage_id(previous, name, stage.inputs(recipe, apt))
    place = work / name
    product = place / "product"
    product.mkdir(parents=True)
    root = work / "root"
    root.mkdir(exist_ok=True)
    stage.run(
        StageContext(
            recipe=recipe,
            apt=apt,
            root=root,
            product=product,
            products={stage: work / stage / "product" for stage in before},
            cache=work / "cache",
            isolate=can_isolate(),
            log=log,
            say=say,
            ids=ids,
        )
    )
    description = {"name": name, "id": ids[name], "recipe": str(recipe.file)}
    (place / "stage.json").write_text(json.dumps(description) + "\n")
    _drop_downloads(work)
    say("done")


def bake(work: Path, baked: Path) -> str:
    """Publish the final stage's product in a store of its own; its `<name>@<digest>`."""
    from imagebuild.store.images import CURRENT, Store

    product = work / "final" / "product" / "image"
    name = json.loads((product / "manifest.json").read_text())["name"]
    image = Store(baked / "store").publish(name, product, tags=[CURRENT])
    shutil.rmtree(baked / "store" / "tmp", ignore_errors=True)
    (baked / "store" / ".lock").unlink(missing_ok=True)
    reference = f"{image.name}@{image.digest}"
    (baked / "image").write_text(f"{reference}\n")
    return reference


def _stage_id(work: Path, name: str) -> str:
    path = work / name / "stage.json"
    try:
        return str(json.loads(path.read_text())["id"])
    except OSError:
        raise BuildError(f"stage {name} has not run: no {path}") from None


def _drop_downloads(work: Path) -> None:
    """Remove indexes and .deb files, which would only make the layer larger."""
    for directory in (work / "cache", work / "root/var/cache/apt/archives"):
        for path in directory.glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def main(argv: Sequence[str]) -> int:
    """The command of the Dockerfile's RUN lines; 1 and one line with a hint on an error."""
    parser = argparse.ArgumentParser(prog="python3 -m imagebuild.container", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    slicing = commands.add_parser("slice", help="cut a recipe into what each stage reads of it")
    slicing.add_argument("recipe", type=Path)
    slicing.add_argument("target", type=Path)
    slicing.add_argument("--repositories", default="", help="NAME=URI[,key=FILE]…, by blanks")
    slicing.add_argument("--mirrors", default="", help="a mirrors file")
    for stage in STAGES:
        commands.add_parser(stage, help=f"run the stage {stage}")
    words = parser.parse_args(argv)
    os.umask(0o022)
    try:
        if words.command == "slice":
            mirrors = Path(words.mirrors) if words.mirrors else None
            slice_all(words.recipe, words.target, words.repositories.split(), mirrors)
        else:
            recipe = unpack_recipe(SLICED / words.command)
            log = Log(line=lambda text: print(text, flush=True))
            run_stage(words.command, recipe, WORK, log)
            if words.command == STAGES[-1]:
                print(f"bootfarm-image: {bake(WORK, BAKED)}", flush=True)
    except BuildError as error:
        # Both streams of a RUN reach whoever builds; the last line is what Docker shows.
        print(f"Error: {error.format_message()}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
