from pathlib import Path

import pytest

from server.farm.config import Config, parse_config
from server.farm.defaultimage import default_of, list_defaults
from server.yamlfile import YamlError, parse_yaml


def read(text: str) -> Config:
    return parse_config(parse_yaml(text, "farm.yaml"), "farm.yaml", Path("/"))


def test_one_for_all_machines() -> None:
    default = read("default_image: web").default_image
    assert default_of(default) == default_of(default, "arm64") == "web"
    assert list_defaults(default) == [("", "web")]
    assert list_defaults(read("{}").default_image) == []


def test_one_for_each_architecture() -> None:
    default = read("default_image: {arm64: web-arm, amd64: web}").default_image
    assert (default_of(default, "arm64"), default_of(default, "amd64")) == ("web-arm", "web")
    assert default_of(default) == "web-arm"
    assert default_of({"amd64": "web"}, "arm64") is None
    assert list_defaults(default) == [("arm64", "web-arm"), ("amd64", "web")]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("{arm46: web}", "default_image.arm46: is no architecture", "did you mean 'arm64'"),
        ("{arm64: ''}", "default_image.arm64: '' is no image's name", "write its name"),
        ("{arm64: [a]}", "default_image.arm64: expected an image's name, got a list", "its name"),
        ("{}", "default_image: names no image", "amd64: NAME"),
        ("[a]", "default_image: expected text, got a list", "quotes"),
        ("''", "default_image: is empty", "leave the key out"),
    ],
)
def test_what_it_cannot_be(text: str, message: str, hint: str) -> None:
    with pytest.raises(YamlError, match=message) as caught:
        read(f"default_image: {text}")
    assert hint in (caught.value.hint or "")
