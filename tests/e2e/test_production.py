"""recipes/production.yaml as it stands, with the rack's repository and registry in the place
of those of the internet: a BIOS machine and a UEFI machine to Ready and a pod.

Not in CI, for its minutes: `make test-cluster` runs it.
"""

import json
import re

import pytest

from rack.kubernetes.images import TEST_IMAGE
from rack.machine import Firmware, NodeSpec
from rack.rack import Rack
from tests.e2e.images import HOUSE, RESULTS, alone, run_bootfarm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3000)]

BOOT = 1200.0
MEMORY = 3072
"""MiB: the image is copied into memory, as the recipe's lts_defaults want."""

# Everything that a site without internet says: where images come from, and how to join.
LTS_CONF = """
[default]
KEEP_SYSTEM_SERVICES = ssh
REGISTRY_MIRRORS = "*=http://{{ registry }}"
RCFILE_01_SSH = "mkdir -p /root/.ssh; echo '{{ ssh_key }}' >> /root/.ssh/authorized_keys"
RCFILE_02_JOIN = "kubeadm join --token {{ token }} {{ api }} \
--discovery-token-ca-cert-hash {{ ca_hash }}"
"""


@pytest.fixture(scope="module")
def farm(rack: Rack) -> Rack:
    """The rack with a registry that has every image, and production's image in a store."""
    packages = rack.packages
    store = RESULTS / "store-production"
    local = f"file:{packages.apt},key={packages.apt / 'key.gpg'}"
    with alone("build"):
        run_bootfarm(
            *("build", str(HOUSE / "recipes/production.yaml"), "--store", str(store)),
            *("--repository", f"kubernetes={local}", "--repository", f"docker={local}"),
        )
    rack.start_control_plane()
    registry = rack.start_cluster_network()
    registry.push(
        {
            packages.pause_image.partition("/")[2]: packages.images / "pause.tar",
            TEST_IMAGE.partition("/")[2]: packages.images / "test.tar",
        }
    )
    rack.serve(store, LTS_CONF)
    return rack


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_production_boots_to_ready_and_a_pod(farm: Rack, firmware: Firmware) -> None:
    node = farm.boot(NodeSpec(f"production-{firmware}", firmware=firmware, memory=MEMORY))
    farm.wait_ready(node, timeout=BOOT)
    pod = farm.run_pod(node, name=f"by-{firmware}", pull="IfNotPresent")
    assert f"hello from {node.name}" in pod.log
    status = json.loads(farm.kubectl("get", "node", node.name, "-o", "json"))["status"]
    info = status["nodeInfo"]
    assert info["kubeletVersion"] == f"v{farm.packages.version}"
    assert re.match(r"containerd://2\.", info["containerRuntimeVersion"])
    node.wait_ssh()
    # Nothing is asked of the server any more: the root is in memory.
    assert node.ssh("cat /sys/block/nbd0/size 2>/dev/null || echo 0").strip() == "0"
    wanted = "/sys/firmware/efi" if firmware == "uefi" else "/proc"
    assert node.ssh(f"test -d {wanted} && echo yes").strip() == "yes"
    config = json.loads(farm.kubectl("get", "--raw", f"/api/v1/nodes/{node.name}/proxy/configz"))[
        "kubeletconfig"
    ]
    assert (config["containerLogMaxSize"], config["containerLogMaxFiles"]) == ("10Mi", 5)
    assert (farm.timeline(node).get("finding") or {}).get("severity") != "error"
    node.power_cut()
