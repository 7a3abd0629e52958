"""A cluster, not a lone node: pods on two nodes reach each other, come what may.

One node runs Docker, one containerd, both images bring no network. kube-router and
CoreDNS come as DaemonSet and Deployment from the rack's registry, which the nodes
know as Docker Hub's mirror.
"""

import json
import time
from typing import Any

import pytest

from rack.errors import RackError
from rack.kubernetes.images import TEST_IMAGE
from rack.machine import NodeSpec
from rack.node import Node
from rack.rack import Rack
from tests.e2e.images import HOUSE, RESULTS, alone, run_bootfarm
from tests.e2e.waits import wait_joined_again

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

BOOT = 600.0
SETTLE = 600.0
"""Seconds until every pod reaches every other after something happened: a guest under TCG
pulls and unpacks kube-router for minutes, two at once for longer."""
IMAGES = {"by-docker": "amd64-cluster", "by-containerd": "amd64-cluster-containerd"}
PORT = 8080
FETCHES = 8
"""Of each host: a Service with two pods that gave one only has a chance of 1 in 128."""

LTS_CONF = """
[default]
KEEP_SYSTEM_SERVICES = ssh
REGISTRY_MIRRORS = "docker.io=http://{{ registry }}"
RCFILE_01_SSH = "mkdir -p /root/.ssh; echo '{{ ssh_key }}' >> /root/.ssh/authorized_keys"
RCFILE_02_JOIN = "kubeadm join --token {{ token }} {{ api }} \
--discovery-token-ca-cert-hash {{ ca_hash }}"
"""

# A page that tells the node, on each node, behind one Service.
PAGE = (
    'mkdir -p /tmp/www && echo "$NODE" > /tmp/www/index.html && '
    f"exec busybox httpd -f -p {PORT} -h /tmp/www"
)
WEB: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "containers": [
                            {
                                "name": "web",
                                "image": TEST_IMAGE,
                                "imagePullPolicy": "Never",
                                "command": ["/bin/sh", "-c", PAGE],
                                "env": [
                                    {
                                        "name": "NODE",
                                        "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
                                    }
                                ],
                            }
                        ],
                    },
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": PORT}]},
        },
    ],
}


@pytest.fixture(scope="module")
def farm(rack: Rack) -> Rack:
    """The rack with a cluster network and both images."""
    directory = RESULTS / "store"
    with alone("build"):
        for name in ("cluster.yaml", "cluster-containerd.yaml"):
            recipe = str(HOUSE / "recipes" / name)
            run_bootfarm("build", recipe, "--store", str(directory), "--squashfs-level", "3")
    rack.start_control_plane()
    rack.start_cluster_network()
    sections = [
        f"[{NodeSpec(name).completed('').mac}]\nIMAGE = {image}\n" for name, image in IMAGES.items()
    ]
    config = {"default_image": "amd64-cluster"}
    rack.serve(directory, LTS_CONF + "".join(sections), config=config)
    return rack


@pytest.fixture(scope="module")
def nodes(farm: Rack) -> list[Node]:
    """One machine with each image, booted to Ready: kube-router runs on both."""
    nodes = [farm.boot(NodeSpec(name, memory=1536)) for name in IMAGES]
    for node in nodes:
        farm.wait_ready(node, timeout=BOOT)
    farm.kubectl("apply", "-f", "-", stdin=json.dumps(WEB))
    return nodes


def read_web_pods(farm: Rack) -> dict[str, tuple[str, str]]:
    """Node -> (pod, address) of the running web pods."""
    listed = json.loads(farm.kubectl("get", "pods", "-l", "app=web", "-o", "json"))["items"]
    return {
        pod["spec"]["nodeName"]: (pod["metadata"]["name"], pod["status"]["podIP"])
        for pod in listed
        if pod["status"].get("phase") == "Running" and pod["status"].get("podIP")
    }


def fetch_all(farm: Rack, pod: str, hosts: list[str]) -> dict[str, set[str]]:
    """Host -> which nodes answered a pod that asked it, each host FETCHES times.

    By one `kubectl exec`: each costs a slow guest seconds. A fetch without an answer is the
    empty word.
    """
    # Not `wget -T`: Debian's static busybox crashes by it.
    script = (
        f"for host; do for turn in $(seq {FETCHES}); do"
        f' page=$(busybox timeout 10 busybox wget -q -O - "http://$host:{PORT}/")'
        '; echo "$host $page"; done; done'
    )
    words = ("exec", pod, "--", "/bin/sh", "-c", script, "fetch", *hosts)
    found: dict[str, set[str]] = {host: set() for host in hosts}
    for line in farm.kubectl(*words, timeout=300).splitlines():
        host, _, node = line.partition(" ")
        found[host].add(node)
    return found


def check_mesh(farm: Rack) -> None:
    """Each pod reaches both pods by address, and the Service by address and by name."""
    pods = read_web_pods(farm)
    assert set(pods) == set(IMAGES), f"web pods run on {sorted(pods)} only"
    service = farm.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}").strip()
    wanted = {address: {node} for node, (_, address) in pods.items()}
    # The Service leads to both nodes, not to the near one alone.
    wanted |= {host: set(IMAGES) for host in (service, "web", "web.default.svc.cluster.local")}
    for pod, _ in pods.values():
        found = fetch_all(farm, pod, list(wanted))
        assert found == wanted, f"from {pod}: {found}"


def wait_mesh(farm: Rack, nodes: list[Node]) -> None:
    """check_mesh until it holds; its last failure when it does not in SETTLE seconds."""
    end = time.monotonic() + SETTLE
    while True:
        try:
            check_mesh(farm)
            return
        except (AssertionError, RackError) as failure:
            if time.monotonic() > end:
                state = farm.kubectl("get", "pods", "-A", "-o", "wide")
                raise AssertionError(f"{failure}\n{state}") from failure
        for node in nodes:
            node.check()
        time.sleep(3)


def test_pods_reach_each_other_by_address_service_and_name(farm: Rack, nodes: list[Node]) -> None:
    wait_mesh(farm, nodes)
    wide = farm.kubectl("get", "nodes", "-o", "wide")
    assert "docker://" in wide
    assert "containerd://" in wide


def test_images_came_through_the_mirror(farm: Rack, nodes: list[Node]) -> None:
    log = (farm.directory / "registry" / "registry.log").read_text()
    for node in nodes:
        assert any(node.ip in line and "kube-router/manifests" in line for line in log.splitlines())


def test_networkd_may_restart_and_leases_are_renewed(farm: Rack, nodes: list[Node]) -> None:
    for node in nodes:
        node.ssh("systemctl restart systemd-networkd")
    wait_mesh(farm, nodes)
    for node in nodes:
        card = node.ssh("ip -o route get 10.9.0.1 | sed 's/.* dev \\([^ ]*\\).*/\\1/'").strip()
        node.ssh(f"networkctl renew {card}")
    wait_mesh(farm, nodes)


@pytest.mark.parametrize("number", [0, 1], ids=list(IMAGES))
def test_a_node_reboots_and_its_pods_are_reached_again(
    farm: Rack, nodes: list[Node], number: int
) -> None:
    node = nodes[number]
    mark = node.console.size
    node.ssh("systemctl reboot --no-block")
    node.wait_console(r"reboot: (Restarting|machine restart)", timeout=180, since=mark)
    node.console.begin()
    wait_joined_again(farm, node)
    wait_mesh(farm, nodes)
