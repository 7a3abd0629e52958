"""OpenSSH's signatures, read and verified (PROTOCOL.sshsig of OpenSSH; RFC 4253, 5656, 8332, 8709).

Signing is `ssh-keygen -Y sign`'s; this is what `ssh-keygen -Y verify` does, without a process,
so that a server may ask it of every image. Ed25519, ECDSA on the NIST curves, and RSA of 2048
bits or more with SHA-2 are known.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imagebuild.store.signatures import SignatureError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

KINDS: Final = (
    "ssh-ed25519",
    *("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    "ssh-rsa",
)
"""Kinds of public keys that are known."""
RSA_BITS: Final = 2048
"""An RSA key has at least so many."""
_MAGIC: Final = b"SSHSIG"
_BEGIN: Final = b"-----BEGIN SSH SIGNATURE-----"
_END: Final = b"-----END SSH SIGNATURE-----"
_HASHES: Final = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_RSA_HASHES: Final = ("rsa-sha2-256", "rsa-sha2-512")


@dataclass(frozen=True)
class PublicKey:
    """A public key as SSH writes it: its kind, its bytes, and what its line says after them."""

    kind: str
    blob: bytes
    comment: str = ""

    @property
    def fingerprint(self) -> str:
        """`SHA256:` and 43 characters, as `ssh-keygen -l` tells it."""
        digest = hashlib.sha256(self.blob).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def line(self) -> str:
        """`kind base64 comment`, as a `.pub` file has it."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()} {self.comment}".rstrip()


@dataclass(frozen=True)
class Signature:
    """One signature, taken apart. kind: of the signature, as `rsa-sha2-512`."""

    key: PublicKey
    namespace: str
    hash_name: str
    kind: str
    value: bytes


def parse_public_key(kind: str, text: str, comment: str = "") -> PublicKey:
    """The key of `kind text` of a `.pub` file. SignatureError: what it is instead."""
    if kind not in KINDS:
        raise SignatureError(
            f"a key of kind {kind[:60]!r} is not known here",
            hint=f"known are {', '.join(KINDS)}; `bootfarm keys make` makes one",
        )
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError("the key is not base64", hint="copy its line again, whole") from None
    key = PublicKey(kind, blob, comment)
    _load(key)
    return key


def parse_signature(armored: bytes) -> Signature:
    """The signature of a file that `ssh-keygen -Y sign` wrote. SignatureError: it is none."""
    text = armored.strip()
    if not (text.startswith(_BEGIN) and text.endswith(_END)):
        raise SignatureError("is no SSH signature: its first or last line is not one's")
    try:
        blob = base64.b64decode(b"".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError("is no SSH signature: it is not base64") from None
    if not blob.startswith(_MAGIC):
        raise SignatureError("is no SSH signature: it does not begin as one")
    reader = _Reader(blob[len(_MAGIC) :])
    if (version := reader.number()) != 1:
        raise SignatureError(f"is an SSH signature of version {version}; 1 is known")
    key_blob, namespace, reserved = reader.string(), reader.string(), reader.string()
    hash_name, inner = reader.string(), _Reader(reader.string())
    reader.finish()
    kind, value = inner.string(), inner.string()
    key_kind = _decode(_Reader(key_blob).string())
    key = parse_public_key(key_kind, base64.b64encode(key_blob).decode())
    inner.finish()
    if reserved:
        raise SignatureError("is an SSH signature with a part that is not known")
    return Signature(key, _decode(namespace), _decode(hash_name), _decode(kind), value)


def verify(signature: Signature, message: bytes, namespace: str) -> None:
    """Raise SignatureError where the signature is not its key's, of this message, for this use."""
    if signature.namespace != namespace:
        raise SignatureError(
            f"was made for {signature.namespace[:60]!r}, not for {namespace!r}",
            hint=f"ssh-keygen -Y sign -n {namespace}",
        )
    make = _HASHES.get(signature.hash_name)
    if make is None:
        raise SignatureError(f"uses the hash {signature.hash_name[:60]!r}, which is not known")
    signed = _MAGIC + b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (
            *(namespace.encode(), b"", signature.hash_name.encode()),
            make(message).digest(),
        )
    )
    if not _is_good(signature, signed):
        raise SignatureError("is not of what it is said to sign: one of both was changed")


def _is_good(signature: Signature, signed: bytes) -> bool:
    """Whether it is the key's, of these bytes; SignatureError where the two are of two kinds."""
    # Loaded only where signatures are asked for.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    key = _load(signature.key)
    kind, value = signature.kind, signature.value
    try:
        if isinstance(key, rsa.RSAPublicKey) and kind in _RSA_HASHES:
            wanted = hashes.SHA256() if kind == "rsa-sha2-256" else hashes.SHA512()
            key.verify(value, signed, padding.PKCS1v15(), wanted)
        elif isinstance(key, ed25519.Ed25519PublicKey) and kind == signature.key.kind:
            key.verify(value, signed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and kind == signature.key.kind:
            reader = _Reader(value)
            r, s = (int.from_bytes(reader.string(), "big", signed=True) for _ in range(2))
            reader.finish()
            if r <= 0 or s <= 0:
                return False
            size = key.curve.key_size
            make = hashes.SHA256 if size <= 256 else hashes.SHA384 if size <= 384 else hashes.SHA512
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(make()))
        else:
            raise SignatureError(f"of kind {kind[:60]!r} is not one of a key {signature.key.kind}")
    except InvalidSignature:
        return False
    return True


def _load(
    key: PublicKey,
) -> "rsa.RSAPublicKey | ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        loaded = load_ssh_public_key(f"{key.kind} ".encode() + base64.b64encode(key.blob))
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureError(
            f"the bytes are no key of kind {key.kind}", hint="copy its line again, whole"
        ) from None
    if isinstance(loaded, rsa.RSAPublicKey) and loaded.key_size < RSA_BITS:
        raise SignatureError(
            f"an RSA key of {loaded.key_size} bits is too short",
            hint=f"{RSA_BITS} bits or more; `bootfarm keys make` makes an Ed25519 one",
        )
    if not isinstance(
        loaded, rsa.RSAPublicKey | ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
    ):
        raise SignatureError(f"a key of kind {key.kind} is not known here")
    return loaded


def _decode(data: bytes) -> str:
    return data.decode("ascii", "replace")


class _Reader:
    """SSH's numbers and strings (RFC 4251, section 5), one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def _take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) != count:
            raise SignatureError("is no SSH signature: it ends too early")
        self.at += count
        return part

    def number(self) -> int:
        """32 bits, big-endian."""
        return int.from_bytes(self._take(4), "big")

    def string(self) -> bytes:
        """A length and as many bytes."""
        return self._take(self.number())

    def finish(self) -> None:
        """Refuse what is left."""
        if self.at != len(self.data):
            raise SignatureError("is no SSH signature: something stands behind its end")
