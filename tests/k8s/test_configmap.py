"""An edited ConfigMap of a real API server reaches the running server; a refused one comes back.

No kubelet can run a pod where the rack's servers are, so its part is played here:
the ConfigMap is read from the API and swapped into the mount, and the service
account's token, CA and namespace are laid where the server looks for them.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rack.errors import RackError
from rack.network import API_IP, SERVER_IP
from rack.process import Process, wait_for
from rack.rack import Rack
from tests.kubelet import Mount
from tests.kustomize import render
from tests.server.farm import publish

HOUSE = Path(__file__).parents[2]
ACCOUNT_KINDS = ("Namespace", "ServiceAccount", "Role", "RoleBinding", "ConfigMap")
USER = "system:serviceaccount:bootfarm:bootfarm"
GOOD = "[default]\nGREETING = two\n"
BAD = "[default]\nGREETING = three\nJOIN --token abcdef.0123456789abcdef\n"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    """A rack whose cluster has what k8s/base makes, but for the pod."""
    with Rack(tmp_path_factory.mktemp("rack")) as rack:
        rack.start_control_plane()
        documents = [
            document
            for document in yaml.safe_load_all(render(HOUSE / "k8s/base"))
            if document["kind"] in ACCOUNT_KINDS
        ]
        for document in sorted(documents, key=lambda item: ACCOUNT_KINDS.index(item["kind"])):
            rack.kubectl("create", "-f", "-", stdin=json.dumps(document))
        yield rack


def get(cluster: Rack, *words: str) -> Any:
    return json.loads(cluster.kubectl("--namespace=bootfarm", "get", *words, "-o", "json"))


def edit(cluster: Rack, text: str) -> None:
    """Edit the ConfigMap as an admin does."""
    patch = json.dumps({"data": {"lts.conf": text}})
    cluster.kubectl("--namespace=bootfarm", "patch", "configmap", "ltsp-config", "-p", patch)


class Pod:
    """The server with what kubelet would give its container."""

    def __init__(self, cluster: Rack, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.mount = Mount(directory / "config")
        self.account = directory / "account"
        self._write_account()
        publish(directory / "store")
        self.process: Process | None = None

    def _write_account(self) -> None:
        """What kubelet projects: a token of the TokenRequest API, and the cluster's root CA."""
        self.account.mkdir()
        root: list[str] = []

        def has_root() -> bool:
            items = get(self.cluster, "configmaps")["items"]
            root[:] = [
                item["data"]["ca.crt"]
                for item in items
                if item["metadata"]["name"] == "kube-root-ca.crt"
            ]
            return bool(root)

        wait_for(has_root, 60, "the cluster's root CA in the namespace")
        token = self.cluster.kubectl("--namespace=bootfarm", "create", "token", "bootfarm")
        for name, text in (
            ("token", token.strip()),
            ("ca.crt", root[0]),
            ("namespace", "bootfarm"),
        ):
            (self.account / name).write_text(text)

    def sync(self) -> None:
        """kubelet's part: what the API has now comes into the mount."""
        self.mount.swap(get(self.cluster, "configmap", "ltsp-config")["data"])

    def start(self) -> None:
        """Start it as the container does, with paths of its own for the volumes."""
        program = (
            "import pathlib, server.kubernetes.api as api;"
            f"api.ACCOUNT = pathlib.Path({str(self.account)!r});"
            "from bootfarm import main; main()"
        )
        self.process = self.cluster.namespace.start(
            "bootfarm serve",
            [
                *(sys.executable, "-c", program, "serve"),
                *("--config", self.mount.path / "farm.yaml"),
                *("--store", self.directory / "store", "--state", self.directory / "state"),
            ],
            self.directory / "log",
            env={"KUBERNETES_SERVICE_HOST": API_IP, "KUBERNETES_SERVICE_PORT": "6443"},
        )
        wait_for(self.answers, 30, "an answer of /healthz", processes=(self.process,))

    def answers(self) -> bool:
        try:
            self.get("/healthz")
        except RackError:
            return False
        return True

    def get(self, path: str) -> str:
        url = f"http://{SERVER_IP}:8080{path}"
        return self.cluster.namespace.run(["curl", "-sS", "--fail", "--max-time", "10", url])

    def greeting(self) -> str:
        (line,) = [
            line
            for line in self.get("/ltsp/amd64/lts.conf").splitlines()
            if line.startswith("GREETING=")
        ]
        return line.partition("=")[2].strip('"')


@pytest.fixture
def pod(cluster: Rack, tmp_path: Path) -> Iterator[Pod]:
    edit(cluster, GOOD.replace("two", "one"))
    pod = Pod(cluster, tmp_path)
    pod.sync()
    # The base's farm.yaml names the container's own place for secrets.
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    text = (pod.mount.path / "farm.yaml").read_text()
    assert "secrets: /etc/bootfarm-secrets" in text
    edit_farm = json.dumps(
        {"data": {"farm.yaml": text.replace("/etc/bootfarm-secrets", str(secrets))}}
    )
    cluster.kubectl("--namespace=bootfarm", "patch", "configmap", "ltsp-config", "-p", edit_farm)
    pod.sync()
    yield pod
    if pod.process is not None:
        pod.process.kill()


def eventually(what: Callable[[], bool]) -> bool:
    for _ in range(200):
        if what():
            return True
        time.sleep(0.1)
    return False


def refusals(cluster: Rack) -> list[Any]:
    return [item for item in get(cluster, "events")["items"] if item["reason"] == "LtsConfRefused"]


def test_an_edit_takes_effect_and_a_bad_one_is_told_on_the_configmap(
    cluster: Rack, pod: Pod
) -> None:
    pod.start()
    assert pod.greeting() == "one"
    edit(cluster, GOOD)
    assert pod.greeting() == "one", "kubelet has not brought it yet"
    pod.sync()
    assert pod.greeting() == "two"

    edit(cluster, BAD)
    pod.sync()
    assert pod.greeting() == "two"
    health = json.loads(pod.get("/healthz"))
    assert health["status"] == "degraded"
    assert "lts.conf:3:" in health["problems"][0]
    assert "lts.conf:3:" in (pod.directory / "log").read_text()
    assert eventually(lambda: len(refusals(cluster)) == 1), (pod.directory / "log").read_text()
    (event,) = refusals(cluster)
    assert event["type"] == "Warning"
    assert "lts.conf:3:" in event["message"]
    assert "abcdef" not in event["message"]
    described = cluster.kubectl("--namespace=bootfarm", "describe", "configmap", "ltsp-config")
    assert "LtsConfRefused" in described.partition("Events:")[2]

    # Over a restart the last good text stays, and the same Event is counted up.
    assert pod.process is not None
    pod.process.kill()
    pod.start()
    assert pod.greeting() == "two"
    assert eventually(lambda: [event["count"] for event in refusals(cluster)] == [2])

    edit(cluster, GOOD.replace("two", "four"))
    pod.sync()
    assert pod.greeting() == "four"
    assert json.loads(pod.get("/healthz"))["problems"] == []


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (("create", "events"), True),
        (("patch", "events"), True),
        (("get", "configmap/ltsp-config"), True),
        (("get", "configmap/other"), False),
        (("update", "configmap/ltsp-config"), False),
        (("list", "configmaps"), False),
        (("get", "events"), False),
        (("delete", "events"), False),
        (("get", "secrets"), False),
        (("get", "nodes"), False),
        (("create", "pods"), False),
    ],
)
def test_the_service_account_may_do_that_and_nothing_else(
    cluster: Rack, words: tuple[str, str], allowed: bool
) -> None:
    ask = ("auth", "can-i", *words, f"--as={USER}", "--namespace=bootfarm")
    if allowed:
        assert cluster.kubectl(*ask).strip() == "yes"
    else:
        with pytest.raises(RackError, match="no"):
            cluster.kubectl(*ask)
