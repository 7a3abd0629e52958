"""An API server, asked as a service account that kubelet mounts, or as a kubeconfig says."""

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from server.errors import ServerError

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where kubelet mounts a service account: `token`, `ca.crt`, `namespace`."""
TIMEOUT: Final = 5.0
"""Seconds that the API server may be silent."""
MAX_ANSWER: Final = 1 << 20
"""Bytes of an answer that are read."""


class ApiError(ServerError):
    """The API server did not answer, or not as it should."""


@dataclass(frozen=True)
class Credentials:
    """Who asks, and whom it trusts. authority: the cluster's CA, PEM. token: "" for none.

    pair: a client's certificate and its key (PEM), "" for none.
    """

    authority: str
    token: str = field(default="", repr=False)
    pair: str = field(default="", repr=False)

    def make_trust(self, *, anonymous: bool = False) -> ssl.SSLContext:
        """TLS with a server of that CA. Raises OSError, ValueError."""
        if not self.authority.strip():
            raise ValueError("there is no CA")  # the ssl module would take this machine's own
        trust = ssl.create_default_context(cadata=self.authority)
        if self.pair and not anonymous:
            # The ssl module takes them from files only: one that is nowhere on a disk.
            with open(os.memfd_create("pair", os.MFD_CLOEXEC), "wb") as file:
                file.write(self.pair.encode())
                file.flush()
                trust.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return trust


@dataclass(frozen=True)
class Api:
    """A client with the service account's token, which kubelet renews: it is read each time.

    most: bytes of an answer that are read.
    """

    host: str
    port: int
    account: Path = ACCOUNT
    most: int = MAX_ANSWER

    @property
    def namespace(self) -> str:
        """The namespace that this process runs in; ApiError without one."""
        return self._read("namespace").strip()

    @property
    def address(self) -> str:
        """host:port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def read_credentials(self) -> Credentials:
        """As they are now. Raises ApiError."""
        return Credentials(self._read("ca.crt"), self._read("token").strip())

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        *,
        anonymous: bool = False,
    ) -> tuple[int, dict[str, Any]]:
        """Status and decoded JSON of one request; ApiError when there is no such answer.

        anonymous: without saying who asks; the server is checked all the same.
        """
        credentials = self.read_credentials()
        headers = {"Accept": "application/json", "User-Agent": "bootfarm"}
        if credentials.token and not anonymous:
            headers["Authorization"] = f"Bearer {credentials.token}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = content_type
        try:
            trust = credentials.make_trust(anonymous=anonymous)
            connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=TIMEOUT, context=trust
            )
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                decoded = json.loads(answer.read(self.most))
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ApiError(
                f"{method} https://{self.address}{path}: {error or type(error).__name__}"
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
