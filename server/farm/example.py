"""A farm.yaml with every key in it, each a comment with its meaning, made of the schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

_INDENT: Final = "  "


def render_example(schema: Mapping[str, Any], settled: Mapping[str, str]) -> str:
    """The text of a farm.yaml.

    schema: as server.farm.schema.describe gives it. settled: values of keys of the uppermost
    level that are no comments. A key that stands without a value means its default; where
    that is a number of the schema, it is written.
    """
    head = "# How bootfarm serves; every key. Take the # away from what you set.\n"
    return head + "\n".join(_render_keys(schema["properties"], settled, 0)) + "\n"


def _render_keys(
    keys: Mapping[str, Mapping[str, Any]], settled: Mapping[str, str], depth: int
) -> Iterator[str]:
    for name, key in keys.items():
        indent = _INDENT * depth
        about = _describe(key)
        if not depth:
            yield ""
        if about:
            yield f"#{indent} {about}" if depth else f"# {about}"
        if name in settled:
            yield f"{name}: {settled[name]}"
        else:
            value = f" {json.dumps(key['default'])}" if "default" in key else ""
            yield f"#{indent}{name}:{value}"
        if "properties" in key:
            yield from _render_keys(key["properties"], {}, depth + 1)


def _describe(key: Mapping[str, Any]) -> str:
    words = str(key.get("description", ""))
    choices = [str(choice) for choice in key.get("enum", ()) if choice is not None]
    return f"{words} One of: {', '.join(choices)}." if choices else words
