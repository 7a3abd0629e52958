from pathlib import Path

import pytest

from server.farm.flags import override, parse_exports, parse_services
from server.yamlfile import YamlError
from tests.server.farm.test_config import parse


def test_flags_override() -> None:
    config = override(parse("tftp: {port: 6969, limits: {transfers: 9}}"), tftp_port=70, store=None)
    assert config.tftp.port == 70
    assert config.tftp.limits == {"transfers": 9}
    assert override(config, listen="10.0.0.1").listen == "10.0.0.1"
    with pytest.raises(YamlError, match="--address 'ltsp-1' is not an IPv4 address"):
        override(config, address="ltsp-1")
    assert parse_services("nbd, tftp") == ("tftp", "nbd")
    with pytest.raises(YamlError, match="no service 'ntp'"):
        parse_services("ntp")


def test_exports_by_flag_add_to_those_of_the_file() -> None:
    config = parse("exports: {a: /a, b: /b}")
    assert parse_exports(["b=/c=d", "e=/e"]) == {"b": Path("/c=d"), "e": Path("/e")}
    given = override(config, exports=parse_exports(["b=/c=d", "e=/e"]))
    assert given.exports == {"a": Path("/a"), "b": Path("/c=d"), "e": Path("/e")}
    assert override(config, exports=None).exports == config.exports


def test_flags_have_the_bounds_of_farm_yaml() -> None:
    with pytest.raises(YamlError, match=r"--address: 0\.0\.0\.0 is no machine's"):
        override(parse("{}"), address="0.0.0.0")
    assert override(parse("{}"), listen="0.0.0.0").listen == "0.0.0.0"
