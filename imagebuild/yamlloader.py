"""YAML as people mean it: the one reading of recipes, mirror files, farm.yaml and inventories.

YAML 1.1 turns `52:54:00:12:34:56` into a number, `off` into a boolean and `0644` into 420; here
numbers are decimal, booleans are `true` and `false`, and everything else is text. A key that
stands twice is an error instead of a silent loss, and aliases and tags are not taken.
"""

import difflib
import re
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from imagebuild.errors import HintedError
from imagebuild.wholefile import read_whole

MAX_FILE = 8 * 2**20
"""Bytes of one file: an inventory of 10,000 machines has one MiB."""
_STRING = "tag:yaml.org,2002:str"
_HINTS = (
    ("aliases", "write the value out where it is wanted"),
    ("tags", 'write the value alone; quotes make it text: "12"'),
    ("stands twice", "remove one of the two"),
    ("is no word", "a key is one word or a quoted text"),
    ("another document", "one document a file: remove the `---` and what follows it"),
)
_HINT = "mind the indentation, and quote values that hold ': ' or '#'"


class Written(float):
    """A number with a point that knows how it was written: a label `1.30` is not `1.3`."""

    def __new__(cls, text: str) -> "Written":
        return super().__new__(cls, text)

    def __init__(self, text: str) -> None:
        self._text = str(text)

    def __repr__(self) -> str:
        return self._text

    __str__ = __repr__


class PlainLoader(yaml.SafeLoader):
    """Refuses aliases: ten lines of them make more text than memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """PyYAML's, but an alias is an error."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not taken here: write the value out", mark
            )
        return super().compose_node(parent, index)


class _Loader(PlainLoader):
    """Refuses tags too: what `!!bool maybe` means is not defined here."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", _STRING):
            raise yaml.composer.ComposerError(
                None, None, f"tags ({tag[:60]}) are not taken here", event.start_mark
            )
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool",
    re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    list("tTfF"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]{1,17}\.[0-9]{1,17}$"),
    list("-+0123456789"),
)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable) or key in seen:
            what = "stands twice" if isinstance(key, Hashable) else "is no word"
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r:.60} {what}", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> Written:
    return Written(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_yaml(text: str | bytes, where: str, error: type[HintedError]) -> Any:
    """The data of one YAML document. Raises `error` with `where` and, if it is known, the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        at = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        words = problem.problem or problem.context or "not YAML"
        hint = next((hint for sign, hint in _HINTS if sign in words), _HINT)
        if r"character '\t'" in words:
            words, hint = "a tab: YAML takes none here", "indent with spaces"
        raise error(f"{at}: {words}", hint=hint) from None
    except yaml.reader.ReaderError as problem:
        line = _count_lines(text, problem.position)
        code = problem.character if isinstance(problem.character, int) else problem.character[0]
        raise error(
            f"{where}:{line}: not YAML: the character #x{code:02x} has no place in a text",
            hint="it must be plain UTF-8, without control characters",
        ) from None
    except RecursionError:
        raise error(f"{where}: nested too deeply", hint="is this the right file?") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as problem:
        words = str(problem).splitlines()[0]
        raise error(f"{where}: not YAML: {words}", hint="it must be plain UTF-8") from None


def _count_lines(text: str | bytes, position: int) -> int:
    """The line, from 1, of a place in a text."""
    if isinstance(text, bytes):
        return text[:position].count(b"\n") + 1
    return text[:position].count("\n") + 1


def read_file(path: Path, error: type[HintedError]) -> bytes:
    """The bytes of a YAML file, or of a pipe. Raises `error` when it cannot be read."""
    try:
        return read_whole(path, MAX_FILE)
    except (OSError, ValueError) as problem:
        words = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise error(
            f"{path}: {words}", hint="give the path of a file that this user can read"
        ) from None


def find_lines(text: str | bytes) -> dict[str, int]:
    """The line, from 1, of each key path as `a.b[0].c`; of a key that stands twice the last.

    "" is where the document begins. Empty where the text is no YAML.
    """
    try:
        # yaml.compose() takes the loader's class, as load() does.
        root = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        return {}
    if root is None:
        return {}
    return {"": root.start_mark.line + 1, **dict(_list_lines(root, ""))}


def _list_lines(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = f"{path}.{key.value}" if path else str(key.value)
            yield below, key.start_mark.line + 1
            yield from _list_lines(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            below = f"{path}[{number}]"
            yield below, item.start_mark.line + 1
            yield from _list_lines(item, below)


def did_you_mean(word: str, choices: Iterable[str], otherwise: str = "") -> str:
    """A hint that names the word of `choices` that is most like `word`, or `otherwise`."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else otherwise
