"""farm.yaml and its inventory, watched: what needs no bind counts when it was edited.

A good edit is in force within two seconds, as far as nothing has to be bound or
started for it; the rest is named, and waits for a restart. A bad edit is
refused as a whole, and what was good before stays in force.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from server.background import Background, Job
from server.errors import ServerError
from server.farm.config import Config, ConfigError, load_config
from server.sources.stamp import Stamp, is_being_written
from server.yamlfile import MAX_TOLD, FaultsError

LIVE: Final = frozenset(
    {
        *("inventory", "inventory_file", "address_map", "hosts_file", "facts", "unlisted"),
        *("default_image", "cmdline", "on_error", "menu", "loader", "lts_conf", "secrets"),
        *("exports", "http_names", "fetching"),
    }
)
"""Fields of Config that count at once."""
INLINE_BYTES: Final = 8192
"""Files of so little are waited for: that takes some 50 ms, once for each edit."""
_KEYS: Final = {
    "max_nodes": "nodes.limit",
    "events_per_node": "nodes.events",
    "single_port": "tftp.single_port",
    "inventory_file": "inventory",
    "http_names": "http.names",
}
_log = logging.getLogger(__name__)


class FarmFile:
    """Where a Config was read from. adjust: what the flags make of it.

    stamps: of every file that the last reading opened, from before it was opened.
    """

    def __init__(self, path: Path, adjust: Callable[[Config], Config]) -> None:
        self.stamps: dict[Path, Stamp | None] = {}
        self._path = path
        self._adjust = adjust
        self._had_keys = False

    def load(self) -> Config:
        """Read it, in whatever thread. Raises ServerError: file, key, remedy.

        A file that had keys and has none any more is an error: that is what is left
        when a disk is full, or by `> farm.yaml`.
        """
        self.stamps = {}
        config = load_config(self._path, self._note)
        has_keys = config != Config(source=config.source)
        if self._had_keys and not has_keys:
            raise ConfigError(
                f"{self._path}: there is nothing in it any more",
                hint="put its keys back; a restart takes it as it is",
            )
        self._had_keys = has_keys
        return self._adjust(config)

    def _note(self, path: Path) -> None:
        self.stamps[path] = Stamp.of(path)


class FarmSource:
    """farm.yaml as it is in force. file: what `config` was read from; None where there is none.

    current: what counts now: the server's start, and each live key of the last good
    edit. restart: keys of that edit that wait for a restart. problem: why the last
    edit was refused, or "". taken, refusals: how many edits were.
    """

    def __init__(
        self,
        config: Config,
        file: FarmFile | None = None,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.current = config
        self.problem = ""
        self.restart: tuple[str, ...] = ()
        self.taken = self.refusals = 0
        self._file = file
        self._wall = wall
        self._seen = dict(file.stamps) if file is not None else {}
        self._background = Background()
        self._reading: Job[Config] | None = None

    @property
    def problems(self) -> list[str]:
        """What of the files on disk is not in force, a line each."""
        return [text for text in (self.problem, self.waiting) if text]

    @property
    def waiting(self) -> str:
        """What of the last good edit waits for a restart, or ""."""
        if not self.restart:
            return ""
        keys = ", ".join(self.restart)
        source = self.current.source
        return f"{source} on disk differs from what is in force in {keys}: restart needed"

    @property
    def is_reading(self) -> bool:
        """Whether an edit is being read in the background."""
        return self._reading is not None

    def look_again(self) -> None:
        """Read the files at the next poll, whether or not they have changed."""
        self._seen = {}

    def poll(self) -> Config | None:
        """The edit for `take` to put in force; None where there is none."""
        if self._file is None:
            return None
        if self._reading is None:
            stamps = {path: Stamp.of(path) for path in self._seen}
            if self._seen and (stamps == self._seen or self._is_being_written(stamps)):
                return None
            self._reading = self._background.submit(self._file.load)
            size = sum(stamp.size for stamp in stamps.values() if stamp is not None)
            if 0 < size <= INLINE_BYTES:
                self._background.wait(self._reading)
        if not self._reading.done.is_set():
            return None  # a thread reads it: the YAML of a large inventory takes seconds
        reading, self._reading = self._reading, None
        self._seen = dict(self._file.stamps)
        config = reading.outcome
        if isinstance(config, ServerError):
            self.refuse(config)
            return None
        if isinstance(config, Exception):
            _log.error("%s: cannot be read", self.current.source, exc_info=config)
            words = f"{self.current.source}: {type(config).__name__}: {config}"
            self.refuse(ServerError(words, hint="a fault of bootfarm's: the log says more"))
            return None
        live = dataclasses.replace(
            self.current,
            **{name: getattr(config, name) for name in _list_live(self.current, config)},
        )
        self.problem = ""
        self._tell_restart(live, config)
        return live

    def take(self, config: Config) -> bool:
        """Put in force what `poll` gave. True when that changed anything."""
        changed = list(_list_changes(self.current, config))
        self.current = config
        if not changed:
            return False
        self.taken += 1
        _log.info("%s: the new text is in force: %s", config.source, _tell_changes(changed, config))
        return True

    def refuse(self, error: ServerError) -> None:
        """Report a bad edit; it is not put in force."""
        self.refusals += 1
        self.problem = f"refused, the last good text stays in force: {error.one_line()}"
        faults = error.faults if isinstance(error, FaultsError) else (error,)
        for fault in faults[:MAX_TOLD]:
            _log.error("refused, the last good text stays in force: %s", fault.one_line())
        if len(faults) > MAX_TOLD:
            _log.error("refused, with %d further faults", len(faults) - MAX_TOLD)

    def _tell_restart(self, live: Config, wanted: Config) -> None:
        restart = tuple(dict.fromkeys(_list_changes(live, wanted)))
        if restart != self.restart and restart:
            _log.warning(
                "%s: restart needed for what was edited in %s",
                wanted.source,
                ", ".join(restart),
            )
        elif self.restart and not restart:
            _log.info("%s: no restart is needed any more", wanted.source)
        self.restart = restart

    def _is_being_written(self, stamps: dict[Path, Stamp | None]) -> bool:
        wall = self._wall()
        return any(
            is_being_written(stamp, self._seen.get(path), wall) for path, stamp in stamps.items()
        )


def _list_live(old: Config, new: Config) -> Iterator[str]:
    """The fields whose new value may count without a restart."""
    yield from LIVE
    if old.dhcp == "off" and old.dns is None:
        yield "address"  # not live where a socket or the zone depends on it
    for name in ("token_file", "boot_tree"):
        if (getattr(old, name) is None) == (getattr(new, name) is None):
            yield name  # with and without a token, other routes are open
    if old.state is not None:
        yield "collect_after"
    if old.dns is not None and new.dns is not None:
        same = dataclasses.replace(old.dns, names=new.dns.names)
        if same == new.dns:
            yield "dns"


def _list_changes(old: Config, new: Config) -> Iterator[str]:
    """The keys of farm.yaml in which two differ, as an operator writes them."""
    for item in dataclasses.fields(Config):
        one, other = getattr(old, item.name), getattr(new, item.name)
        if one == other:
            continue
        if item.name == "fetching":
            for part in ("peers", "images"):
                if getattr(one, part) != getattr(other, part):
                    yield part
            if dataclasses.replace(one, peers=(), images=()) != dataclasses.replace(
                other, peers=(), images=()
            ):
                yield "fetch"
            continue
        if item.name in ("tftp", "nbd", "http"):
            for part in ("port", "limits"):
                if getattr(one, part) != getattr(other, part):
                    yield f"{item.name}.{part}"
            continue
        yield _KEYS.get(item.name, item.name)


def _tell_changes(keys: list[str], config: Config) -> str:
    """The keys, and how many machines there are where the inventory is among them."""
    words = []
    for key in dict.fromkeys(keys):
        count = len(config.inventory.machines)
        many = f" ({count:,} machine{'' if count == 1 else 's'})" if key == "inventory" else ""
        words.append(f"{key}{many}")
    return ", ".join(words)
