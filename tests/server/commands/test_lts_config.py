"""`bootfarm lts` with what a farm knows: --config, masked secrets, machines, exit codes, pipes."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.commands.lts import lts
from server.events import Event
from server.nodes.timelines import TIMELINES, Nodes
from server.quantities import compress_names
from tests.server.farm import publish

TOKEN = "abcdef.0123456789abcdef"
CONF = """\
# jinja2
[default]
TIMEZONE = UTC
RCFILE_01_JOIN = "kubeadm join {{ farm.api }} --token {{ secrets.join_token }}"
{% if node.serial is defined %}SYSLOG_HOST = 10.9.0.9
{% endif %}
[r2-*]
MODULE_01 = a
[*-n005]
MODULE_02 = b
[52:54:00:00:00:03]
IMAGE = ":canary"
[r2-n005]
MODULE_04 = d
"""
FARM = """\
facts: {api: "10.9.0.1:6443"}
secrets: sec
store: store
inventory:
  - {mac: "52:54:00:00:00:01", ip: 10.9.1.1, hostname: r1-n001, serial: A1}
  - {mac: "52:54:00:00:00:02", ip: 10.9.1.2, hostname: r1-n002, serial: A2}
  - {mac: "52:54:00:00:00:03", ip: 10.9.1.3, hostname: r2-n005}
"""


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "farm.yaml").write_text(FARM)
    (tmp_path / "sec").mkdir()
    (tmp_path / "sec" / "join_token").write_text(TOKEN + "\n")
    publish(tmp_path / "store")
    (tmp_path / "lts.conf").write_text(CONF)
    return tmp_path


def run(*arguments: str, stdin: bytes | str = "") -> Result:
    return CliRunner().invoke(lts, list(arguments), input=stdin)


def test_check_knows_what_the_farm_knows(farm: Path) -> None:
    result = run("check", "lts.conf", "--config", "farm.yaml", "--format", "json")
    found = [(one["code"], one["line"]) for one in json.loads(result.stdout)["problems"]]
    assert sorted(found) == [("losing-section", 9), ("losing-section", 11), ("no-image", 12)]
    assert result.exit_code == 1
    plain = run("check", "lts.conf")
    assert (plain.exit_code, plain.stderr) == (0, "lts.conf: ok\n")


def test_check_tries_each_machine(farm: Path) -> None:
    text = CONF.replace(" is defined", "").replace(':canary"', 'amd64"')
    (farm / "lts.conf").write_text(text + "[r3-*]\nMODULE_05 = e\n")
    result = run("check", "lts.conf", "--config", "farm.yaml")
    assert result.exit_code == 1
    assert "lts.conf:5:1: error: 2 of 4 machines get nothing from it (r2-n005, any" in result.stdout
    (farm / "lts.conf").write_text(CONF.replace("farm.api", "farm.apl") + "[r3-*]\nMODULE_05 = e\n")
    result = run("check", "lts.conf", "--config", "farm.yaml")
    assert "lts.conf:4:1: error: farm has no 'apl' [unknown-name]" in result.stdout
    assert "Did you mean farm.api?" in result.stdout
    assert run("check", "lts.conf").exit_code == 0, "without the farm nobody knows its facts"


def test_a_section_for_no_machine_is_told(farm: Path) -> None:
    (farm / "lts.conf").write_text(CONF + "[r3-*]\nMODULE_05 = e\n")
    result = run("check", "lts.conf", "--config", "farm.yaml")
    assert "lts.conf:15:1: warning: [r3-*] is a glob that matches no machine" in result.stdout


@pytest.mark.parametrize("command", [["resolve"], ["explain"], ["render"]])
def test_secrets_are_masked_unless_asked_for(farm: Path, command: list[str]) -> None:
    arguments = [*command, "lts.conf", "--config", "farm.yaml", "--mac", "5254.0000.0001"]
    masked = run(*arguments)
    assert masked.exit_code == 0
    assert TOKEN not in masked.output
    assert "--token (secret)" in masked.output
    assert "10.9.0.9" in masked.output, "the inventory's serial is known"
    assert f"--token {TOKEN}" in run(*arguments, "--show-secrets").output


def test_an_error_quotes_no_secret(farm: Path) -> None:
    (farm / "lts.conf").write_text("# jinja2\n[default]\nA = {{ {}[secrets.join_token] }}\n")
    for command in ("resolve", "render"):
        result = run(command, "lts.conf", "--config", "farm.yaml", "--hostname", "r1-n001")
        assert result.exit_code == 1
        assert TOKEN not in result.output
        assert "lts.conf:3:1" in result.stderr


def test_explain_tells_the_sections_that_lose(farm: Path) -> None:
    result = run("explain", "lts.conf", "--config", "farm.yaml", "--hostname", "r2-n005")
    assert "not used: [*-n005] (lts.conf:9) matches r2-n005 too" in result.stdout
    assert "not used: [52:54:00:00:00:03] (lts.conf:11) matches 52:54:00:00:00:03" in result.stdout
    assert "write LIKE = *-n005 there" in result.stdout
    assert "(lts.conf:8)" in result.stdout, "the template's own line"
    as_json = run("explain", "lts.conf", "--config", "farm.yaml", "--ip", "10.9.1.3", "--json")
    assert isinstance(json.loads(as_json.stdout), list)


def test_explain_of_a_key_that_nobody_has(farm: Path) -> None:
    arguments = ["explain", "lts.conf", "--config", "farm.yaml", "--hostname", "r1-n001", "--key"]
    wrong = run(*arguments, "TIMEZON")
    assert wrong.exit_code == 1
    assert "did you mean TIMEZONE?" in wrong.stderr
    unset = run(*arguments, "DNS_SERVER")
    assert (unset.exit_code, unset.stderr) == (0, "DNS_SERVER is not set for this node.\n")


@pytest.mark.parametrize(
    "node",
    [
        ["--mac", "foo"],
        ["--mac", "00:00:00:00:00:00"],
        ["--mac", "01:00:5e:00:00:01"],
        ["--ip", "10.9.1.11/24"],
        ["--ip", "10.9.1.256"],
        ["--ip", "0.0.0.0"],
        ["--ip", "255.255.255.255"],
        ["--hostname", ""],
    ],
)
def test_what_is_no_address_is_an_error(farm: Path, node: list[str]) -> None:
    for command in ("explain", "resolve", "render"):
        assert run(command, "lts.conf", *node).exit_code == 2


def test_diff_groups_equal_changes(farm: Path) -> None:
    (farm / "new.conf").write_text(CONF.replace("UTC", "Europe/Prague"))
    result = run("diff", "lts.conf", "new.conf", "--config", "farm.yaml", "--exit-code")
    assert result.stdout == (
        '3 nodes (r1-n[001-002], r2-n005):\n  - TIMEZONE="UTC"\n  + TIMEZONE="Europe/Prague"\n'
    )
    assert result.stderr == "3 of 3 nodes get something different\n"
    assert result.exit_code == 1
    result = run("diff", "lts.conf", "new.conf", "--config", "farm.yaml", "--names")
    assert result.stdout.startswith("3 nodes (r1-n001, r1-n002, r2-n005):")
    result = run("diff", "lts.conf", "new.conf", "--config", "farm.yaml", "--summary")
    assert result.stdout == "TIMEZONE: 3 nodes\n"


def test_diff_says_what_it_could_not_compare(farm: Path) -> None:
    broken = CONF.replace("{{ farm.api }}", "{{ node.serial }}")
    (farm / "new.conf").write_text(broken)
    arguments = ["diff", "lts.conf", "new.conf", "--config", "farm.yaml"]
    result = run(*arguments)
    assert result.exit_code == 2
    assert "2 of 3 nodes get something different" in result.stderr
    assert "1 of 3 nodes could not be compared" in result.stderr
    both = run("diff", "new.conf", "new.conf", "--config", "farm.yaml", "--json")
    assert both.exit_code == 2
    (one,) = json.loads(both.stdout)
    assert one["old_error"] == one["new_error"] != ""
    assert TOKEN not in result.output + both.output


def test_the_inventorys_serial_is_a_fact(farm: Path) -> None:
    inventory = farm / "nodes.yaml"
    inventory.write_text('- {mac: "52:54:00:00:00:01", serial: A1, uuid: u}\n')
    for name, value in (("old", "UTC"), ("new", "GMT")):
        text = f"# jinja2\n[default]\nTIMEZONE = {value}\nHOSTNAME = {{{{ node.serial }}}}\n"
        (farm / name).write_text(text)
    result = run("diff", "old", "new", "--inventory", "nodes.yaml")
    assert (result.exit_code, result.stderr) == (0, "1 of 1 nodes get something different\n")


def test_what_is_not_here_is_told_and_no_error(farm: Path) -> None:
    (farm / "farm.yaml").write_text(FARM.replace("sec\n", "nosuch\n").replace(": store", ": no"))
    result = run("check", "lts.conf", "--config", "farm.yaml")
    assert "secrets: nosuch is not here" in result.stderr
    assert "store: no is not here" in result.stderr
    assert result.exit_code == 0


def test_check_reads_on_behind_a_file_that_cannot_be_read(farm: Path) -> None:
    (farm / "bad.conf").write_text("[default]\nTIMEZONE = Europe/Pragu\n")
    result = run("check", "nosuch.conf", "bad.conf")
    assert result.exit_code == 2
    assert "bad.conf:2:1: error" in result.stdout
    assert "1 error, 0 warnings, 1 of 2 could not be read" in result.stderr


def test_the_name_of_standard_input(farm: Path) -> None:
    arguments = ["check", "-", "--stdin-filename", "k8s/lts.conf", "--format", "github"]
    result = run(*arguments, stdin="[default]\nTIMEZONE = Europe/Pragu\n")
    assert result.stdout.startswith("::error file=k8s/lts.conf,line=2,")


MANIFEST = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "x"},
    "data": {"lts.conf": "[default]\nTIMEZONE = UTC\n"},
}
ENCODED = base64.b64encode(b"[default]\nTIMEZONE = UTC\n").decode()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(MANIFEST, separators=(",", ":")),
        json.dumps({"apiVersion": "v1", "kind": "List", "items": [MANIFEST]}, indent=2),
        json.dumps({**MANIFEST, "data": {}, "binaryData": {"lts.conf": ENCODED}}),
        json.dumps({**MANIFEST, "kind": "Secret", "data": {"lts.conf": ENCODED}}),
        "kind: Secret\napiVersion: v1\nstringData:\n  lts.conf: |\n    [default]\n"
        "    TIMEZONE = UTC\n",
        "apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: v1\nkind: ConfigMap\n"
        "data:\n  lts.conf: |\n    [default]\n    TIMEZONE = UTC\n",
    ],
)
def test_manifests_are_known_by_what_they_hold(text: str) -> None:
    result = run("resolve", "-", "--json", stdin=text)
    assert json.loads(result.stdout) == {"TIMEZONE": "UTC"}, result.output
    assert run("check", "-", stdin=text).exit_code == 0


def test_a_manifest_without_an_lts_conf_says_what_it_holds() -> None:
    result = run("check", "-", stdin="apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n")
    assert result.exit_code == 2
    assert "no ConfigMap in it has a key lts.conf" in result.stderr
    assert "it holds Deployment" in result.stderr
    broken = json.dumps({**MANIFEST, "kind": "Secret"})
    assert "data.lts.conf is no base64" in run("check", "-", stdin=broken).stderr


def test_lines_of_a_template_in_a_manifest() -> None:
    text = (
        "apiVersion: v1\nkind: ConfigMap\ndata:\n  lts.conf: |\n    # jinja2\n    [default]\n"
        "    {% for i in range(2) %}\n    RCFILE_{{ i }} = run\n    {% endfor %}\n"
        "    TIMEZONE = Europe/Pragu\n    A = {{ node.hostnam }}\n"
    )
    result = run("check", "-", "--format", "json", stdin=text)
    found = [(one["code"], one["line"]) for one in json.loads(result.stdout)["problems"]]
    assert ("bad-value", 10) in found
    assert ("unknown-name", 11) in found
    explained = run("explain", "-", "--hostname", "x", stdin=text.replace("hostnam ", "hostname "))
    assert "(<stdin>:10)" in explained.stdout


def test_a_pipe_is_read(farm: Path) -> None:
    os.mkfifo(farm / "pipe")
    writer = threading.Thread(target=lambda: (farm / "pipe").write_text("[default]\nA = 1\n"))
    writer.start()
    result = run("resolve", "pipe", "--json")
    writer.join()
    assert json.loads(result.stdout) == {"A": "1"}


def test_process_substitution(farm: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"[default]\nA = 1\n")
    os.close(write)
    code = "from bootfarm import main; main()"
    words = ["lts", "resolve", f"/dev/fd/{read}", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        pass_fds=[read],
        capture_output=True,
        cwd=Path(__file__).parents[3],
    )
    os.close(read)
    assert json.loads(done.stdout) == {"A": "1"}, done.stderr


def test_reference_is_printed_wherever_one_stands(farm: Path) -> None:
    page = run("reference")
    assert page.exit_code == 0
    assert "# lts.conf" in page.stdout
    assert run("reference", "-").stdout == page.stdout
    assert run("reference", "timezone").stdout.startswith("### TIMEZONE\n")
    assert run("reference", "RCFILE_07").stdout.startswith("### RCFILE_*\n")
    wrong = run("reference", "TIMEZON")
    assert wrong.exit_code == 1
    assert "Did you mean TIMEZONE?" in wrong.stderr
    assert run("reference", "--check").exit_code == 1
    assert {path.name for path in farm.iterdir()} == {"farm.yaml", "lts.conf", "sec", "store"}


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["n001", "n002", "n003", "x", "n007"], "n[001-003], x, n007"),
        (["n9", "n10"], "n9, n10"),
        ([f"a{n}b" for n in range(9)], "a0b, a1b, a2b, a3b, a4b, a5b, …"),
        (["", "1", "2"], ", [1-2]"),
    ],
)
def test_names_in_short(names: list[str], shown: str) -> None:
    assert compress_names(names) == shown


@pytest.mark.parametrize("command", [["check"], ["explain", "--hostname", "a"]])
def test_a_store_that_is_none_is_told(farm: Path, command: list[str]) -> None:
    """Nothing would be compared with it."""
    (farm / "empty").mkdir()
    for name, says in (("nothere", "is no directory"), ("empty", "holds no image")):
        result = run(command[0], "lts.conf", *command[1:], "--store", name)
        assert result.exit_code == (2 if command == ["check"] else 1)
        assert f"--store {name} {says}" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["lts.conf", "nothere", "--config", "farm.yaml"],
        ["nothere", "lts.conf", "--config", "farm.yaml"],
        ["lts.conf", "lts.conf", "--config", "nothere"],
        ["lts.conf", "lts.conf", "--config", "farm.yaml", "--secrets", "lts.conf"],
    ],
)
def test_a_diff_that_could_not_read_is_no_difference(farm: Path, words: list[str]) -> None:
    result = run("diff", *words, "--exit-code")
    assert result.exit_code == 2
    assert "Error: " in result.output


def test_a_terminal_obeys_no_value(farm: Path) -> None:
    (farm / "evil.conf").write_text('[default]\nTIMEZONE = "\x1b]0;x\x07UTC"\n')
    (farm / "good.conf").write_text('[default]\nTIMEZONE = "UTC"\n')
    for words in (["explain", "evil.conf"], ["diff", "good.conf", "evil.conf"]):
        result = run(*words, "--hostname", "a")
        assert "\\x1b]0;x\\x07UTC" in result.output
        assert "\x1b" not in result.output


BARE_LINES = """\
[default]
RCFILE_01_JOIN = "kubeadm join"
RCFILE_02_JOIN = "sleep 1; env A=b kubeadm --v=5 join --ignore-preflight-errors Swap && echo done"
[52:54:00:00:00:01]
RCFILE_01_JOIN = "kubeadm join 10.9.0.1:6443 --token {token} --discovery-token-ca-cert-hash {hash}"
RCFILE_02_JOIN = "kubeadm join --config /etc/join.yaml"
RCFILE_03_JOIN = "kubeadm join $API --v 5"
RCFILE_04_JOIN = "kubeadm join --help"
SYSLOG_HOST = kubeadm
"""


def test_a_join_without_a_token_wants_certificates_of_the_farm(farm: Path) -> None:
    text = BARE_LINES.format(token=TOKEN, hash="sha256:" + "0" * 64)
    (farm / "lts.conf").write_text(text)

    def look() -> list[tuple[str, int]]:
        result = run("check", "lts.conf", "--config", "farm.yaml", "--format", "json")
        found = json.loads(result.stdout)["problems"]
        return [(one["code"], one["line"]) for one in found if one["severity"] == "error"]

    assert look() == [("join-off", 2), ("join-off", 3)]
    result = run("check", "lts.conf", "--config", "farm.yaml")
    assert "RCFILE_01_JOIN: kubeadm join has no token, and farm.yaml gives no" in result.stdout
    assert "join: {certificates: true}" in result.stdout
    (farm / "farm.yaml").write_text(FARM + "join: {certificates: true}\n")
    assert look() == []
    assert "join-off" not in run("check", "lts.conf").stdout, "nobody says what the farm has"


def test_a_template_that_joins_without_a_token(farm: Path) -> None:
    (farm / "lts.conf").write_text(
        '# jinja2\n[default]\nRCFILE_01 = "kubeadm join"\n'
        'RCFILE_02 = "kubeadm join {{ farm.api }} --token {{ secrets.join_token }}"\n'
    )
    result = run("check", "lts.conf", "--config", "farm.yaml", "--format", "json")
    found = [(one["code"], one["line"]) for one in json.loads(result.stdout)["problems"]]
    assert found == [("join-off", 3)]


def test_what_a_line_without_a_token_cannot_say(farm: Path) -> None:
    (farm / "lts.conf").write_text(
        '[default]\nRCFILE_01 = "kubeadm join --node-name=x"\n'
        'RCFILE_02 = "kubeadm join --control-plane"\n'
        'RCFILE_03 = "kubeadm join 10.9.0.1:6443 --node-name x"\n'
    )
    result = run("check", "lts.conf")
    assert "RCFILE_01: kubeadm join without a token takes no --node-name" in result.stdout
    assert "RCFILE_02: kubeadm join without a token takes no --control-plane" in result.stdout
    assert "RCFILE_03" not in result.stdout


def test_what_a_template_computes_for_a_machine_is_checked(farm: Path) -> None:
    """Values that only a rendering knows: of an expression, a fact, a secret."""
    (farm / "farm.yaml").write_text(FARM.replace("facts: {", "facts: {site: lab, "))
    (farm / "lts.conf").write_text(
        "# jinja2\n[default]\n"
        "TIMEZONE = {{ 'Europe/Pragu' if node.hostname == 'r1-n002' else 'UTC' }}\n"
        "DNS_SERVER = {{ farm.site }}\n"
        'RCFILE_01 = "kubeadm join {{ farm.api }} --token {{ secrets.join_token }}"\n'
    )
    result = run("check", "lts.conf", "--config", "farm.yaml")
    assert result.exit_code == 1
    assert "lts.conf:3:1: error: TIMEZONE: 'Europe/Pragu' is no time zone (1: r1-n002)" in (
        result.stdout
    )
    assert "lts.conf:4:1: error: DNS_SERVER: 'lab' is no IP address (3: " in result.stdout
    assert "2 errors, 0 warnings" in result.stderr
    (farm / "sec" / "join_token").write_text("abcdef.01234secret\n")
    result = run("check", "lts.conf", "--config", "farm.yaml")
    assert "lts.conf:5:1: error: RCFILE_01: behind --token stands something else (3:" in (
        result.stdout
    )
    assert "01234secret" not in result.output


def test_check_knows_what_firmware_told_the_server(farm: Path) -> None:
    """A machine that said arm64 to DHCP, and an IMAGE that is for amd64."""
    publish(farm / "store", "arm64", architecture="arm64")
    with (farm / "farm.yaml").open("a") as stream:
        stream.write("state: state\ndefault_image: {amd64: amd64, arm64: arm64}\n")
    nodes = Nodes()
    for mac, number in (("52:54:00:00:00:01", 11), ("52:54:00:00:00:02", 7)):
        event = Event(
            time.time(), mac, "dhcp", "dhcp", {"firmware": "UEFI", "architecture": number}
        )
        nodes.record(event)
    nodes.save(farm / "state" / TIMELINES)
    (farm / "lts.conf").write_text("[default]\nTIMEZONE = UTC\n")
    assert run("check", "lts.conf", "--config", "farm.yaml").exit_code == 0
    (farm / "lts.conf").write_text("[default]\nTIMEZONE = UTC\nIMAGE = amd64\n")
    result = run("check", "lts.conf", "--config", "farm.yaml")
    assert result.exit_code == 1
    words = "image amd64:current is for amd64 machines, and this machine is arm64 (1: r1-n001)"
    assert f"lts.conf:3:1: error: {words} [other-architecture]" in result.stdout
    assert "the store has for arm64: arm64" in result.stdout
