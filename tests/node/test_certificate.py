"""The line `kubeadm join` without a token, between a boot server, an API server and a kubeadm."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.join.request import read_csr
from tests.node.apiserver import ApiServer, openssl
from tests.node.joining import Join

pytestmark = pytest.mark.integration

BOOT = "0d6e8a6e-5b1f-4c0e-9d3a-6f0c2f6f5f10"


class Desk:
    """The boot server's `POST /join`: what it was asked, and what it answers before it signs."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.asked: list[dict[str, str]] = []
        self.first: list[tuple[int, str]] = []
        self.changes: dict[str, str] = {}

    def __call__(self, fields: dict[str, str]) -> tuple[int, str]:
        self.asked.append(fields)
        if self.first:
            return self.first.pop(0)
        answer = {
            "node": "worker-1",
            "api": f"https://{self.api.endpoint}",
            "ca": base64.b64encode(self.api.ca.read_bytes()).decode(),
            "certificate": self.api.sign(fields["csr"].encode()),
            **self.changes,
        }
        return 200, "".join(f"{key}={value}\n" for key, value in answer.items())


@pytest.fixture
def desk(join: Join, node: Any, served: Callable[[], Any]) -> Desk:
    """The node knows its boot server, which gives certificates."""
    server = served()
    node.state(boot_id=BOOT)
    server.join = desk = Desk(join.api)
    desk.beacons = server.beacons  # type: ignore[attr-defined]
    return desk


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def errors_of(desk: Desk) -> list[tuple[str, str]]:
    beacons = desk.beacons  # type: ignore[attr-defined]
    return [(b["detail"], b.get("cause", "")) for b in beacons if b["status"] == "error"]


def test_a_bare_line_joins(join: Join, node: Any, desk: Desk) -> None:
    done = join.run("join", "--ignore-preflight-errors", "Swap", "--v=5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert join.tries() == [
        "join --ignore-preflight-errors Swap --v=5 --discovery-file DISCOVERY",
    ]
    (asked,) = desk.asked
    assert set(asked) == {"boot", "csr"}
    assert asked["boot"] == BOOT
    assert read_csr(asked["csr"])[0] == "worker-1", "what the server takes"
    # What kubeadm gets: the CA, and a certificate with its key.
    config = join.discovery()
    (cluster,), (user,) = config["clusters"], config["users"]
    assert cluster["cluster"] == {
        "server": f"https://{join.api.endpoint}",
        "certificate-authority-data": base64.b64encode(join.api.ca.read_bytes()).decode(),
    }
    assert set(user["user"]) == {"client-certificate-data", "client-key-data"}
    (context,) = config["contexts"]
    assert config["current-context"] == context["name"]
    assert context["context"] == {"cluster": cluster["name"], "user": user["name"]}
    key = base64.b64decode(user["user"]["client-key-data"])
    certificate = base64.b64decode(user["user"]["client-certificate-data"])
    assert openssl("pkey", "-pubout", data=key) == openssl(
        "x509", "-noout", "-pubkey", data=certificate
    )
    subject = openssl("x509", "-noout", "-subject", data=certificate).decode()
    assert "system:node:worker-1" in subject
    # Nobody has marked a Node that there is not; none of it needed a token.
    assert join.api.calls == ["GET /api/v1/nodes/worker-1"]
    assert join.api.bearers == []
    beacons = desk.beacons  # type: ignore[attr-defined]
    assert [(b["phase"], b["status"], b["detail"]) for b in beacons] == [
        ("join", "start", "try 1"),
        ("join", "ok", "try 1: joined as worker-1 (by certificate)"),
    ]


def test_the_key_is_roots_alone_and_the_file_is_gone(join: Join, node: Any, desk: Desk) -> None:
    places = node.root / "places"
    join.kubeadm(
        f'for word in "$@"; do case $word in */discovery.conf) echo "$word" >{places} ;; esac; done'
    )
    assert join.run("join").returncode == 0
    place = node.root / "run/bootfarm/join"
    assert mode_of(place) == 0o700
    assert mode_of(place / "key.pem") == 0o600
    assert mode_of(node.root / "discovery.conf") == 0o600
    discovery = Path(places.read_text().strip())
    assert not discovery.exists()
    assert not discovery.parent.exists()


def test_an_agent_is_lent_what_a_try_that_failed_had(join: Join, node: Any, desk: Desk) -> None:
    node.flat(ROLLOUT_AGENT="true")
    node.stub("sleep", "kill $PPID")
    join.kubeadm("echo 'error: timed out waiting for the kubelet' >&2; exit 1")
    join.run("join")
    lent = (node.root / "run/bootfarm/agent/node.pem").read_bytes()
    key = (node.root / "run/bootfarm/join/key.pem").read_bytes()
    assert openssl("pkey", "-pubout", data=key) == openssl("pkey", "-pubout", data=lent)
    assert openssl("x509", "-noout", "-pubkey", data=lent) == openssl("pkey", "-pubout", data=key)
    assert (node.root / "run/bootfarm/agent/server").read_text() == f"https://{join.api.endpoint}\n"
    assert join.api.bearers == []


def test_no_key_in_arguments_while_a_line_tries(join: Join, node: Any, desk: Desk) -> None:
    join.api.ready = "True"
    see = 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\000" " "'
    join.kubeadm(f"{see} >>{node.root}/seen")
    node.stub("curl", f'echo "$*" >>{node.root}/curl.log; exec /usr/bin/curl "$@"')
    node.stub("openssl", f'echo "$*" >>{node.root}/openssl.log; exec /usr/bin/openssl "$@"')
    node.flat(RCFILE_01="kubeadm join", RCFILE_02="env A=b kubeadm join")
    path = f"{node.root}/usr/lib/bootfarm/bin:{node.bin}:{os.environ['PATH']}"
    rcfile = f'RCFILE_PATH="{path}"\nmain\n'
    node.run('. "$BOOTFARM_ROOT/usr/lib/bootfarm/rcfile"\n' + rcfile, KUBE_TIMEOUT="5")
    assert len(join.tries()) == 2
    key = node.read("run/bootfarm/join/key.pem").splitlines()[1:-1]
    shown = node.read("seen") + node.read("curl.log") + node.read("openssl.log")
    assert "--discovery-file" in shown
    assert "PATCH" in shown
    for line in (*key, base64.b64encode("\n".join(key).encode()).decode()[:40]):
        assert line not in shown


def test_ready_node_of_before_the_power_cut_is_marked_with_this_certificate(
    join: Join,
    desk: Desk,
) -> None:
    join.api.ready = "True"
    assert join.run("join").returncode == 0
    ((peer, patch),) = join.api.patches
    assert peer == "system:node:worker-1"
    (condition,) = patch["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("Ready", "Unknown")
    assert not any("certificatesigningrequests" in call for call in join.api.calls)
    assert len(join.tries()) == 1


@pytest.mark.parametrize("ready", ["False", "Unknown"])
def test_node_that_is_not_ready_is_left_alone(join: Join, desk: Desk, ready: str) -> None:
    join.api.ready = ready
    assert join.run("join").returncode == 0
    assert join.api.patches == []


def test_one_key_for_the_whole_boot(join: Join, node: Any, desk: Desk) -> None:
    """Also over tries that failed, and a line that is run by hand afterwards."""
    join.kubeadm(
        f"[ $(grep -c . {node.root}/kubeadm.log) -ge 2 ] && exit 0\n"
        "echo 'error execution phase kubelet-start: timed out' >&2; exit 1"
    )
    node.stub("journalctl", "")
    assert join.run("join").returncode == 0
    assert join.run("join").returncode == 0
    assert len(desk.asked) == 3
    assert len({read_csr(asked["csr"]) for asked in desk.asked}) == 1


def test_refusals_are_told_in_the_servers_words(join: Join, node: Any, desk: Desk) -> None:
    alive = "kubelet of worker-1 renewed its lease 11 s ago: it runs, so this is no boot"
    desk.first = [
        (403, f"cause=join_alive\nwords={alive}\n"),
        (503, "cause=join_api\nwords=the cluster refuses a request: 403 no\n"),
    ]
    done = join.run("join")
    assert done.returncode == 0
    assert errors_of(desk) == [
        (f"try 1: no certificate: {alive}; again in 5 s", "join_alive"),
        (
            "try 2: no certificate: the cluster refuses a request: 403 no; again in 10 s",
            "join_api",
        ),
    ]
    assert alive in done.stderr
    assert node.read("slept").split() == ["5", "10"]
    assert len(join.tries()) == 1


WATCHED = "the lease of worker-1's kubelet looks 89 s old: it counts as dead unless it renews"


def test_a_lease_that_is_watched_is_waited_for_and_no_failure(
    join: Join, node: Any, desk: Desk
) -> None:
    answer = f"cause=join_watched\nwords={WATCHED} within the next 15 s\n"
    waits = ("wait=4", "wait=17", "", "wait=0", "wait=600", "wait=$(reboot)", "wait=x3")
    desk.first = [(403, f"{answer}{wait}\n") for wait in waits]
    done = join.run("join")
    assert done.returncode == 0
    assert node.read("slept").split() == ["4", "17", "5", "5", "5", "5", "3"]
    assert errors_of(desk) == []
    beacons = desk.beacons  # type: ignore[attr-defined]
    told = [(b["status"], b["detail"], b["cause"]) for b in beacons if "cause" in b]
    words = f"try 1: waits: no certificate: {WATCHED} within the next 15 s; again in 4 s"
    assert told[0] == ("start", words, "join_watched")
    assert len(told) == len(waits)
    assert WATCHED in done.stderr
    assert beacons[-1]["detail"] == "try 1: joined as worker-1 (by certificate)"
    assert len(join.tries()) == 1


@pytest.mark.parametrize(
    ("cause", "stops"), [("join_alive", True), ("join_watched", True), ("join_limit", False)]
)
def test_the_kubelet_of_a_try_before_keeps_no_name_alive(
    join: Join, node: Any, desk: Desk, cause: str, stops: bool
) -> None:
    """A try that failed late has left a kubelet that runs, and renews the lease of this name."""
    node.write("etc/kubernetes/kubelet.conf", "of the try before")
    desk.first = [(403, f"cause={cause}\nwords=no\n")]
    node.stub("sleep", f"ls {node.root}/etc/kubernetes >{node.root}/left; kill $PPID")
    join.run("join")
    assert node.read("left").split() == ([] if stops else ["kubelet.conf"])
    log = node.root / "systemctl.log"
    assert ("stop kubelet" in (log.read_text() if log.exists() else "")) == stops


def test_under_way_is_waited_for(join: Join, node: Any, desk: Desk) -> None:
    desk.first = [(202, "words=under way\n")] * 3
    assert join.run("join").returncode == 0
    assert node.read("slept").split() == ["0.3", "2", "2"]
    assert errors_of(desk) == []
    assert len({asked["csr"] for asked in desk.asked}) == 1, "the same request"


def test_under_way_for_too_long_is_a_try_that_failed(join: Join, node: Any, desk: Desk) -> None:
    desk.first = [(202, "words=under way\n")] * 16
    assert join.run("join").returncode == 0
    words = "try 1: the boot server's certificate is still under way; again in 5 s"
    assert errors_of(desk) == [(words, "join_server")]


def test_an_older_server_and_one_that_is_away(join: Join, node: Any, desk: Desk) -> None:
    desk.first = [(405, "POST is not for /join\n")]
    assert join.run("join").returncode == 0
    ((words, cause),) = errors_of(desk)
    assert "gives no certificates (HTTP 405; is it older than this image?)" in words
    assert cause == "join_server"
    node.state(http="1")
    root = node.root
    node.stub("sleep", f"echo $1 >>{root}/slept; kill $PPID")
    done = join.run("join")
    assert "no answer from the boot server: curl: (7)" in done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"certificate": ""},
        {"certificate": "bm9uc2Vuc2U="},
        {"ca": ""},
        {"api": "http://10.9.0.20:6443"},
        {"api": ""},
    ],
)
def test_an_answer_that_is_not_whole(
    join: Join,
    desk: Desk,
    changes: dict[str, str],
    node: Any,
) -> None:
    desk.changes = changes
    node.stub("sleep", "kill $PPID")
    done = join.run("join")
    assert "answer is no certificate for this machine's key" in done.stderr
    assert join.tries() == []
    assert errors_of(desk)[0][1] == "join_server"


def test_a_certificate_for_another_key_is_not_taken(
    join: Join,
    desk: Desk,
    node: Any,
    tmp_path: Path,
) -> None:
    openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-subj", "/O=system:nodes/CN=system:node:worker-1",
        "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "csr"),
    )  # fmt: skip
    desk.changes = {"certificate": join.api.sign((tmp_path / "csr").read_bytes())}
    node.stub("sleep", "kill $PPID")
    assert "no certificate for this machine's key" in join.run("join").stderr
    assert join.tries() == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--node-name", "other"], "--node-name: without a token the boot server says"),
        (["--node-name=other"], "--node-name: without a token the boot server says"),
        (["--control-plane"], "--control-plane: without a token only workers join"),
    ],
)
def test_what_a_bare_line_cannot_say(
    join: Join,
    desk: Desk,
    words: list[str],
    why: str,
) -> None:
    done = join.run("join", *words)
    assert done.returncode == 1
    assert f"command line refused: {why}" in done.stderr
    assert desk.asked == []
    assert join.tries() == []
    assert "not trying again" in errors_of(desk)[0][0]


def test_an_api_server_that_is_away_is_waited_for(
    join: Join,
    desk: Desk,
    node: Any,
) -> None:
    desk.changes = {"api": "https://127.0.0.1:1"}
    node.stub("sleep", f"echo $1 >>{node.root}/slept; kill $PPID")
    done = join.run("join")
    assert "no answer from the API server: curl: (7)" in done.stderr
    assert join.tries() == []


def test_what_names_a_cluster_asks_no_boot_server(
    join: Join,
    desk: Desk,
    node: Any,
) -> None:
    assert join.run(*join.line()).returncode == 0
    assert join.run("join", "--discovery-file", "/f").returncode == 0
    node.write("join.yaml", "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\n")
    assert join.run("join", "--config", f"{node.root}/join.yaml").returncode == 0
    assert len(join.tries()) == 3
    assert desk.asked == []
