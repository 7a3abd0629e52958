"""`bootfarm serve --check`, as a user calls it."""

import os
import shutil
import socket
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from server.commands.serve import serve_command
from server.events import Event
from server.nodes.timelines import Nodes
from tests.server.farm import publish

GOOD = """\
store: store
lts_conf: lts.conf
state: state
listen: 127.0.0.1
default_image: amd64
secrets: secrets
token_file: token
tftp: {port: TFTP}
nbd: {port: NBD}
http: {port: HTTP}
facts: {api: "10.9.0.1:6443"}
inventory:
- {mac: 52:54:00:00:00:01, ip: 10.9.0.11, hostname: node-1}
- {mac: 52:54:00:00:00:02, hostname: node-2}
"""
TEMPLATE = """\
# jinja2
[default]
RCFILE_01 = "kubeadm join {{ farm.api }} --token {{ secrets.join_token }}"
HOSTNAME = "{{ node.hostname }}"
"""


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    """A farm that is in order; its ports are free."""
    publish(tmp_path / "store")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "join_token").write_text("abcdef.0123456789abcdef")
    (tmp_path / "token").write_text("0123456789abcdef0123\n")
    (tmp_path / "lts.conf").write_text(TEMPLATE)
    ports: dict[str, int] = {}
    for name, kind in (("TFTP", socket.SOCK_DGRAM), ("NBD", socket.SOCK_STREAM)):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind(("127.0.0.1", 0))
            ports[name] = sock.getsockname()[1]
    ports["HTTP"] = 0
    text = GOOD
    for name, port in ports.items():
        text = text.replace(name, str(port))
    (tmp_path / "farm.yaml").write_text(text)
    return tmp_path


def check(farm: Path, *arguments: str) -> Result:
    argv = ["--config", str(farm / "farm.yaml"), "--check", *arguments]
    return CliRunner().invoke(serve_command, argv)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def list_tree(path: Path) -> list[tuple[str, int]]:
    return sorted((str(file), file.lstat().st_mtime_ns) for file in path.rglob("*"))


def test_a_farm_in_order(farm: Path) -> None:
    before = list_tree(farm)
    result = check(farm)
    assert result.exit_code == 0, result.output
    (line,) = result.output.splitlines()
    for words in (
        f"checked: {farm}/farm.yaml, inventory (2 machines)",
        "secrets (1)",
        "store (1 image)",
        f"{farm}/lts.conf (on 3 machines)",
        "3 ports: no faults",
    ):
        assert words in line
    assert list_tree(farm) == before


def test_every_fault_is_told_at_once_with_its_place(farm: Path) -> None:
    edit(farm / "farm.yaml", "ip: 10.9.0.11", "ip: 10.9.0.999")
    edit(farm / "farm.yaml", "listen: 127.0.0.1", "listen: 127.0.0.1\nlimit: 5")
    edit(farm / "farm.yaml", "http: {port: 0}", "http: {port: 0, limits: {conections: 5}}")
    edit(farm / "farm.yaml", "default_image: amd64", "default_image: arm64")
    edit(farm / "farm.yaml", "token_file: token", "token_file: nothere")
    edit(farm / "lts.conf", "node.hostname", "node.hostnam")
    edit(farm / "lts.conf", "farm.api", "farm.apl")
    result = check(farm)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    lines = result.output.splitlines()
    for place in (
        f"{farm}/farm.yaml:5: limit: unknown key",
        f"{farm}/farm.yaml:6: default_image: there is no image 'arm64'",
        f"{farm}/farm.yaml:8: token_file: ",
        f"{farm}/farm.yaml:11: http.limits.conections: unknown key",
        f"{farm}/farm.yaml:14: inventory[0].ip: '10.9.0.999' is not an IPv4 address",
        f"{farm}/lts.conf:3:",
        f"{farm}/lts.conf:4:",
    ):
        assert any(line.startswith(place) for line in lines), (place, result.output)
    ours = [line for line in lines if line.startswith(f"{farm}/farm.yaml:")]
    numbers = [int(line.removeprefix(f"{farm}/farm.yaml:").partition(":")[0]) for line in ours]
    assert numbers == sorted(numbers)
    faults = [line for line in lines[:-1] if not line.startswith("  hint: ")]
    assert len(faults) == sum(line.startswith("  hint: ") for line in lines)
    assert lines[-1].endswith(f": {len(faults)} faults")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("store: store", "store: nosuch", "farm.yaml:1: store: the store "),
        ("state: state", "state: lts.conf", "farm.yaml:3: state: "),
        ("listen: 127.0.0.1", "listen: 192.0.2.77", "no interface of this machine has"),
        ("secrets: secrets", "secrets: nosuch", "farm.yaml:6: secrets: "),
        ("lts_conf: lts.conf", "lts_conf: nosuch.conf", "nosuch.conf"),
        ("default_image: amd64", "default_image: amd64\ncollect_after: 5\nstate:", "stands twice"),
        ("state: state", "collect_after: 5", "farm.yaml:3: collect_after: "),
        ("state: state", "dhcp_range: 10.9.0.1-10.9.0.9", "farm.yaml:3: dhcp_range: full gives"),
        ("state: state", "dhcp: full", "farm.yaml:3: dhcp: full gives addresses"),
        ("state: state", "inventry: x", "did you mean 'inventory'?"),
        ("state: state", "dhcp: full\ndhcp_range: 1-2", "farm.yaml:4: dhcp_range: '1-2' is not a"),
        ("state: state", "exports: {disk: nosuch.img}", "farm.yaml:3: exports.disk: "),
        ("state: state", "boot_tree: nosuch", "farm.yaml:3: boot_tree: "),
        ("state: state", "dns: {zone: a.b, limits: {x: 1}}", "farm.yaml:3: dns.limits.x: unknown"),
        ("listen: 127.0.0.1", "listen: 224.0.0.1", "farm.yaml:4: listen: 224.0.0.1 is a group's"),
        ("listen: 127.0.0.1", "listen: 255.255.255.255", "farm.yaml:4: listen: 255.255.255.255 is"),
        ("state: state", "rollout: {enabled: true}", "rollout is kept nowhere"),
        (
            "state: state",
            "state: state\nrollout: {enabled: true, kubeconfig: nosuch}",
            "farm.yaml:4: rollout: ",
        ),
        ("state: state", "logs: {syslog: 5514, netconsole: 5514}", "is logs.syslog's already"),
        ("store: store", "store: [", "farm.yaml:3:6: "),
    ],
)
def test_one_fault(farm: Path, old: str, new: str, said: str) -> None:
    edit(farm / "farm.yaml", old, new)
    result = check(farm)
    assert result.exit_code == 1
    assert said in result.output, result.output


def test_what_no_machine_or_one_machine_can_use(farm: Path) -> None:
    edit(farm / "lts.conf", "[default]", "[default")
    result = check(farm)
    assert result.exit_code == 1
    assert f"{farm}/lts.conf:3:1: " in result.output
    (farm / "lts.conf").write_text('[default]\nA = 1\n[node-1]\nIMAGE = ":canary"\n')
    result = check(farm)
    assert result.exit_code == 1
    assert f"{farm}/lts.conf:4:" in result.output
    assert "has no tag 'canary'" in result.output


def test_the_tag_that_machines_boot(farm: Path) -> None:
    (farm / "store" / "images" / "amd64" / "tags" / "current").unlink()
    result = check(farm)
    assert result.exit_code == 1
    assert f"{farm}/farm.yaml:5: default_image: " in result.output
    assert result.output.count("has no tag 'current'") == 1


def test_a_port_that_another_process_has_and_one_that_is_wanted_twice(farm: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        edit(farm / "farm.yaml", "http: {port: 0}", f"http: {{port: {port}}}")
        result = check(farm)
        assert result.exit_code == 1
        assert f"{farm}/farm.yaml:10: http.port: http cannot bind TCP 127.0.0.1:{port}" in (
            result.output
        )
        assert f"(pid {os.getpid()})" in result.output
        assert check(farm, "--no-ports").exit_code == 0
    result = check(farm, "--nbd-port", str(port))
    assert result.exit_code == 1
    assert f"http.port: TCP port {port} is nbd.port's already" in result.output


def test_ports_are_free_again_afterwards(farm: Path) -> None:
    assert check(farm).exit_code == check(farm).exit_code == 0


def test_flags_are_named_where_they_are_wrong(farm: Path) -> None:
    result = check(farm, "--store", str(farm / "nosuch"), "--services", "tftp,ntp")
    assert result.exit_code == 1
    assert f"--store: the store {farm}/nosuch: there is no such directory" in result.output
    assert "--services: there is no service 'ntp'" in result.output


def test_without_a_farm_yaml(farm: Path) -> None:
    argv = ["--check", "--no-ports", "--store", str(farm / "store")]
    result = CliRunner().invoke(serve_command, argv)
    assert result.exit_code == 0, result.output
    assert result.output == "checked: store (1 image): no faults\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("join: {api: 10.9.0.20:6443}", "farm.yaml:3: join: without `certificates: true`"),
        ("rollout: {namespace: farm}", "farm.yaml:3: rollout: without `enabled: true`"),
        ("dhcp_limits: {client_rate: 2}", "farm.yaml:3: dhcp_limits: the server answers no DHCP"),
        ("listen: 0.0.0.0\naddress: 127.0.0.1", "farm.yaml:4: address: 127.0.0.1 is each"),
    ],
)
def test_keys_that_do_nothing_are_told(farm: Path, more: str, said: str) -> None:
    path = farm / "farm.yaml"
    text = path.read_text().replace("state: state\n", f"{more}\n")
    path.write_text(text.replace("listen: 127.0.0.1\n", "") if "listen" in more else text)
    result = check(farm, "--no-ports")
    assert result.exit_code == 0, result.output
    assert f"warning: {farm}/{said}" in result.output


def test_one_port_for_two_is_told_without_binding_it(farm: Path) -> None:
    edit(farm / "farm.yaml", "http: {port: 0}", "http: {port: 8080}")
    result = check(farm, "--no-ports", "--nbd-port", "8080")
    assert result.exit_code == 1
    assert "http.port: TCP port 8080 is nbd.port's already" in result.output


def test_warnings_are_no_faults(farm: Path) -> None:
    publish(farm / "store", "other", tags=("canary",))
    result = check(farm)
    assert result.exit_code == 0, result.output
    assert "warning: " in result.output
    assert "image other has no tag 'current'" in result.output
    assert result.output.splitlines()[-1].endswith("no faults, 1 warning")


def test_an_empty_store_that_images_are_fetched_into(farm: Path) -> None:
    shutil.rmtree(farm / "store")
    done = check(farm, "--peer", "http://10.9.0.2:8080")
    assert "holds no image yet" in done.output
    assert done.exit_code == 0, done.output
    assert not (farm / "store").exists()
    done = check(farm, "--peer", "10.9.0.2")
    assert "'10.9.0.2' is no server's address" in done.output
    assert done.exit_code == 1


def test_secrets_are_not_told(farm: Path) -> None:
    edit(farm / "lts.conf", "HOSTNAME =", "TIMEZONE = {{ secrets.join_token }}\nHOSTNAME =")
    assert "abcdef.0123" not in check(farm).output


def test_an_inventory_that_is_not_there(farm: Path) -> None:
    text = (farm / "farm.yaml").read_text().partition("inventory:")[0]
    (farm / "farm.yaml").write_text(text + "inventory: nosuch.yaml\n")
    result = check(farm)
    assert result.exit_code == 1
    assert f"{farm}/farm.yaml:12: inventory: {farm}/nosuch.yaml: no such file" in result.output


def test_a_hosts_file_that_is_none(farm: Path) -> None:
    with (farm / "farm.yaml").open("a") as file:
        file.write("hosts_file: nothere\n")
    result = check(farm)
    assert result.exit_code == 1
    line = (farm / "farm.yaml").read_text().count("\n")
    words = f"hosts_file: {farm}/nothere is no file that the server can read"
    assert f"{farm}/farm.yaml:{line}: {words}" in result.output
    (farm / "nothere").touch()
    assert check(farm).exit_code == 0


def test_only_listed_machines_boot_and_none_is_listed(farm: Path) -> None:
    text = (farm / "farm.yaml").read_text()
    (farm / "farm.yaml").write_text(text[: text.index("inventory:")] + "unlisted: refuse\n")
    result = check(farm)
    assert result.exit_code == 1
    assert "unlisted: refuse, and the inventory lists no machine: none can boot" in result.output


def test_machines_that_were_seen_lately_are_tried(farm: Path) -> None:
    nodes = Nodes(lambda ip: ("52:54:00:00:00:77", None))
    beacon = {"status": "ok", "boot": "a"}
    nodes.record(Event(time.time(), "10.9.0.77", "beacon", "initramfs", beacon))
    nodes.record(Event(time.time() - 30 * 86_400, "10.9.0.78", "beacon", "initramfs", beacon))
    nodes.save(farm / "state" / "nodes")
    edit(
        farm / "lts.conf",
        'HOSTNAME = "{{ node.hostname }}"',
        "{% if node.mac == '52:54:00:00:00:77' %}",
    )
    with (farm / "lts.conf").open("a") as file:
        file.write('A = "{{ node.serial }}"\n{% endif %}\n')
    result = check(farm)
    assert f"{farm}/lts.conf (on 4 machines)" in result.output
    assert "1 machine of 4 cannot boot" in result.output
    assert "node.serial is undefined" in result.output
    assert "52:54:00:00:00:77" in result.output
