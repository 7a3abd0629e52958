from pathlib import Path

import pytest

from server.farm.config import Config, Menu, load_config, parse_config
from server.yamlfile import Faults, FaultsError, YamlError, parse_yaml


def parse(text: str) -> Config:
    return parse_config(parse_yaml(text, "farm.yaml"), "farm.yaml", Path("/etc/bootfarm"))


def test_an_empty_file_is_the_defaults() -> None:
    assert parse("") == parse("{}")
    assert parse("").tftp.port == 69
    assert parse("").dhcp == parse("dhcp: off").dhcp == "off"
    assert parse("").services == ("tftp", "nbd", "http")


def test_everything(tmp_path: Path) -> None:
    config = parse(
        """
store: /srv/store
lts_conf: lts.conf
state: ../state
listen: 10.9.0.1
address: 10.9.0.2
services: [http, tftp]
workers: 2
tftp: {port: 6969, single_port: true, limits: {transfers: 10}}
nbd: {port: 10810}
http: {port: 80, limits: {idle_seconds: 5}}
default_image: amd64
cmdline: [net.ifnames=0]
on_error: reboot
menu: {timeout: 10, serial: "1,9600"}
inventory:
  - {mac: 52:54:00:12:34:56, ip: 10.9.0.11, hostname: node-1}
  - mac: "AA-BB-CC-DD-EE-FF"
address_map: {10.8.0.7: 52:54:00:12:34:57}
hosts_file: none
nodes: {limit: 50, events: 20}
facts: {api: "10.9.0.1:6443", mtu: 9000, dns: [10.0.0.1], rack: {row: b}, dry: false}
secrets: secrets
dhcp: full
dhcp_range: 10.9.1.1-10.9.1.99
unlisted: refuse
exports: {disk: disk.img, "/a=b": /srv/a}
boot_tree: ../tftp
"""
    )
    assert config.exports == {"disk": Path("/etc/bootfarm/disk.img"), "/a=b": Path("/srv/a")}
    assert config.boot_tree == Path("/etc/bootfarm/../tftp")
    assert config.store == Path("/srv/store")
    assert config.lts_conf == Path("/etc/bootfarm/lts.conf")
    assert config.services == ("tftp", "http")
    assert (config.tftp.port, config.single_port) == (6969, True)
    assert config.tftp.limits == {"transfers": 10}
    assert (config.menu.timeout, config.menu.serial_unit, config.menu.serial_speed) == (10, 1, 9600)
    assert config.inventory.by_ip["10.9.0.11"].hostname == "node-1"
    assert "aa:bb:cc:dd:ee:ff" in config.inventory.by_mac
    assert config.address_map == {"10.8.0.7": "52:54:00:12:34:57"}
    assert config.hosts_file is None
    assert (config.max_nodes, config.events_per_node) == (50, 20)
    assert config.facts == {
        "api": "10.9.0.1:6443",
        "mtu": 9000,
        "dns": ["10.0.0.1"],
        "rack": {"row": "b"},
        "dry": False,
    }
    assert config.secrets == Path("/etc/bootfarm/secrets")
    assert (config.dhcp, config.dhcp_range) == ("full", "10.9.1.1-10.9.1.99")
    assert config.unlisted == "refuse"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("facts: {api-server: x}", "facts.api-server: 'api-server' is no name", "letters, digits"),
        ("facts: {a: {2: x}}", "facts.a.2: '2' is no name for templates", "no digit first"),
        ("facts: {a: [x, null]}", "facts.a[1]: has no value", "empty text"),
        ('facts: {a: "x\\ny"}', "facts.a: holds control characters", "one line"),
        ("dhcp: on", "dhcp: 'on' is not one of them", "off, proxy, full"),
        ("unlisted: no", "unlisted: 'no' is not one of them", "boot, menu, refuse"),
        ("dhcp_limits: 5", "dhcp_limits: expected keys with values", "key: value"),
        ("facts: [a]", "facts: expected keys with values", "key: value"),
        ("adress: 10.9.0.1", "farm.yaml: adress: unknown key", "did you mean 'address'?"),
        ("http: {prot: 80}", "farm.yaml: http.prot: unknown key", "did you mean 'port'?"),
        ("http: {port: http}", "http.port: expected a whole number", "65535"),
        ("http: {port: 70000}", "http.port: 70000 is out of range", "65535"),
        ("http: {names: ['http://x']}", "http.names[0]: 'http://x' is no host name", "scheme"),
        ("http: {names: [a, -b]}", "http.names[1]: '-b' is no host name", "boot.example.org"),
        ("http: 80", "http: expected keys with values", "key: value"),
        ("services: [tfpt]", "services: there is no service 'tfpt'", "did you mean 'tftp'?"),
        ("services: []", "services: names no service", "tftp"),
        ("services: tftp", "services: expected a list", "[a, b]"),
        ("listen: localhost", "listen: 'localhost' is not an IPv4 address", "four numbers"),
        ("on_error: retry", "on_error: 'retry'", "shell, reboot"),
        ("menu: {serial: COM1}", "menu.serial: 'COM1'", "unit,speed"),
        ("inventory: [{ip: 10.9.0.1}]", "inventory[0].mac: is missing", "add `mac"),
        ("inventory: [{mac: xx}]", "inventory[0].mac: 'xx' is not a MAC", "six hex pairs"),
        (
            "inventory: [{mac: 52:54:00:00:00:01, labels: {a-b: x}}]",
            "inventory[0].labels.a-b: 'a-b' is no name of a label",
            "as rack, unit",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01, labels: {rack: }}]",
            "inventory[0].labels.rack: '' is no value of a label",
            "1 to 63 characters",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01, labels: {rack: [1]}}]",
            "inventory[0].labels.rack: expected text, got a list",
            "quotes",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01, labels: r1}]",
            "inventory[0].labels: expected keys with values",
            "key: value",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01, labels: {"
            + ", ".join(f"l{n}: x" for n in range(17))
            + "}}]",
            "inventory[0].labels: has 17 names",
            "16 at most",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01, bmc: 'javascript:alert(1)'}]",
            "inventory[0].bmc: 'javascript:alert(1)' is no web address",
            "https://10.0.0.17/",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01, bmc: 'https://root:calvin@10.0.0.17/'}]",
            "inventory[0].bmc: holds a name or a password",
            "leave it out",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01, host: a}]",
            "inventory[0].host: unknown key",
            "did you mean 'hostname'?",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01, hostname: LocalHost}]",
            "inventory[0].hostname: LocalHost is every machine's name for itself",
            "a name of its own",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01, hostname: default}]",
            "inventory[0].hostname: default is the section of lts.conf",
            "a name of its own",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01}, {mac: 52-54-00-00-00-01}]",
            "inventory[1].mac: 52:54:00:00:00:01 stands already in entry [0]",
            "once",
        ),
        ("address_map: {10.9.0.1: node}", "address_map.10.9.0.1", "52:54"),
        (
            "inventory: [{mac: 00:00:00:00:00:00}]",
            "inventory[0].mac: 00:00:00:00:00:00 is what firmware shows that could not read",
            "its label",
        ),
        (
            "inventory: [{mac: ff:ff:ff:ff:ff:ff}]",
            "inventory[0].mac: ff:ff:ff:ff:ff:ff is",
            "label",
        ),
        (
            "inventory: [{mac: 01:00:5e:00:00:01}]",
            "is a group's (multicast), and no card's",
            "label",
        ),
        (
            "inventory: [{mac: 52:54:00:00:00:01, ip: 224.0.0.1}]",
            "inventory[0].ip: 224.0.0.1 is a group's (multicast)",
            "an address of its own",
        ),
        ("inventory: [{mac: 52:54:00:00:00:01, ip: 0.0.0.0}]", "begin with 0", "its own"),
        ("inventory: [{mac: 52:54:00:00:00:01, ip: 255.255.255.255}]", "broadcasts", "its own"),
        ("address_map: {0.0.0.0: '52:54:00:00:00:01'}", "address_map.0.0.0.0", "look at both"),
        ("address_map: {10.9.0.1: '00:00:00:00:00:00'}", "could not read its card's", "both"),
        ("state: ''", "state: is empty", "leave the key out"),
        ("token_file: ' '", "token_file: is empty", "leave the key out"),
        ("default_image: ''", "default_image: is empty", "leave the key out"),
        ("address: 0.0.0.0", "address: 0.0.0.0 is no machine's", "`listen: 0.0.0.0`"),
        ("dns: {zone: rack.test, names: {api: 224.0.0.1}}", "dns.names.api: 224.0.0.1", "machine"),
        ("workers: true", "workers: expected a whole number, got a boolean", "256"),
        ("cmdline: [1, [2]]", "cmdline[1]: expected text, got a list", "quotes"),
        ('cmdline: ["a #b"]', "cmdline[0]: '#b' begins a comment in iPXE", "loader: grub"),
        ("cmdline: [quiet, root=/dev/sda]", "cmdline[1]: root= is set by the server's", "out"),
        ("cmdline: [bootfarm.on_error=x]", "cmdline[0]: bootfarm.on_error is 'x'", "reboot"),
        ("a: 1\na: 2", "farm.yaml:2:1: the key 'a' stands twice", ""),
        ("a: [1\nb: 2", "farm.yaml:2:", ""),
        ("- 1", "farm.yaml: the file: expected keys with values, got a list", ""),
    ],
)
def test_errors_name_the_key_path_and_a_remedy(text: str, message: str, hint: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_all_faults_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "machines.yaml").write_text(
        "- mac: 52:54:00:00:00:01\n  ip: 10.9.0.300\n- {hostname: a b}\n- 7\n"
    )
    farm = tmp_path / "farm.yaml"
    farm.write_text(
        "# ours\n"
        "listen: localhost\n"
        "http:\n"
        "  prot: 80\n"
        "  port: 70000\n"
        "inventory: machines.yaml\n"
        "facts:\n"
        "  api: [x, null]\n"
        "logs: {syslog: much}\n"
        "dns:\n"
        "  zone: 10.9.0.1\n"
        "  networks:\n"
        "  - 10.9.0.0/33\n"
    )
    with pytest.raises(FaultsError) as caught:
        load_config(farm)
    listed = tmp_path / "machines.yaml"
    assert [fault.message.split(": ")[:2] for fault in caught.value.faults] == [
        [f"{farm}:2", "listen"],
        [f"{farm}:4", "http.prot"],
        [f"{farm}:5", "http.port"],
        [f"{farm}:8", "facts.api[1]"],
        [f"{farm}:9", "logs.syslog"],
        [f"{farm}:11", "dns.zone"],
        [f"{farm}:13", "dns.networks[0]"],
        [f"{listed}:2", "[0].ip"],
        [f"{listed}:3", "[1].mac"],
        [f"{listed}:3", "[1].hostname"],
        [f"{listed}:4", "[2]"],
    ]
    shown = caught.value.format_message()
    assert shown.startswith("11 faults\n")
    assert shown.count("\n  hint: ") == 11
    assert "\n" not in caught.value.one_line()


def test_who_gathers_faults_gets_the_rest_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "farm.yaml").write_text("listen: x\nstore: images\nworkers: -1\nmenu: 7\n")
    faults = Faults()
    config = load_config(tmp_path / "farm.yaml", faults=faults)
    assert (config.listen, config.store, config.workers, config.menu) == (
        "0.0.0.0",
        tmp_path / "images",
        None,
        Menu(),
    )
    assert len(faults.found) == 3


def test_an_inventory_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "machines.yaml").write_text("- mac: 52:54:00:00:00:01\n  ip: 10.9.0.300\n")
    (tmp_path / "farm.yaml").write_text("inventory: machines.yaml\n")
    with pytest.raises(YamlError, match=r"machines\.yaml:2: \[0\]\.ip: '10\.9\.0\.300'"):
        load_config(tmp_path / "farm.yaml")
    with pytest.raises(YamlError, match="No such file"):
        load_config(tmp_path / "other.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exports: {a: [b]}", "exports.a: expected the path of a file, got a list"),
        ("exports: {a: }", "exports.a: expected the path of a file, got nothing"),
        ("exports: {/opt/ltsp/a: b}", "belong to the images"),
        ("exports: [a]", "exports: expected keys"),
    ],
)
def test_wrong_exports(text: str, said: str) -> None:
    with pytest.raises(YamlError, match=said):
        parse(text)


def test_arguments_that_only_ipxe_cannot_be_given() -> None:
    text = 'loader: grub\ncmdline: ["a #b"]\n'
    assert parse(text).cmdline == ("a #b",)
