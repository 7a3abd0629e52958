"""The node's agent: an order on its own Node is obeyed once, and nobody else's."""

from typing import Any

import pytest

from tests.node.apiserver import ApiServer
from tests.node.joining import Join
from tests.node.test_kubeadm import give_kubelet_its_certificate

REBOOT, REBOOTED = "bootfarm.io/reboot", "bootfarm.io/rebooted"


@pytest.fixture
def agent(node: Any, api: ApiServer) -> Any:
    """A node that has joined; a sleep ends the agent, which would ask for ever."""
    give_kubelet_its_certificate(node, api)
    api.ready = "True"
    node.flat(ROLLOUT_AGENT="true")
    node.stub("systemctl", f'echo "$*" >>{node.root}/systemctl')
    node.stub("sleep", 'kill "$PPID"')
    return node


def reboots(node: Any) -> list[str]:
    file = node.root / "systemctl"
    return file.read_text().splitlines() if file.exists() else []


def test_an_order_is_noted_and_obeyed(agent: Any, api: ApiServer) -> None:
    api.notes = {"a": "b", REBOOT: "r1-1"}
    done = agent.script("obey-rollout")
    assert "a rollout orders a reboot: r1-1" in done.stdout
    assert reboots(agent) == ["reboot"]
    assert api.notes[REBOOTED] == "r1-1"
    assert [peer for peer, _ in api.patches] == ["system:node:worker-1"]
    assert (agent.root / "run/reboot-required").exists()


def test_after_the_reboot_the_same_order_is_none(agent: Any, api: ApiServer) -> None:
    api.notes = {REBOOT: "r1-1", REBOOTED: "r1-1"}
    agent.script("obey-rollout", check=False)
    assert reboots(agent) == []
    assert api.patches == []
    assert not (agent.root / "run/reboot-required").exists()
    api.notes = {REBOOT: "r1-2", REBOOTED: "r1-1"}
    agent.script("obey-rollout")
    assert reboots(agent) == ["reboot"]
    assert api.notes[REBOOTED] == "r1-2"


def test_an_order_that_cannot_be_noted_is_not_obeyed(agent: Any, api: ApiServer) -> None:
    """Else the node would reboot again and again."""
    api.notes = {REBOOT: "r1-1"}
    api.refuses = True
    done = agent.script("obey-rollout", check=False)
    assert "cannot be noted (HTTP 403)" in done.stderr
    assert reboots(agent) == []


@pytest.mark.parametrize(
    "notes",
    [
        {},
        {"other": f'{{"{REBOOT}":"r1-1"}}'},  # another annotation that holds such a text
        {REBOOT: "r1-1; reboot"},
        {REBOOT: ""},
    ],
)
def test_what_is_no_order(agent: Any, api: ApiServer, notes: dict[str, str]) -> None:
    api.notes = notes
    agent.script("obey-rollout", check=False)
    assert api.calls, "it did ask"
    assert reboots(agent) == []


@pytest.mark.parametrize("said", ["false", ""])
def test_unless_lts_conf_wants_it_nothing_is_asked(agent: Any, api: ApiServer, said: str) -> None:
    api.notes = {REBOOT: "r1-1"}
    agent.flat(**({"ROLLOUT_AGENT": said} if said else {}))
    agent.script("obey-rollout")
    assert api.calls == []
    assert reboots(agent) == []


def test_a_server_that_is_not_the_clusters_orders_nothing(agent: Any, api: ApiServer) -> None:
    api.notes = {REBOOT: "r1-1"}
    other = ApiServer(agent.root / "other")
    try:
        agent.write("etc/kubernetes/pki/ca.crt", other.ca.read_bytes())
        agent.script("obey-rollout", check=False)
    finally:
        other.close()
    assert api.calls == []
    assert reboots(agent) == []


def test_before_the_join_it_waits(agent: Any, api: ApiServer) -> None:
    api.notes = {REBOOT: "r1-1"}
    (agent.root / "etc/kubernetes/kubelet.conf").unlink()
    agent.script("obey-rollout", check=False)
    assert api.calls == []
    assert reboots(agent) == []


NO_KUBELET = "echo 'error: timed out waiting for the kubelet' >&2; exit 1"
"""kubeadm's part, where the image's kubelet does not start."""


def fail_to_join(join: Join, node: Any, tries: int = 1) -> None:
    """So many tries, then the wrapper's sleep ends it."""
    join.kubeadm(NO_KUBELET)
    slept = node.root / "slept"
    node.stub("sleep", f"echo $1 >>{slept}\n[ $(grep -c . {slept}) -lt {tries} ] || kill $PPID")
    join.run(*join.line())


def test_a_machine_whose_kubelet_does_not_start_can_be_called_back(
    join: Join, node: Any, api: ApiServer
) -> None:
    """The image is bad: kubelet has no certificate, and the wrapper lends one of the node."""
    api.ready = "Unknown"
    node.flat(ROLLOUT_AGENT="true")
    fail_to_join(join, node)
    assert not (node.root / "var/lib/kubelet/pki/kubelet-client-current.pem").exists()
    lent = node.root / "run/bootfarm/agent"
    assert lent.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in lent.iterdir()} == dict.fromkeys(
        ("server", "ca.crt", "node.pem"), 0o600
    )
    api.notes = {REBOOT: "r1-2"}
    node.stub("systemctl", f'echo "$*" >>{node.root}/systemctl')
    assert "a rollout orders a reboot: r1-2" in node.script("obey-rollout").stdout
    assert reboots(node) == ["reboot"]
    assert (api.notes[REBOOTED], api.patches[-1][0]) == ("r1-2", "system:node:worker-1")


def test_one_certificate_is_asked_for_however_often_a_join_is_tried(
    join: Join, node: Any, api: ApiServer
) -> None:
    api.ready = "Unknown"
    node.flat(ROLLOUT_AGENT="true")
    fail_to_join(join, node, tries=3)
    assert len(join.tries()) == 3
    assert len([call for call in api.calls if call.startswith("POST ")]) == 1


def test_without_an_agent_nothing_is_lent(join: Join, node: Any, api: ApiServer) -> None:
    api.ready = "Unknown"
    node.flat(ROLLOUT_AGENT="false")
    fail_to_join(join, node)
    assert len(join.tries()) == 1
    assert not (node.root / "run/bootfarm/agent").exists()
    assert api.requests == []


def test_kubelets_own_certificate_comes_first(agent: Any, api: ApiServer) -> None:
    for name in ("server", "ca.crt", "node.pem"):
        agent.write(f"run/bootfarm/agent/{name}", "nothing that works\n")
    api.notes = {REBOOT: "r1-1"}
    agent.script("obey-rollout")
    assert reboots(agent) == ["reboot"]
