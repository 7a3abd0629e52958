"""`bootfarm images`: the images of a store. The container has this command, too."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from imagebuild.errors import BuildError
from imagebuild.options import JSON_OPTION, examples, is_data, output_options, render_data
from imagebuild.store.compare import compare_images
from imagebuild.store.damage import find_damage
from imagebuild.store.images import CURRENT, Image, Store
from imagebuild.store.inuse import GRACE_SECONDS
from imagebuild.store.manifest import SBOMS
from imagebuild.store.options import (
    NO_SERVER_OPTION,
    REQUIRE_OPTION,
    REVOKED_OPTION,
    STATE_OPTION,
    STORE_OPTION,
)
from imagebuild.store.shown import (
    WIDTH,
    describe,
    describe_whole,
    difference_as_json,
    format_size,
    render_difference,
    render_image,
    render_list,
    render_wide_list,
    short_name,
)
from imagebuild.store.spared import find_digest, is_in_use, read_spared, refuse_removal
from imagebuild.store.travel import PLAIN_OPTION, RATE_OPTION, pull, push
from imagebuild.store.trust import Trust
from imagebuild.store.vouched import (
    check_source,
    describe_signing,
    list_refusals,
    list_signing,
    open_trust,
)

_MINUTES = f"{GRACE_SECONDS / 60:.0f}"


class Pointing(click.Group):
    """A group that knows which of its verbs people look for in another one.

    elsewhere: verb to the group that has it.
    """

    def __init__(self, *args: Any, elsewhere: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.elsewhere = dict(elsewhere or {})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """click's look-up; a verb of another group is refused with that group's name."""
        verb = args[0] if args else ""
        if verb in self.elsewhere and verb not in self.commands:
            other = f"bootfarm {self.elsewhere[verb]} {verb}"
            ctx.fail(f"No such command {verb!r}. Did you mean `{other}`?")
        return super().resolve_command(ctx, args)


@click.group(
    "images",
    cls=Pointing,
    elsewhere=dict.fromkeys(("build", "extract"), "container"),
    epilog=examples(
        "bootfarm images list",
        "bootfarm images diff amd64:previous amd64",
        "bootfarm images rollback amd64",
    ),
)
def images_group() -> None:
    """List, compare, tag, roll back and remove the images of a store.

    An IMAGE is NAME (its `current`), NAME:TAG or NAME@DIGEST; the first 12
    digits of a digest are enough. `bootfarm container` builds and pushes the
    container that carries one.
    """


def open_store(path: Path) -> Store:
    """The store; BuildError where there is none, or something else."""
    hint = "`bootfarm build` makes one; --store or BOOTFARM_STORE says where it is"
    if not path.is_dir():
        raise BuildError(f"there is no store {path}", hint=hint)
    try:
        strange = not (path / "images").is_dir() and any(
            not name.startswith(".") and name != "tmp" for name in os.listdir(path)
        )
    except OSError as error:
        raise BuildError(f"cannot read the store {path}: {error.strerror}") from None
    if strange:
        raise BuildError(f"{path} is no store: it has no directory `images`", hint=hint)
    return Store(path)


def _columns() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH


@images_group.command(
    "list",
    epilog=examples(
        "bootfarm images list",
        "bootfarm images list --state /var/lib/bootfarm --output wide",
    ),
)
@STORE_OPTION
@STATE_OPTION
@NO_SERVER_OPTION
@REQUIRE_OPTION
@REVOKED_OPTION
@output_options()
def list_command(
    store_path: Path,
    states: tuple[Path, ...],
    no_server: bool,
    signers: Path | None,
    revoked: Path | None,
    output: str,
) -> None:
    """Show every image, its tags and sizes.

    With --output wide, json or yaml also when it was published, and (where --state
    says) whether nodes read it.

    Exit status 1 where an image is damaged: its manifest, or a file that is missing or has
    another size.
    """
    store = open_store(store_path)
    trust = open_trust(signers, revoked)
    _list(store, store.images(), states, no_server, output, trust)
    if damage := find_damage(store):
        tell_damage(damage)
        raise SystemExit(1)


def tell_damage(damage: Sequence[BuildError]) -> None:
    """What is wrong with a store, an error a line and its hint, to people."""
    for error in damage:
        error.show()


def _list(
    store: Store,
    images: Sequence[Image],
    states: Sequence[Path],
    no_server: bool,
    output: str,
    trust: Trust | None,
) -> None:
    if output == "name":
        for image in images:
            click.echo(f"{image.name}@{image.digest}")
        return
    if output != "table":
        spared = read_spared(states, no_server)
        uses = [is_in_use(image, spared) for image in images]
    if is_data(output):
        found = [
            describe(image, use) | describe_signing(image, trust)
            for image, use in zip(images, uses, strict=True)
        ]
        click.echo(render_data(found, output), nl=False)
        return
    wide = output == "wide"
    for line in render_wide_list(images, uses) if wide else render_list(images, _columns()):
        click.echo(line)
    for reason in list_refusals(images, trust):
        click.echo(f"not served: {reason}")
    many = f"{len(images)} image{'' if len(images) == 1 else 's'}"
    click.echo(f"{many}; the store takes {format_size(store.size())}")


@images_group.command(
    "show",
    epilog=examples(
        "bootfarm images show amd64",
        "bootfarm images show amd64@0123456789ab --packages",
        "bootfarm images show amd64:canary --output json",
    ),
)
@STORE_OPTION
@STATE_OPTION
@NO_SERVER_OPTION
@REQUIRE_OPTION
@REVOKED_OPTION
@output_options()
@click.option("--packages", is_flag=True, help="Its packages and their versions, too.")
@click.argument("image")
def show_command(
    store_path: Path,
    states: tuple[Path, ...],
    no_server: bool,
    signers: Path | None,
    revoked: Path | None,
    packages: bool,
    output: str,
    image: str,
) -> None:
    """Show what IMAGE is: kernel, versions, sizes, tags, whether nodes read it."""
    trust = open_trust(signers, revoked)
    found = open_store(store_path).get(*parse_reference(image))
    if output == "name":
        click.echo(f"{found.name}@{found.digest}")
        return
    in_use = is_in_use(found, read_spared(states, no_server))
    if is_data(output):
        data = describe_whole(found, in_use) | describe_signing(found, trust)
        click.echo(render_data(data, output), nl=False)
        return
    wide = output == "wide"
    width = None if wide else _columns()
    signing = list_signing(found, trust)
    shown = render_image(found, in_use, signing=signing, packages=packages or wide, width=width)
    for line in shown:
        click.echo(line)


@images_group.command(
    "sbom",
    epilog=examples(
        "bootfarm images sbom amd64 >amd64.spdx.json",
        "bootfarm images sbom amd64:canary --format cyclonedx | grype",
        "bootfarm images sbom amd64 --format notices | less",
    ),
)
@STORE_OPTION
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(SBOMS)),
    default="spdx",
    show_default=True,
    help="The format: SPDX 2.3 or CycloneDX 1.6, both as JSON; notices: third-party notices, text.",
)
@click.argument("image")
def sbom_command(store_path: Path, kind: str, image: str) -> None:
    """Print the bill of materials of IMAGE, as its build wrote it.

    It has every package with its version, source package and licences (where Debian's
    copyright file says them in machine-readable form), the files that the recipe's builds
    made, the kernel, and the digest of the recipe.
    """
    found = open_store(store_path).get(*parse_reference(image))
    sys.stdout.buffer.write(read_sbom(found, SBOMS[kind]))
    sys.stdout.buffer.flush()


def read_sbom(image: Image, name: str) -> bytes:
    """A file of the image, verified; BuildError where the image brings none."""
    entry = image.manifest.files.get(name)
    if entry is None:
        raise BuildError(
            f"{short_name(image)} brings no bill of materials: an older bootfarm built it",
            hint="build it again; `bootfarm images show --packages` has its packages",
        )
    data = (image.path / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BuildError(
            f"{image.path / name} is not what the image's manifest says",
            hint="the disk or somebody changed it: import the image again",
        )
    return data


@images_group.command(
    "diff",
    epilog=examples(
        "bootfarm images diff amd64:previous amd64",
        "bootfarm images diff amd64 amd64:canary --all",
    ),
)
@STORE_OPTION
@JSON_OPTION
@click.option("--all", "everything", is_flag=True, help="Every line, not the first 20 of a kind.")
@click.argument("old")
@click.argument("new")
def diff_command(store_path: Path, as_json: bool, everything: bool, old: str, new: str) -> None:
    """Show what changed from image OLD to NEW: packages, files, kernel, size.

    Files are compared by rootfs.list: type, mode, owner, size, target.
    """
    store = open_store(store_path)
    one, two = (store.get(*parse_reference(text)) for text in (old, new))
    found = compare_images(one, two)
    if as_json:
        click.echo(json.dumps(difference_as_json(found, one, two), indent=2))
        return
    width = _columns() if sys.stdout.isatty() else None
    for line in render_difference(one, two, found, everything=everything, width=width):
        click.echo(line.encode("utf-8", "replace").decode())


@images_group.command("tag", epilog=examples("bootfarm images tag amd64@0123456789ab canary"))
@STORE_OPTION
@click.argument("image")
@click.argument("tag")
def tag_command(store_path: Path, image: str, tag: str) -> None:
    """Let TAG name IMAGE. Moving `current` keeps what it named as `previous`."""
    tagged = open_store(store_path).tag(*parse_reference(image), tag)
    click.echo(f"{tagged.name}:{tag} is {tagged.digest}")


@images_group.command("rollback", epilog=examples("bootfarm images rollback amd64"))
@STORE_OPTION
@click.argument("name")
def rollback_command(store_path: Path, name: str) -> None:
    """Swap NAME's `current` and `previous`."""
    image = open_store(store_path).rollback(name)
    click.echo(f"{image.name}:{CURRENT} is {image.digest}")


@images_group.command(
    "rm",
    epilog=examples(
        "bootfarm images rm amd64:canary",
        "bootfarm images rm amd64@0123456789ab --state /var/lib/bootfarm",
    ),
)
@STORE_OPTION
@STATE_OPTION
@NO_SERVER_OPTION
@click.option(
    "--force", is_flag=True, help="Also `current`, an image with tags, one that nodes read."
)
@click.argument("image")
def rm_command(
    store_path: Path, states: tuple[Path, ...], no_server: bool, force: bool, image: str
) -> None:
    """Remove the tag NAME:TAG, or the image NAME@DIGEST itself.

    Refused without --force: the tag `current`, which machines boot; an image
    that a tag names; one that nodes are attached to, or were in the last 10
    minutes, as the server's state directory says.
    """
    name, reference = parse_reference(image)
    if reference == CURRENT and ":" not in image:
        raise BuildError(
            f"{image!r}: which one?", hint=f"{name}:TAG removes a tag, {name}@DIGEST an image"
        )
    store = open_store(store_path)
    try:
        found = store.get(name, reference)
    except BuildError:
        if not (force and "@" in image and store.remove_damaged(name, reference)):
            raise
        click.echo(f"removed {image}, which was damaged")
        return
    if not force:
        refuse_removal(found, reference, states, no_server)
    removed = store.remove(name, reference, force=force)
    if reference in removed.tags:
        click.echo(f"removed the tag {name}:{reference} of {removed.digest}")
    else:
        click.echo(f"removed {name}@{removed.digest} ({format_size(removed.size)})")


@images_group.command(
    "gc", epilog=examples("bootfarm images gc --state /var/lib/bootfarm --dry-run")
)
@STORE_OPTION
@STATE_OPTION
@NO_SERVER_OPTION
@click.option(
    "--in-use", "in_use", multiple=True, help="A digest that nodes still read; may be repeated."
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and how much; remove nothing.")
def gc_command(
    store_path: Path,
    states: tuple[Path, ...],
    no_server: bool,
    in_use: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Remove images without tags, and what interrupted writers left.

    Spares what nodes are attached to, or were in the last 10 minutes, as the server's
    state directory says.
    """
    spared = read_spared(states, no_server)
    if spared is None:
        raise BuildError(
            "cannot tell which images nodes still read",
            hint="give --state DIR as `bootfarm serve` has it, or --no-server if there is none",
        )
    store = open_store(store_path)
    spared |= {find_digest(store, text) for text in in_use}
    tell_damage(find_damage(store))
    if dry_run:
        for image in store.images():
            if not image.tags and image.digest in spared:
                click.echo(
                    f"would keep {image.name}@{image.digest} ({format_size(image.size)}):"
                    " nodes read it"
                )
    collected = store.collect_garbage(spared, dry_run=dry_run)
    removed = "would remove" if dry_run else "removed"
    for image in collected.images:
        click.echo(f"{removed} {image.name}@{image.digest} ({format_size(image.size)})")
    if collected.abandoned:
        click.echo(f"{removed} {collected.abandoned} directories of interrupted writers")
    freed = format_size(collected.freed)
    freed = f"would free {freed} ({collected.freed} bytes)" if dry_run else f"freed {freed}"
    click.echo(f"{freed}; the store takes {format_size(store.size())}")


@images_group.command(
    "import", epilog=examples("bootfarm images import /mnt/images/amd64/0123456789ab… --tag canary")
)
@STORE_OPTION
@click.option("--tag", "tags", multiple=True, help="A tag: instead of `current`; may be repeated.")
@REQUIRE_OPTION
@REVOKED_OPTION
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
def import_command(
    store_path: Path,
    directory: Path,
    tags: tuple[str, ...],
    signers: Path | None,
    revoked: Path | None,
) -> None:
    """Copy an image's directory (.../images/NAME/DIGEST) into the store, verifying each file.

    Its signatures (.../images/NAME/signatures/DIGEST) come along. With --require-signed an
    image is refused that none of the keys signed.
    """
    if (trust := open_trust(signers, revoked)) is not None:
        check_source(directory, trust)
    image = Store(store_path).import_image(directory, tags=tags or (CURRENT,))
    click.echo(f"{image.name}@{image.digest}")


@images_group.command(
    "push",
    epilog=examples("bootfarm images push amd64 oci://registry.example.org/nodes/amd64:stable"),
)
@STORE_OPTION
@PLAIN_OPTION
@click.argument("image")
@click.argument("target", metavar="oci://HOST/NAME[:TAG]")
def push_command(store_path: Path, plain_http: bool, image: str, target: str) -> None:
    """Push IMAGE into a registry, as an OCI artifact under TAG (else `current`).

    Credentials are Docker's (`docker login`). Prints the artifact with its digest.
    `bootfarm container push` is for the container that carries an image.
    """
    push(open_store(store_path), *parse_reference(image), target, plain_http)


@images_group.command(
    "pull",
    epilog=examples(
        "bootfarm images pull oci://registry.example.org/nodes/amd64:stable",
        "bootfarm images pull http://10.9.0.1:8080",
        "bootfarm images pull http://10.9.0.1:8080/amd64:canary --mbit 200",
    ),
)
@STORE_OPTION
@click.option("--tag", "tags", multiple=True, help="A tag: instead of SOURCE's; may be repeated.")
@PLAIN_OPTION
@RATE_OPTION
@click.argument("source")
def pull_command(
    store_path: Path, tags: tuple[str, ...], plain_http: bool, mbit: float | None, source: str
) -> None:
    """Fetch images from SOURCE into the store, each verified before it is published.

    SOURCE is oci://HOST/NAME[:TAG|@sha256:DIGEST], an image in a registry; or
    http://HOST:PORT, another bootfarm server: all that it has a tag for, with its
    tags; or http://HOST:PORT/NAME[:TAG|@DIGEST], one image of it. What broke off is
    gone on with by the same command.
    """
    pull(Store(store_path), source, tags, plain_http, mbit)


def parse_reference(text: str) -> tuple[str, str]:
    """`name`, `name:tag` or `name@digest` to (name, tag or digest)."""
    for separator in "@:":
        name, found, reference = text.partition(separator)
        if found:
            if not reference:
                raise BuildError(f"{text!r}: nothing after the {separator}")
            return name, reference
    return text, CURRENT


COMMANDS: list[click.Command] = [images_group]
