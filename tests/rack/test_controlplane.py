import re
from pathlib import Path

import pytest
import yaml

from rack.controlplane import (
    apiserver_argv,
    controller_manager_argv,
    etcd_argv,
    make_token,
    render_kubeadm_config,
    scheduler_argv,
)
from rack.kubernetes.stack import Packages

HERE = Path("/cp")


def packages_of(version: str) -> Packages:
    """Packages of a Kubernetes that nobody runs."""
    programs = Path("/programs")
    return Packages(version, HERE, programs, programs / "etcd", programs / "busybox", "pause:1")


PRESENT, OLD = packages_of("1.37.2"), packages_of("1.20.2")


def test_tokens_have_kubeadms_form_and_differ() -> None:
    tokens = {make_token() for _ in range(10)}
    assert len(tokens) == 10
    assert all(re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}", token) for token in tokens)


def test_kubeadm_config_names_the_api_and_the_cgroup_driver() -> None:
    text = render_kubeadm_config(PRESENT, HERE / "pki", "abcdef.0123456789abcdef")
    documents = list(yaml.safe_load_all(text))
    init, cluster, kubelet = documents
    assert init["apiVersion"] == cluster["apiVersion"] == "kubeadm.k8s.io/v1beta4"
    assert init["localAPIEndpoint"] == {"advertiseAddress": "10.9.0.20", "bindPort": 6443}
    assert init["bootstrapTokens"][0]["token"] == "abcdef.0123456789abcdef"
    assert cluster["kubernetesVersion"] == "v1.37.2"
    assert cluster["certificatesDir"] == "/cp/pki"
    assert kubelet["cgroupDriver"] == "systemd"


def test_a_silent_node_stays_ready_for_ten_minutes() -> None:
    argv = controller_manager_argv(PRESENT, HERE)
    assert argv[0] == "/programs/kube-controller-manager"
    assert "--node-monitor-grace-period=10m0s" in argv
    assert "--controllers=*,bootstrapsigner,tokencleaner" in argv


def test_what_must_be_private_listens_on_loopback_only() -> None:
    for flag in ("--listen-client-urls", "--listen-peer-urls"):
        (value,) = [w for w in etcd_argv(Path("/etcd"), HERE) if w.startswith(f"{flag}=")]
        assert value.startswith(f"{flag}=http://127.0.0.1:")
    for packages in (PRESENT, OLD):
        for argv in (controller_manager_argv(packages, HERE), scheduler_argv(packages, HERE)):
            assert "--bind-address=127.0.0.1" in argv
            # A port without TLS: on unless told not to until 1.23, and no option since.
            assert ("--port=0" in argv) == (packages is OLD)
        assert ("--insecure-port=0" in apiserver_argv(packages, HERE)) == (packages is OLD)


@pytest.mark.parametrize(
    ("version", "api"), [("1.20.2", "v1beta2"), ("1.30.1", "v1beta3"), ("1.31.0", "v1beta4")]
)
def test_kubeadm_is_given_the_newest_configuration_that_it_reads(version: str, api: str) -> None:
    text = render_kubeadm_config(packages_of(version), HERE, "abcdef.0123456789abcdef")
    assert f"apiVersion: kubeadm.k8s.io/{api}\n" in text


def test_apiserver_limits_nodes_as_kubeadm_does() -> None:
    argv = apiserver_argv(PRESENT, HERE)
    assert "--authorization-mode=Node,RBAC" in argv
    assert "--enable-admission-plugins=NodeRestriction" in argv
    assert "--enable-bootstrap-token-auth=true" in argv
