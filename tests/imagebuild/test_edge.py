"""Nothing that goes wrong is a traceback at the edge; the real command writes into real places."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from imagebuild.edge import TRACEBACK, EdgeGroup
from imagebuild.errors import LONGEST, BuildError

BOOTFARM = str(Path(sys.executable).with_name("bootfarm"))


@click.group(cls=EdgeGroup)
def group() -> None: ...


@group.command()
def breaks() -> None:
    raise KeyError("may\nbe")


@group.command()
def refuses() -> None:
    raise BuildError("x" * 100_000, hint="shorter")


def test_a_fault_of_ours_is_a_line_and_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACEBACK, raising=False)
    result = CliRunner().invoke(group, ["breaks"])
    assert result.exit_code == 1
    first, hint = result.output.splitlines()
    assert first == "Error: KeyError: 'may\\nbe'"
    assert TRACEBACK in hint


def test_its_way_there_is_shown_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TRACEBACK, "1")
    assert "Traceback" in CliRunner().invoke(group, ["breaks"]).output


def test_a_terminal_obeys_nothing_of_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    BuildError("a\x1b[31m\x9b2J\u202e: gone\nb", hint="c\x07").show()
    assert capsys.readouterr().err == ("Error: a\\x1b[31m\\x9b2J\\u202e: gone\nb\n  hint: c\\x07\n")


def test_a_message_is_not_as_long_as_what_was_typed() -> None:
    output = CliRunner().invoke(group, ["refuses"]).output
    assert len(output) < 2 * LONGEST
    assert "hint: shorter" in output


@pytest.mark.parametrize("command", [["-h"], ["lts", "reference"], ["schema", "farm"]])
def test_a_full_disk(command: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([BOOTFARM, *command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: No space left on device\n  hint: ")
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_enough_is_no_error() -> None:
    reader = subprocess.Popen(["head", "-c", "1"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        [BOOTFARM, "lts", "reference"], stdout=reader.stdin, stderr=subprocess.PIPE, text=True
    )
    assert reader.stdin is not None
    reader.stdin.close()
    reader.wait()
    assert done.stderr == ""


def test_an_argument_that_is_no_text() -> None:
    done = subprocess.run(
        [BOOTFARM, "node", b"\xff", "--server", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "Error: '\\udcff' cannot be written as utf-8\n  hint: give arguments and names as UTF-8\n"
    )
