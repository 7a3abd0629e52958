"""The doctor and a real control plane: what Kubernetes itself signs, and forgets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rack.controlplane import ControlPlane, JoinFacts
from rack.kubernetes.source import build
from rack.namespace import Namespace
from rack.network import set_up_network
from rack.process import wait_for
from server.doctor.cluster import check_api
from server.doctor.target import Survey, Target
from server.doctor.verdict import Verdict

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@dataclass
class Cluster:
    namespace: Namespace
    control_plane: ControlPlane
    facts: JoinFacts

    def examine(self, line: str = "", *, kubeconfig: str = "") -> dict[str, Verdict]:
        """The doctor's verdicts by id, looking from the machines' network."""
        line = line or self.line(self.facts.token)
        survey = Survey(values={"RCFILE_07_JOIN_K8S": line})
        target = Target("10.9.0.1", kubeconfig=kubeconfig)
        verdicts = self.namespace.in_network(lambda: list(check_api(target, survey)))
        return {verdict.id: verdict for verdict in verdicts}

    def line(self, token: str) -> str:
        facts = self.facts
        words = f"kubeadm join {facts.api} --token {token}"
        return f"{words} --discovery-token-ca-cert-hash {facts.ca_hash}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    packages = build(print)
    namespace = Namespace()
    try:
        set_up_network(namespace)
        control_plane = ControlPlane(namespace, packages, tmp_path_factory.mktemp("cluster"))
        yield Cluster(namespace, control_plane, control_plane.start(print))
    finally:
        namespace.close()


def test_a_token_from_birth_to_death(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert set(cluster.examine()) == {"clock.ok", "api.ok", "token.ok"}
    # Its age, as an administrator may see it.
    program = build(print).programs / "kubectl"
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    kubeconfig = str(cluster.control_plane.kubeconfig)
    verdicts = cluster.examine(kubeconfig=kubeconfig)
    assert "it expires in 24 h" in verdicts["token.ok"].words
    # The first half right, the second wrong; and one that never was.
    token_id = cluster.facts.token.partition(".")[0]
    assert "token.secret" in cluster.examine(cluster.line(f"{token_id}.0000000000000000"))
    assert "token.refused" in cluster.examine(cluster.line("zzzzzz.0000000000000000"))
    # It is removed, as an expired one is: Kubernetes takes its signature away.
    secret = f"bootstrap-token-{token_id}"
    cluster.control_plane.kubectl("delete", "secret", "--namespace=kube-system", secret)
    wait_for(lambda: "token.refused" in cluster.examine(), 60, "the end of the signature")
    assert "token.refused" in cluster.examine(kubeconfig=kubeconfig)


def test_another_clusters_ca(cluster: Cluster) -> None:
    line = cluster.line(cluster.facts.token).replace(cluster.facts.ca_hash, "sha256:" + "0" * 64)
    assert "api.ca" in cluster.examine(line)
