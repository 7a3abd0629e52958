"""Certificates of a real control plane, asked for by an account that has k8s/join and no more."""

import functools
import http.client
import itertools
import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rack.controlplane import ControlPlane, JoinFacts
from rack.kubernetes.source import build
from rack.namespace import Namespace
from rack.network import SERVER_IP, SUBNET, host_argv, plug_in, set_up_network
from rack.process import wait_for
from rack.server import BOOTFARM
from server.doctor.joining import check_join
from server.doctor.target import Survey, Target
from server.farm.join import Join
from server.join.cluster import CSRS, SIGNER, Cluster
from server.join.issuer import Certificate, Issuer, Order, Outcome
from server.join.policy import Refusal
from server.join.request import parse_request
from server.join.rights import DANGEROUS, NEEDED
from server.kubernetes.api import Api
from server.kubernetes.kubeconfig import open_kubeconfig
from tests.server.join.account import K8S, apply_account, make_kubeconfig
from tests.server.join.cluster import FORM, MAC, encode_form, make_csr, make_request

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

HOUSE = Path(__file__).parents[3]
BOOTFARM_LIB = HOUSE / "imagebuild/rootfs/usr/lib/bootfarm"
IP = "10.9.0.11"
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
    kubeconfig: Path

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
            kubeconfig,
        )
    finally:
        namespace.close()


def order(node: str = "node-1", boot: str = "") -> Order:
    return Order(IP, MAC, make_request(node, boot or str(uuid.uuid4())))


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


EXPIRE = """
. "$1/lib/kube.sh"
expire_lease "https://$2" "$3" "$4/out" --cacert "$4/ca.pem" --cert "$4/cert.pem" --key "$4/key.pem"
"""


def test_a_lease_is_watched_unless_its_own_node_lets_it_go(
    cluster: RealCluster, tmp_path: Path
) -> None:
    """The node's own shell, with the certificate of a kubelet, before the real authorizer."""
    key = ec.generate_private_key(ec.SECP256R1())
    form = encode_form(str(uuid.uuid4()), make_csr("node-8", key=key))
    first = cluster.inside(
        lambda: cluster.issuer().issue(Order(IP, MAC, parse_request(FORM, form)))
    )
    assert isinstance(first, Certificate), first
    (tmp_path / "ca.pem").write_text(first.authority)
    (tmp_path / "cert.pem").write_text(first.pem)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    for name in ("node-8", "node-9"):
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"},
        }
        make = functools.partial(cluster.admin.call, "POST", path, lease)
        assert cluster.inside(make)[0] == 201

    def let_go(name: str) -> str:
        words = (str(BOOTFARM_LIB), cluster.facts.api, name, str(tmp_path))
        return cluster.namespace.run(["sh", "-c", EXPIRE, "node", *words])

    issuer = cluster.issuer()
    outcome = cluster.inside(lambda: issuer.issue(order("node-8")))
    assert isinstance(outcome, Refusal)
    assert (outcome.cause, outcome.wait) == ("join_watched", 5)
    # Somebody else's certificate lets go of nothing.
    assert let_go("node-9") == "403"
    outcome = cluster.inside(lambda: issuer.issue(order("node-9")))
    assert isinstance(outcome, Refusal)
    assert outcome.cause == "join_watched"
    assert let_go("node-8") == "200"
    assert isinstance(cluster.inside(lambda: issuer.issue(order("node-8"))), Certificate)


RACERS = 4
PORTS = (8080, 8081)


def test_40_races_over_http_never_give_two(cluster: RealCluster, tmp_path: Path) -> None:
    """Two servers of their own processes, and machines of the inventory that ask both at once."""
    macs = [f"02:00:00:00:0a:0{number}" for number in range(RACERS)]
    kubeconfig = tmp_path / "join.kubeconfig"
    kubeconfig.write_text(cluster.kubeconfig.read_text())
    config = {
        "inventory": [{"mac": mac, "hostname": f"http-{mac[-1]}"} for mac in macs],
        "join": {"certificates": True, "kubeconfig": str(kubeconfig)},
    }
    (tmp_path / "farm.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "lts.conf").write_text("[default]\nTIMEZONE = UTC\n")
    (tmp_path / "store").mkdir()
    before = cluster.count()
    for port in PORTS:
        argv = [
            *(*BOOTFARM, "serve", "--services", "http", "--http-port", str(port)),
            *("--store", str(tmp_path / "store"), "--lts-conf", str(tmp_path / "lts.conf")),
            *("--config", str(tmp_path / "farm.yaml"), "--state", str(tmp_path / str(port))),
        ]
        server = cluster.namespace.start(f"server {port}", argv, tmp_path / f"{port}.log")

        def answers(port: int = port) -> bool:
            try:
                cluster.namespace.connect(SERVER_IP, port, 1.0).close()
            except OSError:
                return False
            return True

        wait_for(answers, 60, f"the server on port {port}", processes=(server,))
    urls = [f"http://{SERVER_IP}:{port}/join" for port in PORTS]
    with ThreadPoolExecutor(RACERS) as pool:
        said = list(pool.map(lambda mac: race_over_http(cluster, tmp_path, mac, urls), macs))
    races = [json.loads(line) for lines in said for line in lines.splitlines()]
    assert len(races) == 40
    for race in races:
        assert len(race["certificates"]) == 1, race
        assert sorted(race["statuses"]) == ([200, 200] if race["same"] else [200, 409]), race
        assert set(race["causes"]) == ({""} if race["same"] else {"", "join_twice"}), race
    assert len({certificate for race in races for certificate in race["certificates"]}) == 40
    assert cluster.count() == before + 40


def race_over_http(cluster: RealCluster, directory: Path, mac: str, urls: list[str]) -> str:
    """A machine of that MAC races ten times; what it prints."""
    cable, pid_file = f"racer{mac[-1]}", directory / f"{mac[-1]}.pid"
    address = f"10.9.150.{mac[-1]}1/{SUBNET.prefixlen}"
    argv = host_argv(pid_file, cable, (address,), ["sleep", "900"])
    machine = cluster.namespace.start(cable, argv, directory / f"{cable}.log")
    wait_for(pid_file.exists, 30, "the racing machine", processes=(machine,), interval=0.05)
    plug_in(cluster.namespace, pid_file, cable)
    enter = ["nsenter", "--target", pid_file.read_text().strip(), "--net"]
    cluster.namespace.run([*enter, "ip", "link", "set", "dev", cable, "address", mac])
    # The rack may have heard of the card by the MAC that it came with.
    cluster.namespace.run(["ip", "neigh", "flush", "to", address.partition("/")[0]])
    return cluster.namespace.run(
        [*enter, sys.executable, "-m", "tests.e2e.racer", f"http-{mac[-1]}", "10", *urls],
        env={"PYTHONPATH": str(HOUSE)},
        timeout=600.0,
    )


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
