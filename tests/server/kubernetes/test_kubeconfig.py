"""The API server that a kubeconfig names, before one made of Python's own HTTPS."""

import base64
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.errors import ServerError
from server.kubernetes.api import Api, ApiError, Credentials
from server.kubernetes.kubeconfig import open_kubeconfig
from tests.server.kubernetes.test_refusals import make_certificate


class Server:
    """Answers everything, and keeps what it was shown."""

    def __init__(self, directory: Path) -> None:
        self.shown: list[str | None] = []
        self.peers: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.shown.append(self.headers.get("Authorization"))
                assert isinstance(self.connection, ssl.SSLSocket)
                certificate: dict[str, Any] = dict(self.connection.getpeercert() or {})
                names = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
                outer.peers.append(str(dict(names).get("commonName", "")))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *words: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "ca.crt", directory / "key.pem")
        context.load_verify_locations(directory / "ca.crt")
        context.verify_mode = ssl.CERT_OPTIONAL
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    make_certificate(directory)
    return directory


@pytest.fixture
def server(keys: Path) -> Iterator[Server]:
    server = Server(keys)
    yield server
    server.close()


def encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def write(directory: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    """A kubeconfig with another context beside the current one."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "join",
        "contexts": [
            {"name": "other", "context": {"cluster": "nowhere", "user": "nobody"}},
            {"name": "join", "context": {"cluster": "rack", "user": "bootfarm"}},
        ],
        "clusters": [{"name": "rack", "cluster": cluster}],
        "users": [{"name": "bootfarm", "user": user}],
    }
    path = directory / "join.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def cluster_of(server: Server, keys: Path) -> dict[str, Any]:
    return {
        "server": f"https://127.0.0.1:{server.port}",
        "certificate-authority-data": encode(keys / "ca.crt"),
    }


def test_a_token(server: Server, keys: Path, tmp_path: Path) -> None:
    api = open_kubeconfig(write(tmp_path, cluster_of(server, keys), {"token": "abc"}))
    assert api.address == f"127.0.0.1:{server.port}"
    assert api.call("GET", "/x") == (200, {})
    assert api.call("GET", "/x", anonymous=True) == (200, {})
    # Whoever renews it need not tell.
    write(tmp_path, cluster_of(server, keys), {"token": "another"})
    api.call("GET", "/x")
    assert server.shown == ["Bearer abc", None, "Bearer another"]


def test_files_beside_it(server: Server, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    (tmp_path / "ca").write_bytes((keys / "ca.crt").read_bytes())
    cluster = {"server": f"https://127.0.0.1:{server.port}", "certificate-authority": "ca"}
    api = open_kubeconfig(write(tmp_path, cluster, {"tokenFile": "token"}))
    api.call("GET", "/x")
    (tmp_path / "token").write_text("renewed\n")
    api.call("GET", "/x")
    assert server.shown == ["Bearer abc", "Bearer renewed"]


def test_a_client_certificate(server: Server, keys: Path, tmp_path: Path) -> None:
    user = {
        "client-certificate-data": encode(keys / "ca.crt"),
        "client-key-data": encode(keys / "key.pem"),
    }
    api = open_kubeconfig(write(tmp_path, cluster_of(server, keys), user))
    api.call("GET", "/x")
    api.call("GET", "/x", anonymous=True)
    assert server.peers == ["kubernetes", ""]
    assert server.shown == [None, None]


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({"server": "http://a"}, {}, "is no https:// address"),
        ({"server": "https://a:x"}, {}, "is no https:// address"),
        ({"insecure-skip-tls-verify": True}, {}, "would join whoever answers"),
        ({"certificate-authority-data": ""}, {}, "names no CA"),
        ({"certificate-authority-data": "%%"}, {}, "is no base64"),
        ({}, {"exec": {"command": "aws"}}, "has exec, which is not taken here"),
        ({}, {"username": "a", "password": "b"}, "has username"),
        ({}, {"token": None}, "neither token nor client certificate"),
        ({}, {"token": None, "tokenFile": "none"}, "No such file"),
        ({}, {"token": None, "client-certificate-data": "QQ=="}, "neither token nor client"),
    ],
)
def test_what_is_not_taken(
    cluster: dict[str, Any], user: dict[str, Any], words: str, keys: Path, tmp_path: Path
) -> None:
    usual = {"server": "https://a", "certificate-authority-data": encode(keys / "ca.crt")}
    path = write(tmp_path, usual | cluster, {"token": "abc"} | user)
    with pytest.raises(ServerError) as caught:
        open_kubeconfig(path)
    assert str(path) in caught.value.message
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "a: {", "current-context: x\n", "current-context: []"])
def test_no_kubeconfig(text: str, tmp_path: Path) -> None:
    path = tmp_path / "join.kubeconfig"
    path.write_text(text)
    with pytest.raises(ServerError, match="it is no kubeconfig"):
        open_kubeconfig(path)
    with pytest.raises(ServerError, match="No such file"):
        open_kubeconfig(tmp_path / "none")


def test_gone_later(server: Server, keys: Path, tmp_path: Path) -> None:
    path = write(tmp_path, cluster_of(server, keys), {"token": "abc"})
    api = open_kubeconfig(path)
    path.unlink()
    with pytest.raises(ApiError, match="No such file"):
        api.call("GET", "/x")


def test_without_a_ca_nobody_is_believed() -> None:
    """The ssl module would take what this machine believes."""
    with pytest.raises(ValueError, match="no CA"):
        Credentials("\n").make_trust()


def test_an_account_without_a_ca(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc")
    (tmp_path / "ca.crt").write_text("")
    with pytest.raises(ApiError, match="there is no CA"):
        Api("127.0.0.1", 1, tmp_path).call("GET", "/x")
