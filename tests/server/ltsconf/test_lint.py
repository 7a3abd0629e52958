"""The linter: a text, and what is said about it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from server.ltsconf.cli import lts
from server.ltsconf.files import read_nothing
from server.ltsconf.lint import lint
from server.ltsconf.problem import Outcome, Problem
from server.ltsconf.scan import Included

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "corpus" / "cases-public.json").read_text()
)


def find(text: str) -> list[Problem]:
    main = Included("main", "lts.conf", text.encode("utf-8", "surrogateescape"))
    return lint(main, read_nothing)


def places(text: str) -> list[tuple[str, int]]:
    return [(problem.code, problem.line) for problem in find(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[default]\nTIMEZONE = "UTC"\n', []),
        ("[default]\nHOSTNAM = x\n", [("unknown-variable", 2)]),
        ('[default]\nMY KEY = "x"\n', [("bad-key", 2)]),
        ('[default]\n"" = x\n', [("bad-key", 2)]),
        ("[default]\nNBD_SWAP = True\n", [("swap-variable", 2)]),
        ('[default]\nFSTAB_1 = "/dev/sda2 none swap sw 0 0"\n', [("swap-variable", 2)]),
        ("[default]\nLDM_AUTOLOGIN = True\n", [("desktop-variable", 2)]),
        ("[default]\nNFS_HOME = /home\n", [("replaced-variable", 2)]),
        ("[default]\nLTSP_NBD_TO_RAM = maybe\n", [("bad-value", 2)]),
        ("[default]\nLTSP_NBD_TO_RAM = On\n", []),
        ("[default]\nHOSTNAME_EXTRA = name\n", [("bad-value", 2)]),
        ("[default]\nRCFILE_ON_ERROR = ignore\n", [("bad-value", 2)]),
        ('[default]\nIMAGE = "amd64:canary"\n', []),
        ('[default]\nIMAGE = "a b"\n', [("bad-value", 2)]),
        ('[default]\nFSTAB_01 = "/dev/sda1 /data"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "0 4 * * run"\n', [("bad-value", 2)]),
        ('[default]\nCRONTAB_01 = "@daily run"\n', []),
        ("[default]\nHOSTS_01 = 10.9.0.1\n", [("bad-value", 2)]),
        ("[default]\nHOSTNAME = a\n", [("hostname-for-many", 2)]),
        ("[pc*]\nHOSTNAME = a\n", [("hostname-for-many", 2)]),
        ("[pc7]\nHOSTNAME = a\n", []),
        ("[default]\nTIMEZONE = “UTC”\n", [("typographic-quotes", 2)]),
        ('[default]\nRCFILE_01 = "echo ‘x’"\n', [("typographic-quotes", 2)]),
        ('[default]\nRCFILE_01 = "kubeadm join –token x"\n', [("typographic-dash", 2)]),
        ("[default]\nSYSLOG_HOST = a#b\n", [("value-cut", 2)]),
        ("[default]\nSYSLOG_HOST = a # b\n", []),
        ('[default]\nSYSLOG_HOST = "a" # a "b"\n', [("comment-in-value", 2)]),
        ("[default]\nSYSLOG_HOST =\na\n", [("value-on-next-line", 2)]),
        ("[default]\nTIMEZONE = a\nTIMEZONE = b\n", [("key-twice", 2)]),
        ("[pc7]\nLIKE = a\nLIKE = a\n[a]\nTIMEZONE = b\n", []),
        ("[pc7]\nLIKE = nosuch\n", [("like-unknown", 2)]),
        ("[default]\nLIKE = a\n[a]\nTIMEZONE = b\n", [("like-in-default", 2)]),
        ("[a]\nLIKE = b\n[b]\nLIKE = a\n", [("like-cycle", 1), ("like-cycle", 3)]),
        ("[x]\nLIKE = a\n[a]\nLIKE = a\n[y]\nLIKE = x\n", [("like-cycle", 3)]),
        ("[a]\nTIMEZONE = a\n[A]\nTIMEZONE = b\n", [("duplicate-section", 3)]),
        ("[*]\nTIMEZONE = a\n[pc*]\nTIMEZONE = b\n", [("shadowed-section", 3)]),
        ("[pc*]\nTIMEZONE = a\n[*]\nTIMEZONE = b\n", []),
        ("[pc?]\nTIMEZONE = a\n[pc*]\nTIMEZONE = b\n", []),
        ("[*]\nTIMEZONE = a\n[pc*]\nTIMEZONE = b\n[x]\nLIKE = pc*\n", []),
        ("[02-1b-44-11-3a-b7]\nTIMEZONE = a\n", [("unreachable-section", 1)]),
        ("[192.0.2.0/24]\nTIMEZONE = a\n", [("unreachable-section", 1)]),
        ("[room one]\nTIMEZONE = a\n", [("unreachable-section", 1)]),
        ("[room one]\nTIMEZONE = a\n[pc7]\nLIKE = room one\n", []),
        ('[default]\nRCFILE_01 = "a"\nRCFILE_02 = "b"\nRCFILE_10 = "c"\n', []),
        ('[default]\nRCFILE_2 = "a"\nRCFILE_10 = "b"\n', [("order-width", 2)]),
        ('[default]\nRCFILE_1 = "a"\nRCFILE_01 = "b"\n', [("order-tie", 3)]),
        ('[default]\nRCFILE_SSH = "a"\nRCFILE_01 = "b"\n', [("order-no-number", 2)]),
        ('[default]\nRCFILE_1 = "a"\nRCFILE_1A = "b"\n', [("order-prefix", 2)]),
        ("[default]\nSYSLOG_HOST = it's\n", [("stray-quote", 2), ("text-behind-value", 2)]),
        ("[default]\nTIMEZONE = a\ninclude nosuch\n", [("include-missing", 3)]),
    ],
)
def test_what_is_found(text: str, found: list[tuple[str, int]]) -> None:
    assert places(text) == found


def test_all_problems_at_once() -> None:
    text = (
        "[default]\nSYSLOG_HOST = a=b\n[spare]\n[pc7]\noops\nTIMEZONE = UTC\npc8]\n"
        "[pc[0-9]]\nTIMEZONE: UTC\nHOSTNAME = a\n=\nSEARCH_DOMAIN =\n[x]\nTIMEZONE = UTC\n"
    )
    assert places(text) == [
        ("stray-equals", 2),
        ("empty-section", 3),
        ("no-equals", 5),
        ("no-equals", 7),
        ("bad-header", 8),
        ("no-equals", 9),
        ("stray-equals", 11),
        ("no-value", 13),
    ]
    assert {problem.outcome for problem in find(text)} == {Outcome.STOPS}


@pytest.mark.parametrize(
    ("key", "meant"),
    [("HOSTNAM", "HOSTNAME"), ("RCFIL_07_X", "RCFILE_07_X"), ("RCFILE07", "RCFILE_07"),
     ("KEEP_SYSTEM_SERVICE", "KEEP_SYSTEM_SERVICES"), ("PREINT_1", "PREINIT_1")],
)  # fmt: skip
def test_did_you_mean(key: str, meant: str) -> None:
    (problem,) = find(f"[default]\n{key} = x\n")
    assert f"Did you mean {meant}?" in problem.hint


@pytest.mark.parametrize(
    "value",
    [
        "kubeadm join --token abcdef.0123456789abcdef 10.9.0.20:6443",
        "curl https://user:hunter2@example.org/",
        "echo password=hunter2",
        "echo '-----BEGIN OPENSSH PRIVATE KEY-----'",
    ],
)
def test_secrets_are_told_and_not_repeated(value: str) -> None:
    (problem,) = find(f'[default]\nRCFILE_01 = "{value}"\n')
    assert problem.code == "secret"
    assert "abcdef.0" not in problem.excerpt
    assert "hunter2" not in problem.excerpt.replace("hunter2 ", "")


def test_a_template_with_the_secret_elsewhere_holds_none(tmp_path: Path) -> None:
    conf = tmp_path / "lts.conf"
    conf.write_text('# jinja2\n[default]\nRCFILE_01 = "kubeadm join --token {{ secrets.t }} x"\n')
    result = CliRunner().invoke(lts, ["check", str(conf), "--strict"])
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c["stopped"] or c["crashes"] or c.get("echoed")],
    ids=lambda case: case["slug"],
)
def test_whatever_goes_wrong_in_ltsp5_is_an_error(case: dict[str, Any]) -> None:
    included = {path.encode(): text.encode() for path, text in case.get("includes", {}).items()}

    def read_include(path: bytes) -> Included | None:
        if path == b"/etc/lts.d":
            return Included(path, path.decode(), None)
        data = included.get(path)
        return None if data is None else Included(path, path.decode(), data)

    main = Included("main", "lts.conf", case["conf"].encode("utf-8", "surrogateescape"))
    assert any(problem.severity == "error" for problem in lint(main, read_include))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_exit_codes(tmp_path: Path) -> None:
    good = write(tmp_path / "good", "[default]\nTIMEZONE = UTC\n")
    warning = write(tmp_path / "warning", "[default]\nHOSTNAM = x\n")
    bad = write(tmp_path / "bad", "[default]\n")
    for arguments, status in (
        ([good], 0),
        ([warning], 0),
        ([warning, "--strict"], 1),
        ([bad], 1),
        ([good, bad], 1),
        ([str(tmp_path / "nosuch")], 2),
    ):
        assert CliRunner().invoke(lts, ["check", *arguments]).exit_code == status


def test_formats(tmp_path: Path) -> None:
    bad = write(tmp_path / "a,b.conf", "[default]\nSYSLOG_HOST = 100%=x\n")
    text = CliRunner().invoke(lts, ["check", bad])
    assert f"{bad}:2:19: error: an = that belongs to no key [stray-equals]" in text.stdout
    assert "2 | SYSLOG_HOST = 100%=x" in text.stdout
    assert "fix: " in text.stdout
    github = CliRunner().invoke(lts, ["check", bad, "--format", "github"])
    place = str(tmp_path / "a%2Cb.conf")
    assert github.stdout.startswith(f"::error file={place},line=2,col=19,title=lts.conf%3A stray-")
    report = json.loads(CliRunner().invoke(lts, ["check", bad, "--format", "json"]).stdout)
    assert (report["errors"], report["warnings"]) == (1, 0)
    assert report["problems"][0]["line"] == 2
    assert report["problems"][0]["ltsp5"] == "stops"
