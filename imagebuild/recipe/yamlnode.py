"""Typed access to a YAML document whose every error names file, line, key path and remedy.

With `Faults` what is wrong is gathered, and reading goes on with what follows.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from imagebuild.errors import BuildError
from imagebuild.yamlloader import Written, did_you_mean, find_lines, parse_yaml, read_file

T = TypeVar("T")
U = TypeVar("U")
N = TypeVar("N", bound="Named")

_KINDS = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    int: "a whole number",
    Written: "a number",
    bool: "true or false",
    type(None): "nothing",
}


class Named(Protocol):
    """A part of a recipe that has a name; "" where that could not be read."""

    @property
    def name(self) -> str: ...


class RecipeError(BuildError):
    """A recipe that cannot be used: `<file>:<line>: <key path>: <what>`, and a hint.

    file, line: the same for sorting; "" and 0 where it is of no line.
    """

    def __init__(self, message: str, *, hint: str = "", file: str = "", line: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.file = file
        self.line = line


class FaultsError(RecipeError):
    """More than one thing is wrong. faults: each of them."""

    def __init__(self, faults: Sequence[RecipeError]) -> None:
        self.faults = tuple(faults)
        told = "; ".join(fault.message for fault in self.faults)
        super().__init__(told, hint=self.faults[0].hint)

    def format_message(self) -> str:
        """Each fault on a line of its own."""
        told = "\n".join(fault.format_message() for fault in self.faults)
        return f"{len(self.faults)} faults\n{told}"


class Faults:
    """What is wrong with a document, gathered while it is read."""

    def __init__(self) -> None:
        self.found: list[RecipeError] = []

    def add(self, error: RecipeError) -> None:
        """Note a fault, unless it was noted already."""
        if isinstance(error, FaultsError):
            for fault in error.faults:
                self.add(fault)
        elif error.message not in [fault.message for fault in self.found]:
            self.found.append(error)

    def check(self) -> None:
        """Raise what was found: RecipeError, or FaultsError where it is more than one."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            files = list(dict.fromkeys(fault.file for fault in self.found))
            order = sorted(self.found, key=lambda fault: (files.index(fault.file), fault.line))
            raise FaultsError(order)


def load_node(path: Path, faults: Faults | None = None) -> "Node":
    """Read one YAML document, with its lines; RecipeError with line and column.

    faults: gathers what is wrong with its values, instead of the first being raised.
    """
    text = read_file(path, RecipeError)
    data = parse_yaml(text, str(path), RecipeError)
    return Node(data, path, lines=find_lines(text), faults=faults)


class Node:
    """A value of the document with the file that it stands in and the way to it there.

    A mapping's value is a dict of Nodes, a list's a list of Nodes, so that a
    document merged from several files still knows where each part is from.
    lines: the file's line of each key path. faults: gathers what is wrong.
    """

    def __init__(
        self,
        value: Any,
        file: Path,
        path: str = "",
        lines: Mapping[str, int] | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.file = file
        self.path = path
        self.lines = lines or {}
        self.faults = faults
        self.value: Any = value
        if isinstance(value, dict):
            self.value = {key: self._child(item, key) for key, item in value.items()}
        elif isinstance(value, list):
            self.value = [self._child(item, index) for index, item in enumerate(value)]

    def _child(self, value: Any, key: object) -> "Node":
        if isinstance(value, Node):
            return value
        if isinstance(key, int):
            return Node(value, self.file, f"{self.path}[{key}]", self.lines, self.faults)
        path = f"{self.path}.{key}" if self.path else str(key)
        return Node(value, self.file, path, self.lines, self.faults)

    def _with(self, value: Any, other: "Node") -> "Node":
        """Another value, that stands where `other` does."""
        return Node(value, other.file, other.path, other.lines, self.faults)

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
                result[key[:-1]] = self._with(items + node.items(), node)
            elif node.value is None:
                result.pop(key, None)
            else:
                result[key] = result[key].merged(node) if key in result else node
        return self._with(result, over)

    def without(self, key: str) -> "Node":
        """This mapping without one of its keys."""
        return self._with({k: v for k, v in self.value.items() if k != key}, self)

    def below(self, path: str) -> "Node":
        """The node at `a.b.c` below this one, or the last on the way there that exists."""
        node = self
        for key in path.split("."):
            if not isinstance(node.value, dict) or key not in node.value:
                break
            node = node.value[key]
        return node

    def error(self, what: str, hint: str = "", key: str = "") -> RecipeError:
        """What is wrong with this node, or with a key below it that may be missing."""
        path = ".".join(filter(None, (self.path, key)))
        near = path
        while near and near not in self.lines:
            near = near[: max(near.rfind("."), near.rfind("["), 0)]
        line = self.lines.get(near, 0) if near else 0
        where = f"{self.file}:{line}" if line else f"{self.file}"
        where = f"{where}: {path}" if path else where
        return RecipeError(f"{where}: {what}", hint=hint, file=str(self.file), line=line)

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Within this context a RecipeError becomes one of the faults, where they are gathered."""
        try:
            yield
        except RecipeError as error:
            if self.faults is None:
                raise
            self.faults.add(error)

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
            with self.gathering():
                if not isinstance(key, str):
                    raise self.error(f"the key {key!r} is not text", "put it in quotes")
                if allowed is not None and key not in allowed:
                    raise node.error(
                        "unknown key",
                        did_you_mean(key, allowed, f"known keys: {', '.join(sorted(allowed))}"),
                    )
        return {key: node for key, node in children.items() if isinstance(key, str)}

    def items(self) -> list["Node"]:
        """The elements of a list."""
        return self._typed(list)

    def each(self, read: Callable[["Node"], T]) -> tuple[T, ...]:
        """`read` of each element of a list.

        Where faults are gathered, elements that raise are left out.
        """
        found: list[T] = []
        for item in self.items():
            with self.gathering():
                found.append(read(item))
        return tuple(found)

    def each_named(self, read: Callable[["Node"], N], what: str) -> tuple[N, ...]:
        """As `each`, of parts with a name. what: such a part in words.

        A name that stands twice is an error of the second part.
        """
        names: set[str] = set()

        def read_once(item: Node) -> N:
            part = read(item)
            if part.name and part.name in names:
                raise item.error(f"a second {what} named {part.name}")
            names.add(part.name)
            return part

        return self.each(read_once)

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
        """A whole number within [low, high]."""
        value = self._typed(int)
        if not low <= value <= high:
            raise self.error(f"{value} is not between {low} and {high}")
        return value

    def flag(self) -> bool:
        """true or false."""
        return self._typed(bool)

    def choice(self, choices: Collection[str]) -> str:
        """One of these words."""
        value = self._typed(str)
        if value not in choices:
            raise self.error(
                f"{value!r} is not one of {', '.join(sorted(choices))}",
                did_you_mean(value, choices),
            )
        return value


class Section:
    """A mapping that is read key by key, each with its default."""

    def __init__(self, node: Node, keys: Collection[str]) -> None:
        self.node = node
        self.children = node.mapping(keys)

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self.children

    def get(self, key: str, read: Callable[[Node], T], default: U) -> T | U:
        """`read(child)`, or the default where the key is absent."""
        if key in self.children:
            with self.node.gathering():
                return read(self.children[key])
        return default

    def need(
        self, key: str, read: Callable[[Node], T], hint: str = "", otherwise: T | None = None
    ) -> T:
        """`read(child)`; an absent key is an error.

        otherwise: what is given instead where faults are gathered; without it the
        error is raised there, too.
        """
        with self.node.gathering() if otherwise is not None else contextlib.nullcontext():
            if key not in self.children:
                raise self.node.error("missing", hint, key)
            return read(self.children[key])
        assert otherwise is not None
        return otherwise
