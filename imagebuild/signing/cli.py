"""`bootfarm sign` and `bootfarm keys`: images are signed, and keys for that made and revoked."""

import time
from pathlib import Path

import click

from imagebuild.errors import BuildError
from imagebuild.options import JSON_OPTION, examples, render_data
from imagebuild.signing.keygen import make_key, public_path, read_public, sign_image
from imagebuild.store.cli import open_store, parse_reference
from imagebuild.store.images import Store
from imagebuild.store.manifest import is_digest
from imagebuild.store.options import STORE_OPTION
from imagebuild.store.shown import short_name
from imagebuild.store.signatures import NAMESPACE, format_time
from imagebuild.store.sshsig import PublicKey
from imagebuild.store.trust import parse_revoked, parse_signers
from imagebuild.wholefile import read_whole, write_whole

_FILE = click.Path(path_type=Path, dir_okay=False)
_LARGEST = 1 << 20
_HEAD = "# Read by `bootfarm serve --revoked`; written by `bootfarm keys revoke`.\n"


@click.command(
    "sign",
    epilog=examples(
        "bootfarm sign amd64 --signing-key signing.key",
        "bootfarm sign amd64@0123456789ab --signing-key signing.key.pub",
    ),
)
@STORE_OPTION
@click.option(
    "--signing-key",
    "key",
    required=True,
    type=_FILE,
    help="The signing key: its private file, or the .pub file of one that an ssh-agent holds.",
)
@click.argument("image")
def sign_command(store_path: Path, key: Path, image: str) -> None:
    """Sign IMAGE: the signature lies beside it in the store, and its digest stays.

    Signatures of several keys lie side by side, so that keys can be changed. `bootfarm images
    show` tells of them, `bootfarm serve --require-signed` serves no image without one.
    """
    found = open_store(store_path).get(*parse_reference(image))
    signed = sign_image(found, key, time.time())
    when = format_time(signed.statement.signed)
    click.echo(f"{short_name(found)} is signed by {signed.key.fingerprint}, {when}")


@click.group(
    "keys",
    epilog=examples(
        "bootfarm keys make signing.key",
        "bootfarm keys export signing.key >signers",
        "bootfarm keys revoke --list revoked --image amd64@0123456789ab",
    ),
)
def keys_group() -> None:
    """Make, show, export and revoke keys that images are signed with.

    They are OpenSSH's: `ssh-keygen -Y verify -n bootfarm-image` reads what they sign.
    """


@keys_group.command("make", epilog=examples("bootfarm keys make signing.key --comment ci"))
@click.option("--comment", default="bootfarm", show_default=True, help="Whose key this is.")
@click.argument("file", type=_FILE)
def make_command(comment: str, file: Path) -> None:
    """Make a key: FILE, which signs and is nobody else's business, and FILE.pub."""
    if not comment.isprintable() or not comment.strip():
        raise BuildError(f"--comment {comment!r} is no line of text")
    key = make_key(file, comment)
    click.echo(f"{file}: {key.fingerprint} {key.comment}")
    click.echo(f"{public_path(file)} is for those who check; keep {file} where images are signed")


@keys_group.command("export", epilog=examples("bootfarm keys export signing.key >>signers"))
@click.argument("key", type=_FILE)
def export_command(key: Path) -> None:
    """Print the public half of KEY as a line for --require-signed.

    The line is one of OpenSSH's allowed_signers: `ssh-keygen -Y verify -f` takes it, too.
    """
    click.echo(render_signer(read_public(key)))


def render_signer(key: PublicKey) -> str:
    """A line of OpenSSH's allowed_signers, for images only."""
    principal = "-".join(key.comment.split()) or "bootfarm"
    return f'{principal} namespaces="{NAMESPACE}" {key.line}'


@keys_group.command(
    "show", epilog=examples("bootfarm keys show signers", "bootfarm keys show signing.key.pub")
)
@JSON_OPTION
@click.argument("file", type=_FILE)
def show_command(as_json: bool, file: Path) -> None:
    """Show the keys that FILE names: kind, fingerprint, comment."""
    data = _read(file)
    private = b"PRIVATE KEY-----" in data
    keys = (read_public(file),) if private else parse_signers(data, str(file))
    if as_json:
        found = [
            {"kind": key.kind, "fingerprint": key.fingerprint, "comment": key.comment}
            for key in keys
        ]
        click.echo(render_data(found, "json"), nl=False)
        return
    for key in keys:
        click.echo(f"{key.kind:<20}{key.fingerprint}  {key.comment}".rstrip())


@keys_group.command(
    "revoke",
    epilog=examples(
        "bootfarm keys revoke --list revoked --signing-key old.key.pub",
        "bootfarm keys revoke --list revoked --image amd64@0123456789ab",
        "bootfarm keys revoke --list revoked --before amd64=2026-11-30T09:00:00Z",
    ),
)
@STORE_OPTION
@click.option(
    "--list", "file", required=True, type=_FILE, help="The list, as serve's --revoked names it."
)
@click.option(
    "--signing-key",
    "keys",
    multiple=True,
    help="The signing key: its file, or its SHA256:… ; may be repeated.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    help="The image: of the store, or NAME@ and its whole digest; may be repeated.",
)
@click.option(
    "--before",
    "floors",
    metavar="NAME=TIME",
    multiple=True,
    help="Refuse images NAME that were signed before; may be repeated.",
)
def revoke_command(
    store_path: Path,
    file: Path,
    keys: tuple[str, ...],
    images: tuple[str, ...],
    floors: tuple[str, ...],
) -> None:
    """Revoke keys and images: lines of a list that `bootfarm serve --revoked` obeys.

    A server takes an edit of the list within seconds. Nodes that run keep their connection, and
    get no other one.
    """
    wanted = [f"key {_find_fingerprint(key)}" for key in keys]
    wanted += [f"image {_find_image(store_path, image)}" for image in images]
    wanted += [f"before {name} {when}" for name, _, when in (f.partition("=") for f in floors)]
    if not wanted:
        raise click.UsageError("nothing to revoke: give --signing-key, --image or --before")
    for line in wanted:
        parse_revoked(line.encode(), "--before")
    text = _read(file).decode("utf-8", "surrogateescape") if file.exists() else _HEAD
    parse_revoked(text.encode("utf-8", "surrogateescape"), str(file))
    there = set(text.splitlines())
    new = [line for line in wanted if line not in there]
    text += "" if text.endswith("\n") or not text else "\n"
    text += "".join(f"{line}\n" for line in new)
    try:
        write_whole(file, text.encode("utf-8", "surrogateescape"), mode=0o644, durable=True)
    except OSError as error:
        raise BuildError(f"cannot write {file}: {error.strerror}") from None
    for line in wanted:
        click.echo(f"{line}{'' if line in new else ': was there already'}")


def _find_fingerprint(key: str) -> str:
    return key if key.startswith("SHA256:") else read_public(Path(key)).fingerprint


def _find_image(store_path: Path, text: str) -> str:
    digest = text.partition("@")[2]
    if is_digest(digest):
        return text  # it need not be in this store, or in any
    found = Store(store_path).get(*parse_reference(text))
    return f"{found.name}@{found.digest}"


def _read(file: Path) -> bytes:
    try:
        return read_whole(file, _LARGEST)
    except OSError as error:
        raise BuildError(f"cannot read {file}: {error.strerror}") from None


COMMANDS: list[click.Command] = [sign_command, keys_group]
