from pathlib import Path

import pytest

from server.farm.config import Config, parse_config
from server.protocols.http import Request
from server.web.hosts import Hosts, is_address, parse_names, split_host

OWN = "10.9.0.2"
FILE = f"""
127.0.0.1 localhost
127.0.1.1 Farm.Corp.Example.Org. farm
{OWN} pxe.corp.example.org  # ours
10.9.0.11 node-1
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "hosts").write_text(FILE)
    text = {
        "hosts_file": "hosts",
        "http": {"names": ["Proxy.Example.org."]},
        "dns": {"zone": "rack.example.org"},
    }
    return parse_config(text, "farm.yaml", tmp_path)


@pytest.fixture
def hosts(config: Config) -> Hosts:
    return Hosts(lambda: config, "boot7.local", lambda: {OWN})


def request(**headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("POST", "/beacon", {}, named, b"", "10.9.0.9")


@pytest.mark.parametrize(
    "host",
    [
        *("", " ", OWN, f"{OWN}:8080", "192.0.2.7:80", "[::1]:8080", "[fe80::1]"),
        *("localhost", "LOCALHOST.:8080", "x.localhost", "boot7.local", "boot7:8080"),
        *("proxy.example.org", "rack.example.org", "boot.rack.example.org", "boot"),
        *("n.rack.example.org.", "x.y.rack.example.org"),
        *("farm.corp.example.org", "farm", "pxe.corp.example.org:8080"),
    ],
)
def test_names_that_are_ours(hosts: Hosts, host: str) -> None:
    assert hosts.knows(host)
    assert hosts.refuse(request(host=host)) is None


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8080", f"{OWN}.evil.example", "localhost.evil.example"),
        *("evilrack.example.org", "x.boot7.local", "x.proxy.example.org", "node-1"),
        *("[::1].evil.example", "[evil]", "[::1", "a@localhost", "localhost/x", "010.9.0.2"),
        *("167837698", "0x7f.1", "boot7.evil.example", "localhost:80:80"),
    ],
)
def test_names_that_are_not(hosts: Hosts, host: str) -> None:
    assert not hosts.knows(host)
    refusal = hosts.refuse(request(host=host))
    assert refusal is not None
    assert refusal.status == 421
    assert isinstance(refusal.body, bytes)
    assert repr(host) in refusal.body.decode()
    assert b"names" in refusal.body


def test_without_farm_yaml_the_zone_and_the_hosts_file_name_nothing() -> None:
    hosts = Hosts(lambda: Config(hosts_file=None), "boot7", lambda: {OWN})
    assert hosts.knows("boot7")
    assert not hosts.knows("boot")
    assert not hosts.knows("farm")


def test_an_edit_counts_at_once(config: Config, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(f"{OWN} fresh\n")
    now = [config]
    hosts = Hosts(lambda: now[0], "boot7", lambda: {OWN})
    assert hosts.knows("farm")
    now[0] = Config(hosts_file=tmp_path / "other", http_names=("later",))
    assert hosts.knows("fresh")
    assert hosts.knows("later")
    assert not hosts.knows("farm")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": OWN},
        {"host": f"{OWN}:8080", "origin": f"http://{OWN}:8080"},
        {"host": "farm", "origin": "https://farm", "sec_fetch_site": "same-origin"},
        {"host": "farm:80", "origin": "http://farm"},
        {"host": OWN, "origin": "https://proxy.example.org"},
        {"host": OWN, "origin": "https://proxy.example.org:8443"},
        {"host": OWN, "sec_fetch_site": "none"},
    ],
)
def test_our_own_pages_may_send_forms(hosts: Hosts, headers: dict[str, str]) -> None:
    assert hosts.refuse_foreign(request(**headers)) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"host": OWN, "origin": "https://evil.example"},
        {"host": OWN, "origin": "null"},
        {"host": OWN, "origin": ""},
        {"host": OWN, "origin": f"http://{OWN}:9999"},
        {"host": OWN, "origin": f"ftp://{OWN}"},
        {"host": OWN, "origin": "http://10.9.0.66"},
        {"host": "", "origin": "http://localhost:1"},
        {"host": OWN, "sec_fetch_site": "cross-site"},
        {"host": OWN, "sec_fetch_site": "Same-Site"},
    ],
)
def test_other_sites_may_not(hosts: Hosts, headers: dict[str, str]) -> None:
    refusal = hosts.refuse_foreign(request(**headers))
    assert refusal is not None
    assert refusal.status == 403


def test_parts() -> None:
    assert split_host("A.b.:8080") == ("a.b", "8080")
    assert split_host("a:80") == ("a", "")
    assert split_host("[::1]:5") == ("[::1]", "5")
    assert split_host("a:x") is None
    assert is_address("[::ffff:10.9.0.2]")
    assert not is_address("[1.2.3.4]")
    assert parse_names("# x\n\n::1 six\n10.9.0.1 A b\n10.9.0.2 b\nbad c\n") == {
        "a": "10.9.0.1",
        "b": "10.9.0.1",
    }


def test_the_machine_knows_its_own_name_and_addresses(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 a\n192.0.2.250 b\n")
    hosts = Hosts(lambda: Config(hosts_file=tmp_path / "hosts"))
    assert hosts.knows("a")
    assert not hosts.knows("b"), "an address that no card of this machine has"
