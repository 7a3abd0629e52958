"""What is read out of the API server's objects; the calls are tried in test_real_cluster.py."""

from typing import Any

import pytest

from server.conduct.cluster import CORDONED, REBOOT, REBOOTED, View, read_node, sort_pods
from server.rollout.seen import Daemon, NodeSeen


def test_a_node() -> None:
    item = {
        "metadata": {
            "name": "cp-1",
            "annotations": {CORDONED: "true", REBOOT: "r1-2", REBOOTED: "r1-1"},
            "labels": {"node-role.kubernetes.io/control-plane": "", "zone": "a"},
        },
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [
                {"type": "DiskPressure", "status": "False"},
                {"type": "Ready", "status": "True"},
            ],
            "nodeInfo": {"bootID": "one"},
        },
    }
    assert read_node(item) == NodeSeen(
        "cp-1",
        is_ready=True,
        is_cordoned=True,
        is_ours=True,
        boot_id="one",
        order="r1-2",
        obeyed="r1-1",
        is_control_plane=True,
        labels={"node-role.kubernetes.io/control-plane": "", "zone": "a"},
    )


@pytest.mark.parametrize("status", ["False", "Unknown", None])
def test_a_node_that_is_not_ready(status: str | None) -> None:
    conditions = [{"type": "Ready", "status": status}] if status else []
    item = {"metadata": {"name": "n"}, "status": {"conditions": conditions}}
    node = read_node(item)
    assert not node.is_ready
    assert View({"n": node}).away == {"n"}


def make_pod(name: str, kind: str = "", *, phase: str = "Running", **more: Any) -> dict[str, Any]:
    owners = [{"kind": kind, "controller": True}] if kind else []
    metadata = {"name": name, "ownerReferences": owners, **more}
    statuses = [{"ready": phase == "Running", "restartCount": 2}, {"ready": True}]
    return {"metadata": metadata, "status": {"phase": phase, "containerStatuses": statuses}}


def test_which_pods_move() -> None:
    mirror = {"kubernetes.io/config.mirror": "x"}
    movable, daemons = sort_pods(
        [
            make_pod("web", "ReplicaSet"),
            make_pod("job", "Job"),
            make_pod("over", "Job", phase="Succeeded"),
            make_pod("failed", "ReplicaSet", phase="Failed"),
            make_pod("alone"),
            make_pod("static", "Node", annotations=mirror),
            make_pod("network", "DaemonSet"),
            make_pod("pulling", "DaemonSet", phase="Pending"),
        ]
    )
    assert [pod["metadata"]["name"] for pod in movable] == ["web", "job"]
    assert daemons == (Daemon("network", True, 2), Daemon("pulling", False, 2))
