import re
from pathlib import Path

import yaml

from rack.controlplane import (
    apiserver_argv,
    controller_manager_argv,
    etcd_argv,
    make_token,
    render_kubeadm_config,
    scheduler_argv,
)

PROGRAMS, HERE = Path("/programs"), Path("/cp")


def test_tokens_have_kubeadms_form_and_differ() -> None:
    tokens = {make_token() for _ in range(10)}
    assert len(tokens) == 10
    assert all(re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}", token) for token in tokens)


def test_kubeadm_config_names_the_api_and_the_cgroup_driver() -> None:
    documents = list(
        yaml.safe_load_all(render_kubeadm_config(HERE / "pki", "abcdef.0123456789abcdef"))
    )
    init, cluster, kubelet = documents
    assert init["apiVersion"] == cluster["apiVersion"] == "kubeadm.k8s.io/v1beta2"
    assert init["localAPIEndpoint"] == {"advertiseAddress": "10.9.0.20", "bindPort": 6443}
    assert init["bootstrapTokens"][0]["token"] == "abcdef.0123456789abcdef"
    assert cluster["kubernetesVersion"] == "v1.20.2"
    assert cluster["certificatesDir"] == "/cp/pki"
    assert kubelet["cgroupDriver"] == "systemd"


def test_a_silent_node_stays_ready_for_ten_minutes() -> None:
    argv = controller_manager_argv(PROGRAMS, HERE)
    assert argv[0] == "/programs/kube-controller-manager"
    assert "--node-monitor-grace-period=10m0s" in argv
    assert "--controllers=*,bootstrapsigner,tokencleaner" in argv


def test_what_must_be_private_listens_on_loopback_only() -> None:
    for flag in ("--listen-client-urls", "--listen-peer-urls"):
        (value,) = [w for w in etcd_argv(Path("/etcd"), HERE) if w.startswith(f"{flag}=")]
        assert value.startswith(f"{flag}=http://127.0.0.1:")
    for argv in (controller_manager_argv(PROGRAMS, HERE), scheduler_argv(PROGRAMS, HERE)):
        assert "--bind-address=127.0.0.1" in argv
        assert "--port=0" in argv
    assert "--insecure-port=0" in apiserver_argv(PROGRAMS, HERE)


def test_apiserver_limits_nodes_as_kubeadm_does() -> None:
    argv = apiserver_argv(PROGRAMS, HERE)
    assert "--authorization-mode=Node,RBAC" in argv
    assert "--enable-admission-plugins=NodeRestriction" in argv
    assert "--enable-bootstrap-token-auth=true" in argv
