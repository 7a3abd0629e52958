"""A machine's request for a certificate: a boot and a CSR (RFC 2986) that asks for one name.

Pure. The CSR holds what the signer of kubelets' client certificates wants, and nothing else:
`O=system:nodes, CN=system:node:NAME`, a P-256 key, and the proof that its sender has that key.
https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

import datetime
import hashlib
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.errors import ServerError

BODY_MAX: Final = 16_384
"""Bytes of a request; one of ours has 700, and the HTTP service's own limit is lower."""
CSR_MAX: Final = 4096
"""Characters of a CSR in PEM."""
ORGANIZATION: Final = "system:nodes"
PREFIX: Final = "system:node:"
"""What the common name begins with."""
CURVE: Final = "secp256r1"
HASHES: Final = ("sha256", "sha384", "sha512")
_BOOT: Final = re.compile(r"[0-9A-Za-z-]{8,64}")
_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_FIELDS: Final = frozenset(("boot", "csr"))
_FORM: Final = "application/x-www-form-urlencoded"


class RequestError(ServerError):
    """What came is no request of that kind; the message is for its sender."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, cause="join_request")


@dataclass(frozen=True)
class JoinRequest:
    """boot: the id of the machine's boot, as it says it. node: the name that it asks for.

    csr: PEM, public. key: SHA-256 of the public key's SubjectPublicKeyInfo, hex.
    """

    boot: str
    node: str
    key: str
    csr: str = field(repr=False)


def parse_request(content_type: str, body: bytes) -> JoinRequest:
    """Check a form with `boot` and `csr` (PEM). Raises RequestError."""
    if content_type.partition(";")[0].strip().lower() != _FORM:
        raise RequestError(f"{content_type[:60]!r} is not {_FORM}")
    if len(body) > BODY_MAX:
        raise RequestError(f"the request has more than {BODY_MAX} bytes")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=len(_FIELDS))
    except ValueError:
        raise RequestError("it is no form of the two fields boot and csr") from None
    form = dict(pairs)
    if set(form) != _FIELDS or len(pairs) != len(_FIELDS):
        raise RequestError("it is no form of the two fields boot and csr")
    if not _BOOT.fullmatch(form["boot"]):
        raise RequestError("boot is no id of a boot (8 to 64 letters, digits and dashes)")
    csr = form["csr"].strip() + "\n"
    node, key = read_csr(csr)
    return JoinRequest(form["boot"], node, key, csr)


def read_csr(pem: str) -> tuple[str, str]:
    """The name that a CSR asks for, and its key (as `JoinRequest.key`). Raises RequestError."""
    if len(pem) > CSR_MAX:
        raise RequestError(f"the CSR has more than {CSR_MAX} characters")
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        key = csr.public_key()
        signed_by = csr.signature_hash_algorithm
        is_own = csr.is_signature_valid
        extras = [extension.oid.dotted_string for extension in csr.extensions]
        subject = [(part.oid, part.value) for part in csr.subject]
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise RequestError(f"the CSR cannot be read: {_cut(str(error))}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != CURVE:
        raise RequestError("the CSR's key is not of P-256")
    if signed_by is None or signed_by.name not in HASHES or not is_own:
        raise RequestError("the CSR is not signed with its own key, by SHA-256 or better")
    if extras:
        raise RequestError(f"the CSR asks for more than a name: extension {_cut(extras[0])}")
    return _read_name(subject), hash_key(key)


def _read_name(subject: list[tuple[x509.ObjectIdentifier, str | bytes]]) -> str:
    wanted = [(NameOID.ORGANIZATION_NAME, ORGANIZATION)]
    names = [value for oid, value in subject if oid == NameOID.COMMON_NAME]
    rest = [(oid, value) for oid, value in subject if oid != NameOID.COMMON_NAME]
    if rest != wanted:
        raise RequestError(f"the CSR's subject is not O={ORGANIZATION} and one CN")
    name = names[0] if len(names) == 1 else ""
    if not isinstance(name, str) or not name.startswith(PREFIX):
        raise RequestError(f"the CSR's subject is not O={ORGANIZATION} and one CN={PREFIX}NAME")
    node = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(node):
        raise RequestError(f"{_cut(node)!r} is no name of a Node (lower case, as node-1)")
    return node


def hash_key(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the SubjectPublicKeyInfo, hex."""
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def read_end(pem: bytes) -> float:
    """When a certificate (PEM) ends, seconds since the epoch. Raises ValueError."""
    certificate = x509.load_pem_x509_certificate(pem)
    # Debian 12's cryptography knows the time without a zone only.
    if (end := getattr(certificate, "not_valid_after_utc", None)) is None:
        end = certificate.not_valid_after.replace(tzinfo=datetime.UTC)
    return float(end.timestamp())


def _cut(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:120]
