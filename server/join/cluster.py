"""The few calls to an API server that a certificate for a joining machine takes.

The rights for them, and no others, are in k8s/join.
"""

import base64
import binascii
import datetime
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from server.join.policy import Lease, Refusal
from server.join.request import JoinRequest, RequestError, read_csr
from server.kubernetes.api import Api, ApiError
from server.yamlfile import YamlError, parse_yaml

CSRS: Final = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
CLUSTER_INFO: Final = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
SIGNER: Final = "kubernetes.io/kube-apiserver-client-kubelet"
USAGES: Final = ("digital signature", "key encipherment", "client auth")
EXPIRATION: Final = 600
"""Seconds for which a certificate is asked: the fewest that Kubernetes takes, from 1.22 on."""
SIGN_SECONDS: Final = 10.0
"""How long the cluster's controller manager may take to sign."""
LOOK_SECONDS: Final = 0.1
"""Between two looks whether it has."""
CLASHES: Final = 5
"""Times that somebody else may change a request while it is approved."""


class NotIssuedError(Exception):
    """There is no certificate. refusal: why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.words)
        self.refusal = refusal


def _blame_api(words: str) -> NotIssuedError:
    return NotIssuedError(Refusal("join_api", words))


class Cluster:
    """One cluster, asked by one account. Its methods raise NotIssuedError; any thread may call.

    pause: what waits between two looks.
    """

    def __init__(
        self,
        api: Api,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api = api
        self._clock = clock
        self._pause = pause

    def find_csr(self, name: str) -> dict[str, Any] | None:
        """The request of that name, None without."""
        status, answer = self._call("GET", f"{CSRS}/{name}")
        return None if status == 404 else self._expect(status, answer, "its requests", 200)

    def create_csr(self, name: str, request: JoinRequest) -> dict[str, Any] | None:
        """A new request of that name; None where there is one by now."""
        body = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "bootfarm"}},
            "spec": {
                "request": base64.b64encode(request.csr.encode()).decode(),
                "signerName": SIGNER,
                "usages": list(USAGES),
                "expirationSeconds": EXPIRATION,
            },
        }
        status, answer = self._call("POST", CSRS, body)
        return None if status == 409 else self._expect(status, answer, "a request", 201)

    def sign(self, csr: dict[str, Any]) -> bytes:
        """Approve a request, unless it is, and wait for its certificate (PEM)."""
        name = str(csr["metadata"]["name"])
        until = self._clock() + SIGN_SECONDS
        clashes = 0
        while True:
            if certificate := _read_certificate(csr):
                return certificate
            conditions = _list_conditions(csr)
            if bad := conditions.get("Denied") or conditions.get("Failed"):
                words = bad.get("message") or bad.get("reason") or "no reason given"
                raise _blame_api(f"the cluster does not sign {name}: {words}")
            if "Approved" not in conditions:
                clashes += not self._approve(name, csr)
                if clashes > CLASHES:
                    raise _blame_api(f"{name} is changed again and again")
            elif self._clock() >= until:
                raise _blame_api(
                    f"the cluster has not signed within {SIGN_SECONDS:.0f} s: does"
                    " kube-controller-manager run, with its csrsigning controller?",
                )
            else:
                self._pause(LOOK_SECONDS)
            found = self.find_csr(name)
            if found is None:
                raise _blame_api(f"somebody removed {name}")
            csr = found

    def _approve(self, name: str, csr: Mapping[str, Any]) -> bool:
        """False: somebody else has changed it meanwhile."""
        status = csr.get("status") if isinstance(csr.get("status"), dict) else {}
        condition = {
            "type": "Approved",
            "status": "True",
            "reason": "BootfarmJoin",
            "message": "the machine of that name boots, as the boot server knows it",
        }
        approved = {**csr, "status": {**(status or {}), "conditions": [condition]}}
        code, answer = self._call("PUT", f"{CSRS}/{name}/approval", approved)
        if code == 409:
            return False
        self._expect(code, answer, "an approval", 200)
        return True

    def find_lease(self, node: str) -> Lease | None:
        """The lease of a kubelet, None without one."""
        status, answer = self._call("GET", f"{LEASES}/{node}")
        if status == 404:
            return None
        lease = self._expect(status, answer, "a lease", 200)
        try:
            renewed = datetime.datetime.fromisoformat(lease["spec"]["renewTime"]).timestamp()
            duration = float(lease["spec"].get("leaseDurationSeconds") or 40)
            return Lease(str(lease["metadata"]["resourceVersion"]), renewed, duration)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None  # never renewed

    def find_address(self) -> str:
        """https://host:port of the API server as the cluster tells everybody."""
        status, answer = self._call("GET", CLUSTER_INFO, anonymous=True)
        try:
            text = answer["data"]["kubeconfig"] if status == 200 else ""
            clusters = parse_yaml(text, "cluster-info")["clusters"]
            url = str(clusters[0]["cluster"]["server"])
            parts = urlsplit(url)
            if parts.scheme == "https" and parts.hostname and not parts.path.strip("/"):
                return url.rstrip("/")
        except (YamlError, KeyError, IndexError, TypeError, ValueError):
            pass
        raise _blame_api(
            f"the cluster's cluster-info names no API server (HTTP {status}): set `join: {{api:"
            " HOST:PORT}` in farm.yaml",
        )

    def read_authority(self) -> str:
        """The cluster's CA, PEM."""
        try:
            return self._api.read_credentials().authority
        except ApiError as error:
            raise _blame_api(error.message) from None

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        anonymous: bool = False,
    ) -> tuple[int, dict[str, Any]]:
        try:
            return self._api.call(method, path, body, anonymous=anonymous)
        except ApiError as error:
            raise _blame_api(f"the cluster does not answer: {error.message}") from None

    def _expect(
        self, status: int, answer: dict[str, Any], what: str, wanted: int
    ) -> dict[str, Any]:
        if status == wanted:
            return answer
        words = f"{status} {answer.get('message') or answer.get('reason') or ''}".strip()
        hint = " (is k8s/join applied?)" if status in (401, 403) else ""
        raise _blame_api(f"the cluster refuses {what}: {words}{hint}")


def is_of(csr: Mapping[str, Any], request: JoinRequest) -> bool:
    """Whether an object of the cluster asks for the same name, with the same key."""
    spec = csr.get("spec")
    if not isinstance(spec, dict) or spec.get("signerName") != SIGNER:
        return False
    try:
        pem = base64.b64decode(str(spec.get("request"))).decode("ascii")
        return read_csr(pem) == (request.node, request.key)
    except (RequestError, binascii.Error, ValueError):
        return False


def _list_conditions(csr: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    status = csr.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    return {str(one.get("type")): one for one in conditions or () if isinstance(one, dict)}


def _read_certificate(csr: Mapping[str, Any]) -> bytes:
    status = csr.get("status")
    encoded = status.get("certificate") if isinstance(status, dict) else None
    try:
        return base64.b64decode(encoded) if isinstance(encoded, str) else b""
    except binascii.Error:
        return b""
