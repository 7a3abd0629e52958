"""The calls to an API server that a rollout takes; the rights for them are in k8s/rollout.

Calls block: they are made in a thread of their own (hand.py).
"""

import datetime
import hashlib
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from server.kubernetes.api import Api, ApiError
from server.rollout.actions import Action, Cordon, Drain, Reboot, Tell, Uncordon, Withdraw
from server.rollout.seen import Daemon, NodeSeen

NAME: Final = "bootfarm-rollout"
"""Of the Lease and of the ConfigMap that holds the state."""
KEY: Final = "rollout.json"
CORDONED: Final = "bootfarm.io/rollout-cordoned"
"""Annotation of a Node that the rollout has cordoned."""
REBOOT: Final = "bootfarm.io/reboot"
"""Annotation that the node's agent obeys: a word of its own for each reboot."""
REBOOTED: Final = "bootfarm.io/rebooted"
"""The same word, written there by the agent when it obeys."""
LEASE_SECONDS: Final = 30
"""A leader that has not renewed for so long leads no more."""
PAGE: Final = 200
"""Nodes that one answer holds."""
ANSWER_MAX: Final = 64 << 20
STATE_MAX: Final = 1_000_000
"""Bytes of a ConfigMap, of which Kubernetes takes 1 MiB."""
CONTROL_PLANE: Final = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
_MERGE: Final = "application/merge-patch+json"
_MIRROR: Final = "kubernetes.io/config.mirror"


class ClusterError(ApiError):
    """The cluster refuses, or does not answer."""


class ConflictError(ClusterError):
    """Somebody else has written the state meanwhile."""


@dataclass(frozen=True)
class View:
    """The cluster at one moment: its Nodes by name, with the pods of those that were looked at."""

    nodes: Mapping[str, NodeSeen] = field(default_factory=dict)

    @property
    def away(self) -> frozenset[str]:
        """Names of Nodes that are not Ready."""
        return frozenset(name for name, node in self.nodes.items() if not node.is_ready)


class Cluster:
    """One cluster, asked by one account. Methods raise ClusterError; one thread calls them."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        identity: str,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self._api = replace(api, most=ANSWER_MAX)
        self._namespace = namespace
        self._wall = wall
        self._clock = clock
        self._lease_seen: tuple[str, float] = ("", 0.0)
        self._blocked: dict[str, str] = {}
        self._policy = "policy/v1"
        self.leader = ""

    # Who leads

    def lead(self) -> bool:
        """Take the lease, or renew it. False: another server has it (`leader`)."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases"
        status, lease = self._call("GET", f"{path}/{NAME}")
        if status == 404:
            status, lease = self._call("POST", path, self._make_lease(None))
            return self._took(status, lease)
        self._expect(status, lease, "its lease")
        spec = lease.get("spec") or {}
        holder, version = str(spec.get("holderIdentity") or ""), _version_of(lease)
        if version != self._lease_seen[0]:
            self._lease_seen = (version, self._clock())
        # By the own clock, and not by the other's: clocks differ.
        is_stale = self._clock() - self._lease_seen[1] > LEASE_SECONDS
        if holder not in ("", self.identity) and not is_stale:
            self.leader = holder
            return False
        return self._took(*self._call("PUT", f"{path}/{NAME}", self._make_lease(lease)))

    def _took(self, status: int, lease: dict[str, Any]) -> bool:
        if status == 409:
            self.leader = "another server"
            return False
        self._expect(status, lease, "its lease")
        self.leader = self.identity
        self._lease_seen = (_version_of(lease), self._clock())
        return True

    def _make_lease(self, before: dict[str, Any] | None) -> dict[str, Any]:
        now = datetime.datetime.fromtimestamp(self._wall(), datetime.UTC)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": stamp,
        }
        if before is None:
            kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
            return {**kind, "metadata": {"name": NAME}, "spec": {**spec, "acquireTime": stamp}}
        old = before.get("spec") or {}
        if old.get("holderIdentity") != self.identity:
            spec["acquireTime"] = stamp
        return {**before, "spec": {**old, **spec}}

    def release(self) -> None:
        """Give the lease back, so that another server need not wait for its end."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases/{NAME}"
        status, lease = self._call("GET", path)
        if status == 200 and (lease.get("spec") or {}).get("holderIdentity") == self.identity:
            body = {**lease, "spec": {**lease["spec"], "holderIdentity": ""}}
            self._call("PUT", path, body)

    # The state

    def read_state(self) -> tuple[str, str]:
        """The state that is written down, "" for none, and its version, "" for no object."""
        status, found = self._call("GET", f"{self._maps}/{NAME}")
        if status == 404:
            return "", ""
        self._expect(status, found, "its ConfigMap")
        return str((found.get("data") or {}).get(KEY) or ""), _version_of(found)

    def write_state(self, text: str, version: str) -> str:
        """Write it in place of that version; the new version. ConflictError: it is another's."""
        if len(text.encode()) > STATE_MAX:
            raise ClusterError(
                f"the rollout's state has {len(text)} bytes, and a ConfigMap takes {STATE_MAX}",
                hint="roll out to fewer machines at once (--select)",
            )
        metadata = {"name": NAME, "labels": {"app.kubernetes.io/name": "bootfarm"}}
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "data": {KEY: text}}
        if version:
            body["metadata"] = {**metadata, "resourceVersion": version}
            status, found = self._call("PUT", f"{self._maps}/{NAME}", body)
        else:
            body["metadata"] = metadata
            status, found = self._call("POST", self._maps, body)
        if status == 409:
            raise ConflictError("another server has written the rollout's state")
        self._expect(status, found, "its ConfigMap")
        return _version_of(found)

    @property
    def _maps(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/configmaps"

    # What is seen

    def look(self, names: frozenset[str]) -> View:
        """All Nodes; of those in `names` their pods, too."""
        nodes: dict[str, NodeSeen] = {}
        token = ""
        while True:
            more = f"&continue={token}" if token else ""
            status, answer = self._call("GET", f"/api/v1/nodes?limit={PAGE}{more}")
            self._expect(status, answer, "its Nodes")
            for item in answer.get("items") or ():
                node = read_node(item)
                nodes[node.name] = node
            token = str((answer.get("metadata") or {}).get("continue") or "")
            if not token:
                break
        for name in names & nodes.keys():
            movable, daemons = sort_pods(self._list_pods(name))
            if not movable:
                self._blocked.pop(name, None)
            nodes[name] = replace(
                nodes[name],
                movable=len(movable),
                daemons=daemons,
                blocked=self._blocked.get(name, ""),
            )
        return View(nodes)

    def _list_pods(self, node: str) -> list[dict[str, Any]]:
        path = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}"
        status, answer = self._call("GET", path)
        self._expect(status, answer, "a Node's pods")
        return [one for one in answer.get("items") or () if isinstance(one, dict)]

    # What is done

    def do(self, action: Action) -> None:
        """Do what concerns the cluster."""
        match action:
            case Cordon(node):
                self._patch(node, {CORDONED: "true"}, is_cordoned=True)
            case Uncordon(node):
                self._patch(node, {CORDONED: None}, is_cordoned=False)
            case Reboot(node, order):
                self._patch(node, {REBOOT: order})
            case Withdraw(node):
                self._patch(node, {REBOOT: None})
            case Drain(node):
                self._drain(node)
            case Tell():
                self._tell(action)

    def _patch(
        self, node: str, annotations: dict[str, str | None], *, is_cordoned: bool | None = None
    ) -> None:
        body: dict[str, Any] = {"metadata": {"annotations": annotations}}
        if is_cordoned is not None:
            body["spec"] = {"unschedulable": is_cordoned or None}
        status, answer = self._call("PATCH", f"/api/v1/nodes/{node}", body, content_type=_MERGE)
        if status != 404:  # a Node that is gone is seen to be gone
            self._expect(status, answer, f"a change of Node {node}")

    def _drain(self, node: str) -> None:
        """Evict what is there; why the last eviction was refused is kept for the next look."""
        movable, _ = sort_pods(self._list_pods(node))
        blocked = ""
        for pod in movable:
            metadata = pod["metadata"]
            if metadata.get("deletionTimestamp"):
                continue
            if words := self._evict(metadata["namespace"], metadata["name"]):
                blocked = blocked or words
        if blocked:
            self._blocked[node] = blocked
        else:
            self._blocked.pop(node, None)

    def _evict(self, namespace: str, name: str) -> str:
        """Why a pod may not go now, or ""."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
        body = {"apiVersion": self._policy, "kind": "Eviction"}
        body |= {"metadata": {"name": name, "namespace": namespace}}  # type: ignore[dict-item]
        status, answer = self._call("POST", path, body)
        if status == 400 and self._policy == "policy/v1":
            self._policy = "policy/v1beta1"  # Kubernetes before 1.22
            return self._evict(namespace, name)
        if status == 429:
            causes = (answer.get("details") or {}).get("causes") or ()
            told = next((str(one.get("message")) for one in causes if one.get("message")), "")
            words = told or str(answer.get("message") or "a PodDisruptionBudget")
            return f"pod {namespace}/{name} may not be evicted: {words}"
        if status != 404:
            self._expect(status, answer, f"the eviction of pod {namespace}/{name}")
        return ""

    def _tell(self, told: Tell) -> None:
        """An Event on a Node, as kubelet writes them: in the namespace default."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall()))
        message = told.message.encode()[:1000].decode(errors="ignore")
        text = f"{told.reason}\n{message}\n{now}"
        name = f"{told.node}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": told.node,
                "uid": told.node,
            },
            "type": "Warning" if told.is_warning else "Normal",
            "reason": told.reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "bootfarm", "host": socket.gethostname()},
        }
        status, answer = self._call("POST", "/api/v1/namespaces/default/events", event)
        if status != 409:
            self._expect(status, answer, "an Event")

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
    ) -> tuple[int, dict[str, Any]]:
        try:
            return self._api.call(method, path, body, content_type)
        except ApiError as error:
            raise ClusterError(f"the cluster does not answer: {error.message}") from None

    def _expect(self, status: int, answer: Mapping[str, Any], what: str) -> None:
        if 200 <= status < 300:
            return
        words = f"{status} {answer.get('message') or answer.get('reason') or ''}".strip()
        hint = "is k8s/rollout applied?" if status in (401, 403) else ""
        raise ClusterError(f"the cluster refuses {what}: {words}", hint=hint)


def _version_of(found: Mapping[str, Any]) -> str:
    return str((found.get("metadata") or {}).get("resourceVersion") or "")


def read_node(item: Mapping[str, Any]) -> NodeSeen:
    """A Node as a rollout sees it, without its pods."""
    metadata, spec, status = (item.get(key) or {} for key in ("metadata", "spec", "status"))
    notes, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    ready = [one for one in status.get("conditions") or () if one.get("type") == "Ready"]
    return NodeSeen(
        name=str(metadata.get("name") or ""),
        is_ready=bool(ready) and ready[0].get("status") == "True",
        is_cordoned=spec.get("unschedulable") is True,
        is_ours=CORDONED in notes,
        boot_id=str((status.get("nodeInfo") or {}).get("bootID") or ""),
        order=str(notes.get(REBOOT) or ""),
        obeyed=str(notes.get(REBOOTED) or ""),
        is_control_plane=any(name in labels for name in CONTROL_PLANE),
        labels={str(key): str(value) for key, value in labels.items()},
    )


def sort_pods(
    pods: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], tuple[Daemon, ...]]:
    """Pods that are to move, and those of DaemonSets.

    Left where they are: static pods, pods that have ended, and pods without a controller:
    evicted, nobody would make them again; left, they start again with their Node.
    """
    movable, daemons = [], []
    for pod in pods:
        metadata, status = pod.get("metadata") or {}, pod.get("status") or {}
        owners = metadata.get("ownerReferences") or ()
        controller: dict[str, Any] = next((one for one in owners if one.get("controller")), {})
        if controller.get("kind") == "DaemonSet":
            containers = status.get("containerStatuses") or ()
            restarts = sum(int(one.get("restartCount") or 0) for one in containers)
            is_running = status.get("phase") == "Running" and all(
                one.get("ready") for one in containers
            )
            daemons.append(Daemon(str(metadata.get("name")), is_running, restarts))
        elif (
            controller
            and _MIRROR not in (metadata.get("annotations") or {})
            and controller.get("kind") != "Node"
            and status.get("phase") not in ("Succeeded", "Failed")
        ):
            movable.append(pod)
    return movable, tuple(daemons)
