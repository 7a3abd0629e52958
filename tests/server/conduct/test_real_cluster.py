"""A rollout before a real API server, by an account that has k8s/rollout and no more.

etcd and kube-apiserver are real, Nodes and pods are objects without machines: what kubelet, the
node's agent and the controller of budgets would do, the tests do.
"""

import functools
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rack.apiclient import API_PORT
from rack.controlplane import ControlPlane, apiserver_argv, etcd_argv, render_kubeadm_config
from rack.errors import RackError
from rack.kubernetes.source import build
from rack.namespace import Namespace
from rack.network import API_IP, set_up_network
from rack.process import wait_for
from server.conduct.cluster import NAME, REBOOT, Cluster, ClusterError, ConflictError
from server.conduct.hand import Hand
from server.kubernetes.kubeconfig import KubeconfigApi, open_kubeconfig
from server.rollout.actions import Cordon, Drain, Reboot, Tell, Uncordon, Withdraw
from server.rollout.state import BACK, DONE, HELD, ON_HOLD
from tests.node.apiserver import openssl
from tests.node.conftest import ROOTFS
from tests.server.conduct.small import SmallFarm
from tests.server.farm import GOOD, publish
from tests.server.join.account import K8S, make_kubeconfig
from tests.server.join.test_real_cluster import Reviewer
from tests.server.test_serve import BOOTFARM

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
MERGE = "application/merge-patch+json"
OURS = "system:serviceaccount:bootfarm:bootfarm"
NOBODY = "system:serviceaccount:default:default"
GRANTED = {
    *((verb, "nodes", where) for verb in ("list", "patch") for where in ("",)),
    *(("list", "pods", where) for where in ("bootfarm", "default", "")),
    *(("create", "pods/eviction", where) for where in ("bootfarm", "default", "")),
    ("create", "leases", "bootfarm"),
    ("create", "configmaps", "bootfarm"),
    ("create", "events", "default"),
}
"""Without a name; those with one are looked at by themselves."""
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


class ApiServer(ControlPlane):
    """etcd and kube-apiserver alone: a whole control plane takes most of a minute."""

    def start_alone(self) -> None:
        directory, packages = self._directory, self._packages
        config = render_kubeadm_config(packages, directory / "pki", self._token)
        (directory / "local.yaml").write_text(config)
        self._phase("local.yaml", "certs", "all")
        name = self.kubeconfig.stem
        self._phase("local.yaml", "kubeconfig", name, f"--kubeconfig-dir={directory}")
        etcd = self._start("etcd", etcd_argv(packages.etcd, directory))
        server = self._start("kube-apiserver", apiserver_argv(packages, directory))
        processes = (server, etcd)
        wait_for(
            lambda: self._answers("/healthz"), 300, "an answer of /healthz", processes=processes
        )


class Real:
    """The API server, asked by the account and by the administrator, from within its network."""

    def __init__(self, namespace: Namespace, plane: ApiServer, directory: Path) -> None:
        self.namespace = namespace
        self.plane = plane
        self.admin = open_kubeconfig(plane.kubeconfig)
        files = [K8S / "base" / name for name in ("namespace.yaml", "serviceaccount.yaml")]
        names = yaml.safe_load((K8S / "rollout/kustomization.yaml").read_text())["resources"]
        for file in (*files, *(K8S / "rollout" / name for name in names)):
            where = ("--namespace=bootfarm",) if file.name == "serviceaccount.yaml" else ()
            plane.kubectl("apply", *where, "-f", "-", stdin=file.read_text())
        plane.kubectl("create", "serviceaccount", "default", "--namespace=default")
        kubeconfig = directory / "rollout.kubeconfig"
        authority = directory / "pki/ca.crt"
        kubeconfig.write_text(make_kubeconfig(plane.kubectl, authority, f"{API_IP}:{API_PORT}"))
        api = open_kubeconfig(kubeconfig)
        self.account = InNetwork(api.host, api.port, kubeconfig, network=namespace)

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        status, answer = self.namespace.in_network(
            lambda: self.admin.call(method, path, body, kind)
        )
        assert status < 300 or status == 404, answer
        return answer

    def cluster(self, identity: str = "boot-1", clock: Any = time.monotonic) -> Cluster:
        return Cluster(self.account, "bootfarm", identity, clock=clock)

    def add_node(self, name: str, **labels: str) -> None:
        metadata = {"name": name, "labels": labels}
        self.ask("POST", "/api/v1/nodes", {"metadata": metadata})
        self.set_node(name, "boot-0")

    def set_node(self, name: str, boot: str, *, is_ready: bool = True) -> None:
        condition = {"type": "Ready", "status": "True" if is_ready else "Unknown"}
        status = {"conditions": [condition], "nodeInfo": {"bootID": boot}}
        self.ask("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, MERGE)

    def add_pod(self, name: str, node: str, kind: str = "ReplicaSet") -> None:
        owner = {"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "x", "controller": True}
        metadata = {"name": name, "labels": {"app": name}, "ownerReferences": [owner]}
        spec = {"nodeName": node, "terminationGracePeriodSeconds": 0}
        spec |= {"containers": [{"name": "c", "image": "i"}]}
        path = "/api/v1/namespaces/default/pods"
        self.ask("POST", path, {"metadata": metadata, "spec": spec})
        statuses = [{"name": "c", "ready": True, "restartCount": 0, "image": "i", "imageID": "i"}]
        status = {"phase": "Running", "containerStatuses": statuses}
        status["conditions"] = [{"type": "Ready", "status": "True"}]
        self.ask("PATCH", f"{path}/{name}/status", {"status": status}, MERGE)

    def read_node(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.ask("GET", f"/api/v1/nodes/{name}")
        return found

    def list_pods(self, node: str) -> list[str]:
        path = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}"
        return [one["metadata"]["name"] for one in self.ask("GET", path)["items"]]


@dataclass(frozen=True)
class InNetwork(KubeconfigApi):
    """An account's calls, made within the API server's network."""

    network: Namespace | None = None

    def call(self, *words: Any, **named: Any) -> tuple[int, dict[str, Any]]:
        assert self.network is not None
        make = functools.partial(super().call, *words, **named)
        return self.network.in_network(make)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    packages = build(print)
    directory = tmp_path_factory.mktemp("api")
    namespace = Namespace()
    try:
        set_up_network(namespace)
        plane = ApiServer(namespace, packages, directory)
        plane.start_alone()
        yield Real(namespace, plane, directory)
    finally:
        namespace.close()


def test_every_further_right_is_refused(real: Real) -> None:
    def look() -> tuple[set[tuple[str, str, str]], int]:
        reviewer = Reviewer(real.admin)
        found, tried = set(), 0
        for group, resource, namespaced in dict.fromkeys(reviewer.list_resources()):
            for verb in VERBS:
                for where in ("bootfarm", "default", "") if namespaced else ("",):
                    tried += 1
                    right = (verb, group, resource, where, "")
                    if reviewer.is_allowed(OURS, right) and not reviewer.is_allowed(NOBODY, right):
                        found.add((verb, resource, where))
        for verb in ("get", "update", "patch", "delete"):
            for group, kind in (("", "configmaps"), ("coordination.k8s.io", "leases")):
                named = reviewer.is_allowed(OURS, (verb, group, kind, "bootfarm", NAME))
                assert named == (verb in ("get", "update")), (verb, kind)
                assert not reviewer.is_allowed(OURS, (verb, group, kind, "default", NAME))
        return found, tried

    found, tried = real.namespace.in_network(look)
    assert found == GRANTED
    assert tried > 1000


def test_one_server_leads_and_the_next_takes_over(real: Real) -> None:
    clock = [0.0]
    first, second = real.cluster("first"), real.cluster("second", clock=lambda: clock[0])
    assert first.lead()
    assert first.lead()
    assert not second.lead()
    assert second.leader == "first"
    clock[0] = 20.0
    assert not second.lead()
    assert first.lead(), "renewed"
    clock[0] = 45.0
    assert not second.lead(), "it saw that it was renewed"
    clock[0] = 80.0
    assert second.lead(), "nothing was heard of the first for the lease's time"
    assert not first.lead()
    second.release()
    assert first.lead()
    first.release()


def test_the_state_is_written_by_who_knows_the_last_one(real: Real) -> None:
    cluster = real.cluster()
    assert cluster.read_state() == ("", "")
    version = cluster.write_state("one", "")
    assert cluster.read_state() == ("one", version)
    second = cluster.write_state("two", version)
    with pytest.raises(ConflictError):
        cluster.write_state("three", version)
    with pytest.raises(ConflictError):
        cluster.write_state("three", "")
    assert cluster.read_state() == ("two", second)
    with pytest.raises(ClusterError, match="a ConfigMap takes"):
        cluster.write_state("x" * 1_000_001, second)
    real.ask("DELETE", f"/api/v1/namespaces/bootfarm/configmaps/{NAME}")


def test_cordon_and_uncordon(real: Real) -> None:
    real.add_node("paint")
    cluster = real.cluster()
    cluster.do(Cordon("paint"))
    node = cluster.look(frozenset()).nodes["paint"]
    assert (node.is_cordoned, node.is_ours, node.boot_id) == (True, True, "boot-0")
    cluster.do(Uncordon("paint"))
    node = cluster.look(frozenset()).nodes["paint"]
    assert (node.is_cordoned, node.is_ours) == (False, False)
    cluster.do(Cordon("nosuch"))  # it is gone: the next look shows that
    cluster.do(Tell("paint", "RolloutProven", "booted amd64@abc, and holds"))
    events = real.ask("GET", "/api/v1/namespaces/default/events")["items"]
    assert [(one["reason"], one["involvedObject"]["name"]) for one in events] == [
        ("RolloutProven", "paint")
    ]
    real.ask("DELETE", "/api/v1/nodes/paint")


def test_a_budget_blocks_until_it_allows(real: Real) -> None:
    real.add_node("drain")
    real.add_pod("web", "drain")
    real.add_pod("net", "drain", "DaemonSet")
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    real.ask("POST", budgets, {"metadata": {"name": "web"}, "spec": spec})

    def allow(count: int) -> None:
        status = {"disruptionsAllowed": count, "currentHealthy": 1 + count, "desiredHealthy": 1}
        status |= {"expectedPods": 1 + count, "observedGeneration": 1}
        real.ask("PATCH", f"{budgets}/web/status", {"status": status}, MERGE)

    allow(0)
    cluster = real.cluster()
    cluster.do(Drain("drain"))
    node = cluster.look(frozenset({"drain"})).nodes["drain"]
    assert node.movable == 1
    assert node.blocked.startswith("pod default/web may not be evicted: ")
    assert "web" in node.blocked
    assert node.daemons is not None
    assert [pod.is_running for pod in node.daemons] == [True]
    allow(1)
    cluster.do(Drain("drain"))
    node = cluster.look(frozenset({"drain"})).nodes["drain"]
    assert (node.movable, node.blocked) == (0, "")
    assert real.list_pods("drain") == ["net"], "DaemonSets' pods stay"
    real.ask("DELETE", "/api/v1/namespaces/default/pods/net")
    real.ask("DELETE", "/api/v1/nodes/drain")
    real.ask("DELETE", f"{budgets}/web")


class Players:
    """A farm whose machines are Nodes of the real cluster, and the agents that obey."""

    def __init__(self, real: Real, directory: Path, count: int) -> None:
        self.real = real
        self.farm = SmallFarm(directory, count, cluster=True)
        self.obeyed = {machine.hostname: "" for machine in self.farm.machines}
        for machine in self.farm.machines:
            assert machine.hostname is not None
            real.add_node(machine.hostname)
        self.hand = self.make_hand("boot-1")

    def make_hand(self, identity: str) -> Hand:
        cluster = self.real.cluster(identity, clock=lambda: self.farm.now)
        hand = Hand(cluster, self.farm.conductor, lambda work: work(), clock=lambda: self.farm.now)
        hand.turn()
        return hand

    def turn(self) -> None:
        """The server looks and acts; then each machine that was told to reboots."""
        self.farm.now += 20
        self.hand.turn()
        for machine in self.farm.machines:
            name = machine.hostname
            assert name is not None
            order = (self.real.read_node(name)["metadata"].get("annotations") or {}).get(REBOOT, "")
            if order and order != self.obeyed[name]:
                self.obeyed[name] = order
                self.farm.boot(machine)
                self.real.set_node(name, f"boot-{order}")

    def run(self, *states: str) -> str:
        for _ in range(80):
            rollout = self.farm.conductor.rollout
            assert rollout is not None
            if rollout.state in states:
                return rollout.state
            self.turn()
        raise AssertionError(f"it does not end: {self.farm.conductor.rollout}")

    def close(self) -> None:
        for machine in self.farm.machines:
            self.real.ask("DELETE", f"/api/v1/nodes/{machine.hostname}")
        self.real.ask("DELETE", f"/api/v1/namespaces/bootfarm/configmaps/{NAME}")
        self.real.ask("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/bootfarm/leases/{NAME}")


@pytest.fixture
def players(real: Real, tmp_path: Path) -> Iterator[Players]:
    found = Players(real, tmp_path, 3)
    yield found
    found.close()


WANTED = {"image": "amd64:candidate", "waves": "1,2,100%", "ready_seconds": "30"}


def test_three_waves_and_a_server_that_dies_in_the_middle(players: Players) -> None:
    farm, real = players.farm, players.real
    real.add_pod("app", "node-2")
    farm.conductor.start(WANTED)
    while farm.phases()[0] != "proven":
        players.turn()
    assert farm.digest("current") != farm.digest("candidate")
    # It dies; another one begins with an empty state directory and knows the cluster only.
    (farm.state / "rollout.json").unlink()
    before = farm.conductor.rollout
    farm.overlay = type(farm.overlay)()
    farm.now += 31
    farm.conductor = farm.make_conductor()
    assert farm.conductor.rollout is None
    players.hand = players.make_hand("boot-2")
    farm.now += 31  # by its own clock the lease is over now
    players.hand.turn()
    assert farm.conductor.rollout is not None
    assert before is not None
    assert farm.conductor.rollout.id == before.id
    assert farm.conductor.leads
    assert players.run(DONE, ON_HOLD) == DONE
    assert set(farm.phases()) == {"proven"}
    assert farm.digest("current") == farm.digest("candidate")
    assert real.list_pods("node-2") == []
    for machine in farm.machines:
        node = real.read_node(str(machine.hostname))
        assert "unschedulable" not in node["spec"]
    events = real.ask("GET", "/api/v1/namespaces/default/events")["items"]
    proven = {one["involvedObject"]["name"] for one in events if one["reason"] == "RolloutProven"}
    assert {"node-1", "node-2", "node-3"} <= proven


def test_a_bad_image_comes_back_by_itself(players: Players) -> None:
    farm, real = players.farm, players.real
    farm.sick = {machine.mac for machine in farm.machines}
    farm.conductor.start(WANTED)
    players.run(ON_HOLD)
    while farm.phases()[0] != BACK:
        players.turn()
    players.turn()
    assert farm.phases()[1:] == ["waiting", "waiting"]
    assert "unschedulable" not in real.read_node("node-1")["spec"]
    rollout = farm.conductor.rollout
    assert rollout is not None
    assert rollout.reason.startswith("node-1: ")
    written = real.ask("GET", f"/api/v1/namespaces/bootfarm/configmaps/{NAME}")
    assert json.loads(written["data"]["rollout.json"])["state"] == ON_HOLD


def test_the_nodes_agent_obeys_once_with_kubelets_own_certificate(
    real: Real, tmp_path: Path
) -> None:
    """NodeRestriction lets it note what it obeyed, on its own Node."""
    real.add_node("node-8")
    pki, root = real.plane.kubeconfig.parent / "pki", tmp_path / "root"
    key, csr, pem = (str(tmp_path / name) for name in ("key", "csr", "pem"))
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subject = ("-subj", "/O=system:nodes/CN=system:node:node-8")
    openssl("req", "-new", *curve, *subject, "-keyout", key, "-out", csr)
    authority = ("-CA", str(pki / "ca.crt"), "-CAkey", str(pki / "ca.key"), "-CAcreateserial")
    openssl("x509", "-req", "-in", csr, *authority, "-days", "1", "-out", pem)
    files = {
        "run/bootfarm/lts.conf": '# bootfarm lts.conf\nROLLOUT_AGENT="true"\n# end\n',
        "etc/kubernetes/pki/ca.crt": (pki / "ca.crt").read_text(),
        "etc/kubernetes/kubelet.conf": f"    server: https://{API_IP}:{API_PORT}\n",
        "var/lib/kubelet/pki/kubelet-client-current.pem": "".join(
            Path(name).read_text() for name in (pem, key)
        ),
        "stubs/systemctl": f'#!/bin/sh\necho "$*" >>{root}/said\n',
        "stubs/sleep": "#!/bin/sh\nkill $PPID\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    shutil.copytree(ROOTFS / "usr/lib/bootfarm", root / "usr/lib/bootfarm", symlinks=True)
    real.cluster().do(Reboot("node-8", "r1-1"))
    program = str(root / "usr/lib/bootfarm/obey-rollout")
    path = f"PATH={root}/stubs:/usr/sbin:/usr/bin:/sbin:/bin"
    said = real.namespace.run(["env", path, f"BOOTFARM_ROOT={root}", program])
    assert "a rollout orders a reboot: r1-1" in said
    notes = real.read_node("node-8")["metadata"]["annotations"]
    assert notes == {REBOOT: "r1-1", "bootfarm.io/rebooted": "r1-1"}
    with pytest.raises(RackError):  # it waits, and its sleep ends it
        real.namespace.run(["env", path, f"BOOTFARM_ROOT={root}", program])
    assert (root / "said").read_text() == "reboot\n"
    real.cluster().do(Reboot("node-8", "r1-2"))
    node = real.cluster().look(frozenset()).nodes["node-8"]
    assert (node.order, node.obeyed) == ("r1-2", "r1-1")
    real.cluster().do(Withdraw("node-8"))
    assert real.cluster().look(frozenset()).nodes["node-8"].order == ""
    real.ask("DELETE", "/api/v1/nodes/node-8")


def test_a_server_that_runs(real: Real, tmp_path: Path) -> None:
    """Its thread takes the lease and makes the steps: a whole process, beside the API server."""
    real.add_node("node-1")
    publish(tmp_path / "store", kernel="1")
    publish(tmp_path / "store", kernel="2", tags=["candidate"])
    (tmp_path / "lts.conf").write_text(GOOD)
    (tmp_path / "farm.yaml").write_text(
        "inventory: [{mac: '52:54:00:00:00:01', hostname: node-1}]\n"
        "services: [http]\nlisten: 127.0.0.1\nstore: store\nlts_conf: lts.conf\nstate: state\n"
        f"rollout: {{enabled: true, kubeconfig: {real.account.account}, namespace: bootfarm}}\n"
    )
    argv = [*BOOTFARM, "--config", str(tmp_path / "farm.yaml"), "--http-port", "8080"]
    server = real.namespace.start("serve", argv, tmp_path / "log")
    url = "http://127.0.0.1:8080/api/rollout"

    def ask(*words: str) -> dict[str, Any]:
        try:
            said = json.loads(real.namespace.run(["curl", "-sS", *words]))
        except RackError:
            return {}
        assert isinstance(said, dict)
        return said

    try:
        wait_for(lambda: ask(url).get("leads") is True, 60, "the lease", processes=(server,))
        wanted = ("-X", "PUT", f"{url}?image=amd64:candidate&select=node-1")
        wait_for(lambda: "rollout" in ask(*wanted), 60, "a look at Nodes", processes=(server,))
        wait_for(
            lambda: REBOOT in (real.read_node("node-1")["metadata"].get("annotations") or {}),
            60,
            "the order to reboot",
            processes=(server,),
        )
        assert real.read_node("node-1")["spec"]["unschedulable"] is True
        told = ask(url)
        assert (told["problem"], told["rollout"]["counts"]["rebooting"]) == ("", 1)
        written = real.ask("GET", f"/api/v1/namespaces/bootfarm/configmaps/{NAME}")
        assert json.loads(written["data"]["rollout.json"])["id"] == told["rollout"]["id"]
    finally:
        server.stop()
    real.ask("DELETE", "/api/v1/nodes/node-1")
    real.ask("DELETE", f"/api/v1/namespaces/bootfarm/configmaps/{NAME}")
    real.ask("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/bootfarm/leases/{NAME}")


def test_a_node_that_does_not_obey_and_another_that_is_away(players: Players) -> None:
    farm, real = players.farm, players.real
    real.add_node("stranger")
    real.set_node("stranger", "x", is_ready=False)
    farm.conductor.start({**WANTED, "boot_seconds": "100"})
    for _ in range(3):
        players.turn()
    assert farm.conductor.rollout is not None
    assert farm.conductor.rollout.waits == "1 of at most 1 are away: stranger"
    real.set_node("stranger", "x")
    players.obeyed["node-1"] = f"{farm.conductor.rollout.id}-1"  # its agent does not run
    players.run(ON_HOLD)
    assert farm.phases()[0] == HELD
    assert "does its agent run" in farm.conductor.rollout.reason
    players.turn()
    players.turn()
    assert "unschedulable" not in real.read_node("node-1")["spec"]
    real.ask("DELETE", "/api/v1/nodes/stranger")
