from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from server.farm.config import Config, parse_config
from server.farm.dns import DnsZone
from server.farm.flags import override
from server.yamlfile import YamlError


def read(dns: Any) -> DnsZone | None:
    return parse_config({"dns": dns}, "farm.yaml", Path("/")).dns


def test_off_by_default() -> None:
    assert parse_config({}, "farm.yaml", Path("/")).dns is None
    assert read({}) is None


def test_all_keys() -> None:
    found = read(
        {
            "zone": "Rack.Example.org.",
            "port": 5353,
            "listen": "10.9.0.2",
            "server": "pxe",
            "names": {"API": "10.9.0.20"},
            "networks": ["10.9.0.0/16"],
            "ttl": 5,
            "limits": {"client_rate": 9},
        }
    )
    assert found == DnsZone(
        zone="rack.example.org",
        port=5353,
        listen="10.9.0.2",
        server="pxe",
        names={"api": "10.9.0.20"},
        networks=(IPv4Network("10.9.0.0/16"),),
        ttl=5,
        limits={"client_rate": 9},
    )


@pytest.mark.parametrize(
    ("dns", "said"),
    [
        ({"zone": "10.9.0.1"}, "dns.zone: '10.9.0.1' is not a DNS zone"),
        ({"zone": "a..b"}, "is not a DNS zone"),
        ({"zone": "a_b.org"}, "is not a DNS zone"),
        ({"zone": ".".join(["abcdefghi"] * 25)}, "is not a DNS zone"),
        ({"names": {"api": "10.9.0.20"}}, "dns.zone: is missing"),
        ({"zone": "a.org", "names": {"a.b": "10.9.0.20"}}, "dns.names.a.b"),
        ({"zone": "a.org", "names": {"api": "host"}}, "is not an IPv4 address"),
        ({"zone": "a.org", "names": {"api": "10.9.0.1", "API": "10.9.0.2"}}, "twice"),
        ({"zone": "a.org", "names": {"boot": "10.9.0.1"}}, "the server's own name"),
        ({"zone": "a.org", "listen": "all"}, "is not an IPv4 address"),
        ({"zone": "a.org", "networks": ["10.9.0.1/16"]}, "has host bits set"),
        ({"zone": "a.org", "networks": ["0.0.0.0/0"]}, "larger than a /8"),
        ({"zone": "a.org", "server": "a b"}, "is not a name in the zone"),
        ({"zone": "a.org", "zoen": 1}, "unknown key"),
    ],
)
def test_what_is_wrong_is_told_by_key(dns: Any, said: str) -> None:
    with pytest.raises(YamlError) as caught:
        read(dns)
    assert said in caught.value.message
    assert caught.value.hint


def test_the_flag_names_the_zone_and_keeps_the_rest() -> None:
    assert override(Config(), dns="a.org").dns == DnsZone("a.org")
    settings = DnsZone("a.org", port=5353)
    assert override(Config(dns=settings), dns="b.org").dns == DnsZone("b.org", port=5353)
    with pytest.raises(YamlError, match="--dns"):
        override(Config(), dns="a b")
