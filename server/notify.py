"""What systemd is told of the server: sd_notify(3) and the watchdog of sd_watchdog_enabled(3).

A datagram of `KEY=value` lines to the socket that $NOTIFY_SOCKET names. Where
there is none, nothing is told, and nothing is different.
"""

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from imagebuild.errors import escape

_NAMES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
STATUS_MAX: Final = 500
"""Characters of the status line."""


class Notifier:
    """Tells systemd. address: of its socket, "" for none. watchdog: seconds, or None."""

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        self.watchdog = watchdog if address else None
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._status = ""

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """What the environment says, taken out of it: it is not for processes that we start."""
        address, usec, pid = (environ.pop(name, "") for name in _NAMES)
        ours = not pid or pid == str(os.getpid())
        seconds = int(usec) / 1e6 if usec.isdecimal() and int(usec) > 0 and ours else None
        return cls(address, seconds)

    def ready(self) -> None:
        """Say that all services are bound, or that everything has been read again."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """Say that everything is being read again; `ready` ends that."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={usec}")

    def stopping(self) -> None:
        """Say that the server is about to end."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """Say that the loop turns; systemd wants it at least once in `watchdog` seconds."""
        self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows; sent only when it has changed."""
        text = escape(text)[:STATUS_MAX]
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def _tell(self, lines: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # systemd is not there, or does not read: go on
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock,
        ):
            sock.sendto(lines.encode(), self._address)
