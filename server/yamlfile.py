"""YAML as people mean it, and a reader that names the key path of whatever is wrong.

YAML 1.1 turns `52:54:00:12:34:56` into a number and `off` into a boolean; here
numbers are decimal, booleans are `true` and `false`, and everything else is text.
A key that stands twice is an error instead of a silent loss.
"""

import difflib
import ipaddress
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from server.errors import ServerError


class YamlError(ServerError):
    """A file is not what it should be; the message starts with file and key path."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool",
    re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    list("tTfF"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+\.[0-9]+$"), list("-+0123456789")
)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable) or key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} stands twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def parse_yaml(text: str | bytes, where: str) -> Any:
    """The data of one YAML document; YamlError names `where` and the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise YamlError(
            f"{at}: {error.problem or error.context or 'not YAML'}",
            hint="mind the indentation, and quote values that hold ': ' or '#'",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise YamlError(f"{where}: not YAML: {error}", hint="it must be plain UTF-8") from None


def load_yaml(path: Path) -> Any:
    """The data of a YAML file; YamlError when it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise YamlError(
            f"{path}: {error.strerror}", hint="give the path of a file that this user can read"
        ) from None
    return parse_yaml(data, str(path))


def suggest(word: str, known: Iterable[str]) -> str:
    """A remedy for an unknown word: what was probably meant, and what there is."""
    choices = list(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known here: {', '.join(choices) or 'nothing'}"


class Section:
    """A mapping of a YAML file, read key by key; `finish()` refuses what nobody asked for."""

    def __init__(self, data: Any, where: str, path: str = "") -> None:
        self.where = where
        self.path = path
        if data is None:
            data = {}
        if not isinstance(data, Mapping):
            raise YamlError(
                f"{where}: {path or 'the file'}: expected keys with values, got {describe(data)}",
                hint="write it as `key: value` lines",
            )
        self._data: dict[str, Any] = {str(key): value for key, value in data.items()}
        self._known: list[str] = []

    def error(self, key: str, problem: str, hint: str) -> YamlError:
        """The error for one of this mapping's keys."""
        return YamlError(f"{self.where}: {self._at(key)}: {problem}", hint=hint)

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _take(self, key: str) -> Any:
        self._known.append(key)
        return self._data.get(key)

    def text(self, key: str, default: str | None = None) -> str | None:
        """A string without control characters; a plain number counts as text."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.error(key, f"expected text, got {describe(value)}", "put it into quotes")
        text = str(value)
        if not text.isprintable():
            raise self.error(key, "holds control characters", "write it on one line")
        return text

    def required(self, key: str) -> str:
        """A string that must be there."""
        value = self.text(key)
        if not value:
            raise self.error(key, "is missing", f"add `{key}: ...`")
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within [low, high]."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(
                key, f"expected a whole number, got {describe(value)}", f"from {low} to {high}"
            )
        if not low <= value <= high:
            raise self.error(key, f"{value} is out of range", f"from {low} to {high}")
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number within [low, high]."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(
                key, f"expected a number, got {describe(value)}", f"from {low} to {high}"
            )
        if not low <= value <= high:
            raise self.error(key, f"{value} is out of range", f"from {low} to {high}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(
                key, f"expected true or false, got {describe(value)}", "write true or false"
            )
        return value

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        value = self.text(key, default) or default
        known = list(choices)
        if value not in known:
            raise self.error(key, f"{value!r} is not one of them", suggest(value, known))
        return value

    def path_(self, key: str, base: Path) -> Path | None:
        """A path; a relative one counts from `base`."""
        value = self.text(key)
        return None if value is None else base / value

    def items(self, key: str) -> list[Any]:
        """A list of anything; empty when the key is not there."""
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(
                key, f"expected a list, got {describe(value)}", "write `- item` lines or [a, b]"
            )
        return value

    def texts(self, key: str, default: Iterable[str] = ()) -> tuple[str, ...]:
        """A list of strings."""
        if self._data.get(key) is None:
            self._known.append(key)
            return tuple(default)
        texts: list[str] = []
        for number, item in enumerate(self.items(key)):
            if not isinstance(item, (str, int)) or isinstance(item, bool):
                raise self.error(
                    f"{key}[{number}]", f"expected text, got {describe(item)}", "put it into quotes"
                )
            if not str(item).isprintable():
                raise self.error(
                    f"{key}[{number}]", "holds control characters", "write it on one line"
                )
            texts.append(str(item))
        return tuple(texts)

    def any(self, key: str) -> Any:
        """A value of any type, or None."""
        return self._take(key)

    def section(self, key: str) -> "Section":
        """A mapping below this one; empty when the key is not there."""
        return Section(self._take(key), self.where, self._at(key))

    def pairs(self, key: str) -> list[tuple[str, Any]]:
        """A mapping whose keys are data."""
        return list(self.section(key)._data.items())

    def finish(self) -> None:
        """Refuse keys that nobody asked for."""
        for key in self._data:
            if key not in self._known:
                raise self.error(key, "unknown key", suggest(key, self._known))


def describe(value: Any) -> str:
    """What a YAML value is, in words."""
    names = {dict: "keys with values", list: "a list", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value)) or f"{type(value).__name__} {value!r}"[:80]


_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def parse_mac(text: str) -> str | None:
    """A MAC address in lower case with colons (dashes are taken too), or None."""
    mac = text.strip().lower().replace("-", ":")
    return mac if _MAC.fullmatch(mac) else None


def parse_ip(text: str) -> str | None:
    """A dotted IPv4 address in its one spelling, or None."""
    try:
        return str(ipaddress.IPv4Address(text.strip()))
    except ValueError:
        return None
