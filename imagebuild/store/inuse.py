"""Which images nodes read at the moment: servers write it, garbage collection spares it.

Each server process has a record of its own, `<state>/in-use.d/<id>.json`, format 1:
`{"format": 1, "connected": [digest, ...], "left": {digest: seconds since the epoch}}`,
and holds a lock on `<id>.lock` for as long as it lives. The next server takes over the
records whose lock is free: their nodes have their time to come back to it.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.wholefile import write_whole

DIRECTORY = "in-use.d"
FORMAT = 1
"""Of a record; readers refuse others."""
GRACE_SECONDS = 600.0
"""How long an image is spared after its last node has left it, or after the server's start:
a node whose server was away comes back within that time."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InUse:
    """connected: digests that nodes are attached to. left: digest -> when its last node left
    (seconds since the epoch)."""

    connected: frozenset[str] = frozenset()
    left: Mapping[str, float] = field(default_factory=dict)

    def after(
        self, connected: Collection[str], now: float, grace: float = GRACE_SECONDS
    ) -> "InUse":
        """The state once exactly `connected` are read; images left longer ago than `grace` are
        forgotten."""
        left = {digest: now for digest in self.connected} | dict(self.left)
        return InUse(
            frozenset(connected),
            {
                digest: time
                for digest, time in left.items()
                if digest not in connected and now - time < grace
            },
        )

    def merged(self, other: "InUse") -> "InUse":
        """The state by both records."""
        left = dict(self.left)
        for digest, time in other.left.items():
            left[digest] = max(time, left.get(digest, time))
        return InUse(self.connected | other.connected, left)

    def spared(self, now: float, grace: float = GRACE_SECONDS) -> frozenset[str]:
        """The digests that must not be collected at `now`.

        A server that crashed leaves its nodes connected: they wait for the next one.
        """
        recent = {digest for digest, time in self.left.items() if now - time < grace}
        return self.connected | recent

    def to_bytes(self) -> bytes:
        """The bytes of a record."""
        record = {
            "format": FORMAT,
            "connected": sorted(self.connected),
            "left": dict(sorted(self.left.items())),
        }
        return (json.dumps(record, indent=1) + "\n").encode()


def read_in_use(state: Path, leave_out: str = "") -> InUse:
    """What all servers of `state` wrote last, together; nothing if none ever did.

    leave_out: the name of a record that is not wanted. Raises BuildError when one of the
    records cannot be read.
    """
    directory = state / DIRECTORY
    while True:
        names = _list_records(directory)
        found = InUse()
        try:
            for name in names:
                if name == leave_out:
                    continue
                found = found.merged(_read(directory / name))
        except FileNotFoundError:
            continue  # another server has taken it over meanwhile: look again
        if names == _list_records(directory):
            return found


class InUseRecord:
    """The record of this process, which takes over those of servers that have ended.

    grace: seconds that an image is remembered after its last node. name: of a record that is
    no server's own (what the nodes of other servers read): it takes over none. Raises
    OSError when the state directory cannot be written.
    """

    def __init__(
        self, state: Path, now: float, grace: float = GRACE_SECONDS, *, name: str = ""
    ) -> None:
        self._directory = state / DIRECTORY
        self._grace = grace
        self._directory.mkdir(exist_ok=True)
        self._name = name or secrets.token_hex(8)
        self._lock = self._take_lock()
        self.present = InUse()
        with contextlib.ExitStack() as held:
            others = [] if name else self._others()
            ended = [path for path in others if held.enter_context(_locked(path)) is not None]
            adopted: list[Path] = []
            for path in ended:
                try:
                    record = _read(path)
                except FileNotFoundError:
                    pass  # another new server has taken it over
                except BuildError as error:
                    _log.error("%s; %s", error.message, error.hint)
                    continue
                else:
                    self.present = self.present.merged(record.after((), now, grace))
                adopted.append(path)
            self._write(self.present)
            for path in adopted:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)

    def note(self, connected: Collection[str], now: float) -> None:
        """Write that exactly these digests are read now. Raises OSError."""
        present = self.present.after(connected, now, self._grace)
        if present != self.present:
            self._write(present)
            self.present = present

    def close(self) -> None:
        """End; the record stays for the next server."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> int:
        """Make the lock file, locked before it has its name: no other server finds it free."""
        unnamed = self._directory / f".{self._name}.{secrets.token_hex(4)}.new"
        lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        unnamed.rename(self._directory / f"{self._name}.lock")
        return lock

    def _others(self) -> list[Path]:
        names = _list_records(self._directory)
        return [self._directory / name for name in names if name != f"{self._name}.json"]

    def _write(self, record: InUse) -> None:
        path = self._directory / f"{self._name}.json"
        write_whole(path, record.to_bytes(), mode=0o644, durable=True)


@contextlib.contextmanager
def _locked(record: Path) -> Iterator[int | None]:
    """The lock of a record whose server has ended; None while that server lives."""
    lock = os.open(record.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield lock
    finally:
        os.close(lock)


def _list_records(directory: Path) -> list[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BuildError(f"cannot read {directory}: {error.strerror}") from None
    return sorted(name for name in names if name.endswith(".json") and not name.startswith("."))


def _read(path: Path) -> InUse:
    """One record. Raises FileNotFoundError, and BuildError if it is none."""
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != FORMAT:
            raise BuildError(
                f"{path}: format {record['format']}, not {FORMAT}",
                hint="use the bootfarm that the server runs",
            )
        left = {str(digest): float(time) for digest, time in record["left"].items()}
        return InUse(frozenset(map(str, record["connected"])), left)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"{path} is no record of images in use: {type(error).__name__}: {error}",
            hint="remove it while no node is attached",
        ) from None
