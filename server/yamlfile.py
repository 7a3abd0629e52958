"""farm.yaml's reader: mappings read key by key; every error names file, line, key path, remedy.

Its YAML is that of recipes (imagebuild/yamlloader.py). A reader tells all faults of a file at
once, each with its line (`Faults`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from imagebuild import yamlloader
from imagebuild.errors import escape
from imagebuild.yamlloader import did_you_mean, find_lines, read_file
from server.errors import ServerError

T = TypeVar("T")
MAX_TOLD: Final = 20
"""Faults that one line of a log or of a page tells."""
_FEW: Final = 8
_LONGEST_KEY: Final = 200
"""Known words that a hint lists, and characters of a key that an error shows."""


class YamlError(ServerError):
    """A file is not what it should be; the message starts with file, line and key path."""


class FaultsError(YamlError):
    """More than one thing is wrong. faults: each of them, in the order of the file."""

    def __init__(self, faults: Sequence[YamlError]) -> None:
        self.faults = tuple(faults)
        shown = "; ".join(fault.message for fault in self.faults[:MAX_TOLD])
        more = f"; and {len(self.faults) - MAX_TOLD} more" if len(self.faults) > MAX_TOLD else ""
        super().__init__(f"{shown}{more}", hint=self.faults[0].hint)

    def one_line(self) -> str:
        """All faults on one line."""
        told = " | ".join(fault.one_line() for fault in self.faults[:MAX_TOLD])
        more = f" | and {len(self.faults) - MAX_TOLD} more" if len(self.faults) > MAX_TOLD else ""
        return f"{len(self.faults)} faults: {told}{more}"

    def format_message(self) -> str:
        """Each fault on a line of its own."""
        told = "\n".join(fault.format_message() for fault in self.faults)
        return f"{len(self.faults)} faults\n{told}"


class Faults:
    """What is wrong with a file, gathered while it is read: one fault for each place in it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], YamlError] = {}
        self._files: list[str] = []

    def begin(self, where: str) -> None:
        """A file is read now: what is told of it comes after that of the files before."""
        if where not in self._files:
            self._files.append(where)

    def add(self, where: str, path: str, error: YamlError) -> None:
        """Note a fault; of two at the same place the first counts."""
        self.begin(where)
        self._found.setdefault((where, path), error)

    def catch(self, where: str, path: str, read: Callable[[], T], otherwise: T) -> T:
        """Return what `read` returns. A YamlError of it is noted, and `otherwise` returned."""
        try:
            return read()
        except FaultsError as error:
            for number, fault in enumerate(error.faults):
                self.add(where, f"{path} {number}", fault)
        except YamlError as error:
            self.add(where, path, error)
        return otherwise

    @property
    def found(self) -> list[YamlError]:
        """All of them, by file and line."""

        def place(item: tuple[tuple[str, str], YamlError]) -> tuple[int, int]:
            (where, path), _ = item
            line = where.line(path) if isinstance(where, Source) else None
            return self._files.index(where), line or 0

        return [error for _, error in sorted(self._found.items(), key=place)]

    def check(self) -> None:
        """Raise what was found: YamlError, or FaultsError where it is more than one."""
        found = self.found
        if len(found) == 1:
            raise found[0]
        if found:
            raise FaultsError(found)


class Source(str):
    """A file's name in errors, which knows the lines of its keys. text: what the file holds."""

    def __new__(cls, name: str, text: bytes = b"") -> "Source":
        return super().__new__(cls, name)

    def __init__(self, name: str, text: bytes = b"") -> None:
        self._text = text

    def line(self, path: str) -> int | None:
        """The line, from 1, of a key path as `a.b[0].c`, or of the last part of it that is there.

        None where the text is no YAML.
        """
        while path and path not in self._lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._lines.get(path)

    def has(self, path: str) -> bool:
        """Whether the key stands in the file."""
        return path in self._lines

    @cached_property
    def _lines(self) -> dict[str, int]:
        return find_lines(self._text)


def locate(where: str, path: str) -> str:
    """`file:line: key path`, as far as it is known, for the beginning of an error."""
    line = where.line(path) if isinstance(where, Source) else None
    place = f"{where}:{line}" if line else str(where)
    if not path:
        return place
    shown = escape(path)
    return f"{place}: {shown if len(shown) <= _LONGEST_KEY else shown[:_LONGEST_KEY] + '…'}"


def parse_yaml(text: str | bytes, where: str) -> Any:
    """The data of one YAML document; YamlError names `where` and the line."""
    return yamlloader.parse_yaml(text, where, YamlError)


def load_yaml(path: Path) -> Any:
    """The data of a YAML file; YamlError when it cannot be read."""
    return load_source(path)[0]


def load_source(path: Path) -> tuple[Any, Source]:
    """The data of a YAML file, and its name for errors; YamlError when it cannot be read."""
    text = read_file(path, YamlError)
    return parse_yaml(text, str(path)), Source(str(path), text)


def suggest(word: str, known: Iterable[str]) -> str:
    """A remedy for an unknown word: what was probably meant, and what there is if that is short."""
    choices = list(dict.fromkeys(known))
    meant = did_you_mean(word, choices)
    if meant and len(choices) > _FEW:
        return meant
    return f"{meant} known here: {', '.join(choices) or 'nothing'}".lstrip()


class Section:
    """A mapping of a YAML file, read key by key; `finish()` refuses what nobody asked for.

    where: the file's name in errors, with lines if it is a `Source`. faults: gathers
    what is wrong, and what is read is the default then; without it the first is raised.
    asked: gets a JSON Schema of each key that is asked for (server.farm.schema).
    """

    def __init__(
        self,
        data: Any,
        where: str,
        path: str = "",
        faults: Faults | None = None,
        asked: dict[str, Any] | None = None,
    ) -> None:
        self.where = where
        self.path = path
        self.faults = faults
        self.asked = asked
        self._data: dict[str, Any] = {}
        self._known: list[str] = []
        if data is None:
            return
        if not isinstance(data, Mapping):
            place = locate(where, path) if path else f"{where}: the file"
            error = YamlError(
                f"{place}: expected keys with values, got {describe(data)}",
                hint="write it as `key: value` lines",
            )
            if faults is None:
                raise error
            faults.add(where, path, error)
            return
        self._data = {str(key): value for key, value in data.items()}

    def error(self, key: str, problem: str, hint: str) -> YamlError:
        """The error for one of this mapping's keys."""
        return YamlError(f"{locate(self.where, self._at(key))}: {problem}", hint=hint)

    def fault(self, key: str, problem: str, hint: str) -> None:
        """One of this mapping's keys is wrong: raised, or noted where faults are gathered."""
        error = self.error(key, problem, hint)
        if self.faults is None:
            raise error
        self.faults.add(self.where, self._at(key), error)

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _take(self, key: str, shape: Mapping[str, Any]) -> Any:
        self._known.append(key)
        self.describe(key, shape)
        return self._data.get(key)

    def describe(self, key: str, shape: Mapping[str, Any]) -> None:
        """What else than its type is known of a key, in words of JSON Schema."""
        if self.asked is not None:
            self.asked.setdefault(key, {}).update(shape)

    def has(self, key: str) -> bool:
        """Whether the key is there with a value."""
        return self._data.get(key) is not None

    def text(
        self, key: str, default: str | None = None, shape: Mapping[str, Any] | None = None
    ) -> str | None:
        """A string without control characters; a plain number counts as text.

        shape: what the caller will ask of it, in words of JSON Schema.
        """
        value = self._take(key, {"type": ["string", "number"], **(shape or {})})
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            self.fault(key, f"expected text, got {describe(value)}", "put it into quotes")
            return default
        text = str(value)
        if not text.isprintable():
            self.fault(key, "holds control characters", "write it on one line")
            return default
        return text

    def required(self, key: str, shape: Mapping[str, Any] | None = None) -> str:
        """A string that must be there; "" where it is not, and faults are gathered."""
        value = self.text(key, shape=shape)
        self.describe(key, {"needed": True})
        if not value:
            self.fault(key, "is missing", f"add `{key}: ...`")
            return ""
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within [low, high]."""
        value = self._take(key, {"type": "integer", "minimum": low, "maximum": high})
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            problem = f"expected a whole number, got {describe(value)}"
        elif not low <= value <= high:
            problem = f"{value} is out of range"
        else:
            return value
        self.fault(key, problem, f"from {low} to {high}")
        return default

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number within [low, high]."""
        value = self._take(key, {"type": "number", "minimum": low, "maximum": high})
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            problem = f"expected a number, got {describe(value)}"
        elif not low <= value <= high:
            problem = f"{value} is out of range"
        else:
            return float(value)
        self.fault(key, problem, f"from {low} to {high}")
        return default

    def boolean(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._take(key, {"type": "boolean"})
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fault(key, f"expected true or false, got {describe(value)}", "write true or false")
            return default
        return value

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        """One of these words."""
        known = list(choices)
        value = self.text(key, default, shape={"type": "string", "enum": known}) or default
        if value not in known:
            self.fault(key, f"{value!r} is not one of them", suggest(value, known))
            return default
        return value

    def path_(self, key: str, base: Path) -> Path | None:
        """A path; a relative one counts from `base`."""
        value = self.text(key, shape={"pattern": r"\S"})
        if value is not None and not value.strip():
            # It would be `base` itself: a variable of a script that has no value.
            self.fault(key, "is empty", "write a path, or leave the key out")
            return None
        return None if value is None else base / value

    def items(self, key: str, shape: Mapping[str, Any] | None = None) -> list[Any]:
        """A list of anything; empty when the key is not there. shape: of the items."""
        value = self._take(key, {"type": "array", "items": dict(shape or {})})
        if value is None:
            return []
        if not isinstance(value, list):
            self.fault(
                key, f"expected a list, got {describe(value)}", "write `- item` lines or [a, b]"
            )
            return []
        return value

    def texts(
        self, key: str, default: Iterable[str] = (), shape: Mapping[str, Any] | None = None
    ) -> tuple[str, ...]:
        """A list of strings. shape: of each."""
        items = self.items(key, {"type": ["string", "integer"], **(shape or {})})
        if not self.has(key):
            return tuple(default)
        texts: list[str] = []
        for number, item in enumerate(items):
            place = f"{key}[{number}]"
            if not isinstance(item, (str, int)) or isinstance(item, bool):
                self.fault(place, f"expected text, got {describe(item)}", "put it into quotes")
            elif not str(item).isprintable():
                self.fault(place, "holds control characters", "write it on one line")
            else:
                texts.append(str(item))
        return tuple(texts)

    def any(self, key: str, shape: Mapping[str, Any] | None = None) -> Any:
        """A value of any type; None where the key is not there."""
        return self._take(key, shape or {})

    def section(self, key: str) -> "Section":
        """A mapping below this one; empty when the key is not there."""
        below: dict[str, Any] | None = None if self.asked is None else {}
        value = self._take(key, {"type": "object", "properties": below})
        return Section(value, self.where, self._at(key), self.faults, below)

    def pairs(
        self,
        key: str,
        shape: Mapping[str, Any] | None = None,
        names: Mapping[str, Any] | None = None,
    ) -> list[tuple[str, Any]]:
        """A mapping whose keys are data. shape: of the values. names: of the keys."""
        section = self.section(key)
        if self.asked is not None:
            self.asked[key] = {"type": "object", "additionalProperties": dict(shape or {})}
            self.describe(key, {"propertyNames": dict(names)} if names else {})
        return list(section._data.items())

    def finish(self) -> None:
        """Refuse keys that nobody asked for."""
        for key in self._data:
            if key not in self._known:
                self.fault(key, "unknown key", suggest(key, self._known))


def describe(value: Any) -> str:
    """What a YAML value is, in words."""
    names = {dict: "keys with values", list: "a list", bool: "a boolean", type(None): "nothing"}
    kind = "float" if isinstance(value, float) else type(value).__name__
    return names.get(type(value)) or f"{kind} {value!r}"[:80]
