"""NODE_LABELS and NODE_TAINTS: kubelet's flags, and what is said once the node has joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from server.ltsconf.lint_nodes import check_labels, check_taints
from tests.node.apiserver import ApiServer
from tests.node.test_kubeadm import give_kubelet_its_certificate

DEFAULTS = "etc/default/kubelet"


@pytest.fixture
def kubelet(node: Any) -> Any:
    node.write("usr/bin/kubelet", "", mode=0o755)
    return node


def test_kubelet_registers_with_them(kubelet: Any) -> None:
    kubelet.write(DEFAULTS, 'KUBELET_EXTRA_ARGS="-v=2"\n')
    kubelet.flat(
        NODE_LABELS="rack=r1, example.org/pool=gpu empty=",
        NODE_TAINTS="dedicated=gpu:NoSchedule maintenance:NoExecute",
    )
    done = kubelet.apply("kubernetes")
    assert "trouble" not in done.stderr
    line = kubelet.read(DEFAULTS)
    assert line == (
        'KUBELET_EXTRA_ARGS="--register-with-taints=dedicated=gpu:NoSchedule,maintenance:NoExecute'
        ' --node-labels=rack=r1,example.org/pool=gpu,empty= --cgroup-driver=systemd -v=2"\n'
    )


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("NODE_LABELS", "rack"),
        ("NODE_LABELS", "node-role.kubernetes.io/worker="),
        ("NODE_LABELS", "node-restriction.kubernetes.io/a=b"),
        ("NODE_LABELS", "x=a/b"),
        ("NODE_LABELS", "x=-"),
        ("NODE_LABELS", "x=$(reboot)"),
        ("NODE_LABELS", "Example.org/x=a"),
        ("NODE_LABELS", f"x={'a' * 64}"),
        ("NODE_TAINTS", "dedicated=gpu"),
        ("NODE_TAINTS", "dedicated=gpu:Never"),
        ("NODE_TAINTS", "x=*:NoSchedule"),
    ],
)
def test_what_kubelet_would_refuse_is_left_out_and_told(kubelet: Any, key: str, word: str) -> None:
    """And `lts check` tells the same."""
    good = {"NODE_LABELS": "good=1", "NODE_TAINTS": "good:NoSchedule"}[key]
    kubelet.flat(**{key: f"{word} {good}"})
    done = kubelet.apply("kubernetes")
    assert f"{key}: {word} is left out" in done.stderr
    line = kubelet.read(DEFAULTS)
    assert f"={good} " in line
    assert word not in line
    check = {"NODE_LABELS": check_labels, "NODE_TAINTS": check_taints}[key]
    assert [remark[0] for remark in check(key, f"{word} {good}")] == ["error"]


@pytest.mark.parametrize(
    "word",
    [
        "topology.kubernetes.io/zone=west",
        "node.kubernetes.io/own=1",
        "a.kubelet.kubernetes.io/own=1",
        "kubernetes.io.example.org/x=1",
        "x.example.org/A_b.c-d=E_f.g-h",
    ],
)
def test_what_lts_check_lets_pass_kubelet_gets(kubelet: Any, word: str) -> None:
    assert list(check_labels("NODE_LABELS", word)) == []
    kubelet.flat(NODE_LABELS=word)
    assert "trouble" not in kubelet.apply("kubernetes").stderr
    assert f"--node-labels={word} " in kubelet.read(DEFAULTS)


def test_without_them_nothing_is_set(kubelet: Any) -> None:
    kubelet.apply("kubernetes")
    assert kubelet.read(DEFAULTS) == "KUBELET_EXTRA_ARGS=--cgroup-driver=systemd\n"
    assert not (kubelet.root / "run/bootfarm/node-labels").exists()


@pytest.fixture
def joined(node: Any, api: ApiServer, served: Callable[[], Any]) -> Any:
    """A node that is Ready: `watch-ready` says so once, and looks at no pods."""
    node.beacons = served().beacons
    give_kubelet_its_certificate(node, api)
    api.ready = "True"
    return node


def watch(joined: Any) -> str:
    """What the server is told."""
    joined.script("watch-ready", POD_LOOKS="0")
    return str(joined.beacons[-1]["detail"])


def test_a_node_that_was_kept_gets_the_labels_of_today(joined: Any, api: ApiServer) -> None:
    joined.write("run/bootfarm/node-labels", "rack=r2\nexample.org/pool=gpu\n")
    api.notes = {"bootfarm.io/labels": "rack,old.example.org/x"}
    assert watch(joined) == "Node worker-1 is Ready"
    ((peer, patch),) = api.patches
    assert peer == "system:node:worker-1"
    assert patch == {
        "metadata": {
            "annotations": {"bootfarm.io/labels": "rack,example.org/pool"},
            "labels": {"old.example.org/x": None, "rack": "r2", "example.org/pool": "gpu"},
        }
    }


def test_what_lts_conf_has_no_more_is_removed(joined: Any, api: ApiServer) -> None:
    api.notes = {"bootfarm.io/labels": "rack"}
    watch(joined)
    ((_, patch),) = api.patches
    assert patch == {
        "metadata": {"annotations": {"bootfarm.io/labels": None}, "labels": {"rack": None}}
    }


def test_where_lts_conf_has_none_nothing_is_asked(joined: Any, api: ApiServer) -> None:
    assert watch(joined) == "Node worker-1 is Ready"
    assert api.patches == []


def test_labels_that_are_refused_are_told(joined: Any, api: ApiServer) -> None:
    joined.write("run/bootfarm/node-labels", "rack=r2\n")
    api.refuses = True
    said = watch(joined)
    assert said == (
        "Node worker-1 is Ready; NODE_LABELS: the API server does not take them (HTTP 403)"
    )


def test_a_taint_that_the_node_lacks_is_told_with_the_command(joined: Any, api: ApiServer) -> None:
    joined.write(
        "run/bootfarm/node-taints", "dedicated=gpu:NoSchedule\nold:NoExecute\nx:NoSchedule\n"
    )
    api.taints = [
        {"key": "dedicated", "value": "cpu", "effect": "NoSchedule"},
        {"key": "old", "effect": "NoExecute", "timeAdded": "2026-11-30T00:00:00Z"},
    ]
    assert watch(joined).endswith(
        "; NODE_TAINTS: only an administrator can add: kubectl taint node worker-1"
        " dedicated=gpu:NoSchedule x:NoSchedule"
    )
    api.taints = [
        {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"},
        {"key": "old", "effect": "NoExecute"},
        {"key": "x", "effect": "NoSchedule"},
    ]
    assert watch(joined) == "Node worker-1 is Ready"
    assert api.patches == []
