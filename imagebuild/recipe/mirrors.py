"""Other repositories in the place of a recipe's: `--repository`, and the file of `--mirrors`.

A site without internet builds a recipe as it stands from what it has; a test builds
recipes/production.yaml from the rack's packages. docs/recipes.md has the format.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Mirrors, Recipe, Repository
from imagebuild.recipe.keys import COMPONENTS, KEY_KEYS, REPOSITORY_NAME, SUITE, URI_HINT
from imagebuild.recipe.read import load_recipe
from imagebuild.recipe.repositories import read_key, read_mirrors, read_uri
from imagebuild.recipe.yamlnode import Faults, Node, Section, load_node
from imagebuild.yamlloader import did_you_mean

_OPTION_KEYS = {
    "key": "key",
    "fingerprint": "key_fingerprint",
    "sha256": "key_sha256",
    "suite": "suite",
    "components": "components",
}
_OPTION_HINT = "--repository NAME=URI[,key=FILE][,fingerprint=HEX][,suite=SUITE][,components=A+B]"
_KEYS = ("uri", "suite", "components", *KEY_KEYS)


@dataclass(frozen=True)
class Replacement:
    """The place that the repository `name` of a recipe comes from instead.

    What is empty stays as the recipe has it: a mirror has the same suite and the same key.
    `where` names this replacement in errors.
    """

    name: str
    uri: str
    suite: str = ""
    components: tuple[str, ...] = ()
    key: str = ""
    key_sha256: str = ""
    key_fingerprint: str = ""
    where: str = ""


@dataclass(frozen=True)
class Elsewhere:
    """All that comes from another place: the distribution's archive, further repositories."""

    mirrors: Mirrors | None = None
    repositories: tuple[Replacement, ...] = ()


def gather_mirrors(file: Path | None, options: Sequence[str], distribution: str) -> Elsewhere:
    """What the file of `--mirrors` says, and each `--repository` over it."""
    found = load_mirrors(file, distribution) if file is not None else Elsewhere()
    by_name = {item.name: item for item in found.repositories}
    given: set[str] = set()
    for text in options:
        item = parse_option(text)
        if item.name in given:
            raise BuildError(f"{item.where}: given twice", hint="one of them")
        given.add(item.name)
        by_name[item.name] = item
    return dataclasses.replace(found, repositories=tuple(by_name.values()))


def load_mirrors(path: Path, distribution: str) -> Elsewhere:
    """Read a mirrors file: `mirrors` as in a recipe, `repositories` by name; RecipeError."""
    faults = Faults()
    node = load_node(path, faults)
    section = Section(node, ["mirrors", "repositories"])

    def read_all(node: Node) -> tuple[Replacement, ...]:
        found: list[Replacement] = []
        for name, child in node.mapping().items():
            with node.gathering():
                found.append(_read(child, name))
        return tuple(found)

    elsewhere = Elsewhere(
        mirrors=section.get("mirrors", lambda n: read_mirrors(n, distribution), None),
        repositories=section.get("repositories", read_all, ()),
    )
    faults.check()
    return elsewhere


def parse_option(text: str) -> Replacement:
    """`NAME=URI[,key=FILE][,fingerprint=HEX]…`; paths are relative to the working directory."""
    name, found, rest = text.partition("=")
    name = name.strip()
    if not found or not name:
        raise BuildError(f"--repository {text!r}: expected NAME=URI", hint=_OPTION_HINT)
    uri, *words = rest.split(",")
    values: dict[str, object] = {"uri": uri}
    for word in words:
        key, found, value = word.partition("=")
        if not found or key not in _OPTION_KEYS:
            raise BuildError(
                f"--repository {name}: {word!r} is none of its settings",
                hint=did_you_mean(key, _OPTION_KEYS, _OPTION_HINT),
            )
        values[_OPTION_KEYS[key]] = value.split("+") if key == "components" else value
    # As if it stood in a file of that name in the working directory.
    return _read(Node(values, Path(f"--repository {name.replace('/', ' ')}")), name)


def _read(node: Node, name: str) -> Replacement:
    named = Node(name, node.file, node.path, node.lines)
    named.line(REPOSITORY_NAME.pattern, "a repository's name, as in the recipe")
    section = Section(node, _KEYS)
    key, sha256, fingerprint = read_key(section)
    for pin in ("key_sha256", "key_fingerprint"):
        if section.has(pin) and not key:
            raise section.children[pin].error("needs key beside it", "the file that signs it")
    return Replacement(
        name=name,
        uri=section.need("uri", read_uri, URI_HINT),
        suite=section.get("suite", SUITE.read, ""),
        components=section.get("components", COMPONENTS.read, ()),
        key=key,
        key_sha256=sha256,
        key_fingerprint=fingerprint,
        where=f"{node.file}: {node.path}" if node.path else str(node.file),
    )


def load_recipe_with(path: Path, file: Path | None, options: Sequence[str]) -> Recipe:
    """A recipe, its repositories replaced as a mirrors file and `--repository` options say."""
    recipe = load_recipe(path)
    if file is None and not options:
        return recipe
    return take_from_elsewhere(recipe, gather_mirrors(file, options, recipe.distribution))


def take_from_elsewhere(recipe: Recipe, elsewhere: Elsewhere) -> Recipe:
    """The recipe with its repositories replaced; BuildError for a name that it has not."""
    names = [item.name for item in recipe.repositories]
    replaced = {item.name: item for item in elsewhere.repositories}
    for item in elsewhere.repositories:
        if item.name not in names:
            raise BuildError(
                f"{item.where}: {recipe.file} has no repository named {item.name!r}",
                hint=did_you_mean(item.name, names, _name_all(names)),
            )
    return dataclasses.replace(
        recipe,
        mirrors=elsewhere.mirrors or recipe.mirrors,
        repositories=tuple(
            _replace(item, replaced[item.name]) if item.name in replaced else item
            for item in recipe.repositories
        ),
    )


def _name_all(names: Collection[str]) -> str:
    return f"its repositories: {', '.join(names)}" if names else "it has no repositories"


def _replace(repository: Repository, other: Replacement) -> Repository:
    suite, components = other.suite or repository.suite, repository.components
    if not other.suite and other.uri.startswith("file:"):
        suite, components = _find_suite(Path(other.uri.removeprefix("file:")), repository)
    components = other.components or components
    if suite.endswith("/"):
        if other.components:
            raise BuildError(f"{other.where}: components: a flat repository has none")
        components = ()
    elif not components:
        raise BuildError(f"{other.where}: components: missing", hint="e.g. main")
    changed = dataclasses.replace(
        repository,
        uri=other.uri,
        suite=suite,
        components=components,
        missing_hint=f"{other.where}: make that repository first, or correct the path",
    )
    if not other.key:
        return changed
    return dataclasses.replace(
        changed,
        key=other.key,
        key_sha256=other.key_sha256,
        key_fingerprint=other.key_fingerprint,
    )


def _find_suite(directory: Path, repository: Repository) -> tuple[str, tuple[str, ...]]:
    """Suite and components of a repository on this machine: the recipe's, if it has that suite,
    else those of its only Release file.
    """
    flat = repository.suite.endswith("/")
    place = directory / repository.suite.lstrip("/") if flat else directory / "dists"
    wanted = place if flat else place / repository.suite
    if any((wanted / name).is_file() for name in ("Release", "InRelease")):
        return repository.suite, repository.components
    found = sorted({path.parent for path in (directory / "dists").glob("*/*Release")})
    if not found and any((directory / name).is_file() for name in ("Release", "InRelease")):
        return "/", ()
    if len(found) != 1:
        return repository.suite, repository.components
    for path in sorted(found[0].glob("*Release")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("Components:"):
                return found[0].name, tuple(line.partition(":")[2].split())
    return found[0].name, repository.components or ("main",)
