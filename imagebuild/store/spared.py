"""Which images nodes read, as far as the commands' options say, and what is refused for that."""

import time
from collections.abc import Sequence
from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.store.images import CURRENT, Image, Store
from imagebuild.store.inuse import GRACE_SECONDS, read_in_use
from imagebuild.store.manifest import is_digest
from imagebuild.store.shown import short_name

_MINUTES = f"{GRACE_SECONDS / 60:.0f}"


def read_spared(states: Sequence[Path], no_server: bool) -> frozenset[str] | None:
    """Digests that nodes read, or did lately; None where no option said."""
    if not states and not no_server:
        return None
    now = time.time()
    return frozenset(digest for state in states for digest in read_in_use(state).spared(now))


def is_in_use(image: Image, spared: frozenset[str] | None) -> bool | None:
    """Whether nodes read an image; None where nothing says."""
    return None if spared is None else image.digest in spared


def find_digest(store: Store, text: str) -> str:
    """The whole digest of `text`, a digest or its first 12 digits or more; BuildError where no
    image has it: one that is misspelt would spare nothing."""
    digest = text.rpartition("@")[2]
    found = {one.digest for one in store.images() if one.digest.startswith(digest)}
    if len(digest) >= 12 and len(found) == 1:
        return found.pop()
    if is_digest(digest):
        return digest  # gone already
    raise BuildError(
        f"--in-use {text!r} is no digest of an image in the store",
        hint="give 12 digits of it at least; `bootfarm images list` shows them",
    )


def refuse_removal(image: Image, reference: str, states: Sequence[Path], no_server: bool) -> None:
    """Raise BuildError where machines or people would miss the image."""
    if reference in image.tags:
        if reference == CURRENT:
            raise BuildError(
                f"{image.name}:{CURRENT} is what machines boot: without it those that ask for"
                f" {image.name} get no image",
                hint=f"`bootfarm images tag {image.name}@DIGEST {CURRENT}` moves it to another"
                " image; --force takes it away",
            )
        return
    if image.tags:
        return  # `remove` refuses it in words of its own
    spared = read_spared(states, no_server)
    if spared is None:
        raise BuildError(
            f"cannot tell whether nodes still read {short_name(image)}",
            hint="give --state DIR as `bootfarm serve` has it, --no-server if there is none, or"
            " --force",
        )
    if image.digest in spared:
        raise BuildError(
            f"nodes read {short_name(image)}, or did in the last {_MINUTES} minutes",
            hint="reboot them into another image first; with --force they cannot attach to it"
            " again",
        )
