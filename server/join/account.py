"""By which account the cluster is asked for certificates."""

import os
from collections.abc import Mapping
from typing import Final

from server.errors import ServerError
from server.farm.join import Join
from server.kubernetes.api import Api, find_api
from server.kubernetes.kubeconfig import open_kubeconfig

HINT: Final = (
    "outside of the cluster name an account's kubeconfig: `join: {kubeconfig: FILE}`; docs/join.md"
    " makes one"
)


def open_account(join: Join, environment: Mapping[str, str] | None = None) -> Api:
    """The one that farm.yaml names, else that of the pod that this process runs in.

    Raises ServerError: neither is there, or the kubeconfig is not good.
    """
    if join.kubeconfig is not None:
        return open_kubeconfig(join.kubeconfig)
    api = find_api(os.environ if environment is None else environment)
    if api is None:
        raise ServerError("join: certificates: nothing says which cluster signs them", hint=HINT)
    return api
