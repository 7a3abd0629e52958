"""What the server opens on disk at its start: state, store, lts.conf, secrets, token, timelines.

Each raises ServerError that says which setting does not fit; `serve --check` calls some of
the same.
"""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from imagebuild.wholefile import check_writable
from server.boot.rehearsal import Rehearser
from server.errors import ServerError
from server.farm.config import Config
from server.farm.extras import Extras, open_extras, refuse_own
from server.kubernetes.api import find_api
from server.kubernetes.refusals import Refusals
from server.ltsconf import LtsConf
from server.nodes.timelines import TIMELINES, Nodes
from server.observe.logbook import LogBook
from server.observe.secrecy import Secrecy
from server.site import Site, make_site
from server.sources.farm import FarmFile, FarmSource
from server.sources.images import NoStore, StoreSource
from server.sources.keeper import Keeper
from server.sources.ltsconf import LtsConfSource, format_reason
from server.sources.secrets import SecretsSource
from server.sources.signers import SignersSource
from server.sources.sources import Sources
from server.sources.trial import Audience
from server.web.access import Token

LAST_WORDS_SECONDS = 5.0
"""So long may it take to tell the cluster why the server cannot start."""


def find_timelines(kept: Path | None) -> Path | None:
    """The directory of timelines; None where none are kept."""
    return kept / TIMELINES if kept is not None else None


def open_nodes(
    config: Config,
    identify: Callable[[str], tuple[str | None, str | None]],
    kept: Path | None,
) -> Nodes:
    """The timelines, with those that the server before this one saved."""
    nodes = Nodes(identify, limit=config.max_nodes, events=config.events_per_node)
    if (timelines := find_timelines(kept)) is not None:
        nodes.load(timelines)
    return nodes


def open_logbook(config: Config, kept: Path | None) -> LogBook:
    """The logs of nodes' kernels and syslogs, with those that the server before this one saved."""
    logbook = LogBook(
        kept / "logs" if kept is not None else None,
        limit=config.logs.bytes,
        nodes=config.logs.nodes,
    )
    logbook.load()
    return logbook


def make_token(config: Config) -> Token | None:
    """The token of the page and the API; None where none is wanted."""
    return Token(config.token_file) if config.token_file is not None else None


def open_state(path: Path | None) -> Path | None:
    """The state directory, made and writable; ServerError when it cannot be."""
    if path is None:
        return None
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_writable(path)
    except OSError as error:
        raise ServerError(
            f"--state {path}: {error.strerror}",
            hint="give a directory that the server's user may write to",
        ) from None
    return path


def hold_state(kept: Path | None) -> IO[bytes] | None:
    """Keep other servers from keeping their timelines in the same directory: each would write
    its own over the other's.

    It is held until the file that is returned is closed, or this process ends; its workers do
    not hold it. ServerError: another one has it. None where nothing is kept, or where the file
    system has no locks.
    """
    if kept is None:
        return None
    held = (kept / "serve.lock").open("a+b")
    try:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        held.seek(0)
        owner = held.read(20).decode("ascii", "replace").strip()
        held.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return None
        raise ServerError(
            f"--state {kept}: another server keeps its timelines there"
            + (f" (pid {owner})" if owner.isdecimal() else ""),
            hint="stop it, or give each server a state directory of its own (docs/two-servers.md)",
        ) from None
    held.truncate(0)
    held.write(f"{os.getpid()}\n".encode())
    held.flush()
    return held


def make_keeper(config: Config, state: Path | None) -> Keeper | None:
    """The keeper of images in use. None where NBD is not served, or no state is kept."""
    if config.collect_after is not None and state is None:
        raise ServerError(
            f"{config.source}: collect_after: which images nodes read is written nowhere",
            hint="give a `state` directory too",
        )
    if state is None or config.store is None or "nbd" not in config.services:
        return None
    return Keeper(config.store, state, collect_after=config.collect_after)


def _open_ltsconf(
    config: Config, secrecy: Secrecy, site: Callable[[], Site], rehearser: Rehearser
) -> LtsConfSource:
    """The lts.conf, read for the first time. In a cluster a refused one is told by an Event."""
    api = find_api(os.environ)
    # A process that gives lts.conf to nodes tells; one for NBD alone does not.
    if config.configmap is None or api is None or not {"tftp", "http"} & set(config.services):
        source = LtsConfSource(config.lts_conf, config.state, site=site, rehearser=rehearser)
        source.load_first()
        return source
    refusals = Refusals(api, config.configmap)

    def tell(reason: str) -> None:
        refusals.tell(secrecy.mask(reason))  # an error may quote the line that it is about

    source = LtsConfSource(
        config.lts_conf, config.state, refused=tell, site=site, rehearser=rehearser
    )
    try:
        source.load_first()
    except ServerError as error:
        tell(format_reason(error))
        refusals.close(LAST_WORDS_SECONDS)
        raise
    return source


def open_sources(config: Config, file: FarmFile | None = None) -> Sources:
    """Store, lts.conf and secrets, read for the first time; ServerError says which is bad."""
    extras = look_at_extras(config)
    if config.fetching.is_on and config.store is not None:
        _make_store(config.store)
    store = open_store(config, extras)
    store.poll()
    secrets = SecretsSource(config.secrets)
    secrets.load_first()
    base = make_site(config, store.images, LtsConf.parse(b""), secrets.current, extras)
    rehearser = Rehearser(Audience(config.inventory, unlisted=config.unlisted))
    ltsconf = _open_ltsconf(config, Secrecy(lambda: secrets.current), lambda: base, rehearser)
    return Sources(base, ltsconf, store, secrets, rehearser, FarmSource(config, file))


def open_store(config: Config, extras: Extras) -> StoreSource:
    """The store; an empty one where only further exports or a folder are served, or images are
    yet to be fetched."""
    if config.store is None:
        if extras:
            return NoStore()
        raise ServerError(
            "no store is given", hint="--store DIR, or `store:` in farm.yaml: what `build` wrote"
        )
    if not config.store.is_dir() and not config.fetching.is_on:
        raise ServerError(
            f"the store {config.store}: there is no such directory",
            hint="build an image first (bootfarm build), or give its store",
        )
    signers = SignersSource(config.require_signed, config.revoked)
    signers.load_first()
    return StoreSource(config.store, signers)


def _make_store(path: Path) -> None:
    """A new server begins with an empty store, and fetches its images."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except OSError as error:
        raise ServerError(
            f"the store {path} cannot be written, and images shall be fetched into it:"
            f" {error.strerror}",
            hint="give a directory that the server's user may write to",
        ) from None


def look_at_extras(config: Config) -> Extras:
    """The further exports and the folder, each looked at.

    ServerError if no service would serve them.
    """
    for given, flag, wanted in (
        (config.exports, "--export", {"nbd"}),
        (config.boot_tree, "--boot-tree", {"tftp", "http"}),
    ):
        if given and not wanted & set(config.services):
            raise ServerError(
                f"{flag} is given, and no service serves it",
                hint=f"run {' or '.join(sorted(wanted))} too (--services)",
            )
    refuse_own(config.boot_tree, config.own_paths)
    return open_extras(config.exports, config.boot_tree)
