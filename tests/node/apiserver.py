"""As much of a Kubernetes API server as a joining node sees, over TLS, for the wrapper's tests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

TOKEN = "abcdef.0123456789abcdef"


def openssl(*args: str, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *args], input=data, capture_output=True, check=True).stdout


def sign_detached(content: bytes, token: str) -> str:
    """As the cluster's bootstrapsigner does: HS256, content detached (RFC 7515, appendix F)."""
    name, _, secret = token.partition(".")

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    header = encode(json.dumps({"alg": "HS256", "kid": name}, separators=(",", ":")).encode())
    signed = f"{header}.{encode(content)}".encode()
    return f"{header}..{encode(hmac.digest(secret.encode(), signed, hashlib.sha256))}"


class ApiServer:
    """`ready` is the Node's Ready status, None if there is no Node; `calls` what was asked.

    `bearers`: the tokens that it was shown. `forged`: signatures instead of good ones.
    `leases`: whose certificate patched which lease, by which type, with what.
    `notes`: the Node's annotations; `taints`: its taints. `refuses`: patches of anything but
    its status.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.ready: str | None = None
        self.tokens = {TOKEN}
        self.calls: list[str] = []
        self.bearers: list[str] = []
        self.notes: dict[str, str] = {}
        self.taints: list[dict[str, str]] = []
        self.refuses = False
        self.forged: dict[str, str] = {}
        self.patches: list[tuple[str, dict[str, Any]]] = []
        self.leases: list[tuple[str, str, str, dict[str, Any]]] = []
        self.requests: list[bytes] = []
        self.ca = directory / "ca.pem"
        self._make_certificates()
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"127.0.0.1:{self.http.server_port}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.pem", directory / "server.key")
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def _make_certificates(self) -> None:
        d = self.directory
        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl(
            "req", "-x509", *ec, "-subj", "/CN=kubernetes", "-days", "1",
            "-keyout", str(d / "ca.key"), "-out", str(self.ca),
        )  # fmt: skip
        openssl(
            "req", "-x509", *ec, "-subj", "/CN=kube-apiserver", "-days", "1",
            "-CA", str(self.ca), "-CAkey", str(d / "ca.key"),
            "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE",
            "-keyout", str(d / "server.key"), "-out", str(d / "server.pem"),
        )  # fmt: skip

    def ca_hash(self) -> str:
        """As `openssl … | sha256` of the page on kubeadm's tokens gives it."""
        key = openssl("x509", "-pubkey", "-noout", "-in", str(self.ca))
        der = openssl("pkey", "-pubin", "-outform", "der", data=key)
        return "sha256:" + openssl("dgst", "-sha256", "-hex", "-r", data=der).decode()[:64]

    def cluster_info(self) -> dict[str, Any]:
        authority = base64.b64encode(self.ca.read_bytes()).decode()
        kubeconfig = (
            "apiVersion: v1\nclusters:\n- cluster:\n"
            f"    certificate-authority-data: {authority}\n"
            f'    server: https://{self.endpoint}\n  name: ""\ncontexts: null\n'
        )
        signatures = {
            f"jws-kubeconfig-{token.split('.')[0]}": sign_detached(kubeconfig.encode(), token)
            for token in self.tokens
        }
        data = {**signatures, **self.forged, "kubeconfig": kubeconfig}
        return {"kind": "ConfigMap", "data": data}

    def node(self, name: str) -> dict[str, Any]:
        conditions = [
            {"type": "MemoryPressure", "status": "False"},
            {"type": "Ready", "status": self.ready},
        ]
        metadata: dict[str, Any] = {"name": name}
        if self.notes:
            names: dict[str, Any] = {f"f:{note}": {} for note in self.notes}
            metadata |= {"annotations": self.notes}
            metadata |= {"managedFields": [{"fieldsV1": {"f:metadata": {"f:annotations": names}}}]}
        spec = {"taints": self.taints} if self.taints else {}
        status = {"conditions": conditions}
        return {"kind": "Node", "metadata": metadata, "spec": spec, "status": status}

    def sign(self, request: bytes) -> str:
        d = self.directory
        (d / "node.csr").write_bytes(request)
        openssl(
            "x509", "-req", "-in", str(d / "node.csr"), "-CA", str(self.ca),
            "-CAkey", str(d / "ca.key"), "-days", "1", "-out", str(d / "node.pem"),
        )  # fmt: skip
        return base64.b64encode((d / "node.pem").read_bytes()).decode()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, code: int, body: dict[str, Any]) -> None:
                # Compact and in the order given, as Go prints its structures.
                data = json.dumps(body, separators=(",", ":")).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def peer(self) -> str:
                assert isinstance(self.connection, ssl.SSLSocket)
                certificate: dict[str, Any] = dict(self.connection.getpeercert() or {})
                names = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
                return str(dict(names).get("commonName", ""))

            def is_known(self) -> bool:
                given = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if given:
                    outer.bearers.append(given)
                return given in outer.tokens

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                outer.calls.append(f"GET {path}")
                if path.endswith("/configmaps/cluster-info"):
                    self.answer(200, outer.cluster_info())
                elif not self.is_known() and not self.peer():
                    self.answer(401, {})
                elif "/nodes/" in path:
                    name = path.rpartition("/")[2]
                    found = outer.ready is not None
                    self.answer(200 if found else 404, outer.node(name) if found else {})
                else:
                    certificate = outer.sign(outer.requests[-1])
                    self.answer(200, {"status": {"certificate": certificate}})

            def do_POST(self) -> None:
                outer.calls.append(f"POST {self.path.partition('?')[0]}")
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(base64.b64decode(body["spec"]["request"]))
                name = {"name": "bootfarm-x7k2p", "generateName": "bootfarm-"}
                self.answer(201 if self.is_known() else 401, {"metadata": name, **body["spec"]})

            def do_PATCH(self) -> None:
                outer.calls.append(f"PATCH {self.path}")
                patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if "/leases/" in self.path:
                    kind = str(self.headers["Content-Type"])
                    outer.leases.append((self.peer(), self.path, kind, patch))
                    self.answer(200, {})
                    return
                outer.patches.append((self.peer(), patch))
                if "status" in patch:
                    outer.ready = patch["status"]["conditions"][0]["status"]
                elif outer.refuses:
                    self.answer(403, {})
                    return
                else:
                    outer.notes |= patch["metadata"]["annotations"]
                self.answer(200, {})

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
