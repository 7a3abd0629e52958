"""The command: its lines, its JSON, its exit codes; and the page that explains it all."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from bootfarm import main
from server.doctor import cli
from server.doctor.findings import CHECKS, FINDINGS, found, render_reference
from server.doctor.verdict import Level, Verdict, good, render_line, render_summary, worst
from tests.server.doctor.site import FakeSite, health

HOUSE = Path(__file__).parents[3]
DOCS = HOUSE / "docs" / "doctor.md"


def run(site: FakeSite, *words: str) -> Result:
    target = site.target
    argv = ["doctor", "--server", target.server, "--no-dhcp", "--tftp-port", str(target.tftp_port)]
    argv += ["--nbd-port", str(target.nbd_port), "--http-port", str(target.http_port)]
    return CliRunner().invoke(main, [*argv, "--store", str(target.store), *words])


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ports of the test's services count as bootfarm's."""
    monkeypatch.setattr("server.doctor.service.is_bootfarm", lambda pid: True)


def test_all_well(site: FakeSite, ours: None) -> None:
    done = run(site)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("OK    server.ok            http://127.0.0.1:")
    assert re.fullmatch(r"\d+ OK, 2 SKIP, 0 WARN, 0 FAIL", lines[-1])


def test_a_warning(site: FakeSite, ours: None) -> None:
    site.pages["/healthz"] = health(site, problems=["the disk hums"])
    done = run(site)
    assert done.exit_code == 1
    assert "the disk hums\n      remedy: " in done.output
    assert "OK    tftp.ok" in done.output
    lines = run(site, "--quiet").output.splitlines()
    assert lines[0].split()[:2] == ["WARN", "server.degraded"]
    assert (len(lines), "1 WARN, 0 FAIL" in lines[-1]) == (3, True)


def test_a_failure_in_json(site: FakeSite) -> None:
    del site.files["/ltsp/amd64/boot.ipxe"]
    done = run(site, "--json")
    assert done.exit_code == 2
    document = json.loads(done.stdout)
    assert (document["format"], document["server"]) == (1, "127.0.0.1")
    assert (document["level"], document["exit_code"]) == ("fail", 2)
    bad = [v for v in document["verdicts"] if v["id"] == "tftp.missing"]
    assert bad == [
        {
            "id": "tftp.missing",
            "level": "fail",
            "subject": "/ltsp/amd64/boot.ipxe",
            "words": "File not found",
            "remedy": FINDINGS["tftp.missing"].remedy,
        }
    ]
    named = run(site, "-o", "name")
    assert (named.exit_code, named.stderr) == (2, "")
    assert {"tftp.missing", "server.ok"} <= set(named.stdout.splitlines())
    assert "server.ok" not in run(site, "-o", "name", "--quiet").stdout.splitlines()
    told = yaml.safe_load(run(site, "-o", "yaml").stdout)
    assert told.keys() == document.keys()
    ids = [verdict["id"] for verdict in document["verdicts"]]
    assert [verdict["id"] for verdict in told["verdicts"]] == ids


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--server", "here"], "--server 'here' is not an IPv4 address"),
        (["--interface", "nosuch0"], "no such network interface"),
        (["--mac", "junk"], "--mac 'junk' is no MAC"),
        (["--config", "/nonexistent/farm.yaml"], "/nonexistent/farm.yaml"),
        (["--nonsense"], "No such option"),
    ],
)
def test_what_keeps_it_from_looking_is_exit_code_3(words: list[str], says: str) -> None:
    done = CliRunner().invoke(main, ["doctor", *words])
    assert (done.exit_code, says in done.output) == (3, True), done.output


def test_farm_yaml_tells_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def examine(target: object) -> list[Verdict]:
        seen.append(target)
        return []

    monkeypatch.setattr(cli, "examine", examine)
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    farm = tmp_path / "farm.yaml"
    farm.write_text(
        "address: 127.0.0.1\ndhcp: proxy\nservices: [tftp, http]\ntftp: {port: 1069}\n"
        "store: s\nstate: t\nhttp: {port: 8081}\ntoken_file: token\n"
        "dns: {zone: farm.test, port: 5353}\nlogs: {syslog: on}\n"
    )
    argv = ["doctor", "--config", str(farm), "--http-port", "8082", "--mac", "52-54-00-AA-00-01"]
    assert CliRunner().invoke(main, argv).exit_code == 0
    (target,) = seen
    assert target == replace(
        target,  # type: ignore[type-var]
        server="127.0.0.1",
        tftp_port=1069,
        http_port=8082,
        nbd_port=10809,
        local=True,
        interface="",
        own_address="127.0.0.1",
        mac="52:54:00:aa:00:01",
        services=("tftp", "http", "dhcp"),
        dns=("boot.farm.test", 5353),
        logs={"syslog": 514},
        token="0123456789abcdef0123456789abcdef",
        store=tmp_path / "s",
        state=tmp_path / "t",
    )


def test_levels() -> None:
    verdicts = [good("tftp", "x", "y"), found("api.none", "x", "y"), found("mtu.small", "x", "y")]
    assert worst(verdicts) is Level.WARN
    assert worst([]) is Level.OK
    assert worst([*verdicts, found("tftp.silent", "x", "y")]) is Level.FAIL
    assert render_summary(verdicts) == "1 OK, 1 SKIP, 1 WARN, 0 FAIL"
    assert render_line(verdicts[0]) == "OK    tftp.ok              x: y"


def test_the_page_lists_every_verdict_as_the_doctor_has_it() -> None:
    assert render_reference().rstrip() in DOCS.read_text(), (
        "make it anew from findings.render_reference()"
    )


def test_every_finding_is_of_a_check_and_has_a_remedy() -> None:
    for id_, finding in FINDINGS.items():
        assert id_.partition(".")[0] in CHECKS
        assert finding.level is not Level.OK
        assert finding.remedy
        assert finding.meaning


def test_every_finding_has_a_test_that_makes_the_fault() -> None:
    tests = "".join(
        path.read_text()
        for path in Path(__file__).parent.glob("test_*.py")
        if path != Path(__file__)
    )
    assert [id_ for id_ in FINDINGS if f'"{id_}"' not in tests] == []
