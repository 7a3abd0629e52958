"""The API server of the cluster that this process runs in, as its service account sees it."""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import ServerError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where kubelet mounts a service account: `token`, `ca.crt`, `namespace`."""
TIMEOUT = 5.0
"""Seconds that the API server may be silent."""
MAX_ANSWER = 1 << 20
"""Bytes of an answer that are read."""


class ApiError(ServerError):
    """The API server did not answer, or not as it should."""


@dataclass(frozen=True)
class Api:
    """A client with the service account's token, which kubelet renews: it is read each time."""

    host: str
    port: int
    account: Path = ACCOUNT

    @property
    def namespace(self) -> str:
        """The namespace that this process runs in; ApiError without one."""
        return self._read("namespace").strip()

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, dict[str, Any]]:
        """Status and decoded JSON of one request; ApiError when there is no such answer."""
        headers = {
            "Authorization": f"Bearer {self._read('token').strip()}",
            "Accept": "application/json",
            "User-Agent": "bootfarm",
        }
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = content_type
        try:
            trust = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
            connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=TIMEOUT, context=trust
            )
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                decoded = json.loads(answer.read(MAX_ANSWER))
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ApiError(
                f"{method} https://{self.host}:{self.port}{path}: {error or type(error).__name__}"
            ) from None
        if not isinstance(decoded, dict):
            raise ApiError(f"{method} {path}: the answer is no object")
        return answer.status, decoded

    def _read(self, name: str) -> str:
        try:
            return (self.account / name).read_text()
        except (OSError, ValueError) as error:
            raise ApiError(f"the service account's {name} cannot be read: {error}") from None


def find_api(environment: Mapping[str, str], account: Path | None = None) -> Api | None:
    """The API server as kubelet names it in a pod's environment; None outside of a cluster."""
    account = account or ACCOUNT
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port.isdecimal() or not (account / "token").is_file():
        return None
    return Api(host, int(port), account)
