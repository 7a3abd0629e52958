"""A recorded boot (docs/contracts.md, "Recorded boots") as the steps that simulated nodes take."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from imagebuild.wholefile import read_whole
from server.errors import ServerError
from server.nodes.phases import phase_of_path

FORMAT: Final = 1
"""Of the recordings that can be played."""
DEFAULT: Final = Path(__file__).parent / "profiles" / "demo.jsonl"
"""Recorded from a real boot of the demo's image; docs/simulate.md says how."""
MAX_DEPTH: Final = 64
"""Most reads that are sent at once."""
_DIGEST: Final = re.compile(r"@[0-9a-f]{64}")
_NAME: Final = re.compile(r"^/ltsp/([^/]+)/")


@dataclass(frozen=True)
class Fetch:
    """A file over TFTP or HTTP. path: with `{image}` and `{digest}` in it. at: seconds
    since the boot's start. probe: only its size is asked for. blksize 0: no option."""

    via: Literal["tftp", "http"]
    path: str
    size: int
    at: float
    blksize: int = 0
    windowsize: int = 0
    tsize: bool = False
    probe: bool = False

    @property
    def phase(self) -> str:
        """The boot's phase that the path tells (docs/boot.md)."""
        return phase_of_path(self.path) or "loader"


@dataclass(frozen=True)
class Reads:
    """NBD reads in order. groups: (offset, length) of those that were asked for together;
    times: seconds since the boot's start, one a group."""

    groups: tuple[tuple[tuple[int, int], ...], ...]
    times: tuple[float, ...]
    phase: str = "root"

    @property
    def at(self) -> float:
        """Seconds since the boot's start."""
        return self.times[0]

    @property
    def size(self) -> int:
        """Bytes of all reads."""
        return sum(length for group in self.groups for _, length in group)

    @property
    def count(self) -> int:
        """How many reads there are."""
        return sum(map(len, self.groups))


Step = Fetch | Reads


@dataclass(frozen=True)
class Profile:
    """One boot. image, digest: of the recorded image; export_size: bytes of its root."""

    name: str
    steps: tuple[Step, ...]
    image: str
    digest: str
    export_size: int

    @property
    def phases(self) -> tuple[str, ...]:
        """In the order in which a node comes through them."""
        return tuple(dict.fromkeys(step.phase for step in self.steps))

    @property
    def bytes(self) -> int:
        """Bytes of all files and reads, as recorded."""
        return sum(step.size for step in self.steps)

    def fitted(self, export_size: int) -> "Profile":
        """For a root of another size: reads beyond its end are folded back into it."""
        if export_size == self.export_size:
            return self
        steps = tuple(
            _fold(step, export_size) if isinstance(step, Reads) else step for step in self.steps
        )
        return replace(self, steps=steps, export_size=export_size)


def _fold(reads: Reads, size: int) -> Reads:
    groups = []
    for group in reads.groups:
        folded = []
        for offset, length in group:
            length = min(length, size)
            if offset + length > size:
                offset = (offset % max(1, size - length)) & ~511
            folded.append((offset, length))
        groups.append(tuple(folded))
    return replace(reads, groups=tuple(groups))


MAX_BYTES = 256 * 2**20
"""Of a recording: one of a boot has some hundred kilobytes."""


def load_profile(path: Path) -> Profile:
    """Read a recording. ServerError names the line that is wrong, or that nothing is in it."""
    try:
        text = read_whole(path, MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else error
        raise ServerError(
            f"--profile {path}: {words}", hint="give a file that `serve --record-boot` wrote"
        ) from None
    return parse_profile(text.splitlines(), path.name)


def parse_profile(lines: Iterable[str], name: str) -> Profile:
    """The steps of a recording's lines, in the order in which they began."""
    steps: list[Step] = []
    reads: list[tuple[float, int, int, object]] = []
    size = 0
    image = digest = ""
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            if number == 1:
                if line["format"] != FORMAT:
                    raise ServerError(
                        f"{name}: format {line['format']}, not {FORMAT}",
                        hint="record it again with this bootfarm",
                    )
                continue
            if line["via"] == "nbd":
                size = size or int(line["size"])
                digest = digest or str(line["export"]).partition("@")[2]
                connection = line.get("connection")
                for at, offset, length in line["reads"]:
                    reads.append((int(at) / 1e6, _natural(offset), _natural(length), connection))
                continue
            step = _parse_fetch(line)
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(
                f"{name}:{number}: not a line of a recorded boot: {error!r}",
                hint="give a file that `serve --record-boot` wrote",
            ) from None
        found = _NAME.match(step.path)
        if found and not image:
            image = found[1]
        path = _DIGEST.sub("@{digest}", step.path)
        if found:
            path = _NAME.sub("/ltsp/{image}/", path)
        steps.append(replace(step, path=path))
    steps += _group(sorted(reads, key=lambda read: read[0]), [step.at for step in steps])
    if not steps:
        raise ServerError(f"{name}: nothing was fetched", hint="record a whole boot")
    steps.sort(key=lambda step: step.at)
    return Profile(name, tuple(steps), image, digest, size)


def _natural(value: Any) -> int:
    number = int(value)
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number


def _parse_fetch(line: dict[str, Any]) -> Fetch:
    via, path = line["via"], str(line["path"])
    if via not in ("tftp", "http") or not path.startswith("/"):
        raise ValueError(f"{via} {path}")
    options = dict(word.partition("=")[::2] for word in str(line.get("options") or "").split())
    return Fetch(
        via=via,
        path=path,
        size=_natural(line["bytes"] or 0),
        at=float(line["t"]),
        blksize=int(options.get("blksize", 0)),
        windowsize=int(options.get("windowsize", 0)),
        tsize="tsize" in options,
        probe=bool(line.get("stopped")),
    )


def _group(reads: list[tuple[float, int, int, object]], cuts: list[float]) -> Iterator[Reads]:
    """Reads that came together, as groups; cut where files were fetched in between."""
    groups: list[list[tuple[int, int]]] = []
    times: list[float] = []
    last: tuple[float, object] | None = None
    for at, offset, length, connection in reads:
        if times and any(times[-1] < cut <= at for cut in cuts):
            yield _make_reads(groups, times)
            groups, times, last = [], [], None
        if last == (at, connection) and len(groups[-1]) < MAX_DEPTH:
            groups[-1].append((offset, length))
        else:
            groups.append([(offset, length)])
            times.append(at)
        last = (at, connection)
    if groups:
        yield _make_reads(groups, times)


def _make_reads(groups: list[list[tuple[int, int]]], times: list[float]) -> Reads:
    return Reads(tuple(tuple(group) for group in groups), tuple(times))
