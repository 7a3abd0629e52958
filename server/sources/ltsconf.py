"""The lts.conf in force, watched; the last good one is kept.

A good edit counts from the next request on. A bad one is refused with its
reason, and what was good before stays in force, over a restart too (`--state`).
Files that are replaced (rename, kubelet's `..data` link) are taken at once;
one that is written in place only after it has been left alone for a moment,
for nobody can tell half of a file from a whole one.
"""

import base64
import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from imagebuild.wholefile import write_whole
from server.background import Background, Job
from server.errors import ServerError
from server.ltsconf import Conf, LtsConf, LtsConfError, is_template, parse_conf
from server.ltsconf.files import make_reader, read_main
from server.ltsconf.scan import Included, ReadInclude
from server.ltsconf.template import shared_checker
from server.site import Site
from server.sources.stamp import Stamp, is_being_written
from server.sources.trial import Rehearser

LAST_GOOD = "lts.conf.json"
MAX_INCLUDES = 256
"""Files that are read for one template."""
_TRIES = 5
"""Readings in a row that may each be overtaken by another edit."""
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
        site: Callable[[], Site] | None = None,
        rehearser: Rehearser | None = None,
    ) -> None:
        """rehearser: tries a text on machines, with what else the site has.

        Without one it is not tried on any: what is no template is refused, and no more.
        """
        self.path = path
        self.problem = ""
        self.taken = self.refusals = 0
        self.taken_at: float | None = None
        """Seconds since the epoch; None: no text was good yet."""
        self.current: Conf = LtsConf.parse(b"")
        self.digest = ""
        """SHA-256 of the text in force with its includes; "" where it is not known, or none."""
        self.keep_problem = ""
        """Why the text in force could not be written down, or ""."""
        self._unkept: bytes | None = None
        self._state = state
        self._wall = wall
        self._refused = refused
        self._seen: dict[Path, Stamp | None] = {}
        self.site = site
        self._rehearser = rehearser
        self._background = Background()
        self._trial: tuple[Job[bool], _Text] | None = None

    def load_first(self) -> None:
        """Read the file; when it is bad, fall back to the last good one.

        Raises ServerError (file, line, remedy) when there is no last good one.
        """
        if self.path is None:
            return
        try:
            text = self._read(self.path)
            self._decide(text.conf)
        except ServerError as error:
            kept = self._load_kept()
            if kept is None and error.cause == "command_line":
                # Each machine's menu says what is wrong; one that boots by GRUB may still boot so.
                self._take(self._read(self.path))
                return
            if kept is None:
                raise
            self.current = kept
            self._refuse(error)
        else:
            self._take(text)

    def move(self, path: Path | None) -> None:
        """Take it from another file at the next look; until that is good, the last good counts.

        None: nodes get the images' defaults.
        """
        self._drop_trial()
        self.path = path
        self._seen = {}
        if path is None:
            self.current, self.digest, self.problem = LtsConf.parse(b""), "", ""
            self._unkept, self.keep_problem = None, ""

    def look_again(self) -> None:
        """Read it at the next look, whether or not it has changed."""
        self._seen = {}

    def poll(self, edited: bool | None = None) -> bool:
        """Look whether the file has changed, and take it if it is good. True when it was taken.

        edited: the answer of `has_changed` just now, where the caller has it.
        """
        if self.path is None:
            return False
        self._write_kept()
        if (
            not self._seen or (self.has_changed() if edited is None else edited)
        ) and not self._is_being_written():
            self._drop_trial()
            try:
                text = self._read(self.path)
                if text.conf.needs_rendering and self._rehearser is not None:
                    # Rendering takes its time, and the loop may not wait for it.
                    job = self._background.submit(self._make_decision(text.conf))
                    self._trial = (job, text)
                else:
                    self._decide(text.conf)
                    return self._put_in_force(text)
            except _MovingError as error:
                _log.debug("%s", error.format_message())  # the next look finds it still changed
                return False
            except ServerError as error:
                self._refuse(error)
                return False
        return self._finish_trial()

    @property
    def is_trying(self) -> bool:
        """Whether a text that was read waits for its trial; until then the one before stays in
        force."""
        return self._trial is not None

    def _finish_trial(self) -> bool:
        if self._trial is None or not self._trial[0].done.is_set():
            return False
        job, text = self._trial
        self._trial = None
        outcome = job.outcome
        if isinstance(outcome, ServerError):
            self._refuse(outcome)
            return False
        if isinstance(outcome, Exception):
            raise outcome
        return self._put_in_force(text)

    def _drop_trial(self) -> None:
        """Cancel the trial of a text that has been replaced."""
        if self._trial is not None:
            self._trial[0].cancelled = True
            self._trial = None

    def _put_in_force(self, text: "_Text") -> bool:
        self._take(text)
        _log.info("%s: the new text is in force", self.path)
        return True

    def _make_decision(self, conf: Conf) -> Callable[[], bool]:
        """Whether the text may be put in force, to be asked in any thread."""
        if self._rehearser is None or self.site is None:
            return functools.partial(_check_alone, conf)
        return self._rehearser.make_decision(conf, self.site())

    def _decide(self, conf: Conf) -> None:
        """Raise ServerError if no machine could use the text, or if it has become empty."""
        if not conf.has_sections and self._has_sections():
            raise LtsConfError(
                "there is no section in it any more",
                path=str(self.path),
                hint="Write [default] and a line below it; or take lts_conf out of farm.yaml.",
            )
        self._make_decision(conf)()

    def _has_sections(self) -> bool:
        """Whether what is in force, or was kept, gives nodes anything."""
        conf = self.current if self.taken else self._load_kept()
        return conf is not None and conf.has_sections

    def has_changed(self) -> bool:
        """Whether there is something to read: also when nothing could be read yet."""
        if self.path is None:
            return False
        return not self._seen or any(Stamp.of(path) != seen for path, seen in self._seen.items())

    def _is_being_written(self) -> bool:
        wall = self._wall()
        return any(
            is_being_written(Stamp.of(path), seen, wall) for path, seen in self._seen.items()
        )

    def _read(self, path: Path) -> "_Text":
        """Read and parse. Raises ServerError, and then nothing has changed but `_seen`.

        Raises _MovingError, and then nothing at all has changed, when the files
        were replaced during each of a few readings.
        """
        for _ in range(_TRIES):
            reader = _Reader(path)
            error = None
            conf: Conf | None = None
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
        return _Text(conf, reader.texts)

    def _take(self, text: "_Text") -> None:
        """Put a text in force that passed its trial, and keep it."""
        self.current = text.conf
        self.digest = _digest(text.texts)
        self.problem = ""
        self.taken += 1
        self.taken_at = self._wall()
        self._keep(text.texts)

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
        self._unkept = json.dumps(data).encode()
        self._write_kept()

    def _write_kept(self) -> None:
        """Keep the text in force; until that is done, each look tries again."""
        if self._state is None or self._unkept is None:
            return
        file = self._state / LAST_GOOD
        try:
            write_whole(file, self._unkept)
        except OSError as error:
            problem = (
                f"the lts.conf in force cannot be kept in {file}: {error.strerror}; a server that"
                " starts while lts.conf is wrong would take an older one, or none"
            )
            if problem != self.keep_problem:
                _log.error("%s", problem)
            self.keep_problem = problem
        else:
            self._unkept, self.keep_problem = None, ""

    def _load_kept(self) -> Conf | None:
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


def _digest(texts: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for name, text in sorted(texts.items()):
        found.update(f"{name}\0{len(text)}\0".encode("utf-8", "surrogateescape") + text)
    return found.hexdigest()


def _check_alone(conf: Conf) -> bool:
    """What can be said without a machine.

    Raises LtsConfError for a template with a fault in its syntax.
    """
    conf.check(shared_checker())
    return True


def format_reason(error: ServerError) -> str:
    """What is wrong and the remedy, on one line."""
    return error.format_message().replace("\n  hint: ", "; ")


@dataclasses.dataclass(frozen=True)
class _Text:
    """A text that could be parsed, and the bytes that it was read from (the file's under "")."""

    conf: Conf
    texts: dict[str, bytes]


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

    def load(self) -> Conf:
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
    """Read every include that an include line of a text names, and the includes of these."""
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


def _parse(texts: Mapping[str, bytes], path: str) -> Conf:
    """What texts that were read say; of a template, how it is rendered."""
    read_include = functools.partial(_read_kept, dict(texts))
    return parse_conf(Included("main", path, texts[""]), read_include)


def _read_kept(texts: Mapping[str, bytes], name: bytes) -> Included | None:
    word = os.fsdecode(name)
    return Included(("kept", word), word, texts[word]) if word in texts else None
