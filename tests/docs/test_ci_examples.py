"""The example pipelines: by schema, and every bootfarm command in them exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from bootfarm import main

DOCS = Path(__file__).parents[2] / "docs"
CI = DOCS / "ci"
SCHEMAS = {
    "github-actions.yml": ("vendor.github-workflows", []),
    "gitlab-ci.yml": ("vendor.gitlab-ci", ["--data-transform", "gitlab-ci"]),
    "lts-conf.github.yml": ("vendor.github-workflows", []),
    "lts-conf.gitlab.yml": ("vendor.gitlab-ci", ["--data-transform", "gitlab-ci"]),
}
IMAGES = ("github-actions.yml", "gitlab-ci.yml")


def lint(path: Path, schema: str, options: list[str]) -> "subprocess.CompletedProcess[str]":
    program = Path(sys.executable).parent / "check-jsonschema"
    argv: list[str | Path] = [program, "--builtin-schema", schema, *options, path]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_fits_the_services_schema(name: str) -> None:
    done = lint(CI / name, *SCHEMAS[name])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("github-actions.yml", "runs-on:", "run-on:"), ("gitlab-ci.yml", "when: always", "when: 7")],
)
def test_the_schema_check_can_fail(tmp_path: Path, name: str, old: str, new: str) -> None:
    text = (CI / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    assert lint(tmp_path / name, *SCHEMAS[name]).returncode == 1


def scripts(name: str) -> str:
    data: Any = yaml.safe_load((CI / name).read_text())
    if "jobs" in data:
        (job,) = data["jobs"].values()
        return "\n".join(step.get("run", "") for step in job["steps"])
    (job,) = (job for job in data.values() if isinstance(job, dict) and "script" in job)
    return "\n".join([*job["before_script"], *job["script"]])


def commands(text: str) -> list[list[str]]:
    """Each `bootfarm …` of a shell script, split into words."""
    return [
        shlex.split(match[1])
        for match in re.finditer(r"^ *(?:\.venv/bin/)?bootfarm ([^|\n]*)", text, re.M)
    ]


@pytest.mark.parametrize("name", IMAGES)
def test_builds_boots_and_pushes_only_then(name: str) -> None:
    found = [words[:2] for words in commands(scripts(name))]
    assert found == [["container", "build"], ["rack", "smoke"], ["container", "push"]]


@pytest.mark.parametrize("name", sorted(SCHEMAS.keys() - IMAGES))
def test_lts_conf_is_checked_before_it_is_compared(name: str) -> None:
    found = [words[:2] for words in commands(scripts(name))]
    assert found == [["lts", "check"], ["lts", "diff"]]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_command_and_option_exists(name: str) -> None:
    for words in commands(scripts(name)):
        command: click.Command = main
        context = click.Context(main)
        while isinstance(command, click.Group):
            child = command.get_command(context, words.pop(0))
            assert child is not None
            command = child
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_scripts_are_clean_shell(name: str) -> None:
    done = subprocess.run(
        ["shellcheck", "--shell=sh", "-"], input=scripts(name), capture_output=True, text=True
    )
    # Single quotes around $ are YAML's own here; every other finding counts.
    assert done.returncode == 0, done.stdout
