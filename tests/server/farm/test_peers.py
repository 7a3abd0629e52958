from pathlib import Path
from typing import Any

import pytest

from server.farm.config import parse_config
from server.farm.flags import override
from server.farm.peers import Fetching
from server.yamlfile import YamlError


def read(**keys: Any) -> Fetching:
    return parse_config(keys, "farm.yaml", Path("/etc/bootfarm")).fetching


def test_off_unless_asked_for() -> None:
    assert read() == Fetching()
    assert not read().is_on


def test_peers_and_images_in_one_spelling() -> None:
    found = read(
        peers=["http://10.9.0.1:8080/", "http://10.9.0.2"],
        images=["oci://registry.example.org/nodes/amd64"],
        fetch={"mbit": 400, "every": 1},
    )
    assert found.peers == ("http://10.9.0.1:8080", "http://10.9.0.2:80")
    assert found.images == ("oci://registry.example.org/nodes/amd64:current",)
    assert (found.mbit, found.every, found.is_on) == (400, 1, True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"peers": ["10.9.0.2"]}, r"peers\[0\]: '10.9.0.2' is no server's address"),
        ({"peers": ["https://10.9.0.2"]}, "no server's address"),
        ({"peers": ["http://boot.example.org"]}, "no server's address"),
        ({"peers": ["http://224.0.0.1"]}, "no server's address"),
        ({"peers": ["http://10.9.0.2:0"]}, "no server's address"),
        ({"peers": ["http://10.9.0.2:8080"] * 2}, r"peers\[1\]: .* stands twice"),
        ({"peers": [f"http://10.9.0.{n}" for n in range(1, 19)]}, "names 18 servers"),
        ({"images": ["registry/amd64"]}, r"images\[0\]: .* names no image in a registry"),
        ({"images": [f"oci://r/a@sha256:{'0' * 64}"]}, "which never moves"),
        ({"images": ["oci://r/a", "oci://r/a:current"]}, "stands twice"),
        ({"fetch": {"mbits": 4}}, "fetch.mbits: unknown key"),
    ],
)
def test_what_is_wrong_is_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(YamlError, match=message):
        read(**keys)


def test_the_flag_replaces_the_peers_and_keeps_the_rest() -> None:
    config = parse_config({"fetch": {"mbit": 4}}, "farm.yaml", Path("/"))
    found = override(config, peers=("http://10.9.0.1:8080",)).fetching
    assert (found.peers, found.mbit) == (("http://10.9.0.1:8080",), 4)
    with pytest.raises(YamlError, match="--peer"):
        override(config, peers=("x",))
