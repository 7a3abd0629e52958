"""Certificates of a real control plane, asked for by an account that has k8s/join and no more."""

import functools
import http.client
import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from rack.controlplane import ControlPlane, JoinFacts
from rack.kubernetes.source import build
from rack.namespace import Namespace
from rack.network import set_up_network
from server.doctor.joining import check_join
from server.doctor.target import Survey, Target
from server.farm.join import Join
from server.join.cluster import CSRS, SIGNER, Cluster
from server.join.issuer import Certificate, Issuer, Order, Outcome
from server.join.policy import Refusal
from server.join.rights import DANGEROUS, NEEDED
from server.kubernetes.api import Api
from server.kubernetes.kubeconfig import open_kubeconfig
from tests.server.join.account import K8S, apply_account, make_kubeconfig
from tests.server.join.cluster import MAC, make_request

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

Right = tuple[str, str, str, str, str]
"""Verb, API group, resource with its subresource, namespace, name."""
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
SPECIAL = (
    *((verb, "rbac.authorization.k8s.io", "clusterroles") for verb in ("bind", "escalate")),
    *(("impersonate", "", kind) for kind in ("users", "groups", "serviceaccounts")),
)
CERTIFICATES = "certificates.k8s.io"
GRANTED: set[Right] = {
    ("create", CERTIFICATES, "certificatesigningrequests", "", ""),
    ("get", CERTIFICATES, "certificatesigningrequests", "", ""),
    ("update", CERTIFICATES, "certificatesigningrequests/approval", "", ""),
    ("approve", CERTIFICATES, "signers", "", SIGNER),
    ("get", "coordination.k8s.io", "leases", "kube-node-lease", ""),
}
SIGNERS = (SIGNER, "kubernetes.io/kube-apiserver-client", "kubernetes.io/kubelet-serving", "a.b/c")
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


@dataclass
class RealCluster:
    namespace: Namespace
    control_plane: ControlPlane
    facts: JoinFacts
    account: Api
    admin: Api

    def inside(self, do: Callable[[], Any]) -> Any:
        """What `do` gives, in the machines' network."""
        return self.namespace.in_network(do)

    def issuer(self) -> Issuer:
        """Of a server of its own."""
        return Issuer(Cluster(self.account), Join(True, per_minute=10_000))

    def count(self) -> int:
        """Requests that the cluster has of ours."""
        answer = self.inside(lambda: self.admin.call("GET", CSRS))[1]
        return len([one for one in answer["items"] if "bootfarm-" in one["metadata"]["name"]])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    packages = build(print)
    directory = tmp_path_factory.mktemp("cluster")
    namespace = Namespace()
    try:
        set_up_network(namespace)
        control_plane = ControlPlane(namespace, packages, directory)
        facts = control_plane.start(print)
        apply_account(control_plane.kubectl)
        kubeconfig = directory / "join.kubeconfig"
        authority = directory / "pki/ca.crt"
        kubeconfig.write_text(make_kubeconfig(control_plane.kubectl, authority, facts.api))
        yield RealCluster(
            namespace,
            control_plane,
            facts,
            open_kubeconfig(kubeconfig),
            open_kubeconfig(control_plane.kubeconfig),
        )
    finally:
        namespace.close()


def order(node: str = "node-1", boot: str = "") -> Order:
    return Order("10.9.0.11", MAC, make_request(node, boot or str(uuid.uuid4())))


class Reviewer:
    """Asks as the administrator what an account may; over one connection, for it is thousands."""

    def __init__(self, admin: Api) -> None:
        credentials = admin.read_credentials()
        self._connection = http.client.HTTPSConnection(
            admin.host, admin.port, timeout=30, context=credentials.make_trust()
        )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._connection.request(method, path, data, headers)
        return json.loads(self._connection.getresponse().read())

    def list_resources(self) -> Iterator[tuple[str, str, bool]]:
        """All that there are: group, resource with its subresource, whether it is namespaced."""
        paths = ["/api/v1"]
        for group in self.ask("GET", "/apis")["groups"]:
            paths += [f"/apis/{version['groupVersion']}" for version in group["versions"]]
        for path in paths:
            name = "" if path == "/api/v1" else path.split("/")[2]
            for resource in self.ask("GET", path)["resources"]:
                yield name, resource["name"], resource["namespaced"]

    def list_rights(self) -> Iterator[Right]:
        """Everything that an account may be allowed here."""
        resources = dict.fromkeys(self.list_resources())
        for (group, resource, namespaced), verb in itertools.product(resources, VERBS):
            for namespace in ("kube-node-lease", "") if namespaced else ("",):
                yield verb, group, resource, namespace, ""
        for verb, signer in itertools.product(("approve", "sign", "attest"), (*SIGNERS, "")):
            yield verb, CERTIFICATES, "signers", "", signer
        for verb, group, resource in SPECIAL:
            yield verb, group, resource, "", ""

    def is_allowed(self, account: str, right: Right) -> bool:
        verb, group, resource, namespace, name = right
        resource, _, below = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": resource, "subresource": below}
        attributes |= {"namespace": namespace, "name": name}
        groups = ["system:serviceaccounts", "system:authenticated"]
        spec = {"resourceAttributes": attributes, "user": account, "groups": groups}
        kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        return bool(self.ask("POST", REVIEWS, {**kind, "spec": spec})["status"]["allowed"])


def test_every_further_right_is_refused(cluster: RealCluster) -> None:
    """Of all verbs on all resources that this API server has."""
    ours, nobody = (
        f"system:serviceaccount:{name}" for name in ("bootfarm:bootfarm", "default:default")
    )

    def look() -> tuple[set[Right], int]:
        reviewer = Reviewer(cluster.admin)
        rights = list(reviewer.list_rights())
        found = {right for right in rights if reviewer.is_allowed(ours, right)}
        # What any account may, is not k8s/join's.
        return {one for one in found if not reviewer.is_allowed(nobody, one)}, len(rights)

    found, tried = cluster.inside(look)
    assert found == GRANTED
    assert tried > 1000


def test_a_certificate_that_kubernetes_takes_for_this_node_only(cluster: RealCluster) -> None:
    outcome = cluster.inside(lambda: cluster.issuer().issue(order("node-7")))
    assert isinstance(outcome, Certificate), outcome
    assert outcome.api == f"https://{cluster.facts.api}"
    certificate = x509.load_pem_x509_certificate(outcome.pem.encode())
    names = sorted(part.value for part in certificate.subject)
    assert names == ["system:node:node-7", "system:nodes"]
    minor = cluster.control_plane._packages.minor
    lifetime = outcome.until - time.time()
    if minor >= (1, 22):
        assert 500 < lifetime <= 600
    authority = x509.load_pem_x509_certificate(outcome.authority.encode())
    certificate.verify_directly_issued_by(authority)


def test_the_same_twice_and_another_key(cluster: RealCluster) -> None:
    before = cluster.count()
    asked = order("node-2")
    first = cluster.inside(lambda: cluster.issuer().issue(asked))
    again = cluster.inside(lambda: cluster.issuer().issue(asked))
    assert isinstance(first, Certificate), first
    assert isinstance(again, Certificate), again
    assert (again.pem, again.is_new) == (first.pem, False)
    other = order("node-2", asked.request.boot)
    refused = cluster.inside(lambda: cluster.issuer().issue(other))
    assert isinstance(refused, Refusal)
    assert refused.cause == "join_twice"
    assert cluster.count() == before + 1


def test_40_races_of_two_servers_never_give_two(cluster: RealCluster) -> None:
    before = cluster.count()
    servers = (cluster.issuer(), cluster.issuer())

    def race(number: int) -> list[Outcome]:
        first = order(f"racer-{number}")
        # Every other time the two keys are one: then both get the same.
        second = first if number % 2 else order(f"racer-{number}", first.request.boot)
        start = threading.Barrier(2, timeout=30)
        outcomes: dict[int, Outcome] = {}

        def ask(which: int, one: Order) -> None:
            start.wait()
            outcomes[which] = servers[which].issue(one)

        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate((first, second))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return [outcomes[0], outcomes[1]]

    for number in range(40):
        outcomes = cluster.inside(functools.partial(race, number))
        given = {one.pem for one in outcomes if isinstance(one, Certificate)}
        causes = [one.cause for one in outcomes if isinstance(one, Refusal)]
        assert len(given) == 1, outcomes
        assert causes == ([] if number % 2 else ["join_twice"]), outcomes
    assert cluster.count() == before + 40


def test_a_living_kubelets_lease(cluster: RealCluster) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "node-9", "namespace": "kube-node-lease"},
        "spec": {
            "holderIdentity": "node-9",
            "leaseDurationSeconds": 40,
            "renewTime": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime()),
        },
    }
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    assert cluster.inside(lambda: cluster.admin.call("POST", path, lease))[0] == 201
    refused = cluster.inside(lambda: cluster.issuer().issue(order("node-9")))
    assert isinstance(refused, Refusal)
    assert refused.cause == "join_alive"
    cluster.inside(lambda: cluster.admin.call("DELETE", f"{path}/node-9"))
    assert isinstance(cluster.inside(lambda: cluster.issuer().issue(order("node-9"))), Certificate)


def test_without_k8s_join_it_says_so(cluster: RealCluster, tmp_path: Path) -> None:
    path = tmp_path / "nobody.kubeconfig"
    authority = tmp_path / "ca.crt"
    authority.write_text(cluster.account.read_credentials().authority)
    path.write_text(
        make_kubeconfig(
            cluster.control_plane.kubectl, authority, cluster.facts.api, account="default/default"
        )
    )
    issuer = Issuer(Cluster(open_kubeconfig(path)), Join(True))
    refused = cluster.inside(lambda: issuer.issue(order("node-3")))
    assert isinstance(refused, Refusal)
    assert refused.cause == "join_api"
    assert "403" in refused.words
    assert "is k8s/join applied?" in refused.words


def test_the_kubeconfig_that_the_page_makes(cluster: RealCluster, tmp_path: Path) -> None:
    """The commands of docs/join.md, as they stand there, but for the places of files."""
    page = (K8S.parent / "docs/join.md").read_text()
    block = page.partition("### Outside of the cluster")[2].partition("### ")[0]
    lines = [line.strip() for line in block.splitlines() if line.startswith("    kubectl ")]
    assert len(lines) == 8
    authority = tmp_path / "ca.crt"
    authority.write_text(cluster.account.read_credentials().authority)
    for line in lines[3:]:
        words = line.removeprefix("kubectl ").replace("/etc/kubernetes/pki/ca.crt", str(authority))
        command, _, output = words.partition(" >")
        command = command.replace("join.kubeconfig", str(tmp_path / "join.kubeconfig"))
        said = cluster.control_plane.kubectl(*command.split())
        if output:
            (tmp_path / output).write_text(said)
    assert len((tmp_path / "join.token").read_text()) > 200
    api = open_kubeconfig(tmp_path / "join.kubeconfig")
    issuer = Issuer(Cluster(api), Join(True))
    assert isinstance(cluster.inside(lambda: issuer.issue(order("node-5"))), Certificate)
    # And what the doctor says of it.
    target = Target("10.9.0.1", join=Join(True, kubeconfig=tmp_path / "join.kubeconfig"))
    survey = Survey(values={"RCFILE_07_JOIN": "kubeadm join"})
    verdicts = cluster.inside(lambda: list(check_join(target, survey)))
    assert [verdict.id for verdict in verdicts] == ["join.ok"]
    assert survey.api == f"https://{cluster.facts.api}"


def test_the_doctor_names_the_rights_that_an_account_lacks(
    cluster: RealCluster, tmp_path: Path
) -> None:
    before = cluster.count()
    path = tmp_path / "nobody.kubeconfig"
    authority = tmp_path / "ca.crt"
    authority.write_text(cluster.account.read_credentials().authority)
    path.write_text(
        make_kubeconfig(
            cluster.control_plane.kubectl, authority, cluster.facts.api, account="default/default"
        )
    )
    target = Target("10.9.0.1", join=Join(True, kubeconfig=path))
    (verdict,) = cluster.inside(lambda: list(check_join(target, Survey())))
    assert verdict.id == "join.rights"
    assert all(str(right) in verdict.words for right in NEEDED)
    # The administrator may all of it, and more than is good.
    target = Target("10.9.0.1", join=Join(True, kubeconfig=cluster.control_plane.kubeconfig))
    verdicts = cluster.inside(lambda: list(check_join(target, Survey())))
    assert [verdict.id for verdict in verdicts] == ["join.ok", "join.too-much"]
    assert all(str(right) in verdicts[1].words for right in DANGEROUS)
    assert cluster.count() == before, "nothing was signed"
