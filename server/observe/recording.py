"""`serve --record-boot DIR`: what real boots fetch and read, for `bootfarm simulate`.

One file a boot, of JSON lines (docs/contracts.md, "Recorded boots"); written
as it comes, and renamed from `.part` when the boot is over: when the node says
that it is ready, begins anew, or is not heard of any more. Bounded in files,
lines and reads.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from imagebuild.wholefile import check_writable
from server.errors import ServerError
from server.events import Event
from server.nodes.node import Node
from server.protocols.nbd_tap import unpack_reads

FORMAT: Final = 1
"""Of a recording's first line (docs/contracts.md, "Recorded boots")."""
MAX_OPEN: Final = 256
"""Boots that are recorded at a time."""
MAX_BOOTS: Final = 10_000
"""Files in all; then recording ends."""
MAX_LINES: Final = 5000
"""Of one recorded boot: a client that asks for ever fills no disk."""
MAX_READS: Final = 200_000
"""Of one recorded boot, for the same reason."""
SILENT_SECONDS: Final = 300.0
"""A boot that has asked for nothing for so long is over."""
AFTER_READY_SECONDS: Final = 5.0
"""The last reads come a few seconds late (services/nbd.py)."""
_log = logging.getLogger(__name__)


@dataclass
class _Boot:
    """One boot that is being recorded."""

    started: float
    path: Path
    file: TextIO
    lines: int = 0
    reads: int = 0
    last: float = 0.0
    ready: float | None = None


class Recorder:
    """Writes boots into a directory. All methods belong to the loop's thread."""

    def __init__(self, directory: Path, wall: Callable[[], float] = time.time) -> None:
        """Raises ServerError when the directory cannot be written to."""
        self._directory = directory
        self._wall = wall
        self._boots: dict[str, _Boot] = {}
        self._done: dict[str, float] = {}
        self._count = 0
        self._full = ""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            check_writable(directory)
        except OSError as error:
            raise ServerError(
                f"--record-boot {directory}: {error.strerror}",
                hint="give a directory that the server's user may write to",
            ) from None

    def take(self, event: Event, node: Node | None) -> None:
        """Write an event of a service into the recording of its boot.

        node: in whose timeline it stands.
        """
        if not event.node:
            return
        if event.source == "beacon" and event.phase == "ready":
            boot = self._boots.get(event.node)
            if boot is not None and boot.ready is None:
                boot.ready = event.time
            return
        detail = event.detail
        if event.phase == "transfer" and detail.get("status") in ("ok", "stop"):
            path = str(detail.get("path") or detail.get("file") or "")
            boot = self._find(event, node)
            if boot is None or not path.startswith("/"):
                return
            seconds = float(detail.get("seconds") or 0.0)
            line: dict[str, Any] = {
                "t": round(max(0.0, event.time - seconds - boot.started), 6),
                "via": event.source,
                "path": path,
                "bytes": detail.get("bytes"),
                "seconds": seconds,
            }
            if event.source == "tftp":
                line["options"] = str(detail.get("options") or "")
                line["retries"] = detail.get("retries")
                if detail.get("status") == "stop":
                    line["stopped"] = True
            self._write(event.node, boot, line)
        elif event.source == "nbd" and event.phase == "reads":
            boot = self._find(event, node)
            if boot is not None:
                self._take_reads(event, boot)

    def _take_reads(self, event: Event, boot: _Boot) -> None:
        reads = unpack_reads(str(event.detail["reads"]), float(event.detail["zero"]))
        reads = reads[: MAX_READS - boot.reads]
        if not reads:
            return
        boot.reads += len(reads)
        line = {
            "t": round(reads[0][0] - boot.started, 6),
            "via": "nbd",
            "export": event.detail["export"],
            "size": event.detail["size"],
            "connection": event.detail["connection"],
            "reads": [
                [round((at - boot.started) * 1e6), offset, length] for at, offset, length in reads
            ],
        }
        self._write(event.node, boot, line)

    def poll(self) -> None:
        """End the recordings of boots that are over. Call it every second or so."""
        now = self._wall()
        for key, boot in list(self._boots.items()):
            ready = boot.ready is not None and now - boot.ready > AFTER_READY_SECONDS
            if ready or now - boot.last > SILENT_SECONDS:
                self._end(key)

    def close(self) -> None:
        """End every recording: the server stops."""
        for key in list(self._boots):
            self._end(key)

    def _find(self, event: Event, node: Node | None) -> _Boot | None:
        """The recording that an event belongs to; begun here if the event begins a boot."""
        key = event.node
        started = node.boot.started if node is not None and node.boot is not None else None
        boot = self._boots.get(key)
        if boot is not None and started is not None and started > boot.last:
            self._end(key)  # the node has begun a new boot
            boot = None
        if boot is None:
            if started is None:
                return None
            if self._done.get(key) == started:
                return None  # over: a running node reads for ever
            boot = self._begin(key, started)
        if boot is not None:
            boot.last = max(boot.last, event.time)
        return boot

    def _begin(self, key: str, started: float) -> _Boot | None:
        if len(self._boots) >= MAX_OPEN or self._count >= MAX_BOOTS:
            self._say_full(
                f"{self._directory}: a boot of {key} is not recorded: there are too many"
            )
            return None
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started))
        name = re.sub(r"[^0-9A-Za-z.-]", "-", key)
        path = self._directory / f"{stamp}-{name}.jsonl"
        try:
            file = path.with_suffix(".part").open("w")
        except OSError as error:
            self._say_full(f"{path}: {error.strerror}; the boot is not recorded")
            return None
        self._count += 1
        boot = self._boots[key] = _Boot(started, path, file)
        self._write(key, boot, {"format": FORMAT, "node": key, "started": round(started, 3)})
        return boot

    def _write(self, key: str, boot: _Boot, line: Mapping[str, Any]) -> None:
        if boot.lines >= MAX_LINES:
            return
        boot.lines += 1
        try:
            boot.file.write(json.dumps(line, separators=(",", ":")) + "\n")
        except OSError as error:
            self._say_full(f"{boot.path}: {error.strerror}; the recording is cut")
            boot.lines = MAX_LINES

    def _end(self, key: str) -> None:
        boot = self._boots.pop(key)
        self._done[key] = boot.started
        try:
            boot.file.close()
            boot.path.with_suffix(".part").rename(boot.path)
            _log.info("%s: the boot of %s, %s reads", boot.path, key, boot.reads)
        except OSError as error:
            self._say_full(f"{boot.path}: {error.strerror}; the boot is not recorded")

    def _say_full(self, message: str) -> None:
        if message != self._full:
            _log.warning("%s", message)
        self._full = message
