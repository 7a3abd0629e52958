from pathlib import Path

import pytest

from server.farm.config import ConfigError, load_config
from server.farm.limits import apply_limits
from server.protocols.http import HttpLimits
from server.services.limits import NbdLimits, TftpLimits
from server.yamlfile import FaultsError, YamlError


def test_limits() -> None:
    limits = apply_limits(HttpLimits(), {"idle_seconds": 5, "connections": 7}, "f: http.limits")
    assert (limits.idle_seconds, limits.connections) == (5, 7)
    with pytest.raises(YamlError, match=r"f: http\.limits\.conections: unknown key") as caught:
        apply_limits(HttpLimits(), {"conections": 7}, "f: http.limits")
    assert "did you mean 'connections'" in caught.value.hint
    for value in ("7", 1.5, True, -1):
        with pytest.raises(YamlError, match="whole number"):
            apply_limits(HttpLimits(), {"connections": value}, "f: http.limits")


def test_a_wrong_limit_is_told_with_its_line(tmp_path: Path) -> None:
    farm = tmp_path / "farm.yaml"
    farm.write_text("http:\n  limits:\n    conections: 7\n    idle_seconds: soon\n")
    config = load_config(farm)
    with pytest.raises(FaultsError) as caught:
        apply_limits(HttpLimits(), config.http.limits, config.source, "http.limits")
    assert [fault.message.split(": ")[:2] for fault in caught.value.faults] == [
        [f"{farm}:3", "http.limits.conections"],
        [f"{farm}:4", "http.limits.idle_seconds"],
    ]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"connections": 0}, "nbd.limits.connections: with 0 no machine can boot"),
        ({"handshake_seconds": 0.0}, "nbd.limits.handshake_seconds: with 0.0 no machine"),
    ],
)
def test_a_limit_that_lets_nobody_in_is_refused(limits: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_limits(NbdLimits(), limits, "farm.yaml", "nbd.limits")
    assert words in caught.value.message
    assert "the default is" in (caught.value.hint or "")


@pytest.mark.parametrize(("key", "value"), [("max_blksize", 70000), ("max_windowsize", 0)])
def test_limits_that_the_protocol_does_not_have(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"tftp.limits.{key}: with {value} no machine can boot"):
        apply_limits(TftpLimits(), {key: value}, "farm.yaml", "tftp.limits")
    assert apply_limits(TftpLimits(), {"bytes_per_second": 0}, "farm.yaml") == TftpLimits()
