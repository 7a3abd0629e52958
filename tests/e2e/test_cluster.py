"""Machines that join a real cluster with the article's ConfigMap.

The controller manager's grace period is 10 minutes: a Node whose machine lost
its power stays Ready for all of these tests, so no re-join succeeds by luck.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from rack.controlplane import DNS_IP
from rack.ltsconf import example_lts_conf
from rack.machine import NodeSpec
from rack.node import Node
from rack.pods import render_pod
from rack.rack import Rack
from tests.e2e.images import RECIPES
from tests.e2e.waits import BOOT, read_node, wait_finding, wait_joined_again

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


VOLUMES = {"ssh": "/etc/ssh", "journal": "/var/log/journal", "docker": "/var/lib/docker"}

CONTAINERD_SECTION = """
[{mac}]
IMAGE = amd64-containerd
PREINIT_02_DOCKER_OPTIONS = NONE
RCFILE_ON_ERROR = continue
RCFILE_06_OLD_TOKEN = "kubeadm join --token {old} {{{{ api }}}} \
--discovery-token-ca-cert-hash {{{{ ca_hash }}}}"
RCFILE_07_JOIN_K8S = "kubeadm join --token {{{{ token }}}} {{{{ api }}}} \
--discovery-token-ca-cert-hash {{{{ ca_hash }}}}"
"""

OLD_TOKEN = "oldone.0123456789abcdef"
EXPIRED = """
apiVersion: v1
kind: Secret
metadata: {{name: bootstrap-token-{id}, namespace: kube-system}}
type: bootstrap.kubernetes.io/token
stringData:
  token-id: {id}
  token-secret: {secret}
  expiration: {expiration}
  usage-bootstrap-authentication: "true"
  usage-bootstrap-signing: "true"
  auth-extra-groups: system:bootstrappers:kubeadm:default-node-token
"""


@pytest.fixture(scope="module")
def farm(rack: Rack, store: Path) -> Rack:
    """The rack with its control plane, serving the article's lts.conf."""
    rack.start_control_plane()
    spec = NodeSpec("runtime").completed("")
    template = example_lts_conf().read_text() + CONTAINERD_SECTION.format(
        mac=spec.mac, old=OLD_TOKEN
    )
    rack.serve(store, template, config={"default_image": "amd64"})
    return rack


@pytest.fixture(scope="module")
def worker(farm: Rack) -> Node:
    """A BIOS machine with an empty disk, booted to Ready."""
    disk = farm.directory / "worker.img"
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(2 << 30)
    node = farm.boot(NodeSpec("worker", disks=(disk,), memory=1536))
    farm.wait_ready(node, timeout=BOOT)
    return node


def test_bios_boot_to_ready_and_a_pod(farm: Rack, worker: Node) -> None:
    pod = farm.run_pod(worker)
    assert pod.phase == "Succeeded"
    assert f"hello from {worker.name}" in pod.log


def check_exec(farm: Rack, node: Node) -> None:
    """`kubectl exec` and `cp` into a running pod: kubelet hands them to the runtime's server."""
    name = f"exec-{node.name}"
    farm.kubectl("create", "-f", "-", stdin=render_pod(name, node.name, "sleep 600"))
    farm.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s", timeout=150.0)
    assert farm.kubectl("exec", name, "--", "sh", "-c", "echo $NODE").strip() == node.name
    farm.kubectl("delete", "pod", name, "--now", "--wait=false")


def test_kubectl_exec_reaches_a_pod_of_docker(farm: Rack, worker: Node) -> None:
    check_exec(farm, worker)


def test_the_recipes_kubelet_settings_are_in_force(farm: Rack, worker: Node) -> None:
    path = f"/api/v1/nodes/{worker.name}/proxy/configz"
    config = json.loads(farm.kubectl("get", "--raw", path))["kubeletconfig"]
    wanted = yaml.safe_load(RECIPES["amd64"].read_text())["kubernetes"]["kubelet"]
    assert {"systemReserved", "failSwapOn", "memorySwap"} <= set(wanted)
    assert {key: config.get(key) for key in wanted} == wanted
    # What kubeadm wrote at the join stays beside it, and what the image's runtime needs.
    assert config["cgroupDriver"] == "systemd"
    assert config["clusterDNS"] == [DNS_IP]
    assert config["featureGates"]["ExtendWebSocketsToKubelet"] is False
    # The node keeps that much from its pods.
    status = read_node(farm, worker)["status"]
    assert isinstance(status, dict)
    kept = int(status["capacity"]["memory"][:-2]) - int(status["allocatable"]["memory"][:-2])
    assert kept >= 200 << 10  # KiB


def test_timeline_tells_every_phase(farm: Rack, worker: Node) -> None:
    phases = list(farm.timeline(worker)["boot"]["phases"])
    # No loader: the card is iPXE itself, and is given its script at once.
    wanted = "menu kernel initrd initramfs network ltsconf root preinit systemd rcfile join"
    assert [phase for phase in wanted.split() if phase not in phases] == []


def test_ssh_key_of_rcfile_02_opens_the_node(worker: Node) -> None:
    worker.wait_ssh()
    assert worker.ssh("hostname").strip() == worker.name


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("systemctl is-active ssh", r"active"),  # KEEP_SYSTEM_SERVICES, RCFILE_01
        ("readlink -f /etc/localtime", r"/usr/share/zoneinfo/Europe/Prague"),  # PREINIT_00
        ("grep -c '^127.0.0.2' /etc/hosts || true", r"0"),  # PREINIT_01
        ("cat /proc/$(pidof dockerd)/cmdline | tr '\\0' ' '", r"--log-opt=max-file=5 $"),
        ("docker info -f '{{.Driver}} {{.CgroupDriver}}'", r"overlay2 systemd"),
        ("ls /etc/ssh/ssh_host_*_key | wc -l", r"[1-9]"),  # RCFILE_01
        ("cat /proc/sys/kernel/unknown_nmi_panic /proc/sys/kernel/softlockup_panic", r"1\n1"),
        ("lsmod | grep -c ^netconsole", r"1"),  # RCFILE_03
        ("cat /proc/sys/fs/file-max /proc/sys/fs/nr_open", r"20000000\n20000000"),  # RCFILE_04
        ("cat /proc/sys/net/ipv4/neigh/default/gc_thresh3", r"100000"),
        ("cat /proc/sys/net/ipv4/ip_forward", r"1"),  # RCFILE_05
        ("lsmod | grep -c ^br_netfilter", r"1"),  # RCFILE_06
        ("findmnt -no FSTYPE /", r"overlay"),
        ("findmnt -no FSTYPE /rofs", r"squashfs"),
        ("lsmod | grep -c ^nbd", r"1"),  # live NBD
    ],
)
def test_effect_of_each_variable(worker: Node, command: str, wanted: str) -> None:
    assert re.search(wanted, worker.ssh(command)), worker.ssh(command)


def test_netconsole_sends_the_kernels_words(farm: Rack, worker: Node) -> None:
    worker.ssh("echo '<3>a word from the kernel' > /dev/kmsg")
    worker.ssh("sleep 1")
    assert "a word from the kernel" in farm.netconsole_log.read_text()


def test_without_the_volume_group_nothing_of_it_is_mounted(worker: Node) -> None:
    for directory in VOLUMES.values():
        assert "/dev/mapper" not in worker.ssh(f"findmnt -no SOURCE -T {directory}")


def test_reboot_with_volume_group_becomes_ready_with_labels_and_taints(
    farm: Rack, worker: Node
) -> None:
    farm.kubectl("label", "node", worker.name, "rack=a1")
    farm.kubectl("taint", "node", worker.name, "rack=a1:PreferNoSchedule")
    before = read_node(farm, worker)["metadata"]
    worker.ssh("pvcreate -q /dev/vda && vgcreate -q data /dev/vda")
    for volume, size in (("ssh", "64M"), ("journal", "64M"), ("docker", "1G")):
        worker.ssh(f"lvcreate -q -y -L {size} -n {volume} data && mkfs.ext4 -q /dev/data/{volume}")
    machine_id = worker.ssh("cat /etc/machine-id")
    mark = worker.console.size
    worker.ssh("systemctl reboot --no-block")
    worker.wait_console(r"reboot: (Restarting|machine restart)", timeout=180, since=mark)
    worker.console.begin()
    wait_joined_again(farm, worker)

    after = read_node(farm, worker)
    assert isinstance(before, dict)
    metadata, spec = after["metadata"], after["spec"]
    assert isinstance(metadata, dict)
    assert isinstance(spec, dict)
    assert metadata["uid"] == before["uid"]
    assert metadata["labels"]["rack"] == "a1"
    assert {"key": "rack", "value": "a1", "effect": "PreferNoSchedule"} in spec["taints"]
    assert worker.ssh("cat /etc/machine-id") == machine_id
    for volume, directory in VOLUMES.items():
        source = worker.ssh(f"findmnt -no SOURCE,FSTYPE {directory}").split()
        assert source == [f"/dev/mapper/data-{volume}", "ext4"]
    assert worker.ssh("ls /etc/ssh/ssh_host_*_key | wc -l").strip() != "0"
    assert farm.run_pod(worker, name="after-reboot").phase == "Succeeded"


def test_power_cut_becomes_ready_although_its_old_node_says_ready(farm: Rack, worker: Node) -> None:
    before = read_node(farm, worker)
    worker.power_cut()
    status = before["status"]
    assert isinstance(status, dict)
    ready = [item for item in status["conditions"] if item["type"] == "Ready"]
    assert ready[0]["status"] == "True"
    worker.power_on()
    wait_joined_again(farm, worker)

    after = read_node(farm, worker)
    metadata, old_metadata = after["metadata"], before["metadata"]
    assert isinstance(metadata, dict)
    assert isinstance(old_metadata, dict)
    assert metadata["uid"] == old_metadata["uid"]
    assert metadata["labels"]["rack"] == "a1"
    assert farm.run_pod(worker, name="after-power-cut").phase == "Succeeded"


def test_poweroff_ends_and_marks_the_node(farm: Rack, worker: Node) -> None:
    worker.power_button()
    worker.wait_off(timeout=180)
    status = read_node(farm, worker)["status"]
    assert isinstance(status, dict)
    ready = [item for item in status["conditions"] if item["type"] == "Ready"]
    assert ready[0]["status"] != "True"


def make_expired_token(farm: Rack) -> None:
    """A token that ended three hours ago, as one in an old lts.conf has."""
    ended = datetime.now(UTC) - timedelta(hours=3)
    words = dict(zip(("id", "secret"), OLD_TOKEN.split("."), strict=True))
    text = EXPIRED.format(**words, expiration=f"{ended:%Y-%m-%dT%H:%M:%SZ}")
    farm.kubectl("create", "-f", "-", stdin=text)


def test_containerd_boot_to_ready_and_a_pod_after_an_expired_token(farm: Rack) -> None:
    """Its lts.conf has two join lines: the first one's token has expired."""
    make_expired_token(farm)
    node = farm.boot(NodeSpec("runtime", memory=1536))
    finding = wait_finding(farm, node, "token-expired", timeout=BOOT)
    assert finding["severity"] == "error"
    assert finding["phase"] == "join"
    assert "token expired" in finding["headline"]
    assert "oldone" in finding["seen"]
    assert "0123456789abcdef" not in str(finding)
    assert any("kubeadm token create --print-join-command" in line for line in finding["check"])
    farm.wait_ready(node, timeout=BOOT)
    assert (farm.timeline(node)["finding"] or {}).get("rule") != "token-expired"
    pod = farm.run_pod(node, name="by-containerd")
    assert pod.phase == "Succeeded"
    info = read_node(farm, node)["status"]
    assert isinstance(info, dict)
    assert info["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    check_exec(farm, node)
    node.power_cut()
