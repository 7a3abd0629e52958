"""What `bootfarm images push` and `pull` do: to and from a registry, and from another server."""

from typing import Final

import click

from imagebuild.errors import BuildError
from imagebuild.store.images import CURRENT, Store
from imagebuild.store.incoming import Pace
from imagebuild.store.manifest import is_digest, is_image_name
from imagebuild.store.peer import Peer
from imagebuild.store.registry import SCHEME, Reference, Registry
from imagebuild.store.shown import short_name

PLAIN_OPTION: Final = click.option(
    "--plain-http", is_flag=True, help="The registry has no TLS (one on loopback needs no word)."
)
RATE_OPTION: Final = click.option(
    "--mbit",
    type=click.FloatRange(0, min_open=True),
    help="At most so many megabits a second.  [default: no bound]",
)


def push(store: Store, name: str, reference: str, target: str, plain_http: bool) -> None:
    """Push one image, and say what it is there."""
    where = Reference.parse(target)
    image = store.get(name, reference)
    digest = Registry(plain_http=plain_http).push(image, store, where)
    click.echo(f"{SCHEME}{where.host}/{where.name}@{digest}")


def pull(
    store: Store, source: str, tags: tuple[str, ...], plain_http: bool, mbit: float | None
) -> None:
    """Fetch what SOURCE names; a line for each image."""
    pace = Pace(mbit * 125_000 if mbit else 0.0)
    if source.startswith(SCHEME):
        reference = Reference.parse(source)
        registry = Registry(pace, plain_http=plain_http)
        digest = registry.look(reference)
        wanted = tags or ((reference.tag,) if reference.tag else ())
        click.echo(f"{short_name(registry.pull(store, reference, digest, tags=wanted))}")
        return
    if not source.startswith("http://"):
        raise BuildError(
            f"{source[:200]!r}: neither a registry's image nor a server",
            hint="oci://HOST/NAME:TAG, or http://HOST:PORT[/NAME[:TAG]]",
        )
    base, _, path = source.removeprefix("http://").rstrip("/").partition("/")
    peer = Peer(f"http://{base}", pace)
    try:
        if path:
            pull_one(store, peer, path, tags)
        else:
            pull_all(store, peer, tags)
    finally:
        peer.close()


def pull_one(store: Store, peer: Peer, path: str, tags: tuple[str, ...]) -> None:
    """NAME, NAME:TAG or NAME@DIGEST of another server."""
    name, separator, word = path.replace("@", ":@", 1).partition(":")
    tag = "" if word.startswith("@") else word or CURRENT
    if not is_image_name(name) or (separator and not word.strip("@")):
        raise BuildError(f"{path[:100]!r} is no image", hint="NAME, NAME:TAG or NAME@DIGEST")
    index = peer.index()
    move = index.tags.get((name, tag)) if tag else None
    digest = move.digest if move is not None else word[1:]
    known = [one for other, one in index.images if other == name]
    found = [one for one in known if digest and one.startswith(digest)]
    if len(found) != 1 or (not is_digest(digest) and len(digest) < 12):
        there = sorted(f"{other}:{one}" for (other, one), at in index.tags.items() if at.digest)
        raise BuildError(
            f"{peer.url} has no image {path[:100]}", hint=f"it has {', '.join(there) or 'none'}"
        )
    image = peer.pull(store, name, found[0], tags=tags or ((tag,) if tag else ()))
    click.echo(short_name(image))


def pull_all(store: Store, peer: Peer, tags: tuple[str, ...]) -> None:
    """All images that another server has a tag for; each tag that moved there later than here."""
    if tags:
        raise click.UsageError("--tag is for one image: name it behind the server's address")
    index = peer.index()
    for name, digest in sorted({(name, at.digest) for (name, _), at in index.tags.items()}):
        if digest and (name, digest) in index.images:
            click.echo(short_name(peer.pull(store, name, digest)))
    for (name, tag), move in sorted(index.tags.items(), key=lambda item: item[0]):
        if not move.digest or (name, move.digest) not in index.images:
            continue
        mine = store.moves(name).get(tag)
        if store.follow(name, tag, move):
            click.echo(f"{name}:{tag} is {move.digest[:12]}")
        elif mine is not None and mine.digest != move.digest:
            click.echo(f"{name}:{tag} stays {mine.digest[:12] or 'removed'}: it moved here later")
