"""A node's serial console, as the file that QEMU writes it to."""

import re
from pathlib import Path

# Escape sequences of terminals: CSI, OSC, and the two-character ones.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_=>])")


def plain_text(data: bytes) -> str:
    """The text as a person would read it: no escape sequences, no carriage returns."""
    return _ESCAPES.sub("", data.decode("utf-8", "replace")).replace("\r", "").replace("\0", "")


class Console:
    """Reads the log of a serial console; `begin` marks where the present power-on starts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    @property
    def size(self) -> int:
        """Bytes written so far: a mark for `text(since=…)`."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def begin(self) -> None:
        """From here on, `text()` leaves out what was written before."""
        self._start = self.size

    def text(self, since: int | None = None) -> str:
        """Everything since the power-on (or since a mark)."""
        try:
            with open(self.path, "rb") as log:
                log.seek(self._start if since is None else since)
                return plain_text(log.read())
        except OSError:
            return ""

    def tail(self, lines: int = 15) -> str:
        """The last lines that say something."""
        said = [line.rstrip() for line in self.text().splitlines() if line.strip()]
        return "\n".join(said[-lines:])
