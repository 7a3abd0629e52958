"""The API server that a kubeconfig names, for a server outside of the cluster.

Only what needs no other program: a token or its file, a client's certificate and key.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from imagebuild.wholefile import read_whole
from server.errors import ServerError
from server.kubernetes.api import Api, ApiError, Credentials, find_api
from server.yamlfile import YamlError, parse_yaml

LONGEST: Final = 1 << 20
"""Bytes of a kubeconfig, and of each file that it names."""
HTTPS: Final = 443


@dataclass(frozen=True)
class KubeconfigApi(Api):
    """A client by a kubeconfig's current context. The file is read for each request: whoever
    renews its token or certificate need not tell anybody.

    account is the file.
    """

    def read_credentials(self) -> Credentials:
        """As they are now. Raises ApiError."""
        try:
            return _read_credentials(self.account)
        except ServerError as error:
            raise ApiError(error.message, hint=error.hint) from None


def open_account(
    kubeconfig: Path | None, environment: Mapping[str, str] | None = None
) -> Api | None:
    """The account of a kubeconfig, else that of the pod that this process runs in; None: neither.

    environment: the process's own where it is not given. Raises ServerError: the kubeconfig is
    not good.
    """
    if kubeconfig is not None:
        return open_kubeconfig(kubeconfig)
    return find_api(os.environ if environment is None else environment)


def open_kubeconfig(path: Path) -> KubeconfigApi:
    """The client; ServerError names the file, the key and the remedy."""
    cluster, _ = _read_context(path)
    server = _text(cluster, "server")
    try:
        url = urlsplit(server)
        host, port = url.hostname, url.port or HTTPS
    except ValueError:
        url, host, port = urlsplit(""), None, 0
    if url.scheme != "https" or host is None:
        raise _error(path, f"its server {server[:100]!r} is no https:// address", "write it whole")
    if cluster.get("insecure-skip-tls-verify"):
        raise _error(
            path,
            "insecure-skip-tls-verify: machines would join whoever answers",
            "name the cluster's CA instead: certificate-authority-data",
        )
    _read_credentials(path)
    return KubeconfigApi(host, port, path)


def _read_credentials(path: Path) -> Credentials:
    cluster, user = _read_context(path)
    authority = _read_pem(path, cluster, "certificate-authority")
    if not authority:
        raise _error(path, "it names no CA of the cluster", "add certificate-authority-data")
    for key in ("exec", "auth-provider", "username"):
        if user.get(key):
            raise _error(
                path,
                f"its user has {key}, which is not taken here",
                "give it a token, a tokenFile, or a client certificate with its key",
            )
    certificate = _read_pem(path, user, "client-certificate")
    key_pem = _read_pem(path, user, "client-key")
    token = _text(user, "token")
    if not token and (file := _text(user, "tokenFile")):
        token = _read(path, path.parent / file).strip()
    if not token and not (certificate and key_pem):
        raise _error(
            path, "its user has neither token nor client certificate", "give it one of the two"
        )
    pair = f"{certificate}\n{key_pem}" if certificate and key_pem else ""
    return Credentials(authority, token, pair)


def _read_context(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The cluster and the user of the current context; parsed once for each edit."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise _error(path, error.strerror or "cannot be read", "write it") from None
    return _parse_context(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=4)
def _parse_context(
    path: Path, stamp: tuple[int, int, int]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    try:
        data = parse_yaml(_read(path, path), str(path))
        name = data["current-context"]
        context = _find(data, "contexts", name)["context"]
        cluster = _find(data, "clusters", context["cluster"])["cluster"]
        user = _find(data, "users", context["user"])["user"]
    except (YamlError, KeyError, TypeError):
        cluster = user = None
    if not isinstance(cluster, Mapping) or not isinstance(user, Mapping):
        raise _error(
            path,
            "it is no kubeconfig whose current-context names a cluster and a user",
            "`kubectl config view --minify --flatten --raw` writes one",
        )
    return cluster, user


def _find(data: Any, kind: str, name: Any) -> Any:
    """The entry of a list by its name; KeyError without."""
    for entry in data[kind]:
        if entry["name"] == name:
            return entry
    raise KeyError(name)


def _read_pem(path: Path, holder: Mapping[str, Any], key: str) -> str:
    """`key`-data, decoded, or the file that `key` names; "" for neither."""
    if encoded := _text(holder, f"{key}-data"):
        try:
            return base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError):
            raise _error(path, f"its {key}-data is no base64", "copy it whole") from None
    file = _text(holder, key)
    return _read(path, path.parent / file) if file else ""


def _text(holder: Mapping[str, Any], key: str) -> str:
    value = holder.get(key)
    return value if isinstance(value, str) else ""


def _read(path: Path, file: Path) -> str:
    try:
        return read_whole(file, LONGEST).decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "is no text"
        words = reason if file == path else f"{file}: {reason}"
        raise _error(path, words, "make it readable for the server's user") from None


def _error(path: Path, problem: str, hint: str) -> ServerError:
    return ServerError(f"{path}: {problem}", hint=hint)
