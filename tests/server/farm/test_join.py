from pathlib import Path

import pytest

from server.farm.config import Config, parse_config
from server.farm.join import Join
from server.yamlfile import YamlError, parse_yaml


def parse(text: str) -> Config:
    return parse_config(parse_yaml(text, "farm.yaml"), "farm.yaml", Path("/etc/bootfarm"))


def test_off_unless_asked_for() -> None:
    assert parse("").join == Join()
    assert not parse("").join.certificates
    assert parse("join: {certificates: true}").join == Join(certificates=True)


def test_every_key() -> None:
    text = (
        "join: {certificates: true, machines: any, api: api.example.org:6443,"
        " kubeconfig: join.kubeconfig, lease_seconds: 45, per_boot: 2, per_minute: 600}"
    )
    assert parse(text).join == Join(
        certificates=True,
        machines="any",
        api="api.example.org:6443",
        kubeconfig=Path("/etc/bootfarm/join.kubeconfig"),
        lease_seconds=45,
        per_boot=2,
        per_minute=600,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("certificate: true", "join.certificate: unknown key"),
        ("certificates: yes", "join.certificates: expected true or false"),
        ("machines: all", "join.machines: 'all' is not one of them"),
        ("api: https://10.9.0.20:6443", "join.api: 'https://10.9.0.20:6443' is not host:port"),
        ("api: 10.9.0.20", "join.api: '10.9.0.20' is not host:port"),
        ("api: '10.9.0.20:70000'", "is not host:port"),
        ("api: 'a b:6443'", "is not host:port"),
        # kubelet renews each ten seconds: with less, a living one would count as dead.
        ("lease_seconds: 10", "join.lease_seconds: 10 is out of range"),
        ("per_boot: 0", "join.per_boot: 0 is out of range"),
        ("per_minute: 0", "join.per_minute: 0 is out of range"),
    ],
)
def test_what_is_wrong_with_a_key(text: str, words: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse(f"join: {{{text}}}")
    assert words in caught.value.message
    assert caught.value.hint
