"""Requests for a certificate: any bytes are refused in words, or are for one name and one key."""

# ruff: noqa: PT017 - what an error must say is a promise, too

from typing import Final

from fuzz.words import Words
from server.join.request import BODY_MAX, JoinRequest, RequestError, parse_request, read_csr

_FORM: Final = "application/x-www-form-urlencoded"
_CSR: Final = b"""-----BEGIN CERTIFICATE REQUEST-----
MIHvMIGWAgEAMDQxFTATBgNVBAoMDHN5c3RlbTpub2RlczEbMBkGA1UEAwwSc3lz
dGVtOm5vZGU6bm9kZS0xMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEy2392FrB
Ozujf2n1UFiTTJb5PQ3Qy7EpYEg8sli2Ubl6ga9YE/CtsMDiFCjtgMCdN7pFYrUY
BUY7wswfvWiGVqAAMAoGCCqGSM49BAMCA0gAMEUCIGkj6cbFKvCH0A8PkVUnDc1+
+wH8+gHnM0lGWtmjX+vwAiEA3B6/9PgcOPfrcsTJXEShhjrVCfDr55khJG11TZxs
XcQ=
-----END CERTIFICATE REQUEST-----
"""
_BOOT: Final = b"0d6e8a6e-5b1f-4c0e-9d3a-6f0c2f6f5f10"


def _encode(pem: bytes) -> bytes:
    return pem.replace(b"+", b"%2B").replace(b"\n", b"%0A").replace(b" ", b"+")


SEEDS: Final = (
    b"\0boot=" + _BOOT + b"&csr=" + _encode(_CSR),
    b"\1" + _CSR,
    b"\0boot=x&csr=y",
    b"\0csr=&boot=",
)


def check(data: bytes) -> None:
    words = Words(data)
    is_csr = words.number() & 1
    rest = words.rest()
    try:
        if is_csr:
            asked = JoinRequest("", *read_csr(rest.decode("latin-1")), "")
        else:
            asked = parse_request(_FORM, rest)
    except RequestError as error:
        assert error.cause == "join_request"
        assert error.message.isprintable()
        assert len(error.message) < 400
        return
    assert len(rest) <= BODY_MAX
    assert asked.node == asked.node.lower()
    assert asked.node
    assert not set(asked.node) - set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert len(asked.key) == 64
