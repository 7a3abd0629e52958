"""A pod that runs to its end on a node: the proof that Ready is true."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from rack.controlplane import ControlPlane
from rack.errors import RackError
from rack.kubernetes.images import TEST_IMAGE

DEFAULT_COMMAND = 'echo "hello from $NODE, kernel $(uname -r)"'


@dataclass(frozen=True)
class PodResult:
    """How a pod ended. log: what it wrote. seconds: from its creation."""

    name: str
    phase: str
    log: str
    seconds: float


def render_pod(name: str, node: str, command: str, pull: str = "Never") -> str:
    """The manifest (JSON) of a pod that runs `command` in the test image.

    pull: its imagePullPolicy; the image is preloaded where no registry has it.
    A node selector, not nodeName: the scheduler has to find the node fit.
    """
    node_name = {"fieldRef": {"fieldPath": "spec.nodeName"}}
    container = {
        "name": "main",
        "image": TEST_IMAGE,
        "imagePullPolicy": pull,
        "command": ["/bin/sh", "-c", command],
        "env": [{"name": "NODE", "valueFrom": node_name}],
    }
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [container],
        },
    }
    return json.dumps(manifest)


def run_pod(
    control_plane: ControlPlane,
    node: str,
    *,
    name: str = "hello",
    command: str = DEFAULT_COMMAND,
    pull: str = "Never",
    timeout: float = 300.0,
    check: Callable[[], None] = lambda: None,
) -> PodResult:
    """Run a pod to its end on `node`; RackError, with its events, if it does not succeed.

    `check` is called at each try and raises to end the wait early.
    """
    began = time.monotonic()
    _create(control_plane, render_pod(name, node, command, pull), began + timeout)
    phase = ""
    while phase not in ("Succeeded", "Failed"):
        check()
        if time.monotonic() - began > timeout:
            break
        time.sleep(0.5)
        pod = control_plane.read(f"/api/v1/namespaces/default/pods/{name}")
        phase = str(pod.get("status", {}).get("phase", ""))
    took = time.monotonic() - began
    if phase != "Succeeded":
        what = control_plane.kubectl("describe", "pod", name)
        events = what[what.find("Events:") :].strip()
        raise RackError(
            f"pod {name} on {node} is {phase or 'unknown'} after {took:.0f} s\n{events}"
        )
    return PodResult(name, phase, control_plane.kubectl("logs", name), took)


def _create(control_plane: ControlPlane, manifest: str, end: float) -> None:
    """Create it as soon as the default service account is there (a fresh cluster's is not)."""
    while True:
        try:
            control_plane.kubectl("create", "-f", "-", stdin=manifest)
            return
        except RackError as error:
            if "serviceaccount" not in error.message or time.monotonic() > end:
                raise
            time.sleep(0.5)
