"""Where an image's signatures lie, and what they sign: beside the image, and no part of it.

    STORE/images/NAME/signatures/DIGEST/KEY.TIME/{statement, statement.sig}

KEY is the SHA-256 of the public key in hex, so that two keys' signatures lie side by side, and
TIME is when it was signed, in seconds since the epoch, so that a new signature is there before
the one that it replaces goes. The statement is one line of canonical JSON: image, digest and
when it was signed. `statement.sig` is what `ssh-keygen -Y sign -n bootfarm-image statement`
writes, and `ssh-keygen -Y verify -n bootfarm-image` reads. Whether they are good:
store/signed.py.
"""

import contextlib
import datetime
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagebuild.errors import BuildError
from imagebuild.store.manifest import is_digest
from imagebuild.wholefile import read_whole

NAMESPACE: Final = "bootfarm-image"
"""What the signature is for: one that was made for another use counts nothing here."""
FOLDER: Final = "signatures"
STATEMENT: Final = "statement"
SIGNATURE: Final = "statement.sig"
FORMAT: Final = 1
MOST: Final = 16
"""Signatures of one image that are looked at."""
MOST_BYTES: Final = 16 << 10
"""Bytes of a statement or a signature that are read."""


_FOLDER: Final = re.compile(r"[0-9a-f]{64}\.[0-9]{1,12}\Z")


class SignatureError(BuildError):
    """What is no signature, or no public key, or does not fit what it is said to sign."""


@dataclass(frozen=True)
class Statement:
    """What is signed: that this is the image. signed: when, seconds since the epoch, by the
    signer's clock."""

    name: str
    digest: str
    signed: int

    def to_bytes(self) -> bytes:
        """Canonical JSON, one line."""
        data = {
            "digest": self.digest,
            "format": FORMAT,
            "name": self.name,
            "signed": format_time(self.signed),
        }
        return json.dumps(data, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def format_time(seconds: int) -> str:
    """UTC, ISO 8601, whole seconds."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> int:
    """Seconds since the epoch of `2026-11-30T09:00:00Z`, or of a date alone; ValueError."""
    form = "%Y-%m-%dT%H:%M:%SZ" if "T" in text else "%Y-%m-%d"
    moment = datetime.datetime.strptime(text, form).replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())


def parse_statement(data: bytes) -> Statement:
    """The statement; SignatureError where it is none, or not in canonical form."""
    try:
        raw = json.loads(data)
        if not isinstance(raw, dict) or set(raw) != {"digest", "format", "name", "signed"}:
            raise ValueError("not the keys of a statement")
        if raw["format"] != FORMAT:
            raise SignatureError(
                f"the statement is of format {raw['format']!r}, not {FORMAT}",
                hint="sign the image again with this bootfarm",
            )
        statement = Statement(raw["name"], raw["digest"], parse_time(raw["signed"]))
        if not is_digest(statement.digest) or statement.to_bytes() != data:
            raise ValueError("not in canonical form")
    except (ValueError, TypeError, RecursionError) as error:
        raise SignatureError(f"the statement is none: {error}") from None
    return statement


def signatures_of(image: Path) -> Path:
    """The folder of the signatures of the image in the folder `image` (.../NAME/DIGEST)."""
    return image.parent / FOLDER / image.name


def list_folders(image: Path) -> list[Path]:
    """The folders of signatures of the image in that folder, sorted; at most MOST."""
    try:
        paths = sorted(path for path in signatures_of(image).iterdir() if _FOLDER.match(path.name))
    except OSError:
        return []
    return paths[:MOST]


def list_stamps(image: Path) -> list[tuple[str, int, int]]:
    """What tells one state of an image's signatures from another: file, inode, time (ns)."""
    found = []
    for path in list_folders(image):
        for name in (STATEMENT, SIGNATURE):
            with contextlib.suppress(OSError):
                status = os.stat(path / name)
                found.append((f"{path.name}/{name}", status.st_ino, status.st_mtime_ns))
    return found


def read_pair(folder: Path) -> tuple[bytes, bytes]:
    """Statement and signature in a folder; SignatureError where they cannot be read."""
    try:
        return (
            read_whole(folder / STATEMENT, MOST_BYTES),
            read_whole(folder / SIGNATURE, MOST_BYTES),
        )
    except OSError as error:
        raise SignatureError(f"cannot be read: {error.strerror}") from None


def put_pair(image: Path, key: str, statement: bytes, signature: bytes) -> None:
    """Put them beside the image as the signature of `key`, whose older ones go afterwards.

    Raises SignatureError where the statement is none.
    """
    home = signatures_of(image)
    place = home / f"{key}.{parse_statement(statement).signed}"
    home.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".new.", dir=home))
    try:
        new = made / "new"
        new.mkdir()
        for name, data in ((STATEMENT, statement), (SIGNATURE, signature)):
            (new / name).write_bytes(data)
            (new / name).chmod(0o644)
        for folder in (new, home, home.parent):
            folder.chmod(0o755)
        if place.exists():
            place.rename(made / "same")
        new.rename(place)
        for path in list_folders(image):
            if _key_of(path) == key and _time_of(path) < _time_of(place):
                path.rename(made / path.name)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def copy_signatures(source: Path, image: Path) -> None:
    """Bring the signatures of the image in the folder `source` (.../NAME/DIGEST) to the same
    image here, as they are. Of one key only a younger one than is here comes."""
    if signatures_of(source) == signatures_of(image):
        return
    for folder in list_folders(source):
        here = [path for path in list_folders(image) if _key_of(path) == _key_of(folder)]
        if all(_time_of(path) < _time_of(folder) for path in here):
            with contextlib.suppress(SignatureError):
                put_pair(image, _key_of(folder), *read_pair(folder))


def _key_of(folder: Path) -> str:
    return folder.name.partition(".")[0]


def _time_of(folder: Path) -> int:
    return int(folder.name.partition(".")[2])
