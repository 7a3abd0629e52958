"""kubelet-config: what the cluster's kubelet configuration names and the image does not have."""

from __future__ import annotations

from typing import Any

import pytest

CONFIG = """\
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  x509:
    clientCAFile: /etc/kubernetes/ssl/ca.crt
cgroupDriver: systemd
containerRuntimeEndpoint: "unix:///run/crio/crio.sock"
resolvConf: /run/systemd/resolve/resolv.conf
staticPodPath: /etc/kubernetes/manifests
volumePluginDir: /var/lib/kubelet/volumeplugins  # of another distribution
"""


@pytest.fixture
def config(node: Any) -> Any:
    node.write("etc/resolv.conf", "nameserver 10.9.0.1\n")
    node.write("etc/kubernetes/pki/ca.crt", "the CA")
    node.write("usr/share/bootfarm/runtime", "name=containerd\ncri_socket=unix:///run/c.sock\n")
    node.write("var/lib/kubelet/config.yaml", CONFIG)
    return node


def test_paths_of_another_distribution_lead_to_what_is_meant(config: Any) -> None:
    root = config.root
    done = config.script("kubelet-config")
    assert (root / "run/systemd/resolve/resolv.conf").readlink().as_posix() == "/etc/resolv.conf"
    authority = root / "etc/kubernetes/ssl/ca.crt"
    assert authority.readlink().as_posix() == "/etc/kubernetes/pki/ca.crt"
    assert (root / "etc/kubernetes/manifests").is_dir()
    assert (root / "var/lib/kubelet/volumeplugins").is_dir()
    text = config.read("var/lib/kubelet/config.yaml")
    assert text == CONFIG.replace("/run/crio/crio.sock", "/run/c.sock")
    for words in ("resolvConf /run/systemd/resolve/resolv.conf", "clientCAFile", "crio.sock"):
        assert words in done.stdout
        assert words in config.read("run/bootfarm/kubelet-mended")


def test_what_is_there_stays_and_nothing_is_told(config: Any) -> None:
    config.script("kubelet-config")
    told = config.read("run/bootfarm/kubelet-mended")
    (config.root / "run/systemd/resolve/resolv.conf").unlink()
    config.write("run/systemd/resolve/resolv.conf", "nameserver 10.9.0.9\n")
    (config.root / "etc/kubernetes/ssl/ca.crt").unlink()
    config.write("etc/kubernetes/ssl/ca.crt", "its own")
    assert config.script("kubelet-config").stdout == ""
    assert config.read("run/systemd/resolve/resolv.conf") == "nameserver 10.9.0.9\n"
    assert config.read("etc/kubernetes/ssl/ca.crt") == "its own"
    assert config.read("run/bootfarm/kubelet-mended") == told


@pytest.mark.parametrize("said", ['""', "relative/path", "/etc/../../outside", "/$(touch made)"])
def test_a_value_is_only_ever_a_path(config: Any, said: str) -> None:
    config.write("var/lib/kubelet/config.yaml", f"resolvConf: {said}\nstaticPodPath: {said}\n")
    config.script("kubelet-config")
    assert not (config.root.parent / "outside").exists()
    assert not (config.root / "relative").exists()
    assert not (config.root / "made").exists()


def test_no_configuration_yet(node: Any) -> None:
    assert node.script("kubelet-config").stdout == ""


def test_boot_links_what_systemd_resolved_would_have(node: Any) -> None:
    node.apply("kubernetes")
    link = node.root / "run/systemd/resolve/resolv.conf"
    assert link.readlink().as_posix() == "/etc/resolv.conf"


def test_boot_leaves_an_image_with_systemd_resolved_alone(node: Any) -> None:
    node.write("usr/lib/systemd/systemd-resolved", "#!/bin/sh\n", mode=0o755)
    node.apply("kubernetes")
    assert not (node.root / "run/systemd/resolve").exists()
