from pathlib import Path

import pytest

from server.farm.config import Config, parse_config
from server.farm.rollout import Rollouts
from server.yamlfile import YamlError, parse_yaml


def parse(text: str) -> Config:
    return parse_config(parse_yaml(text, "farm.yaml"), "farm.yaml", Path("/etc/bootfarm"))


def test_off_unless_asked_for() -> None:
    assert parse("").rollout == Rollouts()
    assert not parse("").rollout.enabled


def test_every_key() -> None:
    text = "rollout: {enabled: true, cluster: false, kubeconfig: r.kubeconfig, namespace: farm}"
    file = Path("/etc/bootfarm/r.kubeconfig")
    assert parse(text).rollout == Rollouts(True, False, file, "farm")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enable: true", "rollout.enable: unknown key"),
        ("enabled: maybe", "rollout.enabled: expected true or false"),
        ("namespace: A_B", "rollout.namespace: 'A_B' is no namespace"),
    ],
)
def test_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(YamlError) as raised:
        parse(f"rollout: {{{text}}}")
    assert words in raised.value.message
