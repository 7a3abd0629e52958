"""What needs a private key: OpenSSH's ssh-keygen does it, so that no key passes through here.

A key may as well be in an ssh-agent, and so on a token that the agent reaches: then its `.pub`
file stands for it.
"""

import tempfile
from pathlib import Path
from typing import Final

from imagebuild.errors import BuildError
from imagebuild.run import check_tools, run
from imagebuild.store.images import Image
from imagebuild.store.signatures import NAMESPACE, SIGNATURE, STATEMENT, Statement, signatures_of
from imagebuild.store.signed import Signed, add_signature
from imagebuild.store.sshsig import PublicKey
from imagebuild.store.trust import parse_signers

_TOOLS: Final = {"ssh-keygen": "openssh-client"}
_LARGEST: Final = 64 << 10
"""Bytes of a key's file."""


def make_key(path: Path, comment: str) -> PublicKey:
    """Make an Ed25519 key: `path` (mode 0600, no passphrase) and `path`.pub.

    BuildError where either is there already.
    """
    check_tools(_TOOLS)
    for there in (path, public_path(path)):
        if there.exists():
            raise BuildError(f"{there} is there already", hint="give another name for the new key")
    if not path.parent.is_dir():
        raise BuildError(f"{path.parent}: there is no such directory", hint="make it first")
    run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path],
        what=f"cannot make the key {path}",
    )
    return read_public(path)


def public_path(key: Path) -> Path:
    """The file of the public half."""
    return key.with_name(f"{key.name}.pub")


def read_public(path: Path) -> PublicKey:
    """The public key of a private key's file, or of a `.pub` file."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST)
    except OSError as error:
        raise BuildError(f"cannot read the key {path}: {error.strerror}") from None
    if b"PRIVATE KEY-----" not in data:
        return parse_signers(data, str(path))[0]
    if public_path(path).is_file():
        return read_public(public_path(path))
    check_tools(_TOOLS)
    text = run(
        ["ssh-keygen", "-y", "-P", "", "-f", path],
        what=f"cannot read the public half of {path}",
        hint=f"put it into {public_path(path)}, as `ssh-keygen -y -f {path}` prints it",
    )
    return parse_signers(text.encode(), str(path))[0]


def sign_image(image: Image, key: Path, now: float) -> Signed:
    """Sign an image of a store; the signature lies beside it. now: seconds since the epoch.

    key: a private key's file without a passphrase, or the `.pub` file of one in an ssh-agent.
    """
    check_tools(_TOOLS)
    if not key.is_file():
        raise BuildError(
            f"{key}: there is no such key", hint=f"`bootfarm keys make {key}` makes one"
        )
    statement = Statement(image.name, image.digest, int(now)).to_bytes()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, STATEMENT)
        file.write_bytes(statement)
        run(
            ["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", NAMESPACE, file],
            what=f"cannot sign with {key}",
            hint="a key with a passphrase signs from an ssh-agent: `ssh-add KEY`, and then"
            " `--signing-key KEY.pub`",
        )
        signature = Path(directory, SIGNATURE).read_bytes()
    try:
        return add_signature(image.path, statement, signature)
    except OSError as error:
        raise BuildError(
            f"cannot write the signature into {signatures_of(image.path)}: {error.strerror}",
            hint="sign as the user whose store it is",
        ) from None
