"""lts.conf, its secrets and the store, watched: the last good of each makes the Site served.

A good edit counts from the next request on. A bad one is refused with its
reason, and what was good before stays in force, over a restart too (`--state`).
Files that are replaced (rename, kubelet's `..data` link) are taken at once;
one that is written in place only after it has been left alone for a moment,
for nobody can tell half of a file from a whole one.
"""

import base64
import dataclasses
import functools
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from imagebuild.manifest import is_digest, is_image_name
from imagebuild.store import Image, Store
from server.boottree import Site
from server.errors import ServerError
from server.ltsconf import LtsConf, LtsTemplate, is_template
from server.ltsconf.files import make_reader, read_main
from server.ltsconf.scan import Included, ReadInclude
from server.ltsconf.template import shared_checker
from server.secretsource import SecretsSource
from server.stamp import Stamp, is_being_written

LAST_GOOD = "lts.conf.json"
MAX_INCLUDES = 256
_TRIES = 5
_INCLUDE = re.compile(rb"^[ \t]*include[ \t]+([^\r\n#]+)", re.MULTILINE)
_log = logging.getLogger(__name__)


class LtsConfSource:
    """The lts.conf in force. path: None serves an empty one. state: where the last good is kept."""

    def __init__(
        self,
        path: Path | None,
        state: Path | None,
        *,
        wall: Callable[[], float] = time.time,
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.path = path
        self.problem = ""
        self.taken = self.refusals = 0
        self.taken_at: float | None = None
        """Seconds since the epoch; None: no text was good yet."""
        self.current: LtsConf | LtsTemplate = LtsConf.parse(b"")
        self._state = state
        self._wall = wall
        self._refused = refused
        self._seen: dict[Path, Stamp | None] = {}

    def load_first(self) -> None:
        """Read the file; when it is bad, fall back to the last good one.

        Raises ServerError (file, line, remedy) when there is no last good one.
        """
        if self.path is None:
            return
        try:
            self._take(self.path)
        except ServerError as error:
            kept = self._load_kept()
            if kept is None:
                raise
            self.current = kept
            self._refuse(error)

    def poll(self) -> bool:
        """Look whether the file has changed, and take it if it is good. True when it was taken."""
        if self.path is None or not self._has_changed():
            return False
        if self._is_being_written():
            return False
        try:
            self._take(self.path)
        except _MovingError as error:
            _log.debug("%s", error.format_message())  # the next look finds it still changed
            return False
        except ServerError as error:
            self._refuse(error)
            return False
        _log.info("%s: the new text is in force", self.path)
        return True

    def _has_changed(self) -> bool:
        """Whether there is something to read: also when nothing could be read yet."""
        return not self._seen or any(Stamp.of(path) != seen for path, seen in self._seen.items())

    def _is_being_written(self) -> bool:
        wall = self._wall()
        return any(
            is_being_written(Stamp.of(path), seen, wall) for path, seen in self._seen.items()
        )

    def _take(self, path: Path) -> None:
        """Read, parse, keep. Raises ServerError, and then nothing has changed but `_seen`.

        Raises _MovingError, and then nothing at all has changed, when the files
        were replaced during each of a few readings.
        """
        for _ in range(_TRIES):
            reader = _Reader(path)
            error = None
            conf: LtsConf | LtsTemplate | None = None
            try:
                conf = reader.load()
            except ServerError as problem:
                error = problem
            if reader.is_unmoved():
                break
        else:
            raise _MovingError(
                f"{path}: was replaced again each time it was read",
                hint="Let whatever writes it rest for a second.",
            )
        self._seen = reader.prints
        if conf is None:
            raise error or ServerError(f"{path}: cannot be read")
        self.current = conf
        self.problem = ""
        self.taken += 1
        self.taken_at = self._wall()
        self._keep(reader.texts)

    def _refuse(self, error: ServerError) -> None:
        self.refusals += 1
        reason = format_reason(error)
        self.problem = f"lts.conf refused, the last good text stays in force: {reason}"
        _log.error("%s", self.problem)
        self._refused(reason)

    def _keep(self, texts: dict[str, bytes]) -> None:
        if self._state is None:
            return
        packed = {name: base64.b64encode(text).decode() for name, text in texts.items()}
        data = {"format": 1, "main": str(self.path), "texts": packed}
        try:
            # A name of its own: another process of this directory may be as far.
            handle, beside = tempfile.mkstemp(prefix=f".{LAST_GOOD}.", dir=self._state)
            try:
                with open(handle, "w") as file:
                    json.dump(data, file)
                os.replace(beside, self._state / LAST_GOOD)
            except OSError:
                os.unlink(beside)
                raise
        except OSError as error:
            _log.error("the last good lts.conf cannot be kept in %s: %s", self._state, error)

    def _load_kept(self) -> LtsConf | LtsTemplate | None:
        if self._state is None:
            return None
        try:
            data = json.loads((self._state / LAST_GOOD).read_bytes())
            texts = {
                name: base64.b64decode(text, validate=True) for name, text in data["texts"].items()
            }
            return _parse(texts, str(data["main"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ServerError) as error:
            _log.error("%s cannot be used: %s", self._state / LAST_GOOD, error)
            return None


def format_reason(error: ServerError) -> str:
    """What is wrong and the remedy, on one line."""
    return error.format_message().replace("\n  hint: ", "; ")


class _MovingError(ServerError):
    """The files change faster than they can be read as one generation."""


class _Reader:
    """Reads one lts.conf and its includes from one generation of the directory.

    texts: what was read, the file itself under "". prints: the file's and its
    includes' stamps from before they were read, None for one that is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.prints: dict[Path, Stamp | None] = {path: Stamp.of(path)}
        # kubelet's `..data` link may move while we read: all of it is read from what
        # it leads to now, and counts only if it leads there still when all was read.
        self._real = Path(os.path.realpath(path))
        self._root = self._real.parent
        self.texts: dict[str, bytes] = {}

    def is_unmoved(self) -> bool:
        """Whether what was read is one generation: nothing was replaced meanwhile."""
        return Path(os.path.realpath(self._path)) == self._real and all(
            Stamp.of(file) == seen for file, seen in self.prints.items()
        )

    def load(self) -> LtsConf | LtsTemplate:
        main = read_main(self._real)
        self.texts[""] = main.data or b""
        find = make_reader(self._root, main)

        def read_include(name: bytes) -> Included | None:
            inside = os.path.normpath(f"/{os.fsdecode(name)}").lstrip("/")
            place = self._root / inside
            self.prints[place] = Stamp.of(place)
            found = find(name)
            if found is not None and found.data is not None:
                self.texts[os.fsdecode(name)] = found.data
            return found

        if is_template(self.texts[""]):
            # Which include a node's rendering reaches shows later, when kubelet
            # may have replaced the directory: they all are read now.
            _read_all(self.texts, read_include)
            return _parse(self.texts, str(self._path))
        return LtsConf.parse(self.texts[""], read_include, path=str(self._path))


def _read_all(texts: Mapping[str, bytes], read_include: ReadInclude) -> None:
    """Have every include of a text read that an include line names, and theirs."""
    known: set[bytes] = set()
    new = find_includes(texts[""])
    while new and len(known) < MAX_INCLUDES:
        known.add(name := new.pop())
        found = read_include(name)
        if found is not None and found.data is not None:
            new |= find_includes(found.data) - known


def find_includes(text: bytes) -> set[bytes]:
    """The paths of lines that may be include lines; more than LTSP 5 reads, but none less."""
    names = (found.strip() for found in _INCLUDE.findall(text))
    return {name.strip(b'"').strip() for name in names} - {b""}


def _parse(texts: Mapping[str, bytes], path: str) -> LtsConf | LtsTemplate:
    """What texts that were read say, or how it is rendered."""
    read_include = functools.partial(_read_kept, dict(texts))
    if not is_template(texts[""]):
        return LtsConf.parse(texts[""], read_include, path=path)
    template = LtsTemplate.parse(texts[""], read_include, path=path)
    template.check(shared_checker())
    return template


def _read_kept(texts: Mapping[str, bytes], name: bytes) -> Included | None:
    word = os.fsdecode(name)
    return Included(("kept", word), word, texts[word]) if word in texts else None


class StoreSource:
    """The images that are served."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: tuple[Image, ...] = ()
        self._damaged: tuple[str, ...] = ()
        self._vanished = ""
        self._store = Store(path)
        self._seen: tuple[object, ...] = ()
        self._stamps: tuple[object, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the store, a line each."""
        return (self._vanished, *self._damaged) if self._vanished else self._damaged

    def poll(self, *, quick: bool = False) -> bool:
        """Look for new images and moved tags. True when there were any.

        quick: by the directories' time stamps only, which the file system's
        clock may tick too slowly for.
        """
        stamps = self._stamp()
        if quick and stamps == self._stamps:
            return False
        self._stamps = stamps
        seen = self._fingerprint()
        if seen == self._seen:
            self._vanished = ""
            return False
        images = tuple(self._store.images())
        if not images and self.images:
            if not self._vanished:
                self._vanished = f"the store {self.path} holds no image any more"
                _log.error("%s; what was there before stays on offer", self._vanished)
            return False
        self._vanished = ""
        self._seen = seen
        self.images = images
        loaded = {(image.name, image.digest) for image in images}
        self._damaged = tuple(
            f"image {name}@{digest[:12]} in {self.path} is damaged and not served"
            for name, digest in _list_digests(self.path)
            if (name, digest) not in loaded
        )
        return True

    def _names(self) -> list[Path]:
        try:
            return sorted(path for path in (self.path / "images").iterdir() if path.is_dir())
        except OSError:
            return []

    def _stamp(self) -> tuple[object, ...]:
        paths = [self.path / "images"]
        for name in self._names() if not self._stamps else self._known_names():
            paths += [name, name / "tags"]
        return tuple(Stamp.of(path) for path in paths)

    def _known_names(self) -> list[Path]:
        return [self.path / "images" / name for name in sorted({i.name for i in self.images})]

    def _fingerprint(self) -> tuple[object, ...]:
        """Every digest and where every tag leads."""
        found: list[object] = list(_list_digests(self.path))
        for name in self._names():
            try:
                tags = sorted(os.listdir(name / "tags"))
            except OSError:
                continue
            for tag in tags:
                try:
                    found.append((name.name, tag, os.readlink(name / "tags" / tag)))
                except OSError:
                    continue
        return tuple(found)


class NoStore(StoreSource):
    """No store at all: only what `--export` and `--boot-tree` name is served."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def poll(self, *, quick: bool = False) -> bool:
        return False


def _list_digests(store: Path) -> list[tuple[str, str]]:
    found = []
    try:
        for name in os.listdir(store / "images"):
            if is_image_name(name):
                for digest in os.listdir(store / "images" / name):
                    if is_digest(digest):
                        found.append((name, digest))
    except OSError:
        pass  # gone while we looked; the next look tells
    return sorted(found)


class Sources:
    """All together: gives the Site that holds now."""

    def __init__(
        self,
        base: Site,
        ltsconf: LtsConfSource,
        store: StoreSource,
        secrets: SecretsSource | None = None,
    ) -> None:
        self.ltsconf = ltsconf
        self.store = store
        self.secrets = secrets or SecretsSource(None)
        self._site = base
        self._changed: list[Callable[[], None]] = []
        self._rebuild()

    @property
    def current(self) -> Site:
        """The Site as it was last seen, without another look."""
        return self._site

    def on_change(self, action: Callable[[], None]) -> None:
        """Have `action` called whenever the Site was replaced."""
        self._changed.append(action)

    def site(self) -> Site:
        """The present Site, after a look at the files' time stamps."""
        if self.ltsconf.poll() | self.secrets.poll(quick=True) | self.store.poll(quick=True):
            self._rebuild()
        return self._site

    def poll(self) -> None:
        """The thorough look, once a second."""
        if self.ltsconf.poll() | self.secrets.poll() | self.store.poll():
            self._rebuild()

    def problems(self) -> list[str]:
        """What is not as it should be, a line each."""
        problems = [text for text in (self.ltsconf.problem, self.secrets.problem) if text]
        if not self.store.images and not self._site.extras:
            problems.append(f"the store {self.store.path} holds no image: build or import one")
        return [*problems, *self.store.problems]

    def _rebuild(self) -> None:
        self._site = dataclasses.replace(
            self._site,
            images=self.store.images,
            ltsconf=self.ltsconf.current,
            secrets=self.secrets.current,
        )
        for action in self._changed:
            action()
