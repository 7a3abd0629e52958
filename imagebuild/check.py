"""`bootfarm build --check`: everything that can be known of a recipe without building it.

The recipe itself (keys, values, what fits together), the files that it names,
the repositories' keys, and with the network whether the mirrors answer and
every package is to be had at the version that is wanted.
"""

import glob
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagebuild.apt import AptView, NoPackageError
from imagebuild.chroot import runtime
from imagebuild.chroot.patches import series_files
from imagebuild.errors import BuildError, count_words, render_check
from imagebuild.pipeline import STAGES, Event, Options, locked, new_log, stage_ids
from imagebuild.recipe.ingredients import Recipe
from imagebuild.recipe.mirrors import gather_mirrors, take_from_elsewhere
from imagebuild.recipe.read import is_glob, load_merged, read_recipe
from imagebuild.recipe.yamlnode import FaultsError, Node
from imagebuild.run import Log, check_emulation, check_tools
from imagebuild.stages import basesystem, builder


@dataclass(frozen=True)
class Report:
    """What was found. faults: of each, words that begin with file and line, and the remedy."""

    faults: tuple[BuildError, ...]
    warnings: tuple[BuildError, ...]
    checked: tuple[str, ...]

    def render(self) -> str:
        """For people: every fault, every warning, and the counts at the end."""
        faults = [fault.format_message() for fault in self.faults]
        warnings = [warning.format_message() for warning in self.warnings]
        return render_check(faults, warnings, self.checked)


def check_recipe(
    path: Path,
    mirrors: Path | None,
    repositories: Sequence[str],
    options: Options,
    *,
    network: bool = True,
) -> Report:
    """Look at everything that `bootfarm build` with these options would use; never raises
    BuildError. network: whether to ask the mirrors.
    """
    check = _Check(options)
    check.run(path, mirrors, repositories, network)
    return Report(tuple(check.faults), tuple(check.warnings), tuple(check.checked))


class _Check:
    def __init__(self, options: Options) -> None:
        self.faults: list[BuildError] = []
        self.warnings: list[BuildError] = []
        self.checked: list[str] = []
        self._options = options
        self._node: Node | None = None
        self._file = ""

    def run(
        self, path: Path, mirrors: Path | None, repositories: Sequence[str], network: bool
    ) -> None:
        self.checked.append(str(path))
        self._file = str(path)
        recipe: Recipe | None = None
        with self._catch():
            self._node = load_merged(path)
            recipe = read_recipe(self._node, path)
        if recipe is None:
            return  # without the recipe, other faults would be guesses
        if mirrors is not None or repositories:
            with self._catch():
                elsewhere = gather_mirrors(mirrors, repositories, recipe.distribution)
                recipe = take_from_elsewhere(recipe, elsewhere)
        self._check_files(recipe)
        try:
            check_tools({tool: name for one in STAGES for tool, name in one.TOOLS.items()})
        except BuildError as error:
            self.warnings.append(error)
        else:
            self._check_emulation(recipe.architecture)
        apt = AptView(recipe, self._options.cache, Log())
        if not network:
            self._fetch_keys(
                recipe, apt, [one for one in recipe.repositories if _is_local(one.key)]
            )
            return
        with locked(self._options):
            apt.log = Log(new_log(self._options.cache, f"check-{recipe.name}"), self._options.line)
            self._options.listen(Event("packages", "start"))
            self._check_packages(recipe, apt)
            self._options.listen(Event("packages", "done"))

    def _check_emulation(self, architecture: str) -> None:
        try:
            check_emulation(architecture)
        except BuildError as error:
            self.warnings.append(error)

    # Telling

    @contextmanager
    def _catch(self) -> Iterator[None]:
        """A BuildError from within is a fault."""
        try:
            yield
        except FaultsError as error:
            self.faults += error.faults
        except NoPackageError as error:
            where = error.message.removeprefix(f"{self._file}: ").partition(": no such")[0]
            for package, hint in error.packages.items():
                self._tell(f"no such package: {package}", hint, where, package)
        except BuildError as error:
            words = error.message.removeprefix(f"{self._file}: ")
            if words == error.message:
                self._add(words, error.hint)
            else:
                where, _, what = words.partition(": ")
                self._tell(what, error.hint, where)

    def _tell(self, what: str, hint: str, where: str, value: str = "") -> None:
        """A fault of a key path, in whose words `repositories.NAME` stands for the one of that
        name. value: an item of a list below it, whose line counts then.
        """
        node = None
        for path in where.split(", "):
            found = _find(self._node, path)
            if found is None or not found.path:
                continue  # this part of the message is not a key path
            node = node or found
            if value and (item := _find_value(found, value)) is not None:
                node = item
                break
        if node is None:
            self._add(f"{self._file}: {where}: {what}", hint)
        else:
            self._add(node.error(what).message, hint)

    def _add(self, words: str, hint: str) -> None:
        if words not in [fault.message for fault in self.faults]:
            self.faults.append(BuildError(words, hint=hint))

    # Files

    def _check_files(self, recipe: Recipe) -> None:
        count = 0
        for index, file in enumerate(recipe.files):
            found = glob.glob(file.source) if is_glob(file.source) else [file.source]
            if is_glob(file.source) and not found and not file.optional:
                where = f"files[{index}].source"
                self._tell(f"no file matches {file.source}", "`optional: true`?", where)
            count += len(found) if file.source else 0
        for series in recipe.patches:
            with self._catch():
                count += len(series_files(series.series))
        for index, build in enumerate(recipe.builds):
            if build.file is not None:
                count += 1
                actual = hashlib.sha256(build.file.read_bytes()).hexdigest()
                if actual != build.sha256:
                    self._tell(
                        f"the SHA-256 of {build.file} is {actual}",
                        "look whether it changed for a good reason, then correct it",
                        f"builds[{index}].sha256",
                    )
        self.checked.append(count_words(count, "file"))

    def _fetch_keys(self, recipe: Recipe, apt: AptView, wanted: Sequence[object]) -> bool:
        """Whether every key is there and the right one."""
        before = len(self.faults)
        for repository in recipe.repositories:
            if repository in wanted:
                with self._catch():
                    apt.fetch_key(repository)
        self.checked.append(f"keys of {len(wanted)} of {len(recipe.repositories)} repositories")
        return len(self.faults) == before

    # Packages

    def _check_packages(self, recipe: Recipe, apt: AptView) -> None:
        if not self._fetch_keys(recipe, apt, recipe.repositories):
            return
        before = len(self.faults)
        with self._catch():
            apt.update()
        if len(self.faults) > before:
            return
        total: dict[str, str] = {}
        groups: tuple[tuple[str, Callable[[Recipe], list[str]]], ...] = (
            ("packages, kernel.package", basesystem.packages),
            ("builds", builder.all_packages),
            ("container_runtime, kubernetes", runtime.packages),
        )
        for where, packages in groups:
            with self._catch():
                total |= apt.resolve(packages(recipe), where)
        if len(self.faults) == before:
            with self._catch():  # all of them together, as the stages want them
                stage_ids(recipe, apt)
        self.checked.append(count_words(len(total), "package"))


def _is_local(key: str) -> bool:
    return not key.startswith("https://")


def _find(node: Node | None, path: str) -> Node | None:
    """The node at `a.b[0].c`, or the last on the way; a list's item by its `name`, too."""
    for word in path.replace("[", ".").replace("]", "").split("."):
        if node is None:
            return None
        if isinstance(node.value, dict) and word in node.value:
            node = node.value[word]
        elif isinstance(node.value, list):
            item = _find_item(node, word)
            if item is None:
                return node
            node = item
        else:
            return node
    return node


def _find_item(node: Node, word: str) -> Node | None:
    if word.isdecimal() and int(word) < len(node.value):
        item: Node = node.value[int(word)]
        return item
    for item in node.value:
        name = item.value.get("name") if isinstance(item.value, dict) else None
        if name is not None and name.value == word:
            return item
    return None


def _find_value(node: Node, value: str) -> Node | None:
    """The first text below a node that is exactly this."""
    if node.value == value:
        return node
    below = node.value
    for child in (
        below.values() if isinstance(below, dict) else below if isinstance(below, list) else ()
    ):
        if (found := _find_value(child, value)) is not None:
            return found
    return None
