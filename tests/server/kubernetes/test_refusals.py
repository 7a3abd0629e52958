"""Events on the ConfigMap, before an API server made of Python's own HTTPS."""

import http.server
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.kubernetes import refusals as module
from server.kubernetes.api import Api, ApiError, find_api
from server.kubernetes.refusals import MAX_MESSAGE, Refusals, render_event

CONFIGMAP = "/api/v1/namespaces/farm/configmaps/ltsp-config"
EVENTS = "/api/v1/namespaces/farm/events"


class FakeCluster:
    """Keeps Events as an API server does; `fail` makes it answer 500 so many times."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, str, str]] = []
        self.fail = 0
        self.may_read = True
        self.stalled = threading.Event()
        self.stalled.set()
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else {}
                cluster.stalled.wait(20)
                status, answer = cluster.answer(self, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do  # noqa: N815

            def log_message(self, *words: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        method, path = request.command, request.path
        self.requests.append(
            (method, path, request.headers["Authorization"], request.headers["Content-Type"] or "")
        )
        if self.fail:
            self.fail -= 1
            return 500, {"message": "etcd is unwell"}
        if path == CONFIGMAP:
            known = {"metadata": {"uid": "1-2-3", "resourceVersion": "77"}}
            return (200, known) if self.may_read else (403, {"message": "forbidden"})
        if method == "POST":
            name = body["metadata"]["name"]
            if name in self.events:
                return 409, {"reason": "AlreadyExists"}
            self.events[name] = body
            return 201, body
        self.events[path.rpartition("/")[2]].update(body)
        return 200, self.events[path.rpartition("/")[2]]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def make_certificate(directory: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", directory / "key.pem", "-out", directory / "made.crt"),
        ],
        check=True,
        capture_output=True,
    )
    return (directory / "made.crt").rename(directory / "ca.crt")


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service account as kubelet mounts it; beside it the key of the API server."""
    directory = tmp_path_factory.mktemp("account")
    make_certificate(directory)
    (directory / "token").write_text("secret-token\n")
    (directory / "namespace").write_text("farm")
    return directory


@pytest.fixture
def cluster(account: Path) -> Iterator[FakeCluster]:
    cluster = FakeCluster(account / "ca.crt", account / "key.pem")
    yield cluster
    cluster.close()


@pytest.fixture
def api(cluster: FakeCluster, account: Path) -> Api:
    return Api("127.0.0.1", cluster.port, account)


def test_found_where_kubelet_says_so(account: Path) -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert find_api(pod, account) == Api("10.96.0.1", 443, account)
    assert find_api({}, account) is None
    assert find_api(pod, account / "none") is None


def test_an_event_on_the_configmap(api: Api, cluster: FakeCluster) -> None:
    Refusals(api, "ltsp-config", wall=lambda: 1e9).send("lts.conf:4: no =; write KEY = VALUE")
    (event,) = cluster.events.values()
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "ltsp-config",
        "namespace": "farm",
        "uid": "1-2-3",
        "resourceVersion": "77",
    }
    assert (event["type"], event["reason"]) == ("Warning", "LtsConfRefused")
    assert event["message"] == "lts.conf:4: no =; write KEY = VALUE"
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2001-09-09T01:46:40Z"
    assert {authorization for _, _, authorization, _ in cluster.requests} == {"Bearer secret-token"}


def test_the_same_again_counts_up_also_by_another_process(api: Api, cluster: FakeCluster) -> None:
    refusals = Refusals(api, "ltsp-config", wall=lambda: 1e9)
    for _ in range(3):
        refusals.send("bad")
    Refusals(api, "ltsp-config", wall=lambda: 2e9).send("bad")
    refusals.send("worse")
    first, second = cluster.events.values()
    assert (first["count"], first["message"], first["lastTimestamp"]) == (
        4,
        "bad",
        "2033-05-18T03:33:20Z",
    )
    assert (second["count"], second["message"]) == (1, "worse")
    patches = {kind for method, _, _, kind in cluster.requests if method == "PATCH"}
    assert patches == {"application/merge-patch+json"}
    # What the Role in k8s/ allows, and nothing else.
    used = {(method, path.split("/")[5]) for method, path, _, _ in cluster.requests}
    assert used == {("GET", "configmaps"), ("POST", "events"), ("PATCH", "events")}


def test_without_the_right_to_read_the_configmap_it_is_named(
    api: Api, cluster: FakeCluster
) -> None:
    cluster.may_read = False
    Refusals(api, "ltsp-config").send("bad")
    (event,) = cluster.events.values()
    assert "uid" not in event["involvedObject"]
    assert event["involvedObject"]["name"] == "ltsp-config"


def test_a_long_reason_is_cut_to_what_an_event_holds() -> None:
    subject = {"name": "ltsp-config", "namespace": "farm"}
    message = render_event(subject, "ž" * 5000, 0.0)["message"]
    assert len(message.encode()) <= MAX_MESSAGE
    assert message.endswith("ž …")


def test_errors_say_what_the_api_server_said(api: Api, cluster: FakeCluster, account: Path) -> None:
    refusals = Refusals(api, "ltsp-config")
    cluster.fail = 2
    with pytest.raises(ApiError, match="not accepted: 500 etcd is unwell"):
        refusals.send("bad")
    with pytest.raises(ApiError, match=r"https://127\.0\.0\.1:1/"):
        Refusals(Api("127.0.0.1", 1, account), "ltsp-config").send("bad")
    with pytest.raises(ApiError, match="namespace cannot be read"):
        Refusals(Api("127.0.0.1", 1, account / "none"), "ltsp-config").send("bad")


def test_a_server_with_another_certificate_is_not_believed(
    cluster: FakeCluster, account: Path, tmp_path: Path
) -> None:
    for name in ("token", "namespace"):
        (tmp_path / name).write_text((account / name).read_text())
    (tmp_path / "ca.crt").write_text(make_certificate(tmp_path).read_text())
    with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
        Refusals(Api("127.0.0.1", cluster.port, tmp_path), "ltsp-config").send("bad")
    assert cluster.requests == []


def test_tell_returns_while_the_api_server_says_nothing(api: Api, cluster: FakeCluster) -> None:
    cluster.stalled.clear()
    refusals = Refusals(api, "ltsp-config")
    refusals.tell("first")
    for number in range(100):
        refusals.tell(f"edit {number}")
    assert cluster.events == {}
    cluster.stalled.set()
    refusals.close(10.0)
    messages = [event["message"] for event in cluster.events.values()]
    assert messages[-1] == "edit 99", "the newest is told"
    assert len(messages) <= 2, "those in between are not"


def test_an_api_server_that_fails_is_asked_again(
    api: Api, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    cluster.fail = 3  # a GET and a POST of the first try, the GET of the second
    refusals = Refusals(api, "ltsp-config")
    refusals.tell("bad")
    refusals.close(10.0)
    assert [event["message"] for event in cluster.events.values()] == ["bad"]


def test_a_burst_and_then_one_in_a_while(api: Api) -> None:
    now = [0.0]
    refusals = Refusals(api, "ltsp-config", clock=lambda: now[0])
    assert [refusals._take_token() for _ in range(6)] == [0, 0, 0, 0, 0, 30.0]
    now[0] = 29.0
    assert refusals._take_token() == pytest.approx(1.0)
    now[0] = 30.0
    assert refusals._take_token() == 0
    now[0] = 1e6
    assert [refusals._take_token() for _ in range(6)] == [0, 0, 0, 0, 0, 30.0]
