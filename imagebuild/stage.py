"""What a stage is: a module with NAME, TOOLS, CODE, `inputs` and `run`.

A stage is given directories and never mounts; whether its chroot commands
get `/proc`, `/sys` and `/dev` is the runner's affair (`isolate`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from imagebuild.apt import AptView
from imagebuild.recipe.ingredients import Recipe
from imagebuild.run import Chroot, Log

ARCHIVES = "/var/cache/apt/archives"
HOUSE = Path(__file__).parents[1]
"""Where the paths of CODE count from: the checkout, or what stands for it in a container."""

GROUND = (
    "imagebuild/__init__.py",
    "imagebuild/architecture.py",
    "imagebuild/errors.py",
    "imagebuild/run.py",
    "imagebuild/apt.py",
    "imagebuild/stage.py",
    "imagebuild/recipe/__init__.py",
    "imagebuild/recipe/ingredients.py",
    "imagebuild/wholefile.py",
    "imagebuild/yamlloader.py",
    "imagebuild/stages/__init__.py",
)
"""The code that every stage runs."""


@dataclass(frozen=True)
class Inputs:
    """What a stage depends on besides the stage before it: values (JSON), and files' bytes.

    `files` are (name, path) pairs: the name goes into the id, the path does not.
    """

    values: Any
    files: Sequence[tuple[str, Path]] = ()


@dataclass(frozen=True)
class StageContext:
    """Everything that a stage works with.

    root: the root file system that it works on (its own copy; the empty
    directory for basesystem; unused by ltsp-base and final). product: an empty
    directory for what later stages use. products: those of the stages before.
    """

    recipe: Recipe
    apt: AptView
    root: Path
    product: Path
    products: Mapping[str, Path]
    cache: Path
    isolate: bool = True
    log: Log = field(default_factory=Log)
    say: Callable[[str], None] = lambda text: None
    ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def archives(self) -> Path:
        """The cache of downloaded .deb files."""
        return self.cache / "apt" / "archives"

    @property
    def chroot(self) -> Chroot:
        """Runs commands in `root`, with the cache of .deb files where that can be mounted."""
        binds = ((self.archives, ARCHIVES), *self.apt.binds)
        return Chroot(self.root, self.isolate, binds, self.log)


class Stage(Protocol):
    """The signature that each module of `imagebuild.stages` has."""

    NAME: str
    TOOLS: Mapping[str, str]
    CODE: Sequence[str]
    """Every file of the project that the stage runs; they are part of its id, and what the
    Dockerfile copies for it. tests/imagebuild/stages/test_code.py compares all three."""

    def inputs(self, recipe: Recipe, apt: AptView) -> Inputs: ...
    def run(self, context: StageContext) -> None: ...


def stage_id(previous: str, name: str, inputs: Inputs) -> str:
    """SHA-256 in hex of the id before, the stage's name, its values and its files' bytes."""
    digest = hashlib.sha256()
    for part in (previous, name, json.dumps(inputs.values, sort_keys=True)):
        digest.update(part.encode() + b"\0")
    for label, path in sorted(inputs.files):
        digest.update(f"{label}\0{path.stat().st_mode & 0o111:o}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def code_files(code: Sequence[str]) -> list[tuple[str, Path]]:
    """The files of a CODE tuple, as `Inputs.files` wants them."""
    return [(name, HOUSE / name) for name in code]


def tree_files(directory: Path, label: str) -> list[tuple[str, Path]]:
    """Every file below `directory`, labelled by its path from there; links are none."""
    return [
        (f"{label}/{path.relative_to(directory)}", path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]
