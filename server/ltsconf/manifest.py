"""A ConfigMap manifest that holds an lts.conf: its text, and where in the manifest it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import yaml

from server.ltsconf.errors import LtsConfError
from server.ltsconf.problem import Problem, Source
from server.ltsconf.scan import Included, ReadInclude

_LOOKS = re.compile(rb"^[ \t]*(- )?[\"']?kind[\"']?:[ \t]*[\"']?(ConfigMap|List)\b", re.MULTILINE)
MAIN_KEY = "lts.conf"


@dataclass(frozen=True)
class ManifestText:
    """One lts.conf out of a manifest; `line` and `indent` are where its first character stands.

    `shifts` tells whether a place in the text is a place in the manifest (a
    block scalar) or not (a quoted or folded one).
    """

    name: str
    main: Included
    files: dict[str, bytes]
    line: int
    indent: int
    shifts: bool

    def make_reader(self) -> ReadInclude:
        """Includes are other keys of the same ConfigMap, by the last part of their path."""

        def read_include(path: bytes) -> Included | None:
            key = path.decode("utf-8", "replace").rsplit("/", 1)[-1]
            data = self.files.get(key)
            if data is None:
                return None
            return Included("main" if key == MAIN_KEY else key, f"{self.main.path}[{key}]", data)

        return read_include

    def relocate(self, problem: Problem) -> Problem:
        """The problem with its place in the manifest."""
        if problem.path != self.main.path:
            return problem
        if not self.shifts:
            return replace(problem, line=self.line, column=1)
        return replace(
            problem, line=problem.line + self.line - 1, column=problem.column + self.indent
        )


def is_manifest(data: bytes) -> bool:
    """Whether a file looks like a Kubernetes manifest with ConfigMaps."""
    return _LOOKS.search(data) is not None and b"apiVersion" in data


def read_manifest(main: Included) -> list[ManifestText]:
    """All lts.conf texts of a manifest; LtsConfError if it cannot be read or has none."""
    source = Source(main.path, main.data or b"")
    try:
        documents = list(yaml.compose_all(source.data, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise LtsConfError(
            f"is no YAML: {getattr(error, 'problem', None) or error}",
            path=main.path,
            line=mark.line + 1 if mark else 0,
            column=mark.column + 1 if mark else 0,
            hint="Indent every line of the lts.conf below `lts.conf: |`.",
        ) from None
    found = [
        text for document in documents for text in _find_texts(document, source) if text is not None
    ]
    if not found:
        raise LtsConfError(
            f"no ConfigMap in it has a key {MAIN_KEY}",
            path=main.path,
            hint=f"Write data: with {MAIN_KEY}: | and the text indented below.",
        )
    return found


def _find_texts(node: yaml.Node | None, source: Source) -> Iterator[ManifestText]:
    if not isinstance(node, yaml.MappingNode):
        return
    fields = _as_dict(node)
    kind = fields.get("kind")
    if isinstance(kind, yaml.ScalarNode) and kind.value == "List":
        items = fields.get("items")
        if isinstance(items, yaml.SequenceNode):
            for item in items.value:
                yield from _find_texts(item, source)
    if not isinstance(kind, yaml.ScalarNode) or kind.value != "ConfigMap":
        return
    data = fields.get("data")
    if not isinstance(data, yaml.MappingNode):
        return
    files = {
        key: value.value.encode("utf-8", "surrogateescape")
        for key, value in _as_dict(data).items()
        if isinstance(value, yaml.ScalarNode)
    }
    text = _as_dict(data).get(MAIN_KEY)
    if not isinstance(text, yaml.ScalarNode):
        return
    metadata = fields.get("metadata")
    name = _as_dict(metadata).get("name") if isinstance(metadata, yaml.MappingNode) else None
    is_block = text.style == "|"
    line = text.start_mark.line + (2 if is_block else 1)
    yield ManifestText(
        name.value if isinstance(name, yaml.ScalarNode) else "",
        Included("main", source.path, files[MAIN_KEY]),
        files,
        line,
        _measure_indent(source, line) if is_block else 0,
        is_block,
    )


def _as_dict(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _measure_indent(source: Source, line: int) -> int:
    """Blanks before the first line of a block that is not empty."""
    lines = source.data.split(b"\n")[line - 1 :]
    for text in lines:
        if text.strip():
            return len(text) - len(text.lstrip(b" "))
    return 0
