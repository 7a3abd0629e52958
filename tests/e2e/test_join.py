"""Machines that join without any secret: a bare `kubeadm join`, and a certificate a boot.

The server has a kubeconfig of an account with k8s/join and nothing else. The controller
manager's grace period is 10 minutes: a Node whose machine lost its power stays Ready for
all of these tests. Not in `make test`: `make test-cluster` runs it.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rack.controlplane import ControlPlane
from rack.machine import NodeSpec
from rack.network import SERVER_IP, SUBNET, host_argv, plug_in
from rack.node import Node
from rack.process import wait_for
from rack.rack import Rack
from rack.server import BOOTFARM
from tests.e2e.images import HOUSE
from tests.e2e.waits import BOOT, read_node, wait_joined_again
from tests.server.join.account import apply_account, make_kubeconfig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3000)]

SPECS = {name: NodeSpec(name, memory=1536).completed("") for name in ("bare", "by-containerd")}
RACER, RACER_IP = "02:00:00:00:0a:01", "10.9.150.1"
SECOND_PORT = 8081
LTS_CONF = f"""
[default]
KEEP_SYSTEM_SERVICES = ssh
RCFILE_01_SSH = "mkdir -p /root/.ssh; echo '{{{{ ssh_key }}}}' >> /root/.ssh/authorized_keys"
RCFILE_02_JOIN = "kubeadm join --ignore-preflight-errors=Swap"
[{SPECS["by-containerd"].mac}]
IMAGE = amd64-containerd
"""


@dataclass
class Farm:
    """The rack, and what its servers run with."""

    rack: Rack
    config: Mapping[str, Any]

    def join_events(self, node: Node) -> list[dict[str, Any]]:
        """What the server says of a node's requests, the oldest first."""
        events = self.rack.timeline(node)["events"]
        return [event for event in events if event["source"] == "join"]


def account_of(rack: Rack) -> str:
    """A kubeconfig of the account that k8s/join is for."""
    control_plane: ControlPlane = rack.control_plane
    apply_account(rack.kubectl)
    authority = rack.directory / "control-plane/pki/ca.crt"
    return make_kubeconfig(rack.kubectl, authority, control_plane.facts.api)


@pytest.fixture(scope="module")
def farm(rack: Rack, store: Path) -> Farm:
    """The rack with its control plane; the server may have certificates signed."""
    rack.start_control_plane()
    kubeconfig = rack.directory / "join.kubeconfig"
    kubeconfig.write_text(account_of(rack))
    machines = [{"mac": spec.mac, "hostname": name} for name, spec in SPECS.items()]
    config = {
        "default_image": "amd64",
        "inventory": [*machines, {"mac": RACER, "hostname": "racer"}],
        "join": {"certificates": True, "kubeconfig": str(kubeconfig)},
    }
    rack.serve(store, LTS_CONF, config=config)
    return Farm(rack, config)


@pytest.fixture(scope="module")
def worker(farm: Farm) -> Node:
    """A machine with Docker, booted to Ready."""
    node = farm.rack.boot(SPECS["bare"])
    farm.rack.wait_ready(node, timeout=BOOT)
    node.wait_ssh()
    return node


def test_a_bare_line_joins_and_a_pod_runs(farm: Farm, worker: Node) -> None:
    pod = farm.rack.run_pod(worker)
    assert pod.phase == "Succeeded"
    boot = farm.rack.timeline(worker)["boot"]
    assert boot["phases"]["join"]["status"] == "ok"
    assert "joined as bare (by certificate)" in boot["phases"]["join"]["detail"]
    (event,) = farm.join_events(worker)
    assert (event["what"], event["detail"]["status"]) == ("issued", "ok")
    facts = boot["facts"]
    assert facts["join_until"] - facts["join_issued"] == pytest.approx(600, abs=5)
    print(f"certificate in {facts['join_ms']} ms")
    assert farm.rack.server is not None
    page = farm.rack.server.get(f"/nodes/{worker.mac}")[1].decode()
    assert "joins by certificate issued" in page


def test_nothing_secret_is_left_where_others_read(farm: Farm, worker: Node) -> None:
    modes = worker.ssh(
        "stat -c '%a %n' /run/bootfarm /run/bootfarm/join /run/bootfarm/join/key.pem"
    )
    assert [line.split()[0] for line in modes.splitlines()] == ["700", "700", "600"]
    left = "ls /tmp/tmp.*/discovery.conf /etc/kubernetes/bootstrap-kubelet.conf 2>/dev/null | wc -l"
    assert worker.ssh(left).strip() == "0"
    # kubelet has a certificate of its own, for a longer time.
    kubelet = (
        "openssl x509 -noout -checkend 86400 -in /var/lib/kubelet/pki/kubelet-client-current.pem"
    )
    assert "will not expire" in worker.ssh(kubelet)
    assert "token" not in worker.ssh("cat /run/bootfarm/lts.conf")


ASK = """
cd $(mktemp -d)
openssl ecparam -genkey -name prime256v1 -noout -out key
openssl req -new -sha256 -key key -subj "/O=system:nodes/CN=system:node:{node}" -out csr
for try in 1 2 3 4 5 6 7 8 9; do
    curl -sS --data-urlencode boot={boot} --data-urlencode csr@csr http://{server}:8080/join >answer
    grep -q '^cause=\\|^certificate=' answer && break
    sleep 1
done
cat answer
"""


def ask(worker: Node, node: str, boot: str = "a-boot-that-is-made-up") -> dict[str, str]:
    """What a process of nobody's on a machine is answered that asks for a certificate."""
    script = ASK.format(node=node, boot=boot, server=SERVER_IP)
    said = worker.ssh("setpriv --reuid=65534 --regid=65534 --clear-groups sh", stdin=script)
    return dict(line.split("=", 1) for line in said.splitlines())


def test_a_process_on_a_ready_node_gets_nothing(farm: Farm, worker: Node) -> None:
    answer = ask(worker, "bare")
    # However late a starved kubelet is: then the server watches, and it renews.
    assert answer["cause"] in ("join_alive", "join_watched")
    last = farm.join_events(worker)[-1]
    assert last["what"] in ("refused", "watched")
    assert last["detail"]["cause"] == answer["cause"]
    # The machine that runs is in no trouble for it.
    assert farm.rack.timeline(worker)["state"] == "ready"


@pytest.mark.parametrize("name", ["by-containerd", "racer", "control-plane", "somebody-else"])
def test_a_request_in_another_machines_name_is_refused(farm: Farm, worker: Node, name: str) -> None:
    answer = ask(worker, name)
    assert answer["cause"] == "join_name"
    assert f"the request is for system:node:{name}, and this machine" in answer["words"]


def test_reboot_keeps_labels_and_taints(farm: Farm, worker: Node) -> None:
    farm.rack.kubectl("label", "node", worker.name, "rack=a1")
    farm.rack.kubectl("taint", "node", worker.name, "rack=a1:PreferNoSchedule")
    before: Any = read_node(farm.rack, worker)["metadata"]
    mark = worker.console.size
    worker.ssh("systemctl reboot --no-block")
    worker.wait_console(r"reboot: (Restarting|machine restart)", timeout=180, since=mark)
    worker.console.begin()
    asked = len(farm.join_events(worker))
    wait_joined_again(farm.rack, worker)
    # It let go of its lease: no wait.
    assert [event["what"] for event in farm.join_events(worker)[asked:]] == ["issued"]
    after: Any = read_node(farm.rack, worker)
    assert after["metadata"]["uid"] == before["uid"]
    assert after["metadata"]["labels"]["rack"] == "a1"
    assert {"key": "rack", "value": "a1", "effect": "PreferNoSchedule"} in after["spec"]["taints"]


def test_power_cut_although_the_old_node_says_ready(farm: Farm, worker: Node) -> None:
    before: Any = read_node(farm.rack, worker)
    worker.power_cut()
    ready = [one for one in before["status"]["conditions"] if one["type"] == "Ready"]
    assert ready[0]["status"] == "True"
    worker.power_on()
    wait_joined_again(farm.rack, worker)
    # Nobody let go of its lease: the server watched whether a kubelet of that name lives.
    assert farm.join_events(worker)[-2]["what"] == "watched"
    after: Any = read_node(farm.rack, worker)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["labels"]["rack"] == "a1"
    assert farm.rack.run_pod(worker, name="after-power-cut").phase == "Succeeded"
    issued = [one for one in farm.join_events(worker) if one["what"] == "issued"]
    assert len(issued) == 3, "one for each boot"


def test_containerd_joins_by_certificate_as_well(farm: Farm, worker: Node) -> None:
    worker.power_cut()
    node = farm.rack.boot(SPECS["by-containerd"])
    farm.rack.wait_ready(node, timeout=BOOT)
    status: Any = read_node(farm.rack, node)["status"]
    assert status["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    node.power_cut()


def start_second_server(farm: Farm, store: Path) -> None:
    """Another server beside the first, of the same account, with a state of its own."""
    rack = farm.rack
    directory = rack.directory / "second"
    directory.mkdir(exist_ok=True)
    (directory / "farm.yaml").write_text(yaml.safe_dump(dict(farm.config)))
    assert rack.server is not None
    argv = [
        *(*BOOTFARM, "serve", "--store", str(store), "--lts-conf", str(rack.server.lts_conf)),
        *("--config", str(directory / "farm.yaml"), "--state", str(directory / "state")),
        *("--services", "http", "--http-port", str(SECOND_PORT)),
    ]
    process = rack.namespace.start("second server", argv, directory / "server.log")

    def answers() -> bool:
        try:
            rack.namespace.connect(SERVER_IP, SECOND_PORT, 1.0).close()
        except OSError:
            return False
        return True

    wait_for(answers, 60, "the second server", processes=(process,))


def test_40_races_against_two_servers_never_give_two(farm: Farm, store: Path) -> None:
    rack = farm.rack
    start_second_server(farm, store)
    # A machine of the inventory: its own network, and the MAC that stands there.
    pid_file = rack.directory / "racer.pid"
    pid_file.unlink(missing_ok=True)
    address = f"{RACER_IP}/{SUBNET.prefixlen}"
    argv = host_argv(pid_file, "racer0", (address,), ["sleep", "1800"])
    machine = rack.namespace.start("racer", argv, rack.directory / "racer.log")
    wait_for(pid_file.exists, 10, "the racing machine", processes=(machine,), interval=0.05)
    plug_in(rack.namespace, pid_file, "racer0")
    enter = ["nsenter", "--target", pid_file.read_text().strip(), "--net"]
    rack.namespace.run([*enter, "ip", "link", "set", "dev", "racer0", "address", RACER])
    urls = [f"http://{SERVER_IP}:{port}/join" for port in (8080, SECOND_PORT)]
    said = rack.namespace.run(
        [*enter, sys.executable, "-m", "tests.e2e.racer", "racer", "40", *urls],
        env={"PYTHONPATH": str(HOUSE)},
        timeout=900.0,
    )
    races = [json.loads(line) for line in said.splitlines()]
    assert len(races) == 40
    for race in races:
        assert len(race["certificates"]) == 1, race
        assert sorted(race["statuses"]) == ([200, 200] if race["same"] else [200, 409]), race
        assert set(race["causes"]) == ({""} if race["same"] else {"", "join_twice"}), race
