"""Parts of a recipe that contradict each other: each is right alone, and one is lost in silence."""

import glob
import os
from collections.abc import Iterator, Sequence

from imagebuild.recipe.ingredients import AddedFile, Recipe
from imagebuild.recipe.places import find_loss
from imagebuild.recipe.yamlnode import Node, RecipeError


def find_conflicts(top: Node, recipe: Recipe) -> Iterator[RecipeError]:
    """Errors of files at one path, files that would not stay, and units both on and off.

    top: the document that `recipe` was read from, without faults. A recipe may lay its file on
    one of the recipe that it extends, and mask a unit that that one enables.
    """
    if recipe.files:
        yield from _check_files(top.below("files").items(), recipe.files)
    yield from _check_units(top, recipe)
    yield from _check_words(top, recipe)


def _check_files(nodes: Sequence[Node], files: Sequence[AddedFile]) -> Iterator[RecipeError]:
    first: dict[str, Node] = {}
    for node, file in zip(nodes, files, strict=True):
        place = node.below("path")
        for target in _targets(file):
            if (loss := find_loss(target)) is not None:
                yield place.error(*loss)
                continue
            other = first.setdefault(target, node)
            if other is not node and other.file == node.file:
                yield place.error(
                    f"{other.path} has a file at {target}, too: one of them would be lost",
                    "take one of the two out",
                )
    for target, node in first.items():
        above = next((one for one in _parents(target) if one in first), None)
        if above is not None:
            yield node.below("path").error(
                f"{first[above].path} makes {above} a file, and not a directory",
                "give one of the two another path",
            )


def _targets(file: AddedFile) -> list[str]:
    """The paths of the image that an entry writes, without doubled slashes."""
    names = [""]
    if file.path.endswith("/"):
        names = [os.path.basename(path) for path in sorted(glob.glob(file.source))]
    return [
        "/" + "/".join(part for part in f"{file.path}{name}".split("/") if part) for name in names
    ]


def _parents(target: str) -> list[str]:
    parts = target.split("/")[1:-1]
    return ["/" + "/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _check_units(top: Node, recipe: Recipe) -> Iterator[RecipeError]:
    services = recipe.services
    if not services.enable:
        return
    nodes = top.below("services.enable").items()
    wanted = {(node.file, _unit(name)) for node, name in zip(nodes, services.enable, strict=True)}
    for key, names in (("disable", services.disable), ("mask", services.mask)):
        if not names:
            continue
        for node, name in zip(top.below(f"services.{key}").items(), names, strict=True):
            if (node.file, _unit(name)) in wanted:
                yield node.error(
                    f"{_unit(name)} stands in services.enable, too", "take it out of one of the two"
                )


def _unit(name: str) -> str:
    """A unit's name with its kind."""
    return name if "." in name.rsplit("@", 1)[-1] else f"{name}.service"


def _check_words(top: Node, recipe: Recipe) -> Iterator[RecipeError]:
    if not recipe.cmdline:
        return
    for node, word in zip(top.below("cmdline").items(), recipe.cmdline, strict=True):
        if "\\" in word:
            yield node.error(
                "boot loaders change a backslash on the way: no machine would boot",
                "write it without, or set it on the running node (RCFILE_* in lts.conf)",
            )
        elif word.startswith("#") or "${" in word or word in (";", "&&", "||"):
            yield node.error(
                "iPXE takes it as its own: a comment, a setting of its own, or a command's end",
                "leave it out, or put it into KERNEL_CMDLINE of machines that boot with GRUB",
            )
