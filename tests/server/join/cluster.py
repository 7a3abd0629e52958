"""As much of an API server as certificates take, in memory; and requests for them."""

import base64
import copy
import datetime
import threading
from collections.abc import Callable, Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.join.cluster import CLUSTER_INFO, CSRS, LEASES
from server.join.request import JoinRequest, parse_request
from server.kubernetes.api import Api, ApiError, Credentials

NOW = 1_795_000_000.0
MAC, BOOT = "52:54:00:00:00:01", "0d6e8a6e-5b1f-4c0e-9d3a-6f0c2f6f5f10"
Subject = tuple[tuple[x509.ObjectIdentifier, str], ...]


def subject_of(node: str) -> Subject:
    return (
        (NameOID.ORGANIZATION_NAME, "system:nodes"),
        (NameOID.COMMON_NAME, f"system:node:{node}"),
    )


def make_csr(
    node: str = "node-1",
    *,
    key: Any = None,
    subject: Subject | None = None,
    extension: x509.ExtensionType | None = None,
    algorithm: Any = None,
) -> str:
    """A CSR in PEM, by default one that is good."""
    names = [x509.NameAttribute(*pair) for pair in subject or subject_of(node)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    key = key or ec.generate_private_key(ec.SECP256R1())
    signed = builder.sign(key, algorithm or hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def encode_form(boot: str, csr: str) -> bytes:
    from urllib.parse import urlencode

    return urlencode({"boot": boot, "csr": csr}).encode()


FORM = "application/x-www-form-urlencoded"


def make_request(node: str = "node-1", boot: str = BOOT) -> JoinRequest:
    """A good one, with a key of its own."""
    return parse_request(FORM, encode_form(boot, make_csr(node)))


class FakeApi(Api):
    """Keeps requests as an API server does: one of a name, changed by who has seen the last.

    signs: whether an approved one gets its certificate. lifetime: of it, in seconds.
    statuses: what a method and the path's beginning are answered instead. before: called
    before each request.
    """

    def __init__(self, lifetime: float = 600.0) -> None:
        super().__init__("10.9.0.20", 6443)
        put = object.__setattr__
        put(self, "csrs", {})
        put(self, "leases", {})
        put(self, "calls", [])
        put(self, "statuses", {})
        put(self, "settings", {"signs": True, "lifetime": lifetime, "now": NOW, "down": False})
        put(self, "before", lambda method, path: None)
        put(self, "key", ec.generate_private_key(ec.SECP256R1()))
        put(self, "lock", threading.Lock())
        put(self, "info", {"kubeconfig": "clusters: [{cluster: {server: 'https://a:6443'}}]"})

    csrs: dict[str, dict[str, Any]]
    leases: dict[str, dict[str, Any]]
    calls: list[tuple[str, str]]
    statuses: dict[tuple[str, str], tuple[int, dict[str, Any]]]
    settings: dict[str, Any]
    before: Callable[[str, str], None]
    info: dict[str, str]
    lock: threading.Lock
    key: ec.EllipticCurvePrivateKey

    def read_credentials(self) -> Credentials:
        return Credentials("-----BEGIN CERTIFICATE-----\nQ0E=\n-----END CERTIFICATE-----\n")

    def renew(self, node: str, age: float, version: str = "1", duration: int = 40) -> None:
        """A kubelet has renewed its lease `age` seconds before NOW."""
        renewed = datetime.datetime.fromtimestamp(NOW - age, datetime.UTC)
        text = renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"renewTime": text, "leaseDurationSeconds": duration}
        self.leases[node] = {"metadata": {"resourceVersion": version}, "spec": spec}

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        *,
        anonymous: bool = False,
    ) -> tuple[int, dict[str, Any]]:
        self.before(method, path)
        if self.settings["down"]:
            raise ApiError(f"{method} https://10.9.0.20:6443{path}: Connection refused")
        with self.lock:
            self.calls.append((method, path))
            for (wanted, begin), answer in self.statuses.items():
                if method == wanted and path.startswith(begin):
                    return answer
            assert anonymous == (path == CLUSTER_INFO)
            return copy.deepcopy(self._answer(method, path, copy.deepcopy(body)))

    def _answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        if path == CLUSTER_INFO:
            return 200, {"data": self.info}
        name = path.removeprefix(CSRS).removeprefix(LEASES).strip("/")
        if path.startswith(LEASES):
            return (200, self.leases[name]) if name in self.leases else (404, {})
        if method == "POST":
            name = body["metadata"]["name"]
            if name in self.csrs:
                return 409, {"reason": "AlreadyExists"}
            self.csrs[name] = {**body, "status": {}}
            self.csrs[name]["metadata"]["resourceVersion"] = "1"
            return 201, self.csrs[name]
        name = name.removesuffix("/approval")
        if name not in self.csrs:
            return 404, {}
        if method == "PUT":
            metadata = self.csrs[name]["metadata"]
            if body["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
                return 409, {"reason": "Conflict"}
            metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
            self.csrs[name]["status"]["conditions"] = body["status"]["conditions"]
            if self.settings["signs"]:
                self.csrs[name]["status"]["certificate"] = self._sign(self.csrs[name])
        return 200, self.csrs[name]

    def _sign(self, csr: Mapping[str, Any]) -> str:
        asked = x509.load_pem_x509_csr(base64.b64decode(csr["spec"]["request"]))
        now = datetime.datetime.fromtimestamp(self.settings["now"], datetime.UTC)
        until = now + datetime.timedelta(seconds=self.settings["lifetime"])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")]))
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(until)
            .sign(self.key, hashes.SHA256())
        )
        return base64.b64encode(certificate.public_bytes(serialization.Encoding.PEM)).decode()
