"""What lts.conf's `kubeadm join` line says, and what the cluster says of that: pure."""

import base64
import binascii
import datetime
import hashlib
import hmac
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

_COMMAND: Final = re.compile(r"\bkubeadm\s+join\s+([^;&|\n]*)")
_TOKEN: Final = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")


@dataclass(frozen=True)
class JoinLine:
    """The facts of a join line. api: host:port. token, ca_hashes: as they stand there."""

    api: str = ""
    token: str = ""
    ca_hashes: tuple[str, ...] = ()

    @property
    def token_id(self) -> str:
        """The token's public half; the other one is never shown."""
        match = _TOKEN.fullmatch(self.token)
        return match[1] if match else ""


def find_join_line(values: Mapping[str, str]) -> JoinLine | None:
    """The first `kubeadm join` with an address, in any value."""
    for value in values.values():
        for match in _COMMAND.finditer(value):
            line = _read_line(match[1])
            if line.api:
                return line
    return None


def _read_line(words: str) -> JoinLine:
    try:
        parts = shlex.split(words)
    except ValueError:
        parts = words.split()
    api, token, hashes = "", "", []
    while parts:
        word = parts.pop(0)
        if not word.startswith("-"):
            api = api or word
            continue
        name, equals, value = word.partition("=")
        if not equals:
            value = parts.pop(0) if parts and not parts[0].startswith("-") else ""
        if name in ("--token", "--discovery-token"):
            token = value if name == "--discovery-token" or not token else token
        elif name == "--discovery-token-ca-cert-hash":
            hashes += [text for text in value.split(",") if text]
    return JoinLine(api, token, tuple(hashes))


@dataclass(frozen=True)
class ClusterInfo:
    """The ConfigMap kube-public/cluster-info. signatures: token id -> JWS (detached)."""

    kubeconfig: str
    signatures: Mapping[str, str]

    def ca_hashes(self) -> list[str]:
        """`sha256:…` of the public key of each CA, as kubeadm counts it. ValueError if broken."""
        data = yaml.safe_load(self.kubeconfig)
        pem = data["clusters"][0]["cluster"]["certificate-authority-data"]
        return hash_certificates(base64.b64decode(pem))

    def is_signed_by(self, token: str) -> bool:
        """Whether the JWS of the token's id was made with this very token (RFC 7515, HS256)."""
        id_, _, secret = token.partition(".")
        head, _, rest = self.signatures.get(id_, "").partition(".")
        signature = rest.partition(".")[2]
        body = base64.urlsafe_b64encode(self.kubeconfig.encode()).rstrip(b"=")
        mac = hmac.new(secret.encode(), head.encode() + b"." + body, hashlib.sha256).digest()
        wanted = base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
        return hmac.compare_digest(wanted, signature)


def parse_cluster_info(body: bytes) -> ClusterInfo:
    """Read the API server's answer. Raises ValueError for anything else."""
    try:
        data: Any = json.loads(body)["data"]
        prefix = "jws-kubeconfig-"
        signatures = {
            str(key).removeprefix(prefix): str(value)
            for key, value in data.items()
            if str(key).startswith(prefix)
        }
        return ClusterInfo(str(data["kubeconfig"]), signatures)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("it holds no kubeconfig") from error


def hash_certificates(pem: bytes) -> list[str]:
    """kubeadm's hash of each certificate in PEM: SHA-256 of its SubjectPublicKeyInfo."""
    found: list[str] = []
    pattern = rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----"
    for match in re.finditer(pattern, pem, re.DOTALL):
        try:
            der = base64.b64decode(b"".join(match[1].split()), validate=True)
            found.append(f"sha256:{hashlib.sha256(_public_key(der)).hexdigest()}")
        except (binascii.Error, IndexError) as error:
            raise ValueError("a certificate that cannot be read") from error
    return found


def _public_key(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate in DER (RFC 5280, section 4.1), head included."""
    _, body, _ = _read_tlv(certificate, 0)
    _, fields, _ = _read_tlv(body, 0)
    position = 0
    if fields[0] == 0xA0:  # the version, where there is one
        position = _read_tlv(fields, 0)[2]
    for _ in range(5):  # serial number, signature, issuer, validity, subject
        position = _read_tlv(fields, position)[2]
    return fields[position : _read_tlv(fields, position)[2]]


def _read_tlv(data: bytes, position: int) -> tuple[int, bytes, int]:
    """(tag, content, position after it). IndexError when it is cut."""
    tag, length, start = data[position], data[position + 1], position + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[start : start + count], "big")
        start += count
    if start + length > len(data):
        raise IndexError("cut")
    return tag, data[start : start + length], start + length


def read_expiration(secret: bytes) -> float | None:
    """Seconds since the epoch at which a bootstrap token's Secret (JSON) ends; None: never.

    Raises ValueError for what is no such Secret.
    """
    try:
        data = json.loads(secret)["data"]
        raw = data.get("expiration")
        if raw is None:
            return None
        text = base64.b64decode(raw).decode()
        return datetime.datetime.fromisoformat(text).timestamp()
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no Secret of a bootstrap token") from error
