"""By which account the cluster is asked for certificates."""

from collections.abc import Mapping
from typing import Final

from server.errors import ServerError
from server.farm.join import Join
from server.kubernetes import kubeconfig
from server.kubernetes.api import Api

HINT: Final = (
    "outside of the cluster name an account's kubeconfig: `join: {kubeconfig: FILE}`; docs/join.md"
    " makes one"
)


def open_account(join: Join, environment: Mapping[str, str] | None = None) -> Api:
    """The one that farm.yaml names, else that of the pod that this process runs in.

    Raises ServerError: neither is there, or the kubeconfig is not good.
    """
    api = kubeconfig.open_account(join.kubeconfig, environment)
    if api is None:
        raise ServerError("join: certificates: nothing says which cluster signs them", hint=HINT)
    return api
