"""Typed access to a YAML document whose every error names file, key path and remedy."""

import difflib
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from imagebuild.errors import BuildError

T = TypeVar("T")
U = TypeVar("U")

_KINDS = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
}


class RecipeError(BuildError):
    """A recipe that cannot be used: `<file>: <key path>: <what>`, and a hint."""


class _Loader(yaml.SafeLoader):
    """YAML without dates and aliases, and with duplicate keys refused."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "no aliases (*name) in a recipe", mark)
        return super().compose_node(parent, index)


def _no_duplicates(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, str | int | float | bool) or key is None:
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands here twice", key_node.start_mark
                )
            seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


def _construct_map(loader: _Loader, node: yaml.MappingNode) -> Iterator[dict[Any, Any]]:
    data: dict[Any, Any] = {}
    yield data
    data.update(_no_duplicates(loader, node))


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_map)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def load_yaml(path: Path) -> Any:
    """Read one YAML document; RecipeError with line and column."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from None
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise RecipeError(
            f"{where}: {error.problem or error.context}",
            hint="check indentation, quotes and colons on this line and the one before",
        ) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: {str(error).splitlines()[0]}") from None


def did_you_mean(word: str, choices: Collection[str], otherwise: str = "") -> str:
    """A hint that names the nearest of `choices`, or `otherwise`."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else otherwise


class Node:
    """A value of the document with the file that it stands in and the way to it there.

    A mapping's value is a dict of Nodes, a list's a list of Nodes, so that a
    document merged from several files still knows where each part is from.
    """

    def __init__(self, value: Any, file: Path, path: str = "") -> None:
        self.file = file
        self.path = path
        self.value: Any = value
        if isinstance(value, dict):
            self.value = {key: self._child(item, key) for key, item in value.items()}
        elif isinstance(value, list):
            self.value = [self._child(item, index) for index, item in enumerate(value)]

    def _child(self, value: Any, key: object) -> "Node":
        if isinstance(value, Node):
            return value
        if isinstance(key, int):
            return Node(value, self.file, f"{self.path}[{key}]")
        return Node(value, self.file, f"{self.path}.{key}" if self.path else str(key))

    def merged(self, over: "Node") -> "Node":
        """This mapping with `over` laid on it.

        Mappings merge key by key; anything else replaces what was there; a
        key written `key+` appends its list; `null` takes a key away.
        """
        if not isinstance(self.value, dict) or not isinstance(over.value, dict):
            return over
        result: dict[Any, Node] = dict(self.value)
        for key, node in over.value.items():
            if isinstance(key, str) and key.endswith("+"):
                below = result.get(key[:-1])
                items = list(below.items()) if below is not None else []
                result[key[:-1]] = Node(items + node.items(), node.file, node.path)
            elif node.value is None:
                result.pop(key, None)
            else:
                result[key] = result[key].merged(node) if key in result else node
        return Node(result, over.file, over.path)

    def error(self, what: str, hint: str = "") -> RecipeError:
        where = f"{self.file}: {self.path}" if self.path else str(self.file)
        return RecipeError(f"{where}: {what}", hint=hint)

    def _typed(self, kind: type[T], hint: str = "") -> T:
        if type(self.value) is not kind:
            hint = hint or ("put it in quotes" if kind is str and self.value is not None else "")
            if kind is list and isinstance(self.value, str):
                hint = hint or f"write it as a list: [{self.value}]"
            raise self.error(
                f"expected {_KINDS[kind]}, got {_KINDS.get(type(self.value), 'something else')}",
                hint,
            )
        return self.value

    # Mappings

    def mapping(self, allowed: Collection[str] | None = None) -> dict[str, "Node"]:
        """The children; with `allowed`, any other key is an error."""
        children: dict[Any, Node] = self._typed(dict)
        for key, node in children.items():
            if not isinstance(key, str):
                raise self.error(f"the key {key!r} is not text", "put it in quotes")
            if allowed is not None and key not in allowed:
                raise node.error(
                    "unknown key",
                    did_you_mean(key, allowed, f"known keys: {', '.join(sorted(allowed))}"),
                )
        return children

    def items(self) -> list["Node"]:
        """The elements of a list."""
        return self._typed(list)

    # Scalars

    def text(self, pattern: str = "", hint: str = "") -> str:
        """Text without NUL; the whole of it must match `pattern`."""
        value = self._typed(str)
        if "\0" in value or (pattern and re.fullmatch(pattern, value) is None):
            raise self.error(f"{value!r} is not valid here", hint)
        return value

    def line(self, pattern: str = "", hint: str = "") -> str:
        """Text of one line that is not empty."""
        value = self.text(pattern, hint)
        if not value.strip() or "\n" in value:
            raise self.error("expected one line of text", hint)
        return value

    def number(self, low: int, high: int) -> int:
        value = self._typed(int)
        if not low <= value <= high:
            raise self.error(f"{value} is not between {low} and {high}")
        return value

    def flag(self) -> bool:
        return self._typed(bool)

    def choice(self, choices: Collection[str]) -> str:
        value = self._typed(str)
        if value not in choices:
            raise self.error(
                f"{value!r} is not one of {', '.join(sorted(choices))}",
                did_you_mean(value, choices),
            )
        return value

    def lines(self, pattern: str = "", hint: str = "") -> tuple[str, ...]:
        """A list of one-line texts."""
        return tuple(item.line(pattern, hint) for item in self.items())

    def texts_by_key(self, key_pattern: str = "", hint: str = "") -> dict[str, str]:
        """A mapping of texts (of one line or none), keys matching `key_pattern`."""
        result: dict[str, str] = {}
        for key, node in self.mapping().items():
            if key_pattern and re.fullmatch(key_pattern, key) is None:
                raise node.error(f"the key {key!r} is not valid here", hint)
            value = node.text()
            if "\n" in value:
                raise node.error("expected one line of text")
            result[key] = value
        return result


class Section:
    """A mapping that is read key by key, each with its default."""

    def __init__(self, node: Node, keys: Collection[str]) -> None:
        self.node = node
        self.children = node.mapping(keys)

    def has(self, key: str) -> bool:
        return key in self.children

    def get(self, key: str, read: Callable[[Node], T], default: U) -> T | U:
        """`read(child)`, or the default where the key is absent."""
        return read(self.children[key]) if key in self.children else default

    def need(self, key: str, read: Callable[[Node], T], hint: str = "") -> T:
        """`read(child)`; an absent key is an error."""
        if key not in self.children:
            where = f"{self.node.path}.{key}" if self.node.path else key
            raise RecipeError(f"{self.node.file}: {where}: missing", hint=hint)
        return read(self.children[key])
