from typing import Any

import pytest

from server.farm.logs import Logs, read_logs
from server.yamlfile import Section, YamlError, parse_yaml


def read(text: str) -> Logs:
    data: Any = parse_yaml(text, "farm.yaml")
    return read_logs(Section(data, "farm.yaml", "logs"))


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("", {}),
        ("{syslog: off, netconsole: off}", {}),
        ("{syslog: 'off'}", {}),
        ("{syslog: on, netconsole: on}", {"syslog": 514, "netconsole": 6666}),
        ("{syslog: 1514, netconsole: 0}", {"syslog": 1514, "netconsole": 0}),
    ],
)
def test_ports(text: str, ports: dict[str, int]) -> None:
    assert read(text).ports == ports


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{syslog: 70000}", "logs.syslog: expected a port or off"),
        ("{netconsole: maybe}", "logs.netconsole: expected a port or off, got"),
        ("{bytes: 1}", "logs.bytes: 1 is out of range"),
        ("{sylog: 514}", "sylog"),
    ],
)
def test_what_is_wrong_is_told(text: str, words: str) -> None:
    with pytest.raises(YamlError, match=words):
        read(text)
