"""docs/schemas: editors are given what the readers take, by a validator that is not ours."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from bootfarm import main
from imagebuild.recipe import keys
from imagebuild.recipe.shapes import Keys
from imagebuild.recipe.yamlnode import RecipeError
from imagebuild.yamlloader import parse_yaml as parse_recipe
from server.commands.schema import describe_farm
from server.farm.config import parse_config
from server.farm.schema import ABOUT
from server.web.api import ROUTES
from server.web.openapi import describe as describe_api
from server.web.replies import KINDS
from server.yamlfile import YamlError, parse_yaml
from tests.imagebuild.recipe.test_read import BAD
from tests.server.farm import test_config

HOUSE = Path(__file__).parents[2]
SCHEMAS = HOUSE / "docs" / "schemas"
PAGE = HOUSE / "docs" / "farm.yaml.md"

# What no schema can say: other files, two places at once, words inside of words.
BEYOND_RECIPE = (
    *("mirrors.security: missing", "cmdline[0]: root=", "cmdline[0]: no quotes"),
    "cmdline[0]: bootfarm.verity=",
    *("lts_defaults.IMAGE: an image", "builds[0].file: no such", "builds[0].sha256: needs url"),
    *("outputs[0]: no ..", "builds[1]: a second build", "files[0].path: no . or .."),
    *("files[0].source: no such file", "files[0].path: a pattern", "patches[0].series: no file"),
    *("kubernetes: a kubelet needs", "container_runtime.name: kubelet", "kubernetes.repository:"),
    *("container_runtime.options", "container_runtime.sandbox_image", "kubernetes.kubelet."),
    *("quay.io.ca:", "Docker mirrors docker.io only", "extends: no such file", "extends itself"),
)
BEYOND_FARM = (
    *("facts.a.", "facts.a[", "facts.a:", "stands already in entry"),
    *("begins a comment in iPXE", "is set by the server", "bootfarm.on_error is"),
)


def read_schema(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("name", ["farm", "recipe"])
def test_the_files_are_what_the_command_prints(name: str) -> None:
    result = CliRunner().invoke(main, ["schema", name])
    assert result.exit_code == 0, result.output
    written = (SCHEMAS / f"{name}.schema.json").read_text()
    assert written == result.output, f"bootfarm schema {name} > docs/schemas/{name}.schema.json"


def test_the_document_of_the_api_is_what_the_command_prints_and_the_server_has() -> None:
    result = CliRunner().invoke(main, ["schema", "api"])
    assert result.exit_code == 0, result.output
    assert (SCHEMAS / "api.json").read_text() == result.output, (
        "bootfarm schema api > docs/schemas/api.json"
    )
    assert json.loads(result.output) == describe_api(ROUTES)


def test_the_page_of_the_api_has_every_error() -> None:
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in (HOUSE / "docs" / "api.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    found = {row[0].strip("`"): row[1:] for row in rows if row[1].isdigit()}
    assert found == {code: (str(kind.status), kind.about) for code, kind in KINDS.items()}


def read_recipe(path: Path) -> Any:
    return parse_recipe(path.read_bytes(), str(path), RecipeError)


@pytest.mark.parametrize("path", sorted((HOUSE / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_our_recipes(path: Path) -> None:
    assert [error.message for error in read_schema("recipe").iter_errors(read_recipe(path))] == []


def list_farms() -> Iterator[tuple[str, Any]]:
    lines = [line for line in PAGE.read_text().splitlines() if not line or line.startswith("    ")]
    yield "docs/farm.yaml.md", parse_yaml(textwrap.dedent("\n".join(lines)), "page")
    for name in ("k8s/base/farm.yaml", "container/farm.yaml"):
        yield name, parse_yaml((HOUSE / name).read_text(), name)
    yield "an empty file", parse_yaml("", "x")
    yield "keys without values", parse_yaml("store:\nworkers:\ndhcp:\nlogs:\n", "x")


@pytest.mark.parametrize(("name", "data"), list(list_farms()), ids=lambda value: str(value)[:20])
def test_our_farm_yamls(name: str, data: Any) -> None:
    assert [error.message for error in read_schema("farm").iter_errors(data)] == []
    parse_config(data, name, Path("/"))


@pytest.mark.parametrize(("text", "message"), [case[:2] for case in BAD])
def test_a_recipe_that_is_refused_is_refused_by_both(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(textwrap.dedent(text))
    try:
        data = read_recipe(path)
    except RecipeError:
        return  # no YAML: no schema sees it
    beyond = any(words in message for words in BEYOND_RECIPE)
    assert read_schema("recipe").is_valid(data) == beyond


FARMS = test_config.test_errors_name_the_key_path_and_a_remedy.pytestmark[0].args[1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("text", "message"), [case[:2] for case in FARMS])
def test_a_farm_yaml_that_is_refused_is_refused_by_both(text: str, message: str) -> None:
    try:
        data = parse_yaml(text, "x")
    except YamlError:
        return
    beyond = any(words in message for words in BEYOND_FARM)
    assert read_schema("farm").is_valid(data) == beyond


@pytest.mark.parametrize(
    "text",
    [
        "http: {limits: {conections: 5}}",
        "http: {limits: {idle_seconds: soon}}",
        "logs: {syslog: 70000}",
        "dns: {zone: a.b, names: {api: here}}",
        "inventory: [{mac: 52:54:00:00:00:01, ip: 10.9.0.256}]",
        "inventory: [{ip: 10.9.0.1}]",
        "address_map: {here: 52:54:00:00:00:01}",
    ],
)
def test_more_wrong_farms(text: str) -> None:
    assert not read_schema("farm").is_valid(parse_yaml(text, "x"))


def test_a_recipe_that_extends_another_may_be_a_part() -> None:
    schema = read_schema("recipe")
    part: dict[str, Any] = {"extends": "a.yaml", "packages+": ["vim"], "console": None}
    part["kernel"] = {}
    assert schema.is_valid(part)
    assert not schema.is_valid({**part, "packages+": ["A"]})
    assert not schema.is_valid({**part, "nonsense": 1})
    assert not schema.is_valid({key: part[key] for key in part if key != "extends"})


def list_paths(
    schema: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Key path and schema of each key, but for limits."""
    for name, below in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, below
        if not here.endswith("limits"):
            yield from list_paths(below, here)
    if isinstance(schema.get("items"), Mapping):
        yield from list_paths(schema["items"], f"{path}[]")
    for one in schema.get("anyOf", ()):
        yield from list_paths(one, path)


def test_every_key_of_farm_yaml_is_described_and_no_other() -> None:
    paths = dict(list_paths(describe_farm()))
    assert {path for path, schema in paths.items() if "description" not in schema} == set()
    assert set(ABOUT) == set(paths), "server/farm/schema.py: ABOUT"


def test_the_page_of_recipes_names_every_key() -> None:
    text = (HOUSE / "docs" / "recipes.md").read_text()
    assert [name for name in keys.RECIPE if name not in text] == []


def test_every_key_of_a_recipe_is_described() -> None:
    def check(found: Keys) -> None:
        for key in found.values():
            assert key.about.endswith((".", '".'))
            if isinstance(key.shape, Keys):
                check(key.shape)

    check(keys.RECIPE)


def test_yaml_as_editors_read_it() -> None:
    """Of YAML 1.2, as editors have it, `off` is text; of YAML 1.1 it is false."""
    text = "dhcp: off\nlogs: {syslog: off, netconsole: on}\n"
    assert read_schema("farm").is_valid(parse_yaml(text, "x"))
    assert yaml.safe_load(text)["dhcp"] is False
