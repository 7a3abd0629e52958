"""Faults of the API server and the join token, against an API server of ours over TLS."""

import base64
import contextlib
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.doctor.cluster import CLUSTER_INFO, check_api
from server.doctor.target import Survey, Target
from server.doctor.verdict import Level, Verdict
from server.quantities import name_span
from tests.server.doctor.test_join import HASH, TOKEN, make_ca, sign

NOW = 1795248000.0


@dataclass
class Api:
    """An API server that gives cluster-info. ahead: seconds of its clock before ours."""

    port: int
    ca_hash: str
    kubeconfig: str
    data: dict[str, str] = field(default_factory=dict)
    status: int = 200
    ahead: float = 0.0

    def look(self, line: str | None = None, **options: Any) -> list[Verdict]:
        usual = f"kubeadm join 127.0.0.1:{self.port} --token {TOKEN}"
        usual += f" --discovery-token-ca-cert-hash {self.ca_hash}"
        survey = Survey(values={"RCFILE_07_JOIN": usual if line is None else line})
        survey.server_offset = options.pop("server_offset", None)
        target = Target("10.9.0.1", clock=lambda: NOW, **options)
        return list(check_api(target, survey))

    def ids(self, line: str | None = None, **options: Any) -> list[str]:
        found = self.look(line, **options)
        return [verdict.id for verdict in found if verdict.level is not Level.OK]


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("ca")
    return directory, make_ca(directory)[1]


@pytest.fixture
def api(ca: tuple[Path, str]) -> Iterator[Api]:
    directory, ca_hash = ca
    pem = base64.b64encode((directory / "cert.pem").read_bytes()).decode()
    cluster = {"cluster": {"certificate-authority-data": pem, "server": "https://x:6443"}}
    kubeconfig = yaml.safe_dump({"kind": "Config", "clusters": [cluster]})
    api = Api(0, ca_hash, kubeconfig)
    api.data = {"kubeconfig": kubeconfig, "jws-kubeconfig-abcdef": sign(kubeconfig, TOKEN)}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == CLUSTER_INFO
            assert "Authorization" not in self.headers
            body = json.dumps({"data": api.data}).encode()
            self.send_response_only(api.status)
            self.send_header("Date", formatdate(time.time() + api.ahead, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        api.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield api
        server.shutdown()
        thread.join()


def test_a_cluster_that_is_well(api: Api) -> None:
    verdicts = api.look()
    assert [(v.id, v.level) for v in verdicts] == [
        ("clock.ok", Level.OK),
        ("api.ok", Level.OK),
        ("token.ok", Level.OK),
    ]
    assert "so it is valid now; --kubeconfig tells until when" in verdicts[2].words
    assert "0123456789abcdef" not in "".join(v.words + v.subject for v in verdicts)


def test_no_api_server_is_known(api: Api) -> None:
    assert api.ids("echo no cluster") == ["api.none"]
    assert api.ids("echo no cluster", api="https://[") == ["api.none"]


def test_api_server_by_flag(api: Api) -> None:
    found = api.look("echo no cluster", api=f"https://127.0.0.1:{api.port}")
    assert [v.id for v in found] == ["clock.ok", "api.ok", "token.none"]
    assert "no hash" in found[1].words


def test_api_server_that_machines_get_with_their_certificates(api: Api) -> None:
    survey = Survey(values={"RCFILE_07_JOIN": "kubeadm join"})
    survey.api = f"https://127.0.0.1:{api.port}"
    found = list(check_api(Target("10.9.0.1", clock=lambda: NOW), survey))
    assert [v.id for v in found] == ["clock.ok", "api.ok", "token.none"]


def test_api_down(api: Api) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()[1]
    assert api.ids(f"kubeadm join 127.0.0.1:{free} --token {TOKEN}") == ["api.down"]


@pytest.mark.parametrize("status", [403, 404, 500])
def test_cluster_info_is_refused(api: Api, status: int) -> None:
    api.status = status
    assert api.ids() == ["api.cluster-info"]


@pytest.mark.parametrize("kubeconfig", ["[]", "clusters: []", "{}"])
def test_cluster_info_is_broken(api: Api, kubeconfig: str) -> None:
    api.data = {"kubeconfig": kubeconfig, "jws-kubeconfig-abcdef": sign(kubeconfig, TOKEN)}
    assert api.ids() == ["api.cluster-info"]
    api.data = {"something": "else"}
    assert api.ids() == ["api.cluster-info"]


def test_another_ca(api: Api) -> None:
    api.ca_hash = HASH
    assert api.ids() == ["api.ca"]


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        (0, []),
        (60, ["clock.api"]),
        (-60, ["clock.api"]),
        (900, ["clock.join"]),
        (-900, ["clock.join"]),
    ],
)
def test_the_api_servers_clock(api: Api, ahead: float, expected: list[str]) -> None:
    api.ahead = ahead
    assert api.ids() == expected
    # What counts is the server's clock, by which nodes set theirs.
    assert api.ids(server_offset=float(ahead)) == []


def test_a_token_that_the_cluster_does_not_know(api: Api) -> None:
    del api.data["jws-kubeconfig-abcdef"]
    assert api.ids() == ["token.refused"]


def test_a_token_that_is_mistyped(api: Api) -> None:
    api.data["jws-kubeconfig-abcdef"] = sign(api.kubeconfig, "abcdef.aaaaaaaaaaaaaaaa")
    assert api.ids() == ["token.secret"]


@pytest.mark.parametrize("words", ["", "--token (secret)"])
def test_no_token(api: Api, words: str) -> None:
    line = f"kubeadm join 127.0.0.1:{api.port} {words}"
    assert api.ids(line) == ["token.none"]


@contextlib.contextmanager
def kubectl(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Iterator[None]:
    """A kubectl of ours, the only program that there is."""
    program = directory / "kubectl"
    program.write_text(f'#!/bin/sh\necho "$@" > {directory}/asked\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    yield
    asked = (directory / "asked").read_text()
    assert "--kubeconfig=/k " in asked
    assert "--namespace=kube-system get secret bootstrap-token-abcdef --output=json" in asked


def secret(expiration: str) -> str:
    data = {"expiration": base64.b64encode(expiration.encode()).decode()} if expiration else {}
    return f"echo '{json.dumps({'data': data})}'"


@pytest.mark.parametrize(
    ("script", "expected", "words"),
    [
        (secret("2026-11-20T08:00:00Z"), "token.expired", "24 h ago"),
        (secret("2026-11-21T11:00:00Z"), "token.soon", "it expires in 3 h"),
        (secret("2026-11-29T08:00:00Z"), "token.ok", "it expires in 8 days"),
        (secret(""), "token.ok", "it never expires"),
        ("echo 'Error from server (NotFound): secrets' >&2; exit 1", "token.refused", "NotFound"),
        ("echo 'Unauthorized' >&2; exit 1", "token.no-kubectl", "Unauthorized"),
        ("echo junk", "token.no-kubectl", ""),
    ],
)
def test_the_tokens_age(
    api: Api,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    expected: str,
    words: str,
) -> None:
    with kubectl(tmp_path, monkeypatch, script):
        verdict = api.look(kubeconfig="/k")[-1]
    assert verdict.id == expected
    assert words in verdict.words


def test_no_kubectl(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert api.ids(kubeconfig="/k") == ["token.no-kubectl"]


def test_spans() -> None:
    spans = [name_span(seconds) for seconds in (5, 60, 7200, 200000)]
    assert spans == ["5 s", "1 min", "2 h", "2 days"]
    assert replace(Target("x"), api="y").api == "y"
