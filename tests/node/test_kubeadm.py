"""The wrapper around `kubeadm join`, against an API server over TLS and a kubeadm of ours."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.join.policy import LET_GO
from tests.node.apiserver import TOKEN, ApiServer, openssl, sign_detached
from tests.node.joining import Join

pytestmark = pytest.mark.integration


def cause_of(beacon: dict[str, str]) -> tuple[str, str, str]:
    """Of a try that failed: its cause, what others said, the public half of the token."""
    return beacon.get("cause", ""), beacon["said"], beacon["bootstrap"]


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
    assert join.tries() == ["join --discovery-file DISCOVERY"]
    (cluster,) = join.discovery()["clusters"]
    assert cluster["cluster"]["server"] == f"https://{join.api.endpoint}"
    assert (
        base64.b64decode(cluster["cluster"]["certificate-authority-data"])
        == join.api.ca.read_bytes()
    )
    (user,) = join.discovery()["users"]
    assert user["user"] == {"token": TOKEN}
    assert (node.root / "discovery.conf").stat().st_mode & 0o777 == 0o600
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
    errors = [b for b in server.beacons if b["status"] == "error"]
    reason = "error execution phase kubelet-start: timed out waiting for the condition"
    assert [b["detail"] for b in errors] == [
        f"try 1: {reason}; again in 5 s",
        f"try 2: {reason}; again in 10 s",
    ]
    assert {cause_of(b) for b in errors} == {("", reason, "abcdef")}
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
    assert cause_of(server.beacons[-1]) == ("join_ca", "", "abcdef")


def test_unknown_token_fails_after_the_clusters_signer_had_time(
    join: Join, node: Any, served: Callable[[], Any]
) -> None:
    server = served()
    done = join.run(*join.line(token="zzzzzz.0123456789abcdef"))
    assert done.returncode == 1
    assert join.tries() == []
    assert "token refused: the cluster has no token zzzzzz" in done.stderr
    assert cause_of(server.beacons[-1]) == ("join_token", "", "zzzzzz")
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
    ("says", "why", "cause"),
    [
        ('none of the public keys "sha256:1" are pinned', "CA hash refused", "join_ca"),
        ("failed to verify JWS signature of received object", "token refused", "join_token"),
        ("unknown flag: --tokn", "command line refused", "join_line"),
    ],
)
def test_refusals_that_only_kubeadm_sees(
    join: Join, served: Callable[[], Any], says: str, why: str, cause: str
) -> None:
    server = served()
    join.kubeadm(f"echo 'error: {says}' >&2; exit 1")
    done = join.run(*join.line())
    assert done.returncode == 1
    assert why in done.stderr
    assert len(join.tries()) == 1
    assert cause_of(server.beacons[-1]) == (cause, f"error: {says}", "abcdef")


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
    cause, said, _ = cause_of(server.beacons[1])
    assert cause == "join_away"
    assert said.startswith("curl: (7) ")


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
    assert join.tries() == [
        "--v=5 join --node-name=Other --ignore-preflight-errors Swap --discovery-file DISCOVERY"
    ]


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
    node.stub("systemctl", "exit 3")
    said = node.script("mark-shutdown").stdout
    ((peer, patch),) = api.patches
    assert peer == "system:node:worker-1"
    assert patch["status"]["conditions"][0]["status"] == "False"
    assert [b["phase"] for b in server.beacons] == ["shutdown"]
    # What kubelet cannot renew any more is let go: the boot server need not watch it.
    ((peer, path, kind, patch),) = api.leases
    assert peer == "system:node:worker-1"
    assert path == "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/worker-1"
    assert kind == "application/merge-patch+json"
    assert patch == {"spec": {"renewTime": "1970-01-01T00:00:00.000000Z"}}
    assert datetime.fromisoformat(patch["spec"]["renewTime"]).timestamp() == LET_GO
    assert "let go of the own lease: HTTP 200" in said


def test_a_living_kubelets_lease_is_not_let_go(
    node: Any, api: ApiServer, served: Callable[[], Any]
) -> None:
    """The unit may be stopped by hand."""
    served()
    give_kubelet_its_certificate(node, api)
    api.ready = "True"
    node.stub("systemctl", '[ "$*" = "is-active --quiet kubelet" ]')
    node.script("mark-shutdown")
    assert len(api.patches) == 1
    assert api.leases == []


def test_shutdown_without_an_api_server_does_not_wait_twice(
    node: Any, api: ApiServer, served: Callable[[], Any]
) -> None:
    server = served()
    give_kubelet_its_certificate(node, api)
    api.close()
    node.stub("curl", f'echo "$*" >>{node.root}/curl.log; exec /usr/bin/curl "$@"')
    node.stub("systemctl", "exit 3")
    node.script("mark-shutdown")
    assert len(node.read("curl.log").splitlines()) == 1
    assert [b["phase"] for b in server.beacons] == ["shutdown"]


def test_shutdown_of_a_node_that_never_joined(node: Any, served: Callable[[], Any]) -> None:
    server = served()
    node.script("mark-shutdown")
    assert [b["phase"] for b in server.beacons] == ["shutdown"]


def test_token_goes_to_nobody_who_has_not_signed_with_it(join: Join, node: Any) -> None:
    join.api.ready = "True"
    join.api.forged = {"jws-kubeconfig-abcdef": sign_detached(b"x", TOKEN)}
    for words in (
        join.line(),
        [*join.line()[:-2], "--discovery-token-unsafe-skip-ca-verification"],
    ):
        done = join.run(*words)
        assert done.returncode == 1
        assert "not signed with the secret half of token abcdef" in done.stderr
    assert join.api.bearers == []
    assert join.tries() == []


def test_a_line_without_a_pin_is_refused_as_kubeadm_does(join: Join) -> None:
    join.api.ready = "True"
    done = join.run(*join.line()[:-2])
    assert done.returncode == 1
    assert "command line refused: no --discovery-token-ca-cert-hash" in done.stderr
    assert join.api.calls == []
    assert join.tries() == []


def test_a_line_that_asks_for_no_pin_trusts_the_signature(join: Join) -> None:
    words = [*join.line()[:-2], "--discovery-token-unsafe-skip-ca-verification"]
    assert join.run(*words).returncode == 0
    assert join.tries() == ["join --discovery-file DISCOVERY"]


@pytest.mark.parametrize(
    ("words", "why", "bootstrap"),
    [
        (["--token", "zzzzzz.98765", "10.9.0.20:6443"], "not of the form", "zzzzzz"),
        (["--token", "98765-a-password", "10.9.0.20:6443"], "not of the form", ""),
        (["--token", TOKEN, "10.9.0.20"], "no API server", "abcdef"),
    ],
)
def test_lines_that_kubeadm_would_refuse(
    join: Join, served: Callable[[], Any], words: list[str], why: str, bootstrap: str
) -> None:
    server = served()
    done = join.run("join", *words, "--discovery-token-ca-cert-hash", "sha256:1")
    assert done.returncode == 1
    assert why in done.stderr
    assert "98765" not in done.stderr
    assert join.tries() == []
    assert "98765" not in str(server.beacons)
    assert cause_of(server.beacons[-1]) == ("join_line", "", bootstrap)


def test_flags_that_are_unknown_here_go_through(join: Join) -> None:
    words = [*join.line(), "--new-flag", "value", "--other=x y", "--patches", "/p", "--flag"]
    assert join.run(*words).returncode == 0
    assert join.tries() == [
        "join --new-flag value --other=x y --patches /p --flag --discovery-file DISCOVERY"
    ]


def test_tokens_of_their_own_for_discovery_and_certificate(join: Join) -> None:
    other = "zzzzzz.0123456789abcdef"
    join.api.tokens.add(other)
    words = [
        "join",
        join.api.endpoint,
        "--discovery-token",
        TOKEN,
        f"--tls-bootstrap-token={other}",
    ]
    words += ["--discovery-token-ca-cert-hash", join.api.ca_hash()]
    assert join.run(*words).returncode == 0
    assert join.discovery()["users"][0]["user"] == {"token": other}
    assert set(join.api.bearers) == {other}


def test_discovery_file_with_a_token_beside_it(join: Join, node: Any) -> None:
    authority = base64.b64encode(join.api.ca.read_bytes()).decode()
    cluster = {"server": "https://10.9.0.20:6443", "certificate-authority-data": authority}
    config = {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": cluster}]}
    path = node.write("discovery.yaml", yaml.safe_dump(config))
    words = ["join", "--discovery-file", str(path), "--tls-bootstrap-token", TOKEN, "--v", "5"]
    assert join.run(*words).returncode == 0
    assert join.tries() == ["join --v 5 --discovery-file DISCOVERY"]
    assert join.discovery()["clusters"][0]["cluster"] == cluster
    assert join.discovery()["users"][0]["user"] == {"token": TOKEN}


def test_token_is_in_no_arguments_while_a_line_tries(
    join: Join, node: Any, served: Callable[[], Any]
) -> None:
    served()
    see = 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\000" " "'
    join.kubeadm(f"{see} >>{node.root}/seen")
    token = f"abcdef.{secrets.token_hex(8)}"  # in no other test's arguments
    join.api.tokens = {token}
    line = " ".join(join.line(token=token))
    for number, words in enumerate((f"kubeadm {line}", f"env A=b kubeadm {line}")):
        node.flat(RCFILE_01=words)
        path = f"{node.root}/usr/lib/bootfarm/bin:{node.bin}:{os.environ['PATH']}"
        rcfile = f'RCFILE_PATH="{path}"\nmain\n'
        node.run('. "$BOOTFARM_ROOT/usr/lib/bootfarm/rcfile"\n' + rcfile)
        assert len(join.tries()) == number + 1
    assert "kubeadm join --discovery-file" in node.read("seen")
    assert token not in node.read("seen")


RUNTIME = "# what the recipe says\nname=docker\ncri_socket=unix:///run/cri-dockerd.sock\n"


def test_socket_of_the_recipe_is_added_where_the_line_has_none(join: Join, node: Any) -> None:
    node.write("usr/share/bootfarm/runtime", RUNTIME)
    assert join.run(*join.line()).returncode == 0
    assert join.run(*join.line(), "--cri-socket=unix:///run/other.sock").returncode == 0
    assert join.run("join", "--discovery-file", "/f").returncode == 0
    assert join.tries() == [
        "join --discovery-file DISCOVERY --cri-socket unix:///run/cri-dockerd.sock",
        "join --cri-socket=unix:///run/other.sock --discovery-file DISCOVERY",
        "join --discovery-file /f --cri-socket unix:///run/cri-dockerd.sock",
    ]


@pytest.mark.parametrize("api", ["v1beta2", "v1beta3", "v1beta4"], indirect=False)
@pytest.mark.parametrize("block", ["", "nodeRegistration:\n    name: n\n"])
def test_socket_of_the_recipe_in_a_configuration_file(
    node: Any, tmp_path: Path, api: str, block: str
) -> None:
    server = ApiServer(tmp_path / "api")
    join = Join(node, server)
    node.write("usr/share/bootfarm/runtime", RUNTIME)
    text = (
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n---\n"
        f"apiVersion: kubeadm.k8s.io/{api}\nkind: JoinConfiguration\n{block}discovery:\n"
        f"  bootstrapToken:\n    apiServerEndpoint: {server.endpoint}\n    token: {TOKEN}\n"
        f"    caCertHashes: [{server.ca_hash()}]\n"
    )
    path = node.write("join.yaml", text)
    join.kubeadm(f'shift; cp "${{1#--config=}}" {node.root}/used')
    assert join.run("join", f"--config={path}").returncode == 0
    server.close()
    used = list(yaml.safe_load_all(node.read("used")))
    registration = {"name": "n"} if block else {}
    registration["criSocket"] = "unix:///run/cri-dockerd.sock"
    before = list(yaml.safe_load_all(text))
    assert used == [before[0], {**before[1], "nodeRegistration": registration}]


def test_what_kubeadm_leaves_behind_is_removed(join: Join, node: Any) -> None:
    left = ["etc/kubernetes/bootstrap-kubelet.conf", "etc/kubernetes/kubelet.conf"]
    left += ["etc/kubernetes/pki/ca.crt", "var/lib/kubelet/pki/kubelet-client-current.pem"]
    left += [f"var/lib/kubelet/{name}" for name in ("config.yaml", "instance-config.yaml")]
    left += ["var/lib/kubelet/kubeadm-flags.env", "var/lib/kubelet/cpu_manager_state"]
    kept = ["etc/kubernetes/manifests/x.yaml", "var/lib/kubelet/pki/kubelet.crt"]
    for path in (*left, *kept):
        node.write(path, "x")
    join.kubeadm(f"cd {node.root}; find etc/kubernetes var/lib/kubelet -type f >seen")
    assert join.run(*join.line()).returncode == 0
    assert sorted(node.read("seen").split()) == sorted(kept)


def test_what_was_mended_for_kubelet_is_told(join: Join, served: Callable[[], Any]) -> None:
    server = served()
    line = "resolvConf /run/x, which is not in this image: a link to /etc/resolv.conf"
    join.kubeadm(f"echo '{line}' >>{join.node.root}/run/bootfarm/kubelet-mended")
    assert join.run(*join.line()).returncode == 0
    expected = (
        f"try 1: joined as worker-1 (token abcdef); the kubelet-config of the cluster names {line}"
    )
    assert server.beacons[-1]["detail"] == expected


def test_why_kubelet_ended_is_told_and_not_that_kubeadm_waited(
    join: Join, node: Any, served: Callable[[], Any]
) -> None:
    server = served()
    node.stub(
        "journalctl",
        "cat <<'END'\n"
        'I1129 06:20:05.1 231 server.go:858] "--cgroups-per-qos enabled"\n'
        'E1129 06:20:05.2 231 run.go:72] "command failed" err="failed to run Kubelet: running with'
        ' swap on is not supported, please disable swap"\n'
        "END",
    )
    join.kubeadm(
        f"[ $(grep -c . {node.root}/kubeadm.log) -ge 2 ] && exit 0\n"
        "echo '[kubelet-start] Starting the kubelet'\n"
        "echo 'error: error execution phase kubelet-wait-bootstrap: dial tcp 127.0.0.1:10248' >&2\n"
        "exit 1"
    )
    assert join.run(*join.line()).returncode == 0
    words = "kubelet does not run: running with swap on is not supported, please disable swap"
    (error,) = [b for b in server.beacons if b["status"] == "error"]
    assert error["detail"] == f"try 1: {words}; again in 5 s"
    said = words.removeprefix("kubelet does not run: ")
    assert cause_of(error) == ("join_kubelet", said, "abcdef")


SANDBOX = (
    'E1129 06:39:55.4 232 kuberuntime_manager.go:1747] "CreatePodSandbox for pod failed"'
    ' err="open /run/x: no such file or directory" pod="kube-system/p"'
)


def test_ready_node_on_which_no_pod_starts_is_told_and_taken_back(
    node: Any, api: ApiServer, served: Callable[[], Any]
) -> None:
    server = served()
    give_kubelet_its_certificate(node, api)
    api.ready = "True"
    node.stub("sleep", f"echo >>{node.root}/slept")
    node.stub("journalctl", f"[ $(grep -c '' {node.root}/slept) -gt 4 ] || echo '{SANDBOX}'")
    node.script("watch-ready", POD_LOOKS="3")
    assert [(b["status"], b["detail"]) for b in server.beacons] == [
        ("ok", "Node worker-1 is Ready"),
        ("error", "pods cannot start: open /run/x: no such file or directory"),
        ("ok", "Node worker-1 is Ready"),
    ]


def test_a_pod_that_fails_once_is_nothing(
    node: Any, api: ApiServer, served: Callable[[], Any]
) -> None:
    server = served()
    give_kubelet_its_certificate(node, api)
    api.ready = "True"
    node.stub("sleep", f"echo >>{node.root}/slept")
    node.stub("journalctl", f"[ $(grep -c '' {node.root}/slept) -gt 1 ] || echo '{SANDBOX}'")
    node.script("watch-ready", POD_LOOKS="4")
    assert [b["status"] for b in server.beacons] == ["ok"]


def become_ready_after(api: ApiServer, marker: Path, looks: int) -> None:
    """Have the API server call the Node Ready once the stub of `sleep` was called so often."""

    class Becoming(ApiServer):
        @property
        def ready(self) -> str:  # type: ignore[override]
            return "True" if marker.exists() and len(marker.read_text()) >= looks else "False"

    del api.ready
    api.__class__ = Becoming


def test_kubelet_that_ends_after_the_join_is_told_once(
    node: Any, api: ApiServer, served: Callable[[], Any]
) -> None:
    server = served()
    give_kubelet_its_certificate(node, api)
    api.ready = "False"
    marker = node.root / "slept"
    node.stub("systemctl", "exit 3")
    node.stub("sleep", f"echo >>{marker}")
    words = "Failed to enforce System Reserved Cgroup Limits"
    node.stub(
        "journalctl",
        f'echo \'E1129 06:27:10.9 232 kubelet.go:1850] "Failed to start ContainerManager"'
        f' err="{words}"\'',
    )

    become_ready_after(api, marker, looks=7)
    node.script("watch-ready", KUBELET_LOOKS="2", POD_LOOKS="0")
    assert [(b["status"], b["detail"]) for b in server.beacons] == [
        ("error", f"kubelet does not run: {words}"),
        ("ok", "Node worker-1 is Ready"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        'E1130 17:40:05.1 231 csi_plugin.go:306] "Failed to initialize CSINode" err="error updating'
        " CSINode annotation: timed out waiting for the condition; caused by: nodes"
        ' \\"worker-1\\" not found"',
        "E1130 17:40:05.1 231 csi_plugin.go:306] Failed to initialize CSINode: error updating"
        ' CSINode annotation: timed out waiting for the condition; caused by: nodes "worker-1" not'
        " found",
    ],
    ids=["structured", "plain"],
)
def test_kubelet_that_waits_for_its_own_node_is_told_once(
    node: Any, api: ApiServer, served: Callable[[], Any], line: str
) -> None:
    server = served()
    give_kubelet_its_certificate(node, api)
    api.ready = "False"
    marker = node.root / "slept"
    node.stub("systemctl", "exit 0")
    node.stub("sleep", f"echo >>{marker}")
    node.stub("journalctl", f"cat <<'END'\n{line}\nEND")
    become_ready_after(api, marker, looks=7)
    node.script("watch-ready", KUBELET_LOOKS="2", POD_LOOKS="0")
    wait, end = server.beacons
    assert (wait["status"], wait["cause"]) == ("start", "kubelet_csinode")
    assert wait["detail"] == (
        "failed to initialize CSINode: error updating CSINode annotation: timed out waiting for the"
        ' condition; caused by: nodes "worker-1" not found'
    )
    assert end["detail"] == "Node worker-1 is Ready"
