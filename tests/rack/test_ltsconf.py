import re

import pytest

from rack.errors import RackError
from rack.ltsconf import example_lts_conf, render_lts_conf

VALUES = {
    "ssh_key": "ssh-rsa AAAA rack",
    "netconsole_interface": "eth0",
    "netconsole_target": "10.9.0.15",
    "token": "abcdef.0123456789abcdef",
    "api": "10.9.0.20:6443",
    "ca_hash": "sha256:00",
}
# Every variable of the article's ConfigMap.
KEYS = [
    "KEEP_SYSTEM_SERVICES",
    "PREINIT_00_TIME",
    "PREINIT_01_FIX_HOSTNAME",
    "PREINIT_02_DOCKER_OPTIONS",
    "FSTAB_01_SSH",
    "FSTAB_02_JOURNALD",
    "FSTAB_03_DOCKER",
    "RCFILE_01_SSH_SERVER",
    "RCFILE_02_SSH_CLIENT",
    "RCFILE_03_KERNEL_DEBUG",
    "RCFILE_04_SYSCTL",
    "RCFILE_05_FORWARD",
    "RCFILE_06_MODULES",
    "RCFILE_07_JOIN_K8S",
]


def test_the_example_has_the_articles_variables_and_is_plain_ascii() -> None:
    text = example_lts_conf().read_bytes().decode("ascii")
    assert re.findall(r"^([A-Z_0-9]+) = \"[^\"]*\"$", text, re.MULTILINE) == KEYS


def test_the_example_can_be_filled_in_by_a_rack() -> None:
    text = render_lts_conf(example_lts_conf().read_text(), VALUES)
    assert "{" not in text
    assert (
        "kubeadm join --token abcdef.0123456789abcdef 10.9.0.20:6443 "
        '--discovery-token-ca-cert-hash sha256:00"' in text
    )
    assert "netconsole=@/eth0,@10.9.0.15/" in text


def test_a_value_the_rack_does_not_know_is_named() -> None:
    with pytest.raises(RackError, match="tokn") as caught:
        render_lts_conf("A = {{ tokn }}", VALUES)
    assert "token" in caught.value.hint


def test_text_without_placeholders_is_left_alone() -> None:
    text = '[default]\nA = "x # \' %s"\n\n'
    assert render_lts_conf(text, {}) == text
