"""An image's signatures, read and verified: which keys say that it is the image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuild.store.signatures import (
    NAMESPACE,
    SignatureError,
    Statement,
    list_folders,
    parse_statement,
    put_pair,
    read_pair,
)
from imagebuild.store.sshsig import PublicKey, parse_signature, verify


@dataclass(frozen=True)
class Signed:
    """A signature that is its key's, and what it says. It says nothing of whether the key is
    trusted."""

    key: PublicKey
    statement: Statement


@dataclass(frozen=True)
class Broken:
    """A folder that holds no good signature, and why."""

    path: Path
    reason: str


def key_folder(key: PublicKey) -> str:
    """What the names of a key's folders begin with."""
    return hashlib.sha256(key.blob).hexdigest()


def names_of(found: Sequence[Signed]) -> str:
    """The keys of signatures, for a sentence."""
    return ", ".join(signed.key.fingerprint for signed in found)


def read_signatures(image: Path) -> tuple[list[Signed], list[Broken]]:
    """The signatures of the image in that folder (.../NAME/DIGEST); and what is none there.

    A good one is of this name and digest, and by the key and of the time that its folder says.
    """
    found: list[Signed] = []
    broken: list[Broken] = []
    for path in list_folders(image):
        try:
            signed = check_signature(image, *read_pair(path))
            if path.name != f"{key_folder(signed.key)}.{signed.statement.signed}":
                raise SignatureError("lies in the folder of another key or time")
            found.append(signed)
        except SignatureError as error:
            broken.append(Broken(path, error.message))
    return found, broken


def check_signature(image: Path, statement: bytes, signature: bytes) -> Signed:
    """A statement with its signature. SignatureError: why it is none of the image in that
    folder."""
    taken = parse_signature(signature)
    verify(taken, statement, NAMESPACE)
    said = parse_statement(statement)
    if (said.name, said.digest) != (image.parent.name, image.name):
        raise SignatureError(f"is of another image: {said.name}@{said.digest[:12]}")
    return Signed(taken.key, said)


def add_signature(image: Path, statement: bytes, signature: bytes) -> Signed:
    """Put a signature beside the image; SignatureError where it is none of this image.

    One of the same key that is there already is replaced.
    """
    signed = check_signature(image, statement, signature)
    put_pair(image, key_folder(signed.key), statement, signature)
    return signed
