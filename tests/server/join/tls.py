"""The cluster in memory over TLS, for a server that runs, and a kubeconfig for it."""

import base64
import http.server
import json
import ssl
import threading
from pathlib import Path
from typing import Any

import yaml

from server.join.cluster import CLUSTER_INFO
from tests.server.join.cluster import FakeApi
from tests.server.kubernetes.test_refusals import make_certificate

TOKEN = "the-servers-own-token"


class TlsCluster:
    """`api` over TLS on a port of loopback, for who shows TOKEN; cluster-info for all."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.api = FakeApi()
        make_certificate(directory)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                anonymous = "Authorization" not in self.headers
                known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                status, answer = 401, {"message": "Unauthorized"}
                if known or (anonymous and self.path == CLUSTER_INFO):
                    status, answer = outer.api.call(
                        self.command, self.path, body, anonymous=anonymous
                    )
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do  # noqa: N815

            def log_message(self, *words: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "ca.crt", directory / "key.pem")
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.address = f"127.0.0.1:{self._http.server_address[1]}"
        self.authority = (directory / "ca.crt").read_text()
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def kubeconfig(self) -> str:
        """Of the account that may ask for certificates."""
        cluster: dict[str, Any] = {
            "server": f"https://{self.address}",
            "certificate-authority-data": base64.b64encode(self.authority.encode()).decode(),
        }
        return yaml.safe_dump(
            {
                "current-context": "join",
                "contexts": [{"name": "join", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": {"token": TOKEN}}],
            }
        )

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
