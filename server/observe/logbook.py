"""What nodes' kernels and syslogs said, a bounded tail each, kept over restarts of node and server.

A line belongs to the boot that its node's timeline was in when it came, so that
the last words of a kernel that panicked are found after the reset. On disk a
node has one file of JSON lines: [time, boot, source, severity, text].
"""

import json
import logging
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from imagebuild.wholefile import own, write_whole
from server.addresses import parse_mac
from server.nodes.node import TIME_MAX
from server.protocols.logs import TEXT_MAX, LogLine

OVERHEAD: Final = 100
"""What a line costs besides its text, in bytes of memory, roughly."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A line that came. time: seconds since the epoch. source: syslog, netconsole or server."""

    time: float
    boot: int
    source: str
    severity: int
    text: str

    @property
    def is_bad(self) -> bool:
        """Whether the line is of priority error or worse."""
        return LogLine(self.text, self.severity).is_bad

    def pack(self) -> bytes:
        """Its line in the file."""
        fields = [round(self.time, 3), self.boot, self.source, self.severity, self.text]
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class BootLog:
    """The lines of one boot, oldest first. boot: its number in its node's count."""

    boot: int
    entries: Sequence[Entry]


@dataclass
class _Tail:
    entries: deque[Entry] = field(default_factory=deque)
    size: int = 0
    unsaved: list[Entry] = field(default_factory=list)
    on_disk: int = 0
    part: tuple[str, int] = ("", -1)


class LogBook:
    """Tails by node key. limit: bytes of each; nodes: how many, the silent ones go first."""

    def __init__(
        self, directory: Path | None = None, *, limit: int = 65_536, nodes: int = 1000
    ) -> None:
        self._directory = directory
        self._limit = limit
        self._most = nodes
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._dirty: dict[str, None] = {}
        self._gone: set[str] = set()

    def add(self, key: str, boot: int, source: str, lines: Iterable[LogLine], now: float) -> None:
        """Take lines of a node that is in its `boot`-th boot."""
        tail = self._tail(key)
        for line in lines:
            if line.part is not None and line.part[1] > 0 and tail.part == (source, line.part[0]):
                self._join(tail, line)
                continue
            self._append(tail, Entry(now, boot, source, line.severity, line.text))
            tail.part = (source, line.part[0] if line.part is not None else -1)
        if self._directory is not None:
            self._dirty[key] = None

    def boots(self, key: str) -> list[BootLog]:
        """What is kept of a node, by boot, oldest first."""
        tail = self._tails.get(key)
        if tail is None:
            return []
        groups = groupby(sorted(tail.entries, key=lambda entry: entry.boot), lambda one: one.boot)
        return [BootLog(boot, list(entries)) for boot, entries in groups]

    def move(self, old: str, new: str) -> None:
        """A node has got another key: its MAC became known."""
        tail = self._tails.pop(old, None)
        if tail is None:
            return
        self._drop_file(old)
        target = self._tail(new)
        for entry in tail.entries:
            self._append(target, entry)
        if self._directory is not None:
            self._dirty[new] = None

    def forget(self, key: str) -> None:
        """Drop a node's lines, from the disk, too."""
        if self._tails.pop(key, None) is not None:
            self._drop_file(key)

    def __len__(self) -> int:
        return len(self._tails)

    # On disk

    def load(self) -> int:
        """Read what is on disk; damaged lines are left out. The number of nodes."""
        if self._directory is None:
            return 0
        try:
            files = sorted(self._directory.glob("*.log"), key=lambda file: file.stat().st_mtime)
        except OSError:
            return 0
        for file in files:
            key = parse_mac(file.stem) or file.stem  # the other files are named by an IP address
            try:
                size = file.stat().st_size
                with file.open("rb") as stream:
                    stream.seek(max(0, size - 4 * self._limit))
                    data = stream.read(4 * self._limit)
            except OSError as error:
                _log.warning("%s: cannot be read: %s", file, error.strerror)
                continue
            tail = self._tail(key)
            for entry in _unpack(data):
                self._append(tail, entry)
            tail.unsaved.clear()
            tail.on_disk = size
        return len(self._tails)

    def save(self, most: int | None = None) -> int:
        """Write what is new, of at most `most` nodes; how many are left. Raises OSError."""
        if self._directory is None:
            return 0
        if self._dirty or self._gone:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for key in list(self._gone)[:most]:
            self._path(key).unlink(missing_ok=True)
            self._gone.discard(key)
        for key in list(self._dirty)[:most]:
            tail = self._tails.get(key)
            if tail is not None:
                self._write(self._path(key), tail)
            del self._dirty[key]
        return len(self._dirty) + len(self._gone)

    def _write(self, path: Path, tail: _Tail) -> None:
        fresh = b"".join(entry.pack() for entry in tail.unsaved)
        if tail.on_disk + len(fresh) > 2 * self._limit + OVERHEAD:
            whole = b"".join(entry.pack() for entry in tail.entries)
            write_whole(path, whole)
            tail.on_disk = len(whole)
        else:
            with open(path, "ab", opener=own) as stream:
                stream.write(fresh)
            tail.on_disk += len(fresh)
        tail.unsaved.clear()

    # Inside

    def _tail(self, key: str) -> _Tail:
        tail = self._tails.get(key)
        if tail is None:
            while len(self._tails) >= self._most:
                gone, _ = self._tails.popitem(last=False)
                self._drop_file(gone)
            tail = self._tails[key] = _Tail()
            self._gone.discard(key)
        self._tails.move_to_end(key)
        return tail

    def _drop_file(self, key: str) -> None:
        self._dirty.pop(key, None)
        if self._directory is not None:
            self._gone.add(key)

    def _append(self, tail: _Tail, entry: Entry) -> None:
        tail.entries.append(entry)
        if self._directory is not None:
            tail.unsaved.append(entry)
        tail.size += len(entry.text) + OVERHEAD
        while tail.size > self._limit and len(tail.entries) > 1:
            tail.size -= len(tail.entries.popleft().text) + OVERHEAD

    def _join(self, tail: _Tail, line: LogLine) -> None:
        """Go on with the last line: netconsole cuts long messages."""
        last = tail.entries.pop()
        text = (last.text + line.text)[:TEXT_MAX]
        tail.size += len(text) - len(last.text)
        entry = Entry(last.time, last.boot, last.source, last.severity, text)
        tail.entries.append(entry)
        if tail.unsaved:
            tail.unsaved[-1] = entry

    def _path(self, key: str) -> Path:
        assert self._directory is not None
        return self._directory / (key.replace(":", "-").replace("/", "_") + ".log")


def _unpack(data: bytes) -> Iterable[Entry]:
    for line in data.splitlines():
        try:
            time, boot, source, severity, text = json.loads(line)
            entry = Entry(
                float(time), int(boot), str(source), int(severity), str(text)[: TEXT_MAX + 100]
            )
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue  # half a line, where a machine went off
        if 0 <= entry.time < TIME_MAX:  # nor is a NaN
            yield entry


def pack_boots(boots: Iterable[BootLog]) -> list[dict[str, Any]]:
    """As `/api/nodes/<key>/log` has them."""
    return [
        {
            "boot": one.boot,
            "lines": [
                {
                    "time": round(entry.time, 3),
                    "source": entry.source,
                    "severity": entry.severity,
                    "text": entry.text,
                }
                for entry in one.entries
            ],
        }
        for one in boots
    ]
