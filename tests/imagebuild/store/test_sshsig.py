"""Signatures that ssh-keygen made, verified by us, byte by byte."""

import subprocess
from pathlib import Path

import pytest

from imagebuild.store.signatures import SignatureError
from imagebuild.store.sshsig import PublicKey, parse_public_key, parse_signature, verify

MESSAGE = b"the image is this one\n"
SPACE = "bootfarm-image"
KINDS = [
    ("ed25519", ""),
    *(("ecdsa", bits) for bits in ("256", "384", "521")),
    ("rsa", "2048"),
]


def make(directory: Path, kind: str, bits: str = "") -> Path:
    key = directory / f"key-{kind}{bits}"
    size = ["-b", bits] if bits else []
    argv = ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", "ci of tests", "-f", str(key)]
    subprocess.run(argv, check=True)
    return key


def sign(key: Path, message: bytes, *options: str, space: str = SPACE) -> bytes:
    argv = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", space, *options]
    return subprocess.run(argv, input=message, check=True, capture_output=True).stdout


def public(key: Path) -> PublicKey:
    kind, text, comment = key.with_name(key.name + ".pub").read_text().split(maxsplit=2)
    return parse_public_key(kind, text, comment.strip())


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("keys"), "ed25519")


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_every_kind_that_ssh_keygen_makes(tmp_path: Path, kind: str, bits: str) -> None:
    key = make(tmp_path, kind, bits)
    signature = parse_signature(sign(key, MESSAGE))
    assert signature.key.blob == public(key).blob
    verify(signature, MESSAGE, SPACE)
    with pytest.raises(SignatureError, match="one of both was changed"):
        verify(signature, MESSAGE + b" ", SPACE)


def test_the_hash_that_was_asked_for(key: Path) -> None:
    for name in ("sha256", "sha512"):
        signature = parse_signature(sign(key, MESSAGE, "-O", f"hashalg={name}"))
        assert signature.hash_name == name
        verify(signature, MESSAGE, SPACE)


def test_a_signature_for_another_use_counts_nothing(key: Path) -> None:
    signature = parse_signature(sign(key, MESSAGE, space="git"))
    with pytest.raises(SignatureError, match="made for 'git', not for 'bootfarm-image'"):
        verify(signature, MESSAGE, SPACE)


def test_fingerprint_and_line_are_ssh_keygens(key: Path) -> None:
    path = f"{key}.pub"
    told = subprocess.run(["ssh-keygen", "-lf", path], check=True, capture_output=True, text=True)
    assert public(key).fingerprint == told.stdout.split()[1]
    assert public(key).line == Path(path).read_text().strip()


def test_no_flipped_bit_passes(key: Path) -> None:
    """Whatever byte of the armour is changed: an error of ours, or (in blanks) the same bytes."""
    armored = sign(key, MESSAGE)
    good = parse_signature(armored)
    refused = 0
    for at in range(len(armored)):
        changed = armored[:at] + bytes([armored[at] ^ 1]) + armored[at + 1 :]
        try:
            signature = parse_signature(changed)
            verify(signature, MESSAGE, SPACE)
        except SignatureError:
            refused += 1
        else:
            assert signature == good
    assert refused > len(armored) * 0.9


def test_no_part_of_one_passes(key: Path) -> None:
    armored = sign(key, MESSAGE)
    for end in range(len(armored) - 1):
        with pytest.raises(SignatureError):
            parse_signature(armored[:end])


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("sk-ssh-ed25519@openssh.com", "AAAA", "is not known here"),
        ("ssh-ed25519", "not base64!", "not base64"),
        ("ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIA==", "no key of kind"),
    ],
)
def test_keys_that_are_none(kind: str, text: str, words: str) -> None:
    with pytest.raises(SignatureError, match=words):
        parse_public_key(kind, text)


def test_a_short_rsa_key(tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="1024 bits is too short"):
        public(make(tmp_path, "rsa", "1024"))
