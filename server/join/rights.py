"""What the account of certificates may do, asked of the cluster itself; nothing is changed by it.

A SelfSubjectAccessReview is open to every account.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from server.kubernetes.api import Api, ApiError

REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_SIGNER: Final = "kubernetes.io/kube-apiserver-client-kubelet"
_CERTIFICATES: Final = "certificates.k8s.io"


@dataclass(frozen=True)
class Right:
    """A verb on a resource. namespace, name: "" for all."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {resource}{f' {self.name}' if self.name else ''}{where}"


NEEDED: Final = (
    Right("create", _CERTIFICATES, "certificatesigningrequests"),
    Right("get", _CERTIFICATES, "certificatesigningrequests"),
    Right("update", _CERTIFICATES, "certificatesigningrequests", "approval"),
    Right("approve", _CERTIFICATES, "signers", name=_SIGNER),
    Right("get", "coordination.k8s.io", "leases", namespace="kube-node-lease"),
)
"""Those of k8s/join."""
DANGEROUS: Final = (
    Right("create", "", "secrets", namespace="kube-system"),
    Right("patch", "", "secrets", namespace="kube-system"),
    Right("get", "", "secrets", namespace="kube-system"),
    Right("create", "", "pods", namespace="kube-system"),
    Right("create", "", "serviceaccounts", "token", "kube-system"),
    Right("approve", _CERTIFICATES, "signers", name="kubernetes.io/kube-apiserver-client"),
    Right("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    Right("impersonate", "", "users"),
)
"""Some that are as good as cluster-admin, and that nothing here needs (docs/security.md)."""


def list_allowed(api: Api, rights: Iterable[Right]) -> list[Right]:
    """Those of them that the account has. Raises ApiError."""
    return [right for right in rights if _is_allowed(api, right)]


def _is_allowed(api: Api, right: Right) -> bool:
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": vars(right)},
    }
    status, answer = api.call("POST", REVIEWS, body)
    if status != 201:
        raise ApiError(f"the account is not known: {status} {answer.get('message', '')}".strip())
    found = answer.get("status")
    return isinstance(found, dict) and found.get("allowed") is True
