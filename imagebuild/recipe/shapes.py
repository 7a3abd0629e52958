"""What a value of a recipe may look like: read from a Node, or told as JSON Schema.

The reader and the schema for editors are made of the same objects (keys.py),
so neither takes what the other refuses.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from imagebuild.recipe.yamlnode import Node

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Shape(Protocol[T_co]):
    """One kind of value that a key may have."""

    def read(self, node: Node) -> T_co:
        """The value of a node; RecipeError if it is none of this kind."""
        ...

    def schema(self) -> dict[str, Any]:
        """The same as JSON Schema (draft 2020-12)."""
        ...


@dataclass(frozen=True)
class Text:
    """Text, all of which matches `pattern`, on one line unless `lines`."""

    pattern: str = ""
    hint: str = ""
    lines: bool = False

    def read(self, node: Node) -> str:
        read = node.text if self.lines else node.line
        return read(self.pattern, self.hint)

    def schema(self) -> dict[str, Any]:
        pattern = f"^({self.pattern})$" if self.pattern else r"^.*\S.*$"
        return (
            {"type": "string"}
            if self.lines and not self.pattern
            else {
                "type": "string",
                "pattern": pattern,
            }
        )


@dataclass(frozen=True)
class Line:
    """Text of one line, which may be empty."""

    def read(self, node: Node) -> str:
        value = node.text()
        if "\n" in value:
            raise node.error("expected one line of text")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^.*$"}


@dataclass(frozen=True)
class Choice:
    """One of these words."""

    words: Collection[str]

    def read(self, node: Node) -> str:
        return node.choice(self.words)

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.words)}


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`."""

    low: int
    high: int

    def read(self, node: Node) -> int:
        return node.number(self.low, self.high)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Flag:
    """true or false."""

    def read(self, node: Node) -> bool:
        return node.flag()

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Anything:
    """Any value: the code that reads it says what is wrong."""

    def read(self, node: Node) -> Node:
        return node

    def schema(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class ListOf(Generic[T]):
    """A list, each of whose items has a shape. least: so many items at least."""

    item: Shape[T]
    least: int = 0

    def read(self, node: Node) -> tuple[T, ...]:
        return node.each(self.item.read)

    def schema(self) -> dict[str, Any]:
        least = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.item.schema(), **least}


@dataclass(frozen=True)
class MapOf(Generic[T]):
    """A mapping whose keys are data. All keys match `pattern`, all values have one shape."""

    value: Shape[T]
    pattern: str = ""
    hint: str = ""

    def read(self, node: Node) -> dict[str, T]:
        found: dict[str, T] = {}
        for key, child in node.mapping().items():
            with node.gathering():
                if self.pattern and re.fullmatch(self.pattern, key) is None:
                    raise child.error(f"the key {key!r} is not valid here", self.hint)
                found[key] = self.value.read(child)
        return found

    def schema(self) -> dict[str, Any]:
        names = {"propertyNames": {"pattern": f"^({self.pattern})$"}} if self.pattern else {}
        return {"type": "object", "additionalProperties": self.value.schema(), **names}


@dataclass(frozen=True)
class AnyOf:
    """One of several shapes; the reader finds out which."""

    shapes: tuple[Shape[Any], ...]

    def read(self, node: Node) -> Node:
        return node

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [shape.schema() for shape in self.shapes]}


@dataclass(frozen=True)
class Key:
    """One key of a mapping. about: for people, in their editor. needed: it must be there."""

    shape: Shape[Any]
    about: str
    needed: bool = False


@dataclass(frozen=True)
class Keys(Mapping[str, Key]):
    """A mapping with these keys and no others. also: further words of JSON Schema."""

    keys_: Mapping[str, Key]
    also: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Key:
        return self.keys_[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_)

    def __len__(self) -> int:
        return len(self.keys_)

    def read(self, node: Node) -> dict[str, Node]:
        return node.mapping(self.keys_)

    def schema(self) -> dict[str, Any]:
        needed = [name for name, key in self.items() if key.needed]
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: {**key.shape.schema(), "description": key.about} for name, key in self.items()
            },
            **({"required": needed} if needed else {}),
            **self.also,
        }
