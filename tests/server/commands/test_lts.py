"""`bootfarm lts resolve`, as issue 5 says it is called, on every observed case."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from server.commands.lts import lts

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "ltsconf/corpus" / "cases-public.json").read_text()
)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def run(case: dict[str, Any], directory: Path, *options: str) -> Result:
    for path, text in case.get("includes", {}).items():
        write(directory / path.lstrip("/"), text)
    conf = directory / "case.conf"
    write(conf, case["conf"])
    node = [f"--{name}={value}" for name, value in case["node"].items() if value is not None]
    arguments = ["resolve", str(conf), "--root", str(directory), *node, "--json", *options]
    return CliRunner().invoke(lts, arguments)


@pytest.mark.parametrize("case", CASES, ids=[case["slug"] for case in CASES])
def test_every_case_in_both_modes(case: dict[str, Any], tmp_path: Path) -> None:
    as_ltsp5 = run(case, tmp_path, "--ltsp5")
    ours = run(case, tmp_path)
    if case["crashes"]:
        assert (as_ltsp5.exit_code, as_ltsp5.stdout) == (1, "")
        assert "hint:" in as_ltsp5.stderr
    else:
        assert as_ltsp5.exit_code == 0
        assert as_ltsp5.stdout.isascii()
        assert list(json.loads(as_ltsp5.stdout).items()) == list(case["expect"].items())
    if case["crashes"] or case["stopped"]:
        assert (ours.exit_code, ours.stdout) == (1, "")
        assert "hint:" in ours.stderr
    else:
        assert ours.exit_code == 0
        assert json.loads(ours.stdout) == case["expect"]
    if case.get("echoed"):
        assert as_ltsp5.stderr
        assert ours.stderr


def test_root_defaults_to_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "site/rooms.conf", "[base]\nA=1\n")
    write(tmp_path / "site/lts.conf", "include /rooms.conf\n[pc7]\nLIKE=base\n")
    monkeypatch.chdir(tmp_path / "site")
    result = CliRunner().invoke(lts, ["resolve", "lts.conf", "--hostname", "pc7", "--json"])
    assert json.loads(result.stdout) == {"A": "1"}


def test_bytes_that_are_not_utf8_survive(tmp_path: Path) -> None:
    conf = tmp_path / "lts.conf"
    conf.write_bytes(b'[default]\nA="x\xff\xfe"\nB=\xe9\n')
    as_json = CliRunner().invoke(lts, ["resolve", str(conf), "--json"])
    assert json.loads(as_json.stdout) == {"A": "x\udcff\udcfe", "B": "\udce9"}
    as_text = CliRunner().invoke(lts, ["resolve", str(conf)])
    assert as_text.stdout_bytes == b'A="x\xff\xfe"\nB="\xe9"\n'


def test_a_mac_may_be_written_with_dashes_and_capitals(tmp_path: Path) -> None:
    conf = tmp_path / "lts.conf"
    conf.write_text("[52:54:00:9c:1e:03]\nA=1\n")
    result = CliRunner().invoke(lts, ["resolve", str(conf), "--mac", "52-54-00-9C-1E-03", "--json"])
    assert json.loads(result.stdout) == {"A": "1"}


def test_standard_input(tmp_path: Path) -> None:
    result = CliRunner().invoke(lts, ["resolve", "-", "--json"], input=b"[default]\nA=1\n")
    assert json.loads(result.stdout) == {"A": "1"}


@pytest.mark.parametrize("mode", [[], ["--ltsp5"]])
def test_a_file_that_is_not_there(tmp_path: Path, mode: list[str]) -> None:
    result = CliRunner().invoke(lts, ["resolve", str(tmp_path / "nosuch"), "--json", *mode])
    assert result.exit_code == 1
    assert "No such file" in result.stderr
    assert result.stdout == ""


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = CliRunner().invoke(lts, ["resolve", str(tmp_path / "pipe"), "--json"])
    assert result.exit_code == 1
    assert "is a pipe that nobody writes into" in result.stderr
