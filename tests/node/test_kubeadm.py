"""The wrapper around `kubeadm join`, against an API server over TLS and a kubeadm of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.apiserver import TOKEN, ApiServer, openssl

pytestmark = pytest.mark.integration


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    api = ApiServer(tmp_path / "api")
    yield api
    api.close()


class Join:
    """Runs the wrapper; `kubeadm` is the real one's part as a shell script."""

    def __init__(self, node: Any, api: ApiServer) -> None:
        self.node = node
        self.api = api
        self.kubeadm('echo "joined"')
        node.stub("systemctl", f'echo "$*" >>{node.root}/systemctl.log; [ "$1" != is-active ]')
        node.stub("uname", "echo Worker-1")
        node.stub("sleep", f"echo $1 >>{node.root}/slept")

    def kubeadm(self, script: str) -> None:
        root = self.node.root
        self.node.stub("kubeadm", f'echo "$*" >>{root}/kubeadm.log\n' + script)

    def line(self, **changes: str) -> list[str]:
        token = changes.get("token", TOKEN)
        ca_hash = changes.get("ca_hash", self.api.ca_hash())
        words = ["join", "--token", token, changes.get("endpoint", self.api.endpoint)]
        return [*words, "--discovery-token-ca-cert-hash", ca_hash]

    def run(self, *args: str) -> Any:
        return self.node.script("bin/kubeadm", *args, check=False, KUBE_TIMEOUT="5")

    def tries(self) -> list[str]:
        log = self.node.root / "kubeadm.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def join(node: Any, api: ApiServer) -> Join:
    return Join(node, api)


@pytest.mark.parametrize(
    "args",
    [
        ("version", "-o", "short"),
        ("reset", "-f"),
        ("token", "create", "--print-join-command"),
        ("join", "--help"),
        ("join", "phase", "kubelet-start"),
        (),
    ],
)
def test_everything_but_join_goes_through(join: Join, args: tuple[str, ...]) -> None:
    join.kubeadm("exit 5")
    assert join.run(*args).returncode == 5
    assert join.tries() == [" ".join(args)]
    assert join.api.calls == []


def test_first_join_of_an_unknown_node(join: Join, node: Any, served: Callable[[], Any]) -> None:
    server = served()
    line = join.line()
    done = join.run(*line)
    assert done.returncode == 0, done.stderr
    assert join.tries() == [" ".join(line)]
    assert "PATCH" not in " ".join(join.api.calls)
    heard = [(b["phase"], b["status"], b["detail"]) for b in server.beacons]
    assert heard == [
        ("join", "start", "try 1"),
        ("join", "ok", "try 1: joined as worker-1 (token abcdef)"),
    ]


def test_ready_node_of_before_the_power_cut_is_marked_first(join: Join, node: Any) -> None:
    join.api.ready = "True"
    assert join.run(*join.line()).returncode == 0
    (peer, patch) = join.api.patches[0]
    assert peer == "system:node:worker-1"
    (condition,) = patch["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("Ready", "Unknown")
    assert join.api.calls[-1] == "PATCH /api/v1/nodes/worker-1/status"
    assert len(join.tries()) == 1
    subject = openssl("req", "-noout", "-subject", data=join.api.requests[0]).decode()
    assert "O = system:nodes" in subject


@pytest.mark.parametrize("ready", ["False", "Unknown"])
def test_node_that_is_not_ready_is_left_alone(join: Join, ready: str) -> None:
    join.api.ready = ready
    assert join.run(*join.line()).returncode == 0
    assert join.api.patches == []


def test_token_stands_in_no_argument_of_ours(join: Join, node: Any) -> None:
    join.api.ready = "True"
    node.stub("curl", f'echo "$*" >>{node.root}/curl.log; exec /usr/bin/curl "$@"')
    join.run(*join.line())
    assert "PATCH" in node.read("curl.log")
    assert TOKEN.split(".")[1] not in node.read("curl.log")


def test_tries_again_and_cleans_up_after_a_try_that_failed(
    join: Join, node: Any, served: Callable[[], Any]
) -> None:
    server = served()
    root = node.root
    node.stub("journalctl", "echo kubelet says why")
    join.kubeadm(
        f"[ ! -e {root}/etc/kubernetes/kubelet.conf ] || {{ echo 'it exists'; exit 1; }}\n"
        f"mkdir -p {root}/etc/kubernetes/pki {root}/var/lib/kubelet/pki\n"
        f"touch {root}/etc/kubernetes/kubelet.conf {root}/etc/kubernetes/pki/ca.crt\n"
        f"touch {root}/var/lib/kubelet/config.yaml\n"
        f"[ $(grep -c . {root}/kubeadm.log) -ge 3 ] && exit 0\n"
        "echo 'error execution phase kubelet-start: timed out waiting for the condition' >&2\n"
        "echo 'To see the stack trace of this error execute with --v=5 or higher' >&2\n"
        "exit 1"
    )
    done = join.run(*join.line())
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(join.tries()) == 3
    errors = [b["detail"] for b in server.beacons if b["status"] == "error"]
    reason = "error execution phase kubelet-start: timed out waiting for the condition"
    assert errors == [f"try 1: {reason}; again in 5 s", f"try 2: {reason}; again in 10 s"]
    assert node.read("slept").split() == ["5", "10"]
    assert "stop kubelet" in node.read("systemctl.log")
    assert "kubelet says why" in done.stdout


def test_failed_preflight_is_told_by_its_check_and_not_by_kubeadms_advice(
    join: Join, node: Any, served: Callable[[], Any]
) -> None:
    server = served()
    join.kubeadm(
        f"[ $(grep -c . {node.root}/kubeadm.log) -ge 2 ] && exit 0\n"
        "cat >&2 <<'END'\n"
        "error execution phase preflight: [preflight] Some fatal errors occurred:\n"
        "\t[ERROR FileExisting-conntrack]: conntrack not found in system path\n"
        "[preflight] If you know what you are doing, you can make a check non-fatal with `...`\n"
        "To see the stack trace of this error execute with --v=5 or higher\n"
        "END\n"
        "exit 1"
    )
    assert join.run(*join.line()).returncode == 0
    errors = [b["detail"] for b in server.beacons if b["status"] == "error"]
    reason = "[ERROR FileExisting-conntrack]: conntrack not found in system path"
    assert errors == [f"try 1: {reason}; again in 5 s"]


def test_wrong_ca_hash_fails_at_once(join: Join, served: Callable[[], Any]) -> None:
    server = served()
    done = join.run(*join.line(ca_hash="sha256:" + "0" * 64))
    assert done.returncode == 1
    assert join.tries() == []
    assert "CA hash refused" in done.stderr
    assert join.api.ca_hash() in done.stderr
    assert server.beacons[-1]["status"] == "error"
    assert "not trying again" in server.beacons[-1]["detail"]


def test_unknown_token_fails_after_the_clusters_signer_had_time(
    join: Join, node: Any, served: Callable[[], Any]
) -> None:
    served()
    done = join.run(*join.line(token="zzzzzz.0123456789abcdef"))
    assert done.returncode == 1
    assert join.tries() == []
    assert "token refused: the cluster has no token zzzzzz" in done.stderr
    assert node.read("slept").split() == ["5", "10"]


def test_token_that_the_signer_is_late_with_joins(join: Join, node: Any) -> None:
    join.api.tokens.clear()
    tokens = node.root / "slept"
    node.stub("sleep", f"echo $1 >>{tokens}")
    line = join.line()

    class Late(set[str]):
        def __iter__(self) -> Iterator[str]:
            return iter([TOKEN] if tokens.exists() else [])

    join.api.tokens = Late({TOKEN})
    assert join.run(*line).returncode == 0
    assert tokens.read_text().split() == ["5"]


def test_token_whose_secret_is_wrong_is_refused(join: Join) -> None:
    done = join.run(*join.line(token="abcdef.ffffffffffffffff"))
    assert done.returncode == 1
    assert "token refused" in done.stderr
    assert join.tries() == []


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ('none of the public keys "sha256:1" are pinned', "CA hash refused"),
        ("failed to verify JWS signature of received cluster info object", "token refused"),
        ("unknown flag: --tokn", "command line refused"),
    ],
)
def test_refusals_that_only_kubeadm_sees(join: Join, says: str, why: str) -> None:
    join.kubeadm(f"echo 'error: {says}' >&2; exit 1")
    done = join.run(*join.line())
    assert done.returncode == 1
    assert why in done.stderr
    assert len(join.tries()) == 1


def test_api_server_that_is_away_is_waited_for_without_kubeadm(
    join: Join, node: Any, served: Callable[[], Any]
) -> None:
    server = served()
    root = node.root
    # After three waits, an end: the third sleep takes the wrapper down.
    node.stub("sleep", f"echo $1 >>{root}/slept; [ $(grep -c . {root}/slept) -lt 3 ] || kill $PPID")
    join.run(*join.line(endpoint="127.0.0.1:1"))
    assert join.tries() == []
    assert node.read("slept").split() == ["5", "10", "20"]
    assert "no answer from the API server" in server.beacons[1]["detail"]


def test_node_name_and_equals_signs(join: Join) -> None:
    join.api.ready = "True"
    words = [
        "--v=5",
        "join",
        f"--token={TOKEN}",
        f"--discovery-token-ca-cert-hash={join.api.ca_hash()}",
        "--node-name=Other",
        "--ignore-preflight-errors",
        "Swap",
        join.api.endpoint,
    ]
    assert join.run(*words).returncode == 0
    assert join.api.patches[0][0] == "system:node:other"
    assert join.tries() == [" ".join(words)]


def test_configuration_file(join: Join, node: Any) -> None:
    join.api.ready = "True"
    node.write(
        "join.yaml",
        "apiVersion: kubeadm.k8s.io/v1beta2\nkind: JoinConfiguration\ndiscovery:\n"
        "  bootstrapToken:\n"
        f'    apiServerEndpoint: "{join.api.endpoint}"\n    token: {TOKEN}\n'
        f"    caCertHashes:\n    - {join.api.ca_hash()}\n"
        "nodeRegistration:\n  name: from-file\n",
    )
    assert join.run("join", "--config", f"{node.root}/join.yaml").returncode == 0
    assert join.api.patches[0][0] == "system:node:from-file"


def test_joined_node_is_not_torn_down_by_a_second_join(join: Join, node: Any) -> None:
    node.write("var/lib/kubelet/pki/kubelet-client-current.pem", "")
    node.write("etc/kubernetes/kubelet.conf", "")
    node.stub("systemctl", "exit 0")
    join.kubeadm("echo 'kubelet.conf already exists'; exit 1")
    assert join.run(*join.line()).returncode == 1
    assert (node.root / "etc/kubernetes/kubelet.conf").exists()
    assert len(join.tries()) == 1


def give_kubelet_its_certificate(node: Any, api: ApiServer) -> None:
    directory = api.directory
    openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-subj", "/O=system:nodes/CN=system:node:worker-1",
        "-keyout", str(directory / "kubelet.key"), "-out", str(directory / "kubelet.csr"),
    )  # fmt: skip
    api.sign((directory / "kubelet.csr").read_bytes())
    pem = (directory / "node.pem").read_bytes() + (directory / "kubelet.key").read_bytes()
    node.write("var/lib/kubelet/pki/kubelet-client-current.pem", pem)
    node.write("etc/kubernetes/pki/ca.crt", api.ca.read_bytes())
    node.write(
        "etc/kubernetes/kubelet.conf",
        f"apiVersion: v1\nclusters:\n- cluster:\n    server: https://{api.endpoint}\n",
    )


def test_ready_is_reported_once_the_api_server_says_so(
    node: Any, api: ApiServer, served: Callable[[], Any]
) -> None:
    server = served()
    give_kubelet_its_certificate(node, api)
    marker = node.root / "slept"
    node.stub("sleep", f"touch {marker}; exec /bin/sleep 0.1")

    class Becoming(ApiServer):
        @property
        def ready(self) -> str:  # type: ignore[override]
            return "True" if marker.exists() else "False"

    del api.ready
    api.__class__ = Becoming
    node.script("watch-ready")
    assert [(b["phase"], b["detail"]) for b in server.beacons] == [
        ("ready", "Node worker-1 is Ready")
    ]
    assert marker.exists()


def test_shutdown_marks_the_own_node_with_kubelets_certificate(
    node: Any, api: ApiServer, served: Callable[[], Any]
) -> None:
    server = served()
    give_kubelet_its_certificate(node, api)
    api.ready = "True"
    node.script("mark-shutdown")
    ((peer, patch),) = api.patches
    assert peer == "system:node:worker-1"
    assert patch["status"]["conditions"][0]["status"] == "False"
    assert [b["phase"] for b in server.beacons] == ["shutdown"]


def test_shutdown_of_a_node_that_never_joined(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.script("mark-shutdown")
    assert [b["phase"] for b in server.beacons] == ["shutdown"]
