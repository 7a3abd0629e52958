"""`lts explain` and `lts diff`: where values come from, what an edit changes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.commands.lts import lts
from server.ltsconf import LtsConf, NodeId
from server.ltsconf.explain import explain

CONF = """\
[default]
SYSLOG_HOST = 10.9.0.1
TIMEZONE = UTC
MODULE_01 = a
[pc*]
LIKE = rack
[rack]
SYSLOG_HOST = 10.9.0.2
[pc7]
TIMEZONE = NONE
SYSLOG_HOST = 10.9.0.3
SYSLOG_HOST = 10.9.0.4
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(lts, [str(argument) for argument in arguments])


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "lts.conf"
    path.write_text(CONF)
    return path


def test_each_value_with_origin_and_what_it_overrode() -> None:
    found = {
        one.key: one
        for one in explain(
            LtsConf.parse(CONF.encode()),
            NodeId("pc7"),
            {"SYSLOG_HOST": "10.9.0.9", "LTSP_NBD_TO_RAM": "true"},
            image="amd64@012345",
        )
    }
    assert list(found) == ["LTSP_NBD_TO_RAM", "SYSLOG_HOST", "TIMEZONE", "MODULE_01"]
    syslog = found["SYSLOG_HOST"]
    assert syslog.value == "10.9.0.4"
    assert (syslog.origin.why, syslog.origin.where) == ("[pc7], the section of pc7", "lts.conf:12")
    assert [(place.value, place.why) for place in syslog.overrode] == [
        ("10.9.0.3", "[pc7], the section of pc7"),
        ("10.9.0.2", "[rack], by LIKE from [pc*] (a glob that matches pc7)"),
        ("10.9.0.1", "[default], the default"),
        ("10.9.0.9", "default of the image amd64@012345"),
    ]
    assert (syslog.step, syslog.actor) == ("preinit", "usr/lib/bootfarm/init.d/syslog.sh")
    assert found["TIMEZONE"].value is None
    assert found["LTSP_NBD_TO_RAM"].step == "root"
    assert "default of the image" in found["LTSP_NBD_TO_RAM"].origin.why


def test_explain_on_the_command_line(conf: Path) -> None:
    result = run("explain", conf, "--hostname", "pc7")
    assert 'SYSLOG_HOST = "10.9.0.4"' in result.stdout
    assert f"from  [pc7], the section of pc7 ({conf}:12)" in result.stdout
    assert "TIMEZONE (unset by NONE)" in result.stdout
    assert run("explain", conf).exit_code == 2
    only = json.loads(
        run("explain", conf, "--ip", "10.0.0.1", "--key", "module_*", "--json").stdout
    )
    assert [one["key"] for one in only] == ["MODULE_01"]


def test_the_image_is_the_lowest_layer(conf: Path, tmp_path: Path) -> None:
    manifest = {
        "format": 1, "name": "amd64", "distribution": "debian", "release": "bookworm",
        "architecture": "amd64", "kernel": "6.1", "cmdline": [], "versions": {}, "packages": {},
        "lts_defaults": {"LTSP_NBD_TO_RAM": "true"}, "files": {}, "stages": {},
    }  # fmt: skip
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")) + "\n")
    result = run("explain", conf, "--hostname", "pc7", "--image", path, "--key", "LTSP_NBD_TO_RAM")
    assert "from  default of the image amd64" in result.stdout
    assert run("explain", conf, "--hostname", "x", "--image", "nosuch").exit_code == 1


def test_a_rendered_value_says_so(tmp_path: Path) -> None:
    path = tmp_path / "lts.conf"
    path.write_text("# jinja2\n[default]\nHOSTNAME_BASE = {{ farm.site }}-\n")
    result = run("explain", path, "--mac", "52:54:00:00:00:01", "--fact", "farm.site=west")
    assert 'HOSTNAME_BASE = "west-"' in result.stdout
    assert "rendered from the template" in result.stdout


def test_facts_are_those_that_nodes_have(tmp_path: Path) -> None:
    path = tmp_path / "lts.conf"
    path.write_text("# jinja2\n[default]\nHOSTNAME_BASE = {{ node.labels.rack }}-\n")
    who = ("--mac", "52:54:00:00:00:01")
    result = run("render", path, *who, "--fact", "node.labels.rack=r1")
    assert result.stdout.endswith("HOSTNAME_BASE = r1-\n")
    for fact in ("node.label.rack=r1", "node.labels=r1", "node.serail=x", "node.serial.x=y"):
        result = run("render", path, *who, "--fact", fact)
        assert result.exit_code == 1
        assert f"--fact {fact.partition('=')[0]}: no node has that" in result.output
    result = run("render", path, *who, "--fact", "farm.a=1", "--fact", "farm.a.b=2")
    assert "another --fact gives a a value of its own" in result.output


def test_diff(conf: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.conf"
    new.write_text(CONF.replace("10.9.0.2", "10.9.0.5") + "RCFILE_01 = x\n")
    inventory = tmp_path / "nodes.yaml"
    inventory.write_text(
        '- {mac: "52:54:00:00:00:07", hostname: pc7}\n'
        '- {mac: "52:54:00:00:00:08", hostname: pc8, ip: 10.9.0.8}\n'
        '- {mac: "52:54:00:00:00:09", hostname: srv}\n'
    )
    result = run("diff", conf, new, "--inventory", inventory)
    assert result.exit_code == 0
    assert result.stdout == (
        'pc7 52:54:00:00:00:07:\n  + RCFILE_01="x"\n'
        'pc8 10.9.0.8 52:54:00:00:00:08:\n'
        '  - SYSLOG_HOST="10.9.0.2"\n  + SYSLOG_HOST="10.9.0.5"\n'
    )  # fmt: skip
    assert "2 of 3 nodes" in result.stderr
    assert run("diff", conf, new, "--inventory", inventory, "--exit-code").exit_code == 1
    assert run("diff", conf, conf, "--inventory", inventory, "--exit-code").exit_code == 0
    as_json = json.loads(run("diff", conf, new, "--hostname", "pc7", "--json").stdout)
    assert as_json[0]["changes"] == {"RCFILE_01": {"old": None, "new": "x"}}
    assert run("diff", conf, new).exit_code == 2


def test_diff_tells_of_nodes_that_would_get_nothing(conf: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.conf"
    new.write_text(CONF + "LIKE = pc7\n")
    result = run("diff", conf, new, "--hostname", "pc7")
    assert "new: " in result.stdout
    assert "cycle" in result.stdout
