"""Requests for a certificate: what is taken, and every way in which one may be wrong."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.join.request import BODY_MAX, RequestError, parse_request, read_csr
from tests.server.join.cluster import BOOT, FORM, encode_form, make_csr, subject_of

ORGANIZATION = (NameOID.ORGANIZATION_NAME, "system:nodes")
NAME = (NameOID.COMMON_NAME, "system:node:node-1")


def test_a_good_request() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = make_csr("node-1.example.org", key=key)
    asked = parse_request(f"{FORM}; charset=utf-8", encode_form(BOOT, csr))
    assert (asked.boot, asked.node) == (BOOT, "node-1.example.org")
    assert asked.csr == csr
    # The same key again, in another CSR (its signature is another one).
    other = make_csr("node-1.example.org", key=key)
    assert other != csr
    assert read_csr(other) == (asked.node, asked.key)
    assert read_csr(make_csr("node-1.example.org"))[1] != asked.key


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ((NAME,), "subject is not O=system:nodes"),
        ((ORGANIZATION,), "one CN=system:node:NAME"),
        (((NameOID.ORGANIZATION_NAME, "system:masters"), NAME), "subject is not O=system:nodes"),
        ((ORGANIZATION, (NameOID.ORGANIZATION_NAME, "system:masters"), NAME), "subject is not"),
        ((*subject_of("node-1"), (NameOID.ORGANIZATIONAL_UNIT_NAME, "x")), "subject is not"),
        ((ORGANIZATION, (NameOID.COMMON_NAME, "node-1")), "one CN=system:node:NAME"),
        ((ORGANIZATION, (NameOID.COMMON_NAME, "kubernetes-admin")), "one CN=system:node:NAME"),
        ((ORGANIZATION, NAME, (NameOID.COMMON_NAME, "system:node:x")), "one CN=system:node:NAME"),
        (subject_of("Node-1"), "no name of a Node"),
        (subject_of("node-1 "), "no name of a Node"),
        (subject_of("a/b"), "no name of a Node"),
        ((ORGANIZATION, (NameOID.COMMON_NAME, "system:node:")), "no name of a Node"),
    ],
)
def test_another_subject(subject: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read_csr(make_csr(subject=subject))


@pytest.mark.parametrize(
    "extension",
    [
        x509.SubjectAlternativeName([x509.DNSName("kubernetes.default")]),
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    ],
    ids=lambda extension: type(extension).__name__,
)
def test_more_than_a_name(extension: x509.ExtensionType) -> None:
    with pytest.raises(RequestError, match=r"asks for more than a name: extension [0-9.]+"):
        read_csr(make_csr(extension=extension))


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), hashes.SHA256()),
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
        (ec.generate_private_key(ec.SECP256K1()), hashes.SHA256()),
    ],
    ids=["rsa", "p-384", "secp256k1"],
)
def test_another_kind_of_key(key: Any, algorithm: Any) -> None:
    with pytest.raises(RequestError, match="not of P-256"):
        read_csr(make_csr(key=key, algorithm=algorithm))


def test_a_key_without_a_hash() -> None:
    names = [x509.NameAttribute(*pair) for pair in subject_of("node-1")]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    csr = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    with pytest.raises(RequestError, match="not of P-256"):
        read_csr(csr.public_bytes(serialization.Encoding.PEM).decode())


def test_somebody_elses_key() -> None:
    """The public half of a key that its sender has not: the signature is another's."""
    good = x509.load_pem_x509_csr(make_csr().encode())
    der = bytearray(good.public_bytes(serialization.Encoding.DER))
    point = good.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    at = bytes(der).index(point)
    der[at : at + len(point)] = other.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(RequestError, match="not signed with its own key"):
        read_csr(forged.decode())


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("text/plain", encode_form(BOOT, "x"), "is not application/x-www-form-urlencoded"),
        (FORM, b"", "two fields"),
        (FORM, b"boot=" + BOOT.encode(), "two fields"),
        (FORM, encode_form(BOOT, "x") + b"&csr=y", "two fields"),
        (FORM, encode_form(BOOT, "x") + b"&node=y", "two fields"),
        (FORM, b"\xff=x&csr=y", "two fields"),
        (FORM, encode_form("short", "x"), "no id of a boot"),
        (FORM, encode_form("../../../../etc/passwd", "x"), "no id of a boot"),
        (FORM, encode_form("a" * 65, "x"), "no id of a boot"),
        (FORM, encode_form(BOOT, "garbage"), "cannot be read"),
        (FORM, encode_form(BOOT, make_csr()[:-60]), "cannot be read"),
        (FORM, encode_form(BOOT, "-----BEGIN CERTIFICATE REQUEST-----\nQUJD\n"), "cannot be read"),
        (FORM, encode_form(BOOT, "x" * 5000), "more than 4096 characters"),
        (FORM, b"x" * (BODY_MAX + 1), "more than 16384 bytes"),
    ],
)
def test_no_request(kind: str, body: bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        parse_request(kind, body)
    assert caught.value.cause == "join_request"
