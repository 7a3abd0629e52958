"""ConfigMap manifests: which texts, and where their lines stand."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.commands.lts import lts
from server.ltsconf import LtsConfError
from server.ltsconf.manifest import is_manifest, read_manifest
from server.ltsconf.scan import Included

MANIFEST = """\
apiVersion: v1
kind: Namespace
metadata: {name: farm}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: ltsp-config
data:
  rooms.conf: |
    [room-a]
    SYSLOG_HOST = 10.9.0.1
  lts.conf: |

    [default]
    SYSLOG_HOST = a=b
    include /any/where/rooms.conf
    [pc7]
    LIKE = room-a
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "cm.yaml"
    path.write_text(text)
    return str(path)


def test_places_are_those_of_the_manifest(tmp_path: Path) -> None:
    file = write(tmp_path, MANIFEST)
    report = json.loads(CliRunner().invoke(lts, ["check", file, "--format", "json"]).stdout)
    (problem,) = report["problems"]
    assert (problem["path"], problem["line"], problem["column"]) == (file, 16, 20)
    assert problem["excerpt"] == "SYSLOG_HOST = a=b"


def test_resolve_and_explain_read_it_with_its_other_keys_as_includes(tmp_path: Path) -> None:
    file = write(tmp_path, MANIFEST.replace("a=b", "ab"))
    result = CliRunner().invoke(lts, ["resolve", file, "--hostname", "pc7", "--json"])
    assert json.loads(result.stdout) == {"SYSLOG_HOST": "10.9.0.1"}


@pytest.mark.parametrize(
    "text",
    [
        'lts.conf: "[default]\\nSYSLOG_HOST = a=b\\n"',
        "lts.conf: >\n    [default]\n\n    SYSLOG_HOST = a=b\n",
    ],
)
def test_other_ways_to_write_a_text_in_yaml(tmp_path: Path, text: str) -> None:
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  "
    file = write(tmp_path, head + text)
    report = json.loads(CliRunner().invoke(lts, ["check", file, "--format", "json"]).stdout)
    assert [(p["code"], p["line"]) for p in report["problems"]] == [("stray-equals", 5)]


def test_a_list_of_several(tmp_path: Path) -> None:
    items = "".join(
        f"- apiVersion: v1\n  kind: ConfigMap\n  metadata: {{name: {name}}}\n"
        "  data:\n    lts.conf: |\n      [default]\n      HOSTNAM = x\n"
        for name in ("one", "two")
    )
    file = write(tmp_path, f"apiVersion: v1\nkind: List\nitems:\n{items}")
    report = json.loads(CliRunner().invoke(lts, ["check", file, "--format", "json"]).stdout)
    assert [problem["line"] for problem in report["problems"]] == [10, 17]
    result = CliRunner().invoke(lts, ["resolve", file, "--json"])
    assert result.exit_code == 1
    assert "one, two" in result.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n", "no ConfigMap in it has a key"),
        ("apiVersion: v1\nkind: ConfigMap\ndata:\n  lts.conf: |\n [default]\n", "no YAML"),
        ("apiVersion: v1\nkind: ConfigMap\ndata: [a\n", "no YAML"),
    ],
)
def test_what_cannot_be_read(text: str, says: str) -> None:
    with pytest.raises(LtsConfError, match=says):
        read_manifest(Included("main", "cm.yaml", text.encode()))


def test_an_lts_conf_is_no_manifest() -> None:
    assert is_manifest(MANIFEST.encode())
    assert not is_manifest(b"[default]\nA=1\n# kind: ConfigMap\n")


def test_resolve_takes_a_manifest_only_by_its_name(tmp_path: Path) -> None:
    """As an lts.conf it is what it is to LTSP 5: a syntax error in its first line."""
    file = tmp_path / "lts.conf"
    file.write_text(MANIFEST)
    result = CliRunner().invoke(lts, ["resolve", str(file), "--json"])
    assert result.exit_code == 1
    assert "before the first section" in result.stderr
