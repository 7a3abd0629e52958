import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from rack.smoke import Result, find_failure, render_junit

SEEN = {"status": "ok", "first": 1.0, "last": 2.0}
PHASES = {phase: SEEN for phase in ("loader", "menu", "kernel", "ltsconf", "root", "systemd")}


def timeline(**phases: dict[str, Any]) -> dict[str, Any]:
    return {"boot": {"started": 1.0, "phases": {**PHASES, **phases}}, "error": None}


def test_a_boot_without_errors() -> None:
    assert find_failure(timeline()) == ""


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({}, "the server has not seen: loader, kernel, ltsconf, root"),
        ({"boot": None}, "the server has not seen: loader, kernel, ltsconf, root"),
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
    assert good.attrib["name"] == "boots by bios to a login prompt"
    assert good.find("failure") is None
    failure = failed.find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "the console said <no>"
    assert failure.text == "the console said <no>\n\N{REPLACEMENT CHARACTER}[1mmore & more"
