"""YAML as people mean it, for recipes and farm.yaml alike."""

import os
from pathlib import Path
from typing import Any

import pytest

from imagebuild.errors import BuildError
from imagebuild.yamlloader import Written, did_you_mean, find_lines, parse_yaml, read_file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("52:54:00:12:34:56", "52:54:00:12:34:56"),
        ("off", "off"),
        ("yes", "yes"),
        ("0644", "0644"),
        ("0x10", "0x10"),
        ("2020-01-01", "2020-01-01"),
        ("1e3", "1e3"),
        ("-12", -12),
        ("1.5", Written("1.5")),
        ("true", True),
        ("!!str 12", "12"),
        ("9" * 5000, "9" * 5000),
        ("9" * 400 + ".0", "9" * 400 + ".0"),
        ("~", None),
        ("{a: [1, b]}", {"a": [1, "b"]}),
    ],
)
def test_what_is_not_plainly_something_else_is_text(text: str, value: Any) -> None:
    found = parse_yaml(text, "x.yaml", BuildError)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [x]\nb: *a\n", "x.yaml:2:4: aliases (*name) are not taken here"),
        ("a: 1\na: 2\n", "x.yaml:2:1: the key 'a' stands twice"),
        ("a: [", "x.yaml:1:5: expected the node content"),
        ("[a]: 1", "x.yaml:1:1: the key ['a'] is no word"),
        (b"a: 1\nb: \xff", "x.yaml:2: not YAML: the character #xff"),
        ("a: 1\nb: x\0", "x.yaml:2: not YAML: the character #x00"),
        ("a: !!python/object:os.system {}", "x.yaml:1:4: tags (tag:yaml.org,2002:python"),
        ("a: !!bool maybe", "x.yaml:1:4: tags (tag:yaml.org,2002:bool) are not taken here"),
        ("a: !!timestamp x", "x.yaml:1:4: tags (tag:yaml.org,2002:timestamp)"),
        ("a: 1\n---\nb: 2", "x.yaml:2:1: but found another document"),
        ("[" * 5000, "x.yaml: nested too deeply"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str | bytes, says: str) -> None:
    with pytest.raises(BuildError) as caught:
        parse_yaml(text, "x.yaml", BuildError)
    assert caught.value.message.startswith(says)
    assert caught.value.hint


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"none\.yaml: No such file") as caught:
        read_file(tmp_path / "none.yaml", BuildError)
    assert caught.value.hint


def test_what_is_no_file_is_told_and_read_by_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path / "pipe", "is a pipe that nobody writes into"),
        (Path("/dev/zero"), "is no file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(BuildError, match=f"{path}: {says}"):
            read_file(path, BuildError)


def test_a_pipe_that_somebody_writes_into_is_read() -> None:
    read, write = os.pipe()
    os.write(write, b"a: 1\n")
    os.close(write)
    assert read_file(Path(f"/dev/fd/{read}"), BuildError) == b"a: 1\n"
    os.close(read)


def test_each_key_path_has_its_line() -> None:
    text = "# a page\na:\n  b: [1, {c: 2}]\nd: x\n"
    assert find_lines(text) == {
        **{"": 2, "a": 2, "a.b": 3, "a.b[0]": 3, "a.b[1]": 3, "a.b[1].c": 3, "d": 4}
    }
    assert find_lines("a: [") == {}
    assert find_lines("") == {}


def test_the_nearest_word_is_suggested() -> None:
    assert did_you_mean("packges", ["name", "packages"], "else") == "did you mean 'packages'?"
    assert did_you_mean("zzz", ["name", "packages"], "else") == "else"
