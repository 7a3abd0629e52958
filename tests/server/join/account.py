"""The account that k8s/join is for, in a real cluster of the rack's, and its kubeconfig."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import yaml

K8S = Path(__file__).parents[3] / "k8s"
REVIEW = {
    "apiVersion": "authentication.k8s.io/v1",
    "kind": "TokenRequest",
    "spec": {"expirationSeconds": 7200},
}


def apply_account(kubectl: Callable[..., str], *, with_rights: bool = True) -> None:
    """Make namespace and service account as k8s/base does, and apply k8s/join."""
    files = [K8S / "base" / name for name in ("namespace.yaml", "serviceaccount.yaml")]
    if with_rights:
        names = yaml.safe_load((K8S / "join/kustomization.yaml").read_text())["resources"]
        files += [K8S / "join" / name for name in names]
    for file in files:
        text = file.read_text()
        # What base's kustomization adds.
        namespace = ("--namespace=bootfarm",) if file.name == "serviceaccount.yaml" else ()
        kubectl("apply", *namespace, "-f", "-", stdin=text)


def make_kubeconfig(
    kubectl: Callable[..., str], authority: Path, api: str, *, account: str = "bootfarm/bootfarm"
) -> str:
    """A kubeconfig with a token of the account that is good for two hours."""
    namespace, _, name = account.partition("/")
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    answer = kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(REVIEW))
    ca = base64.b64encode(authority.read_bytes()).decode()
    cluster = {"server": f"https://{api}", "certificate-authority-data": ca}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "join",
            "contexts": [{"name": "join", "context": {"cluster": "rack", "user": "bootfarm"}}],
            "clusters": [{"name": "rack", "cluster": cluster}],
            "users": [
                {"name": "bootfarm", "user": {"token": json.loads(answer)["status"]["token"]}}
            ],
        }
    )
