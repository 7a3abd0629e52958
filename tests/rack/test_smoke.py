import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rack.smoke import Result, find_failure, render_junit, smoke_command
from tests.server.farm import publish

SEEN = {"status": "ok", "first": 1.0, "last": 2.0}
PHASES = {phase: SEEN for phase in ("loader", "menu", "kernel", "ltsconf", "root", "systemd")}


def timeline(**phases: dict[str, Any]) -> dict[str, Any]:
    return {"boot": {"started": 1.0, "phases": {**PHASES, **phases}}, "error": None}


def test_a_boot_without_errors() -> None:
    assert find_failure(timeline()) == ""


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({}, "the server has not seen: menu, kernel, ltsconf, root"),
        ({"boot": None}, "the server has not seen: menu, kernel, ltsconf, root"),
        (
            timeline(rcfile={**SEEN, "status": "error", "detail": "RCFILE_01: exit 1"}),
            "rcfile: RCFILE_01: exit 1",
        ),
        (timeline(preinit={**SEEN, "status": "error"}), "preinit: failed"),
        ({**timeline(), "error": "no image"}, "no image"),
    ],
)
def test_what_speaks_against_a_boot(seen: dict[str, Any], says: str) -> None:
    assert find_failure(seen) == says


def test_junit_counts_and_escapes() -> None:
    bad = Result("uefi", 2.25, "the console said <no>\n\x1b[1mmore & more")
    suite = ElementTree.fromstring(render_junit("amd64:canary", [Result("bios", 1.5), bad]))
    assert suite.attrib == {
        "name": "bootfarm rack smoke amd64:canary",
        "tests": "2",
        "failures": "1",
        "errors": "0",
        "time": "3.8",
    }
    good, failed = suite.findall("testcase")
    assert good.attrib["name"] == "boots by bios"
    assert good.find("failure") is None
    failure = failed.find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "the console said <no>"
    assert failure.text == "the console said <no>\n\N{REPLACEMENT CHARACTER}[1mmore & more"


def test_bad_input_is_one_line_before_a_rack_is_put_up(tmp_path: Path) -> None:
    publish(tmp_path / "store")
    nowhere = f"unix://{tmp_path}/docker.sock"
    of_store = ("--store", str(tmp_path / "store"))
    for words, says in (
        (("Registry/Farm!",), "is not the name of a container image"),
        (("farm:ci", "--engine", nowhere), f"no Docker engine answers at {nowhere}"),
        (("arm64", *of_store), "no image 'arm64' in the store"),
        (("amd64:nope", *of_store), "no tag or digest 'nope'"),
        (("amd64@0123456789ab", *of_store), "no tag or digest '0123456789ab'"),
    ):
        output = tmp_path / "smoke"
        done = CliRunner().invoke(smoke_command, [*words, "--output", str(output)])
        assert done.exit_code == 1, done.output
        (error,) = [line for line in done.output.splitlines() if line.startswith("Error: ")]
        assert says in error
        assert "Traceback" not in done.output
