import importlib.metadata
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from imagebuild.docker.cli import container_group

RECIPE = "name: amd64\nrelease: bookworm\nkernel: {package: linux-image-cloud-amd64}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def run(*words: str) -> Any:
    return CliRunner().invoke(container_group, list(words))


def test_the_context_can_be_had_without_an_engine(recipe: Path, tmp_path: Path) -> None:
    target = tmp_path / "context.tar"
    done = run("build", str(recipe), "--context", str(target), "--squashfs-level", "2")
    assert done.exit_code == 0, done.output
    with tarfile.open(target) as archive:
        names = archive.getnames()
        packed = archive.extractfile("recipes/packed/recipe.json")
        assert packed is not None
        assert b'"level": 2' in packed.read()
    assert {"Dockerfile", "container/door.py", "imagebuild/container.py", "server/app.py"} <= {
        *names
    }
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_another_repository_is_packed_in_the_recipes_place(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(
        RECIPE + "repositories: [{name: own, uri: 'http://a', suite: ./, key: 'https://a/k',"
        f" key_sha256: '{'0' * 64}'}}]\n"
    )
    (tmp_path / "apt").mkdir()
    (tmp_path / "apt/InRelease").write_text("")
    (tmp_path / "apt/own.gpg").write_text("the key")
    target = tmp_path / "context.tar"
    option = f"own=file:{tmp_path}/apt,key={tmp_path}/apt/own.gpg"
    done = run("build", str(recipe), "--context", str(target), "--repository", option)
    assert done.exit_code == 0, done.output
    with tarfile.open(target) as archive:
        packed = archive.extractfile("recipes/packed/recipe.json")
        assert packed is not None
        [repository] = json.load(packed)["recipe"]["repositories"]
        names = archive.getnames()
    assert repository["uri"] == "file:local/repositories/own/apt"
    assert f"recipes/packed/{repository['key']}" in names
    assert "recipes/packed/local/repositories/own/apt/InRelease" in names


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tag", "Not A Name"), "is not the name of a container image"),
        (("--build-arg", "novalue"), "expected KEY=VALUE"),
        (("--build-arg", "RECIPE=x"), "the recipe is this command's argument"),
        (("--build-arg", "REPOSITORIES=a=b"), "here it is --repository"),
        (("--repository", "own=http://x"), "has no repository named 'own'"),
        (("--mirrors", "/none.yaml"), "/none.yaml: No such file"),
        (("--squashfs-level", "99"), "99 is not in the range"),
    ],
)
def test_bad_arguments_reach_no_engine(recipe: Path, words: tuple[str, ...], says: str) -> None:
    done = run("build", str(recipe), "--engine", "unix:///nowhere", *words)
    assert done.exit_code != 0
    assert says in done.output
    assert "engine answers" not in done.output


def test_a_bad_recipe_reaches_no_engine(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(RECIPE + "pakages: []\n")
    done = run("build", str(tmp_path / "bad.yaml"), "--engine", "unix:///nowhere")
    assert done.exit_code == 1
    assert "pakages: unknown key" in done.output


@pytest.mark.parametrize(
    "words", [("build", "RECIPE"), ("push", "farm:ci"), ("extract", "farm:ci")], ids=lambda w: w[0]
)
def test_no_engine(recipe: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    command = [str(recipe) if word == "RECIPE" else word for word in words]
    done = run(*command, "--engine", f"unix://{tmp_path}/none.sock")
    assert done.exit_code == 1
    assert "no Docker engine answers at unix://" in done.output


def test_without_the_sdk_its_commands_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    result = run("push", "example/farm:1")
    assert result.exit_code == 1
    assert "bootfarm[container]" in result.output


def test_the_engine_is_told_bootfarms_version(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imagebuild.docker import cli, engine

    asked: list[Any] = []
    monkeypatch.setattr(engine, "Engine", lambda url: url)
    monkeypatch.setattr(cli, "_build", lambda made, request: asked.append(request.arguments))
    for words in ((), ("--build-arg", "VERSION=9")):
        assert run("build", str(recipe), *words).exit_code == 0
    assert [one["VERSION"] for one in asked] == [importlib.metadata.version("bootfarm"), "9"]
