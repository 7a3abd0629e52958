"""A manifest that holds an lts.conf, in a ConfigMap or Secret, and where in it the text stands.

YAML of any number of documents, or JSON, compact or not. `binaryData` and a Secret's
`data` are base64; `data` of a ConfigMap and `stringData` of a Secret are texts.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from imagebuild.yamlloader import PlainLoader
from server.ltsconf.errors import LtsConfError
from server.ltsconf.problem import Origin, Source
from server.ltsconf.scan import Included, ReadInclude

_LOOKS = re.compile(rb"^[\"']?(apiVersion|kind)[\"']?:[ \t]+\S", re.MULTILINE)
_SHEET = re.compile(rb"^(---|%YAML)([ \t\r]|$)", re.MULTILINE)
MAIN_KEY = "lts.conf"


@dataclass(frozen=True)
class ManifestText:
    """One lts.conf out of a manifest, whose lines are the manifest's.

    Each line of a block scalar (`|`) has its own; all of a quoted, folded or encoded
    one have the line where it begins.
    """

    name: str
    main: Included
    files: dict[str, bytes]

    def make_reader(self) -> ReadInclude:
        """Includes are other keys of the same ConfigMap, by the last part of their path."""

        def read_include(path: bytes) -> Included | None:
            key = path.decode("utf-8", "replace").rsplit("/", 1)[-1]
            data = self.files.get(key)
            if data is None:
                return None
            return Included("main" if key == MAIN_KEY else key, f"{self.main.path}[{key}]", data)

        return read_include


def is_manifest(data: bytes) -> bool:
    """Whether a file is a Kubernetes manifest, of whatever kind: an lts.conf never looks so."""
    start = data.lstrip(b" \t\r\n\xef\xbb\xbf")[:1]
    if start == b"{":  # no lts.conf can begin with it
        return True
    found = {match[1] for match in _LOOKS.finditer(data)}
    return found == {b"apiVersion", b"kind"} or (bool(found) and _SHEET.search(data) is not None)


def read_manifest(main: Included) -> list[ManifestText]:
    """All lts.conf texts of a manifest; LtsConfError if it cannot be read or has none."""
    source = Source(main.path, main.data or b"")
    try:
        documents = list(yaml.compose_all(source.data, Loader=PlainLoader))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise LtsConfError(
            f"is no YAML: {getattr(error, 'problem', None) or error}",
            path=main.path,
            line=mark.line + 1 if mark else 0,
            column=mark.column + 1 if mark else 0,
            hint="Indent every line of the lts.conf below `lts.conf: |`.",
        ) from None
    found = [text for document in documents for text in _find_texts(document, source)]
    if not found:
        kinds = sorted({kind for document in documents for kind in _list_kinds(document)})
        raise LtsConfError(
            f"no ConfigMap in it has a key {MAIN_KEY}, and no Secret"
            f" (it holds {', '.join(kinds) or 'no object of Kubernetes'})",
            path=main.path,
            hint=f"Write a ConfigMap: data: with {MAIN_KEY}: | and the text indented below.",
        )
    return found


def _list_kinds(node: yaml.Node | None) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        fields = _as_dict(node)
        kind = fields.get("kind")
        if isinstance(kind, yaml.ScalarNode):
            yield kind.value[:60]
        items = fields.get("items")
        if isinstance(items, yaml.SequenceNode):
            for item in items.value:
                yield from _list_kinds(item)


def _find_texts(node: yaml.Node | None, source: Source) -> Iterator[ManifestText]:
    if not isinstance(node, yaml.MappingNode):
        return
    fields = _as_dict(node)
    kind = fields.get("kind")
    if not isinstance(kind, yaml.ScalarNode):
        return
    items = fields.get("items")
    if kind.value.endswith("List") and isinstance(items, yaml.SequenceNode):
        for item in items.value:
            yield from _find_texts(item, source)
    if kind.value not in _FIELDS:
        return
    files: dict[str, bytes] = {}
    nodes: dict[str, tuple[yaml.ScalarNode, bool]] = {}
    for field, encoded in _FIELDS[kind.value]:
        data = fields.get(field)
        for key, value in _as_dict(data).items() if isinstance(data, yaml.MappingNode) else ():
            if isinstance(value, yaml.ScalarNode):
                files[key] = _read_value(value, source, f"{field}.{key}", encoded=encoded)
                nodes[key] = (value, encoded)
    if MAIN_KEY not in nodes:
        return
    text, encoded = nodes[MAIN_KEY]
    metadata = fields.get("metadata")
    name = _as_dict(metadata).get("name") if isinstance(metadata, yaml.MappingNode) else None
    is_block = text.style == "|" and not encoded
    line = text.start_mark.line + (2 if is_block else 1)
    count = files[MAIN_KEY].count(b"\n") + 1
    lines = range(line, line + count) if is_block else [line] * count
    yield ManifestText(
        name.value if isinstance(name, yaml.ScalarNode) else "",
        Included("main", source.path, files[MAIN_KEY], Origin(lines, source.data)),
        files,
    )


# By kind: the fields that hold texts, and whether these are base64; the later field counts.
_FIELDS: dict[str, tuple[tuple[str, bool], ...]] = {
    "ConfigMap": (("binaryData", True), ("data", False)),
    "Secret": (("data", True), ("stringData", False)),
}


def _read_value(node: yaml.ScalarNode, source: Source, where: str, *, encoded: bool) -> bytes:
    # JSON writes characters beyond U+FFFF as two surrogates, which YAML's reader leaves alone.
    text = node.value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    raw: bytes = text.encode("utf-8", "surrogateescape")
    if not encoded:
        return raw
    try:
        return base64.b64decode(b"".join(raw.split()), validate=True)
    except ValueError:
        raise LtsConfError(
            f"{where} is no base64",
            path=source.path,
            line=node.start_mark.line + 1,
            column=node.start_mark.column + 1,
            hint="`base64 -w0 < lts.conf` makes it; or put plain text below data: (stringData:"
            " in a Secret).",
        ) from None


def _as_dict(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
