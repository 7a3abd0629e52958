"""Rollouts on machines that boot: a good image reaches all, a bad one comes back by itself.

The server has a kubeconfig of an account with k8s/rollout and nothing else; machines hear of
their orders by their own agents. Not in `make test`: `make test-cluster` runs it.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagebuild.store.images import Store
from rack.kubernetes.images import TEST_IMAGE
from rack.machine import NodeSpec
from rack.node import Node
from rack.rack import Rack
from rack.server import BOOTFARM, HTTP_PORT
from tests.e2e.images import HOUSE, RESULTS, alone, run_bootfarm
from tests.e2e.waits import BOOT, read_boot_id, read_node
from tests.server.join.account import K8S, apply_account, make_kubeconfig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

SPECS = {name: NodeSpec(name, memory=1536).completed("") for name in ("node-1", "node-2")}
WORD = "/etc/rollout-word"
VARIANTS: Mapping[str, list[dict[str, str]]] = {
    "current": [{"path": WORD, "content": "first\n"}],
    "candidate": [{"path": WORD, "content": "second\n"}],
    "broken": [
        {"path": WORD, "content": "third\n"},
        {"path": "/etc/default/kubelet", "content": "KUBELET_EXTRA_ARGS=--no-such-flag\n"},
    ],
}
"""The same image but for a file or two, by the tag that it gets."""
LTS_CONF = """
[default]
KEEP_SYSTEM_SERVICES = ssh
ROLLOUT_AGENT = true
NODE_LABELS = "rack=r1 example.org/pool=demo"
NODE_TAINTS = "demo=x:PreferNoSchedule"
RCFILE_01_SSH = "mkdir -p /root/.ssh; echo '{{ ssh_key }}' >> /root/.ssh/authorized_keys"
RCFILE_02_JOIN = "kubeadm join --token {{ token }} {{ api }} \
--discovery-token-ca-cert-hash {{ ca_hash }}"
"""
CONTAINER = {
    "name": "main",
    "image": TEST_IMAGE,
    "imagePullPolicy": "Never",
    "command": ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
}
SPEC = {"ready_seconds": 10, "finding_seconds": 30, "drain_seconds": 300, "boot_seconds": 900}


def make_workload(kind: str, name: str) -> str:
    """A Deployment of one pod, or a DaemonSet, as JSON."""
    labels = {"app": name}
    spec: dict[str, Any] = {"selector": {"matchLabels": labels}}
    pod = {"terminationGracePeriodSeconds": 5, "containers": [CONTAINER]}
    spec["template"] = {"metadata": {"labels": labels}, "spec": pod}
    return json.dumps(
        {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    )


def build_variants() -> Path:
    """The store with the three variants; quick once built."""
    store, recipes = RESULTS / "rollout-store", RESULTS / "rollout-recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    with alone("build"):
        for tag, files in VARIANTS.items():
            recipe = recipes / f"{tag}.yaml"
            base = str(HOUSE / "recipes/demo-containerd.yaml")
            recipe.write_text(yaml.safe_dump({"extends": base, "name": "amd64", "files+": files}))
            run_bootfarm(
                *("build", str(recipe), "--store", str(store), "--tag", tag),
                *("--squashfs-level", "3"),
            )
    return store


@pytest.fixture(scope="session")
def images() -> Path:
    """The same: build them before, since a test's time limit counts what its fixtures do."""
    return build_variants()


@dataclass
class Farm:
    """The rack, its images, and what is said of the rollout, with times."""

    rack: Rack
    images: Path
    began: float = field(default_factory=time.monotonic)
    said: dict[str, str] = field(default_factory=dict)

    def say(self, who: str, what: str) -> None:
        """Print what is new, with the seconds since the module began."""
        if self.said.get(who) != what:
            self.said[who] = what
            print(f"{time.monotonic() - self.began:7.1f} s  {who}: {what}", flush=True)

    def bootfarm(self, *words: str) -> str:
        """A command of the terminal's, as a person runs it."""
        server = f"http://127.0.0.1:{HTTP_PORT}"  # orders are taken from its own machine
        return self.rack.namespace.run([*BOOTFARM, *words, "--server", server])

    def start(self, image: str, **spec: object) -> None:
        """`bootfarm rollout start --from FILE`."""
        file = self.rack.directory / "rollout.yaml"
        file.write_text(yaml.safe_dump({"image": image, **SPEC, **spec}))
        self.say("rollout", self.bootfarm("rollout", "start", "--from", str(file)).splitlines()[0])

    def look(self) -> dict[str, Any]:
        """GET /api/rollout; {} while the server does not answer."""
        assert self.rack.server is not None
        try:
            found: dict[str, Any] = self.rack.server.get_json("/api/rollout")
        except Exception:
            return {}
        rollout = found["rollout"] or {"machines": []}
        self.say("leads", str(found["leads"]))
        if found["problem"]:
            self.say("problem", found["problem"])
        for one in rollout["machines"]:
            self.say(one["name"], f"{one['phase']} ({one['goal']}) {one['reason']}".strip())
        return found

    def wait(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 1500.0) -> Any:
        """Wait until what the API says of the rollout is as wanted; that."""
        end = time.monotonic() + timeout
        while True:
            found = self.look()
            if found and found["rollout"] and wanted(found):
                return found["rollout"]
            for node in self.rack.nodes.values():
                node.check()
            assert time.monotonic() < end, json.dumps(found, indent=1)
            time.sleep(1)

    def wait_leading(self) -> None:
        """Until the server has the lease, and has looked at the Nodes."""
        end = time.monotonic() + 90
        while not self.look().get("leads"):
            assert time.monotonic() < end, self.look()
            time.sleep(1)

    def phase_of(self, found: Mapping[str, Any], name: str) -> str:
        """Of one machine."""
        phases = {one["name"]: str(one["phase"]) for one in found["rollout"]["machines"]}
        return phases[name]

    def digest(self, tag: str) -> str:
        """What a tag leads to."""
        return Store(self.images).get("amd64", tag).digest

    def boots(self) -> dict[str, int]:
        """How often the server has seen each machine boot."""
        return {name: self.rack.timeline(node)["boots"] for name, node in self.rack.nodes.items()}

    def metric(self, line: str) -> bool:
        """Whether `/metrics` has that line."""
        assert self.rack.server is not None
        return line in self.rack.server.get("/metrics")[1].decode().splitlines()

    def reasons(self, node: str) -> list[str]:
        """Of the rollout's Events on a Node, the first first."""
        selector = f"--field-selector=involvedObject.kind=Node,involvedObject.name={node}"
        events = json.loads(self.rack.kubectl("get", "events", selector, "-o", "json"))["items"]
        ours = [one for one in events if one["source"].get("component") == "bootfarm"]
        ours.sort(key=lambda one: one["firstTimestamp"])
        return [f"{one['reason']}: {one['message']}" for one in ours]


def account_of(rack: Rack) -> str:
    """A kubeconfig of the account that k8s/rollout is for."""
    apply_account(rack.kubectl, with_rights=False)
    for name in yaml.safe_load((K8S / "rollout/kustomization.yaml").read_text())["resources"]:
        rack.kubectl("apply", "-f", "-", stdin=(K8S / "rollout" / name).read_text())
    authority = rack.directory / "control-plane/pki/ca.crt"
    return make_kubeconfig(rack.kubectl, authority, rack.control_plane.facts.api)


@pytest.fixture(scope="module")
def farm(rack: Rack, images: Path) -> Farm:
    """The rack with its control plane; both machines booted to Ready."""
    found = Farm(rack, images)
    rack.start_control_plane()
    kubeconfig = rack.directory / "rollout.kubeconfig"
    kubeconfig.write_text(account_of(rack))
    machines = [{"mac": spec.mac, "hostname": name} for name, spec in SPECS.items()]
    config = {
        "default_image": "amd64",
        "inventory": machines,
        "rollout": {"enabled": True, "kubeconfig": str(kubeconfig), "namespace": "bootfarm"},
    }
    rack.serve(images, LTS_CONF, config=config)
    for spec in SPECS.values():
        rack.boot(spec)
    for node in rack.nodes.values():
        rack.wait_ready(node, timeout=BOOT)
        found.say(node.name, "Ready")
    return found


def wait_label(farm: Farm, node: Node, wanted: Mapping[str, str | None]) -> Any:
    """Wait until the Node has these labels, None for those that it shall not have; the Node."""
    end = time.monotonic() + 60
    while True:
        found: Any = read_node(farm.rack, node)
        labels = found["metadata"]["labels"]
        if all(labels.get(key) == value for key, value in wanted.items()):
            return found
        assert time.monotonic() < end, labels
        time.sleep(1)


def test_kubelet_registers_with_labels_and_taints(farm: Farm) -> None:
    for node in farm.rack.nodes.values():
        found = wait_label(farm, node, {"rack": "r1", "example.org/pool": "demo"})
        assert {"key": "demo", "value": "x", "effect": "PreferNoSchedule"} in found["spec"][
            "taints"
        ]


def test_a_good_image_reaches_all_though_the_server_is_killed(farm: Farm) -> None:
    rack, server = farm.rack, farm.rack.server
    assert server is not None
    rack.kubectl("create", "-f", "-", stdin=make_workload("DaemonSet", "daemon"))
    rack.kubectl("create", "-f", "-", stdin=make_workload("Deployment", "web"))
    wait_workload(rack, "daemonset/daemon")
    wait_workload(rack, "deployment/web")
    server.lts_conf.write_text(
        server.lts_conf.read_text().replace("rack=r1 example.org/pool=demo", "rack=r2")
    )
    before, target = farm.boots(), farm.digest("candidate")
    farm.wait_leading()
    farm.start("amd64:candidate", waves=["1", "100%"])
    farm.wait(lambda found: farm.phase_of(found, "node-1") == "rebooting")
    ordered = rack.nodes["node-1"]
    end = time.monotonic() + 120
    while "bootfarm.io/reboot" not in read_annotations(rack, ordered):
        assert time.monotonic() < end
        time.sleep(0.5)
    server.kill()
    farm.say("server", "killed")
    server.start()
    farm.say("server", "started again")
    rollout = farm.wait(lambda found: found["rollout"]["state"] in ("done", "on-hold"))
    assert rollout["state"] == "done", rollout["reason"]
    assert [one["phase"] for one in rollout["machines"]] == ["proven", "proven"]
    assert farm.digest("current") == target
    assert farm.boots() == {name: count + 1 for name, count in before.items()}, "one boot each"
    for node in rack.nodes.values():
        assert node.ssh(f"cat {WORD}").strip() == "second"
        assert rack.timeline(node)["digest"] == target
        # The Node was kept, and its labels are today's.
        found = wait_label(farm, node, {"rack": "r2", "example.org/pool": None})
        assert "unschedulable" not in found["spec"]
        assert found["status"]["nodeInfo"]["bootID"] == read_boot_id(node)
        assert farm.reasons(node.name) == [f"RolloutProven: booted amd64@{target[:12]}, and holds"]
        assert "bootfarm.on_error=reboot" in node.ssh("cat /proc/cmdline"), "it was on trial"
    wait_workload(rack, "deployment/web")
    assert farm.metric('bootfarm_rollout_state{state="done"} 1.0')


def wait_workload(rack: Rack, name: str) -> None:
    """Until all of its pods run; on a loaded machine a first pod takes minutes."""
    words = ("rollout", "status", name, f"--timeout={BOOT:.0f}s")
    rack.kubectl(*words, timeout=BOOT + 30)


def read_annotations(rack: Rack, node: Node) -> dict[str, str]:
    """Of its Node."""
    found: Any = read_node(rack, node)
    return dict(found["metadata"].get("annotations") or {})


def test_an_image_whose_kubelet_does_not_start_comes_back_by_itself(farm: Farm) -> None:
    """No kubelet, so no certificate of kubelet's: the agent hears of the order all the same."""
    rack, good = farm.rack, farm.digest("current")
    before = farm.boots()
    farm.start("amd64:broken", waves=["1", "100%"])
    farm.wait(lambda found: found["rollout"]["state"] == "on-hold")
    rollout = farm.wait(lambda found: farm.phase_of(found, "node-1") in ("back", "held", "lost"))
    farm.say("rollout", f"holds: {rollout['reason']}")
    assert [one["phase"] for one in rollout["machines"]] == ["back", "waiting"]
    assert rollout["reason"].startswith("node-1: kubeadm join: kubelet does not run: unknown flag")
    assert "--no-such-flag" in rollout["reason"]
    assert farm.digest("current") == good, "no tag was moved"
    back, spared = rack.nodes["node-1"], rack.nodes["node-2"]
    assert farm.boots() == {"node-1": before["node-1"] + 2, "node-2": before["node-2"]}
    assert back.ssh(f"cat {WORD}").strip() == spared.ssh(f"cat {WORD}").strip() == "second"
    assert rack.timeline(back)["digest"] == good
    reasons = farm.reasons("node-1")[1:]
    assert [one.partition(":")[0] for one in reasons] == ["RolloutPinnedBack", "RolloutBack"]
    assert farm.metric('bootfarm_rollout_failed_machines{phase="back"} 1.0')
    assert farm.metric('bootfarm_rollout_state{state="on-hold"} 1.0')
    end = time.monotonic() + 60
    while "unschedulable" in (spec := dict(read_node(rack, back))["spec"]):  # type: ignore[operator]
        assert time.monotonic() < end, spec
        time.sleep(1)
    farm.bootfarm("rollout", "undo", "--yes")
    farm.wait(lambda found: found["rollout"]["state"] == "undone")
    assert farm.boots()["node-1"] == before["node-1"] + 2, "it runs what it should"
