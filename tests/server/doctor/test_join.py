"""Join lines, cluster-info and tokens, read as kubeadm reads them."""

import base64
import hashlib
import hmac
import json
import subprocess
from pathlib import Path

import pytest

from server.doctor.join import (
    ClusterInfo,
    JoinLine,
    find_join_line,
    hash_certificates,
    parse_cluster_info,
    read_expiration,
)

TOKEN = "abcdef.0123456789abcdef"
HASH = "sha256:" + "5a" * 32


@pytest.mark.parametrize(
    "line",
    [
        f"kubeadm join 10.9.0.20:6443 --token {TOKEN} --discovery-token-ca-cert-hash {HASH}",
        f"kubeadm join --token {TOKEN} 10.9.0.20:6443 --discovery-token-ca-cert-hash {HASH}",
        f"kubeadm join --token={TOKEN} --discovery-token-ca-cert-hash={HASH} 10.9.0.20:6443",
        f"sleep 1; kubeadm join '10.9.0.20:6443' --discovery-token {TOKEN} --token tls"
        f" --discovery-token-ca-cert-hash {HASH} && echo done",
    ],
)
def test_join_lines(line: str) -> None:
    values = {"A": "echo kubeadm", "RCFILE_07_JOIN_K8S": line}
    assert find_join_line(values) == JoinLine("10.9.0.20:6443", TOKEN, (HASH,))


@pytest.mark.parametrize(
    "line", ["", "echo join", "kubeadm init", "kubeadm join", "kubeadm join 'x"]
)
def test_no_join_line(line: str) -> None:
    found = find_join_line({"RCFILE_01": line})
    assert found is None or found == JoinLine("'x")


def test_what_is_missing_is_empty() -> None:
    found = find_join_line({"X": "kubeadm join 10.9.0.20:6443 --token {{x}} --v=5"})
    assert found == JoinLine("10.9.0.20:6443", "{{x}}")
    assert found.token_id == ""
    assert JoinLine("x", TOKEN).token_id == "abcdef"


def sign(kubeconfig: str, token: str) -> str:
    """The detached JWS that kube-controller-manager's bootstrapsigner makes (RFC 7515)."""

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    id_, _, secret = token.partition(".")
    head = encode(json.dumps({"alg": "HS256", "kid": id_}).encode())
    text = f"{head}.{encode(kubeconfig.encode())}".encode()
    mac = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return f"{head}..{encode(mac)}"


def test_the_signature_tells_tokens_apart() -> None:
    info = ClusterInfo("kind: Config\n", {"abcdef": sign("kind: Config\n", TOKEN)})
    assert info.is_signed_by(TOKEN)
    assert not info.is_signed_by("abcdef.0123456789abcdee")
    assert not info.is_signed_by("fedcba.0123456789abcdef")
    assert not ClusterInfo("kind: Other\n", info.signatures).is_signed_by(TOKEN)
    assert not ClusterInfo("kind: Config\n", {"abcdef": "junk"}).is_signed_by(TOKEN)


def test_cluster_info_is_read() -> None:
    body = json.dumps({"data": {"kubeconfig": "k", "jws-kubeconfig-abcdef": "a..b"}}).encode()
    assert parse_cluster_info(body) == ClusterInfo("k", {"abcdef": "a..b"})
    for bad in (b"", b"[]", b"{}", b'{"data": {}}', b'{"data": 5}', b"\xff"):
        with pytest.raises(ValueError, match=r".+"):
            parse_cluster_info(bad)


def make_ca(directory: Path, kind: str = "ec") -> tuple[bytes, str]:
    """A certificate in PEM, and kubeadm's hash of it as openssl computes it."""
    key, cert = directory / "key.pem", directory / "cert.pem"
    new = (
        ["-newkey", "rsa:2048"]
        if kind == "rsa"
        else ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    )
    argv = ["openssl", "req", "-x509", "-nodes", *new, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(
        [*argv, "-subj", "/CN=kubernetes", "-days", "1"], check=True, capture_output=True
    )
    public = subprocess.run(
        ["openssl", "x509", "-in", str(cert), "-pubkey", "-noout"], check=True, capture_output=True
    ).stdout
    der = base64.b64decode(b"".join(public.splitlines()[1:-1]))
    return cert.read_bytes(), f"sha256:{hashlib.sha256(der).hexdigest()}"


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_the_cas_hash_is_kubeadms(tmp_path: Path, kind: str) -> None:
    pem, wanted = make_ca(tmp_path, kind)
    assert hash_certificates(pem) == [wanted]
    assert hash_certificates(b"text\n" + pem + pem) == [wanted] * 2
    assert hash_certificates(b"") == []
    with pytest.raises(ValueError, match="cannot be read"):
        hash_certificates(pem.replace(b"M", b"!", 1))


def test_every_cut_of_a_certificate_is_an_error(tmp_path: Path) -> None:
    pem, _ = make_ca(tmp_path)
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    for length in range(len(der)):
        cut = base64.b64encode(der[:length])
        with pytest.raises(ValueError, match="cannot be read"):
            hash_certificates(b"-----BEGIN CERTIFICATE-----" + cut + b"-----END CERTIFICATE-----")


def test_when_a_token_ends() -> None:
    def secret(**data: str) -> bytes:
        return json.dumps(
            {"data": {key: base64.b64encode(v.encode()).decode() for key, v in data.items()}}
        ).encode()

    assert read_expiration(secret(expiration="2026-11-21T08:00:00Z")) == 1795248000.0
    assert read_expiration(secret(expiration="2026-11-21T09:00:00+01:00")) == 1795248000.0
    assert read_expiration(secret(token="x")) is None
    for bad in (b"", b"[]", b"{}", secret(expiration="soon")):
        with pytest.raises(ValueError, match=r".+"):
            read_expiration(bad)
