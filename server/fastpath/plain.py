"""The stand-in where the C was not compiled: epoll without lanes.

The protocols in Python then answer everything, with the same bytes and more work. The numbers
are those of fastpath.h; tests/server/fastpath/test_plain.py compares them.
"""

import select
import time
from typing import Final

BULK_BYTES: Final = 96 * 1024
BULK_PER_TURN: Final = 4
DOWNLOAD_STEP: Final = 1024 * 1024
MIXED_TURNS: Final = 1000
NBD_REQUEST_MAGIC: Final = 0x25609513
NBD_SIMPLE_REPLY_MAGIC: Final = 0x67446698
NBD_STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF
NBD_CHUNK_DONE: Final = 1
NBD_CHUNK_OFFSET_DATA: Final = 1
TFTP_OPCODE_ACK: Final = 4


class NoLane:
    """The name of a lane's type, and of a download's and its sender's; none is ever made."""


class Poller:
    """epoll(7), as `_fastpath.Poller` without a lane; it never looks again before it sleeps."""

    def __init__(self, watch_seconds: float = 0.0) -> None:
        self.now = time.monotonic()
        self.watch_seconds = watch_seconds
        self._epoll = select.epoll()

    def poll(self, seconds: float, /) -> list[tuple[int, int]]:
        """Wait `seconds` (below 0: for ever); the (descriptor, EPOLL* mask) of each descriptor that
        is ready."""
        events = self._epoll.poll(seconds if seconds >= 0 else None)
        self.now = time.monotonic()
        return events

    def register(self, fd: int, events: int, /) -> None:
        """As select.epoll.register; raises OSError."""
        self._epoll.register(fd, events)

    def modify(self, fd: int, events: int, /) -> None:
        """As select.epoll.modify; raises OSError."""
        self._epoll.modify(fd, events)

    def unregister(self, fd: int, /) -> None:
        """As select.epoll.unregister; raises OSError."""
        self._epoll.unregister(fd)

    def close(self) -> None:
        """As select.epoll.close."""
        self._epoll.close()
