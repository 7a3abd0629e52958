"""A recipe and every local file that it uses, as a directory that can be carried elsewhere.

`docker build` sees no file of the machine but its context, and reruns a step
when a byte that was copied in before it has changed. So a recipe enters its
stages in slices: each holds what that stage reads of the recipe, and nothing
else. Another kubelet does not bootstrap the base system again.

A packed recipe is `recipe.json` and `local/…` beside it.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagebuild import architecture
from imagebuild.errors import BuildError
from imagebuild.recipe import ingredients
from imagebuild.recipe.ingredients import Recipe

PACKED = "recipe.json"
LOCAL = "local"
_FORMAT = 1
"""Of a packed recipe; another version of bootfarm refuses it."""

_BASE = (
    *("distribution", "release", "architecture", "mirrors", "components"),
    *("packages", "kernel_package", "patches", "skip_maintainer_scripts"),
)
_EVERYTHING = tuple(
    field.name for field in dataclasses.fields(Recipe) if field.name not in ("file", "cmdline")
)
SLICES: Mapping[str, tuple[str, ...]] = {
    "ltsp-base": ("architecture",),
    "basesystem": _BASE,
    "builder": (*(name for name in _BASE if name != "patches"), "builds", "verity"),
    "ltsp-image": tuple(name for name in _EVERYTHING if name not in ("name", "patches", "builds")),
    "final": ("name", "distribution", "release", "architecture", "cmdline", "lts_defaults"),
}
"""What each stage reads of the recipe."""

_NOTHING: Mapping[str, Any] = {
    "name": "image",
    "distribution": "debian",
    "release": "",
    "architecture": architecture.DEFAULT,
    "mirrors": None,
    "components": (),
    "packages": (),
    "repositories": (),
    "kernel_package": "",
    "builds": (),
    "container_runtime": None,
    "kubernetes": None,
    "cmdline": (),
    "services": ingredients.Services(),
    "files": (),
    "patches": (),
    "initramfs": ingredients.Initramfs(),
    "lts_defaults": {},
    "console": ingredients.Console(),
    "skip_maintainer_scripts": {},
    "squashfs": ingredients.Squashfs(),
    "verity": False,
}


def slice_recipe(recipe: Recipe, stage: str) -> Recipe:
    """The recipe as `stage` needs it: every other field is empty."""
    keep = SLICES[stage]
    changes = {name: value for name, value in _NOTHING.items() if name not in keep}
    return dataclasses.replace(recipe, **changes)


def pack_recipe(recipe: Recipe, target: Path) -> None:
    """Write the recipe and copies of its local files to the new directory `target`.

    Symlinks are followed: what leaves the machine is what they lead to.
    """
    target.mkdir(parents=True)
    packed = dataclasses.replace(
        recipe,
        file=Path(recipe.file.name),
        repositories=tuple(_pack_repository(item, target) for item in recipe.repositories),
        builds=tuple(_pack_build(item, target) for item in recipe.builds),
        container_runtime=_pack_runtime(recipe.container_runtime, target),
        files=tuple(_pack_file(item, target, index) for index, item in enumerate(recipe.files)),
        patches=tuple(
            _pack_series(item, target, index) for index, item in enumerate(recipe.patches)
        ),
    )
    data = {"format": _FORMAT, "recipe": dataclasses.asdict(packed)}
    (target / PACKED).write_text(json.dumps(data, indent=1, sort_keys=True, default=str) + "\n")


def unpack_recipe(directory: Path) -> Recipe:
    """The recipe of a packed directory, its local paths made absolute."""
    path = directory / PACKED
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise BuildError(f"{path}: cannot read the packed recipe: {error.strerror}") from None
    except ValueError as error:
        raise BuildError(f"{path}: not a packed recipe: {error}") from None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise BuildError(
            f"{path}: a packed recipe of another version of bootfarm",
            hint="build the image with the version that packed it",
        )
    return _read(_as_tuples(data["recipe"]), directory.resolve())


def _as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_as_tuples(item) for item in value)
    return value


def _read(values: Mapping[str, Any], here: Path) -> Recipe:
    def maybe(kind: Any, value: Any) -> Any:
        return None if value is None else kind(**value)

    return Recipe(
        **{
            **values,
            "file": Path(values["file"]),
            "mirrors": maybe(ingredients.Mirrors, values["mirrors"]),
            "repositories": tuple(_read_repository(v, here) for v in values["repositories"]),
            "builds": tuple(
                ingredients.Build(**{**v, "file": None if v["file"] is None else here / v["file"]})
                for v in values["builds"]
            ),
            "container_runtime": _read_runtime(values["container_runtime"], here),
            "kubernetes": maybe(ingredients.Kubernetes, values["kubernetes"]),
            "services": ingredients.Services(**values["services"]),
            "files": tuple(
                ingredients.AddedFile(
                    **{**v, "source": str(here / v["source"]) if v["source"] else ""}
                )
                for v in values["files"]
            ),
            "patches": tuple(
                ingredients.PatchSeries(**{**v, "series": here / v["series"]})
                for v in values["patches"]
            ),
            "initramfs": ingredients.Initramfs(**values["initramfs"]),
            "console": ingredients.Console(**values["console"]),
            "squashfs": ingredients.Squashfs(**values["squashfs"]),
        }
    )


def _read_runtime(
    values: Mapping[str, Any] | None, here: Path
) -> ingredients.ContainerRuntime | None:
    if values is None:
        return None
    mirrors = tuple(
        ingredients.RegistryMirror(**{**v, "ca": str(here / v["ca"]) if v["ca"] else ""})
        for v in values["mirrors"]
    )
    return ingredients.ContainerRuntime(**{**values, "mirrors": mirrors})


def _read_repository(values: Mapping[str, Any], here: Path) -> ingredients.Repository:
    uri, key = values["uri"], values["key"]
    if uri.startswith("file:"):
        uri = f"file:{here / uri.removeprefix('file:')}"
    if not key.startswith("https://"):
        key = str(here / key)
    return ingredients.Repository(**{**values, "uri": uri, "key": key})


# A packed file is named by its path below the target.


def _pack_repository(repository: ingredients.Repository, target: Path) -> ingredients.Repository:
    place = f"{LOCAL}/repositories/{repository.name}"
    where = f"repositories.{repository.name}"
    uri, key = repository.uri, repository.key
    if repository.directory is not None:
        if not repository.directory.is_dir():
            hint = repository.missing_hint or _CONTEXT_HINT
            raise BuildError(f"{where}: no directory {repository.directory}", hint=hint)
        _copy_tree(repository.directory, target / place / "apt", where)
        uri = f"file:{place}/apt"
    if not key.startswith("https://"):
        source = Path(key)
        key = f"{place}/{source.name}"
        _copy_file(source, target / key, f"{where}.key")
    return dataclasses.replace(repository, uri=uri, key=key)


def _pack_runtime(
    runtime: ingredients.ContainerRuntime | None, target: Path
) -> ingredients.ContainerRuntime | None:
    if runtime is None:
        return None
    mirrors: list[ingredients.RegistryMirror] = []
    for index, mirror in enumerate(runtime.mirrors):
        place = f"{LOCAL}/registry-ca/{index}.crt" if mirror.ca else ""
        if place:
            _copy_file(Path(mirror.ca), target / place, f"container_runtime.mirrors[{index}].ca")
        mirrors.append(dataclasses.replace(mirror, ca=place))
    return dataclasses.replace(runtime, mirrors=tuple(mirrors))


def _pack_build(build: ingredients.Build, target: Path) -> ingredients.Build:
    if build.file is None:
        return build
    place = Path(LOCAL, "builds", build.name, build.file.name)
    _copy_file(build.file, target / place, f"builds.{build.name}.file")
    return dataclasses.replace(build, file=place)


def _pack_file(file: ingredients.AddedFile, target: Path, index: int) -> ingredients.AddedFile:
    if file.content is not None or not file.source:
        return file
    place = f"{LOCAL}/files/{index}"
    pattern = Path(file.source)
    (target / place).mkdir(parents=True)
    for source in sorted(pattern.parent.glob(pattern.name)):
        if source.is_file():
            _copy_file(source, target / place / source.name, f"files: {file.path}")
    return dataclasses.replace(file, source=f"{place}/{pattern.name}")


def _pack_series(
    series: ingredients.PatchSeries, target: Path, index: int
) -> ingredients.PatchSeries:
    place = Path(LOCAL, "patches", str(index))
    _copy_tree(series.series, target / place, f"patches: {series.series}")
    return dataclasses.replace(series, series=place)


def _copy_file(source: Path, target: Path, where: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
        target.chmod(0o755 if source.stat().st_mode & 0o111 else 0o644)
    except OSError as error:
        raise BuildError(f"{where}: cannot read {source}: {error.strerror}") from None


def _copy_tree(source: Path, target: Path, where: str) -> None:
    if not source.is_dir():
        raise BuildError(f"{where}: no directory {source}", hint=_CONTEXT_HINT)
    for path in sorted(source.rglob("*")):
        if path.is_file():
            _copy_file(path, target / path.relative_to(source), where)


_CONTEXT_HINT = (
    "a plain docker build sees only the files of its context;"
    " bootfarm container build packs the others into it"
)
