"""Reads from the API server without kubectl, whose start takes a third of a second."""

import base64
import http.client
import json
import ssl
from pathlib import Path
from typing import Any

import yaml

from rack.namespace import Namespace
from rack.network import API_IP

API_PORT = 6443
"""kubeadm's default for the API server."""


class ApiClient:
    """GETs as the administrator of a kubeconfig that kubeadm wrote."""

    def __init__(self, namespace: Namespace, kubeconfig: Path) -> None:
        self._namespace = namespace
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        user = config["users"][0]["user"]
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        # The ssl module reads a client's certificate from files only.
        pair = kubeconfig.with_suffix(".pem")
        pair.touch(0o600)
        pair.write_bytes(
            base64.b64decode(user["client-certificate-data"])
            + base64.b64decode(user["client-key-data"])
        )
        self._context = ssl.create_default_context(cadata=ca)
        self._context.load_cert_chain(pair)

    def get(self, path: str, timeout: float = 10.0) -> dict[str, Any]:
        """The object at a path, {} if there is none. Raises OSError if there is no answer."""
        plain = self._namespace.connect(API_IP, API_PORT, timeout)
        connection = http.client.HTTPSConnection(API_IP, API_PORT, timeout=timeout)
        try:
            connection.sock = self._context.wrap_socket(plain, server_hostname=API_IP)
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"GET {path}: {error!r}") from error
        finally:
            connection.close()
            plain.close()
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return {}
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"GET {path}: status {answer.status} {body[:200]!r}")
        found: dict[str, Any] = json.loads(body)
        return found


def ready_status(node: dict[str, Any]) -> str:
    """The status of a Node's condition Ready: "True", "False", "Unknown", or "" without one."""
    conditions = node.get("status", {}).get("conditions", [])
    return next((str(c["status"]) for c in conditions if c["type"] == "Ready"), "")
