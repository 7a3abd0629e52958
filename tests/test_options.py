"""Every command: --help that ends with examples which can be typed, options that mean one thing."""

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bootfarm import main
from container.door import make_door
from imagebuild.errors import HintedError
from imagebuild.options import FORMATS, Renamed, examples, is_data, output_options, render_data
from imagebuild.yamlloader import parse_yaml

HOUSE = Path(__file__).parent.parent


def list_commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """The command and all below it, by what is typed."""
    yield path, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            if not below.hidden:
                yield from list_commands(below, f"{path} {name}")


COMMANDS = dict(list_commands(main, "bootfarm"))
CONTAINERS = dict(list_commands(make_door(), "bootfarm"))


def split(line: str) -> list[list[str]]:
    """The command lines of one line of shell that begin with `bootfarm`."""
    line = re.sub(r"<\(.*?\)", "FILE", line)
    parts = [shlex.split(part) for part in line.split("|")]
    return [[word for word in part if word[0:1] != ">"] for part in parts if part[0] == "bootfarm"]


def list_examples(command: click.Command) -> list[str]:
    """The lines below `Examples:`."""
    lines = (command.epilog or "").splitlines()
    assert lines[:2] == ["\b", "Examples:"]
    return [line.strip() for line in lines[2:]]


@pytest.mark.parametrize("path", COMMANDS)
def test_help_ends_with_examples_that_the_command_takes(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = CliRunner().invoke(main, [*path.split()[1:], "--help"])
    assert shown.exit_code == 0, shown.output
    lines = list_examples(COMMANDS[path])
    assert 1 <= len(lines) <= 3
    assert shown.output.rstrip().endswith(
        "\n".join(["  Examples:", *(f"    {one}" for one in lines)])
    )
    for line in lines:
        (words,) = split(line)
        assert " ".join(words).startswith(path)
        take(words[1:], monkeypatch)


def take(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Have the command read them, whatever files there are; click.UsageError if it cannot."""
    for kind in (click.Path, click.File):
        patch.setattr(kind, "convert", lambda self, value, param, ctx: value)
    command: click.Command = main
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


@pytest.mark.parametrize(
    "line", ["bootfarm nodes --nosuch", "bootfarm nodes --interval soon", "bootfarm node 1 2"]
)
def test_what_no_command_takes_is_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(click.UsageError):
        take(split(line)[0][1:], monkeypatch)


def list_options() -> Iterator[tuple[str, str, click.Option]]:
    """Each name of an option, the command that has it, and the option; but for older names."""
    for path, command in {**CONTAINERS, **COMMANDS}.items():
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                for name in (*param.opts, *param.secondary_opts):
                    if not (isinstance(param, Renamed) and name in param.older):
                        yield name, path, param


def find_meaning(about: str) -> str:
    """What an option means: its help up to the first stop; what comes after is one command's."""
    return re.split(r"[.:;]( |$)|  \[", about)[0]


def test_every_option_says_what_it_is_for() -> None:
    silent = [
        f"{path} {name}"
        for name, path, option in list_options()
        if not re.match("[A-Za-z0-9]", option.help or "")
    ]
    assert silent == []


def test_options_of_one_name_mean_one_thing() -> None:
    meanings: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, path, option in list_options():
        meanings[name][find_meaning(option.help or "")].append(path)
    twofold = {name: dict(found) for name, found in meanings.items() if len(found) > 1}
    assert twofold == {}, "give it another name (imagebuild.options.Renamed keeps the older one)"


def test_older_names_are_taken_and_not_told_of() -> None:
    names = [
        (path, option)
        for path, command in COMMANDS.items()
        for option in command.params
        if isinstance(option, Renamed)
    ]
    assert len(names) > 3
    for path, option in names:
        shown = CliRunner().invoke(main, [*path.split()[1:], "--help"]).output
        told = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown.partition("Options:")[2])
        for name in option.older:
            assert name not in told, path
            value = [] if option.is_flag else ["x"]
            context = click.Context(COMMANDS[path], resilient_parsing=True)
            parsed, _, _ = COMMANDS[path].make_parser(context).parse_args([name, *value])
            assert option.name in parsed


def test_the_formats_are_the_same_in_all_commands_that_have_them() -> None:
    found = {path: option for name, path, option in list_options() if name == "--output"}
    wanted = ["nodes", "node", "events", "images list", "images show", "doctor"]
    wanted += ["rollout status"]
    assert set(found) == {f"bootfarm {path}" for path in wanted}
    for path, option in found.items():
        assert isinstance(option.type, click.Choice)
        assert tuple(option.type.choices)[: len(FORMATS)] == FORMATS, path
        assert option.opts == ["-o", "--output"]
        assert "--json" in {name for param in COMMANDS[path].params for name in param.opts}


@pytest.fixture
def command() -> click.Command:
    @click.command()
    @output_options(["more"], "more: what else there is.")
    def show(output: str) -> None:
        data = [{"a": 1, "off": "off", "none": None, "name": "ä\x1b\udc80"}]
        click.echo(render_data(data, output) if is_data(output) else output, nl=False)

    return show


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "table"),
        (["-o", "wide"], "wide"),
        (["--output", "more"], "more"),
        (["-o", "name"], "name"),
    ],
)
def test_output(command: click.Command, words: list[str], said: str) -> None:
    assert CliRunner().invoke(command, words).output == said


def test_output_for_scripts(command: click.Command) -> None:
    run: Callable[..., str] = lambda *words: CliRunner().invoke(command, words).output  # noqa: E731
    assert run("--json") == run("-o", "json") == run("--json", "-o", "json")
    assert parse_yaml(run("-o", "yaml").encode(), "x", HintedError) == [
        {"a": 1, "off": "off", "none": None, "name": "ä\x1b\udc80"}
    ]
    assert "--json is --output json" in run("--json", "-o", "yaml")
    assert "more: what else there is." in " ".join(run("--help").split())


def test_examples() -> None:
    assert examples("a", "b") == "\b\nExamples:\n  a\n  b"
