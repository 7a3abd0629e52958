"""Whose images are served: the keys that are trusted, what is revoked, and what follows for one.

Two texts, both the operator's. The *signers* are public keys: lines as in a `.pub` file, or
OpenSSH's allowed_signers (`ssh-keygen(1)`, "ALLOWED SIGNERS"). The *revoked* are lines of

    key SHA256:...                      signatures of this key count nothing
    image NAME@DIGEST                   this image is refused, whoever signed it
    before NAME 2026-11-30T09:00:00Z    images NAME that were signed earlier are refused
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imagebuild.errors import BuildError
from imagebuild.store.images import Image
from imagebuild.store.manifest import is_digest, is_image_name
from imagebuild.store.signatures import NAMESPACE, SignatureError, format_time, parse_time
from imagebuild.store.signed import Broken, Signed, names_of, read_signatures
from imagebuild.store.sshsig import PublicKey, parse_public_key
from imagebuild.wholefile import read_whole

MOST_BYTES: Final = 1 << 20
"""Bytes of either text that are read."""


class TrustError(BuildError):
    """A text of signers or of what is revoked is wrong, or an image is not signed as is wanted."""


@dataclass(frozen=True)
class Revoked:
    """What is not trusted any more. keys: fingerprints. images: digests. floors: image's name to
    the time, seconds since the epoch, before which nothing counts that was signed."""

    keys: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    floors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether an image may be served. signers: whose signatures count. reason: why it may not,
    in one line with what to do; "" where it may."""

    signers: tuple[PublicKey, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Trust:
    """The keys that are trusted and what is revoked. source: of the keys, for errors."""

    signers: tuple[PublicKey, ...]
    revoked: Revoked = Revoked()
    source: str = ""

    def judge(self, image: Image) -> Verdict:
        """What follows for an image; its signatures are read from the disk."""
        found, broken = read_signatures(image.path)
        return self.weigh(image.name, image.digest, found, broken)

    def weigh(
        self, name: str, digest: str, found: Sequence[Signed], broken: Sequence[Broken] = ()
    ) -> Verdict:
        """What follows for an image with these signatures; pure."""
        here = f"{name}@{digest[:12]}"
        again = f"`bootfarm sign {here} --signing-key KEY` signs it"
        if digest in self.revoked.images:
            words = f"is revoked; tag another one, or take its tag: `bootfarm images rm {name}:TAG`"
            return Verdict(reason=f"image {here} {words}")
        known = {key.blob: key for key in self.signers}
        mine = [signed for signed in found if signed.key.blob in known]
        if not mine:
            if found:
                words = f"is signed by {names_of(found)}, and {self.source} names no such key"
            elif broken:
                words = f"has no good signature: {broken[0].path} {broken[0].reason}"
            else:
                words = "is not signed"
            return Verdict(reason=f"image {here} {words}; {again}")
        alive = [signed for signed in mine if signed.key.fingerprint not in self.revoked.keys]
        if not alive:
            words = f"is signed by {names_of(mine)}, which is revoked"
            return Verdict(reason=f"image {here} {words}; {again} by another one")
        floor = self.revoked.floors.get(name)
        young = [signed for signed in alive if floor is None or signed.statement.signed >= floor]
        if not young:
            when = format_time(max(signed.statement.signed for signed in alive))
            words = f"was signed {when}, and counts from {format_time(floor or 0)} on"
            return Verdict(reason=f"image {here} {words}; boot a younger one, or {again} again")
        return Verdict(tuple(known[signed.key.blob] for signed in young))


def load_trust(signers: Path, revoked: Path | None = None) -> Trust:
    """Read both files; TrustError: which line of which is wrong."""
    return Trust(
        parse_signers(_read(signers), str(signers)),
        parse_revoked(_read(revoked), str(revoked)) if revoked is not None else Revoked(),
        str(signers),
    )


def _read(path: Path) -> bytes:
    try:
        return read_whole(path, MOST_BYTES)
    except OSError as error:
        raise TrustError(f"cannot read {path}: {error.strerror}") from None


def parse_signers(data: bytes, where: str) -> tuple[PublicKey, ...]:
    """The public keys of a text; TrustError names the line. A text without any is an error."""
    if b"PRIVATE KEY-----" in data:
        raise TrustError(
            f"{where} holds a private key, which no server needs",
            hint="`bootfarm keys export KEY` gives the public one",
        )
    keys = []
    for number, line in _lines(data):
        try:
            keys.append(_parse_signer(line))
        except SignatureError as error:
            raise TrustError(f"{where}:{number}: {error.message}", hint=error.hint) from None
    if not keys:
        raise TrustError(
            f"{where} names no key", hint="a line for each, as `bootfarm keys export KEY` gives it"
        )
    return tuple(keys)


def _parse_signer(line: str) -> PublicKey:
    words = line.split()
    kinds = ("ssh-", "ecdsa-", "sk-")
    at = next((number for number, word in enumerate(words) if word.startswith(kinds)), None)
    if at is None or at + 1 == len(words):
        raise SignatureError(
            "is no public key", hint="write a line as in a .pub file: ssh-ed25519 AAAA… comment"
        )
    options = words[1:at]
    comment = " ".join(words[at + 2 :]) or (words[0] if at else "")
    for option in options:
        name, _, value = option.partition("=")
        spaces = value.strip('"').split(",")
        if name.lower() != "namespaces":
            raise SignatureError(
                f"the option {name[:60]!r} is not known here", hint="namespaces= is the only one"
            )
        if NAMESPACE not in spaces:
            raise SignatureError(
                f"the key is for {value[:60]}, not for images",
                hint=f'add namespaces="{NAMESPACE}", or leave namespaces= out',
            )
    return parse_public_key(words[at], words[at + 1], comment)


def parse_revoked(data: bytes, where: str) -> Revoked:
    """What is revoked; TrustError names the line. An empty text revokes nothing."""
    keys, images, floors = set(), set(), dict[str, int]()
    for number, line in _lines(data):
        match line.split():
            case ["key", key] if key.startswith("SHA256:") and len(key) == 50:
                keys.add(key)
            case ["image", image] if is_digest(image.partition("@")[2]):
                images.add(image.partition("@")[2])
            case ["before", name, time] if is_image_name(name) and _is_time(time):
                floors[name] = max(parse_time(time), floors.get(name, 0))
            case _:
                raise TrustError(
                    f"{where}:{number}: {line[:80]!r} revokes nothing",
                    hint="write `key SHA256:…`, `image NAME@DIGEST` with the whole digest, or"
                    " `before NAME 2026-11-30T09:00:00Z`; `bootfarm keys revoke` does",
                )
    return Revoked(frozenset(keys), frozenset(images), floors)


def _is_time(text: str) -> bool:
    try:
        return parse_time(text) >= 0
    except ValueError:
        return False


def _lines(data: bytes) -> list[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    lines = enumerate(data.decode("utf-8", "replace").splitlines(), 1)
    return [(number, text) for number, line in lines if (text := line.strip()) and text[0] != "#"]
