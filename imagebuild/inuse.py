"""Which images nodes read at the moment: the server writes it, garbage collection spares it.

`<state>/in-use.json`, format 1: `{"format": 1, "connected": [digest, ...],
"left": {digest: seconds since the epoch}}`.
"""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagebuild.errors import BuildError

FILE = "in-use.json"
FORMAT = 1
GRACE_SECONDS = 600.0
"""How long an image is spared after its last node has left it, or after the server's start:
a node whose server was away comes back within that time."""


@dataclass(frozen=True)
class InUse:
    """connected: digests that nodes are attached to. left: digest -> when its last node left
    (seconds since the epoch)."""

    connected: frozenset[str] = frozenset()
    left: Mapping[str, float] = field(default_factory=dict)

    def after(self, connected: Collection[str], now: float) -> "InUse":
        """What holds once exactly `connected` are; what was left too long ago is forgotten."""
        left = {digest: now for digest in self.connected} | dict(self.left)
        return InUse(
            frozenset(connected),
            {
                digest: time
                for digest, time in left.items()
                if digest not in connected and now - time < GRACE_SECONDS
            },
        )

    def spared(self, now: float) -> frozenset[str]:
        """The digests that must not be collected at `now`.

        A server that crashed leaves its nodes connected: they wait for the next one.
        """
        recent = {digest for digest, time in self.left.items() if now - time < GRACE_SECONDS}
        return self.connected | recent

    def to_bytes(self) -> bytes:
        """The file's content."""
        record = {
            "format": FORMAT,
            "connected": sorted(self.connected),
            "left": dict(sorted(self.left.items())),
        }
        return (json.dumps(record, indent=1) + "\n").encode()


def read_in_use(state: Path) -> InUse:
    """What the server of `state` wrote last; nothing if it never did. BuildError if unreadable."""
    path = state / FILE
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
        return InUse()
    except OSError as error:
        raise BuildError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"{path} is no record of images in use: {error!r}",
            hint="remove it while no node is attached",
        ) from None


def write_in_use(state: Path, in_use: InUse) -> None:
    """Replace the record by rename; OSError if it cannot be written."""
    fresh = state / f"{FILE}.new"
    with fresh.open("wb") as file:
        file.write(in_use.to_bytes())
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(state / FILE)
