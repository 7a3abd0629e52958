"""The directory of secrets for templates, watched: a mounted Secret, or any directory of files.

Values live in this process's memory (and its workers'), and nowhere else.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from server.errors import ServerError
from server.ltsconf import LtsConfError, read_secrets
from server.ltsconf.template import MAX_DEPTH, MAX_SECRETS
from server.sources.stamp import Stamp, is_being_written

_DATA = "..data"
_TRIES = 5
"""Readings, one after the other, until no file changes during one."""
_log = logging.getLogger(__name__)

_Stamps = dict[Path, Stamp | None]


class SecretsSource:
    """The secrets in force. path: None has none."""

    def __init__(self, path: Path | None, *, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self.problem = ""
        self.current: Mapping[str, Any] = {}
        self._wall = wall
        self._seen: _Stamps = {}
        self._quick: _Stamps = {}

    def load_first(self) -> None:
        """Read them; ServerError (which file, what is wrong, remedy) when that is not possible."""
        if self.path is not None:
            self._take(self.path)

    def move(self, path: Path | None) -> None:
        """Take them from another directory; ServerError, and nothing has changed, if it is bad."""
        if path is None:
            self.current, self.problem = {}, ""
        else:
            self._take(path)
        self.path = path

    def look_again(self) -> None:
        """Read them at the next thorough look, whether or not they have changed."""
        self._seen = {}

    def poll(self, *, quick: bool = False) -> bool:
        """Look whether something has changed, and take it if it is good. True when it was taken.

        quick: notices files that come and go, as in kubelet's `..data` swap, and
        leaves what is written in place to the next thorough look.
        """
        if self.path is None:
            return False
        if quick and _stamp_directory(self.path) == self._quick:
            return False
        now = _stamp_files(self.path)
        if now == self._seen:
            return False
        wall = self._wall()
        if any(
            is_being_written(stamp, self._seen.get(file), wall) and os.path.isfile(file)
            for file, stamp in now.items()
        ):
            return False
        before = self.current
        try:
            self._take(self.path)
        except ServerError as error:
            self.problem = f"secrets refused, the last good ones stay in force: {error.one_line()}"
            _log.error("%s", self.problem)
            return False
        return self.current != before

    def _take(self, path: Path) -> None:
        for _ in range(_TRIES):
            self._quick = _stamp_directory(path)
            before = _stamp_files(path)
            error = None
            secrets: dict[str, Any] = {}
            try:
                secrets = read_secrets(path)
                _refuse_emptied(self.current, secrets, path)
            except LtsConfError as problem:
                error = problem
            if before == _stamp_files(path):
                break  # nothing moved while they were read
        self._seen = before
        if error is not None:
            raise error
        self.current = secrets
        self.problem = ""


def _refuse_emptied(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """LtsConfError for a file that had a secret and is empty now, as `> token` leaves it."""
    for name, before in old.items():
        after = new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            _refuse_emptied(before, after, path / name)
        elif str(before).strip() and isinstance(after, str) and not after.strip():
            raise LtsConfError(
                "is empty now, and held a secret",
                path=str(path / name),
                hint="Write the secret into it, or remove the file.",
            )


def _stamp_directory(path: Path) -> _Stamps:
    return {place: Stamp.of(place) for place in (path, path / _DATA)}


def _stamp_files(path: Path) -> _Stamps:
    # A directory of more than that is refused: its end does not matter.
    files = islice(_list_files(path, MAX_DEPTH), MAX_SECRETS + 1)
    return {path: Stamp.of(path), **{file: Stamp.of(file) for file in files}}


def _list_files(path: Path, depth: int) -> Iterator[Path]:
    """All that read_secrets looks at, and kubelet's link."""
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return
    for name in names:
        if name.startswith(".") and name != _DATA:
            continue
        yield path / name
        if name != _DATA and depth and os.path.isdir(path / name):
            yield from _list_files(path / name, depth - 1)
