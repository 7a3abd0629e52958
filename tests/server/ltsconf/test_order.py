"""The order of numbered keys (corpus/order.json: sort -V of coreutils 8.25)."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.ltsconf import sort_numbered
from server.ltsconf.order import sort_lines, sort_versions

ORDER = json.loads((Path(__file__).parent / "corpus" / "order.json").read_text())


def by_about(rows: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=[row["about"] for row in rows])


def split(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key, value


@by_about(ORDER["lines"])
def test_whole_lines(row: dict[str, Any]) -> None:
    ordered = [f"{key}={value}" for key, value in sort_lines(split(line) for line in row["in"])]
    assert ordered == row["out"]


@by_about(ORDER["keys"])
def test_keys(row: dict[str, Any]) -> None:
    expected = row.get("out_with_values", row["out"])
    families = {key.split("_")[0] for key in row["in"]}
    for family in families:
        values = {key: "x" for key in row["in"]}
        assert [key for key, _ in sort_numbered(values, family)] == [
            key for key in expected if key.startswith(family)
        ]


@by_about(ORDER["keys"])
def test_bare_names(row: dict[str, Any]) -> None:
    assert sort_versions(key.encode() for key in row["in"]) == [key.encode() for key in row["out"]]
