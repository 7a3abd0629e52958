"""`bootfarm lts import` as its users meet it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bootfarm import main
from server.ltsconf.conf import LtsConf, NodeId

TEXT = b'# r\xe9sum\xe9\n[clients]\nDNS_SERVER="10.9.0.1"\nAUTOLOGIN=user01\nHOSTNAME="pc%{IP}"\n'


def run(*words: str | Path, input: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["lts", "import", *map(str, words)], input=input)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ltsp.conf"
    path.write_bytes(TEXT)
    return path


def test_the_text_goes_out_and_what_is_left_to_standard_error(file: Path) -> None:
    done = run(file)
    assert done.exit_code == 0
    conf = LtsConf.parse(done.stdout_bytes)
    assert conf.resolve(NodeId(hostname="x"))["DNS_SERVER"] == "10.9.0.1"
    assert b"# r\xe9sum\xe9\n" in done.stdout_bytes, "bytes that are not UTF-8 stay"
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"{file}:4: left out: AUTOLOGIN: it is about people who log in")
    assert lines[1] == "  hint: leave it out"
    assert lines[2].startswith(f"{file}:5: to check: HOSTNAME: ")
    assert lines[-1].startswith("2 lines carried over, 1 left out, 1 to check;")


def test_by_the_exit_code(file: Path) -> None:
    assert run(file, "--exit-code").exit_code == 1
    file.write_bytes(b"[clients]\nDNS_SERVER=10.9.0.1\n")
    assert run(file, "--exit-code").exit_code == 0


def test_from_standard_input_as_json() -> None:
    done = run("-", "--json", input=TEXT)
    data = json.loads(done.stdout)
    assert data["carried"] == 2
    assert 'DNS_SERVER = "10.9.0.1"\n' in data["lts_conf"]
    assert [(note["line"], note["kind"]) for note in data["notes"]] == [
        (4, "left out"),
        (5, "to check"),
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path / "nothing")
    assert done.exit_code == 1
    assert "nothing: cannot be read: No such file or directory" in done.output


def test_what_costs_the_square_of_a_file_is_bounded(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("a: b\n" * 20_001)
    done = run(file)
    assert done.exit_code == 1
    assert f"{file}: 20001 lines: an ltsp.conf has 20000 at most" in done.stderr
    monkeypatch.setattr("server.ltsconf.ltsp23.compare.MOST_COMPARED", 2)
    file.write_text("".join(f"[pc{number}]\nDNS_SERVER=10.9.0.1\n" for number in range(5)))
    done = run(file)
    assert done.exit_code == 0
    assert f"{file}:5: to check: [pc2]: this machine and those below it are not" in done.stderr
