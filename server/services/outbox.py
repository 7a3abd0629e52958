"""What waits to leave by one TCP socket: sent when its turn comes, the rest kept as views."""

import socket
from collections.abc import Callable
from typing import Final

from server.fastpath import BULK_BYTES
from server.services.hotloop import HotLoop, Ready

MAX_BUFFERS: Final = 1024
"""IOV_MAX of Linux: most buffers in one sendmsg."""
Buffer = bytes | memoryview


class Outbox:
    """The buffers of one socket, in the order in which the client gets them.

    Those that are offered wait until the loop has read all that is there to be read. Those that
    the socket did not take (`blocked`) leave first, by `flush`, when it has room again.

    sent: is called when what was offered has left as far as the socket took it; with the
    error, where the socket is broken.
    """

    __slots__ = ("_after_reads", "_in_bulk", "_offered", "_sent", "_size", "_sock", "_unsent")

    def __init__(
        self, sock: socket.socket, loop: HotLoop, sent: Callable[[OSError | None], None]
    ) -> None:
        self._sock = sock
        self._sent = sent
        self._after_reads: Callable[[Ready], object] = loop.after_reads
        self._in_bulk: Callable[[Ready], object] = loop.in_bulk
        self._unsent: list[Buffer] = []
        self._offered: list[Buffer] = []
        self._size = 0
        """Bytes of what is offered."""

    @property
    def blocked(self) -> bool:
        """Whether the socket has not taken all that was sent."""
        return bool(self._unsent)

    @property
    def offered(self) -> bool:
        """Whether buffers wait for the loop's turn for sending."""
        return bool(self._offered)

    @property
    def empty(self) -> bool:
        """Whether all has left."""
        return not (self._unsent or self._offered)

    def offer(self, buffers: list[Buffer], size: int) -> None:
        """Send buffers of `size` bytes in the loop's turn for that, or behind what is blocked."""
        if self._unsent:
            self._unsent += buffers
        elif self._offered:
            self._offered += buffers
            self._size += size
        elif buffers:
            self._offered = buffers
            self._size = size
            (self._after_reads if size < BULK_BYTES else self._in_bulk)(self._send_offered)

    def send(self, buffers: list[Buffer]) -> None:
        """Send now what the socket takes. Raises OSError where it is broken."""
        if self._unsent:
            self._unsent += buffers
            return
        self._unsent = buffers
        self.flush()

    def flush(self) -> None:
        """Send what is blocked, as far as the socket takes it. Raises OSError as `send`."""
        # One sendmsg a turn is enough for many small replies; the last may be short.
        while self._unsent:
            batch = self._unsent[:MAX_BUFFERS] if len(self._unsent) > MAX_BUFFERS else self._unsent
            try:
                sent = self._sock.sendmsg(batch)
            except (BlockingIOError, InterruptedError):
                return
            whole = sent == sum(map(len, batch))
            self._unsent = _drop_sent(self._unsent, sent)
            if not whole:
                return

    def clear(self) -> None:
        """Drop all of it; `sent` is not called any more."""
        self._unsent = []
        self._offered = []
        self._sent = _ignore

    def _send_offered(self) -> None:
        out, self._offered = self._offered, []
        if not out:
            return  # cleared
        try:
            if self._unsent or len(out) > MAX_BUFFERS:
                self.send(out)
            else:
                # The usual case: everything fits into the socket.
                sent = self._sock.sendmsg(out)
                if sent != self._size:
                    self._unsent = _drop_sent(out, sent)
        except (BlockingIOError, InterruptedError):
            self._unsent = out
        except OSError as error:
            self._sent(error)
            return
        self._sent(None)


def _ignore(error: OSError | None) -> None:
    """The default for `sent`: nobody listens."""


def _drop_sent(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """The rest of the buffers, when `sent` bytes of them have left."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            rest = buffers[index:]
            rest[0] = memoryview(buffer)[sent:]
            return rest
        sent -= len(buffer)
    return []
