"""Messages between the server and its workers: pickles with a length, on a socket pair.

Both ends are this project's own processes; nothing from the network is ever unpickled.
"""

import asyncio
import pickle
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final

_LENGTH: Final = struct.Struct("=I")
MAX_UNSENT: Final = 64 * 1024 * 1024
"""Bytes that may wait for a peer that does not read; more is dropped."""


def pack_message(message: Any) -> bytes:
    """A message as it goes over the pipe."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class Pipe:
    """One end. Never waits: what the peer does not take yet is kept.

    on_message: called with each message. on_end: called once, when the peer is gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_message: Callable[[Any], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._received = bytearray()
        self._unsent: deque[memoryview] = deque()
        self._waiting = 0
        self.dropped = 0
        """Messages that were lost because the peer did not read."""
        self._closed = False
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._on_readable)

    def send(self, message: Any) -> None:
        """Send a message: any object that can be pickled."""
        self.send_packed(pack_message(message))

    def send_packed(self, data: bytes) -> None:
        """Send what pack_message gave: packed once for several peers."""
        if self._closed:
            return
        if self._waiting > MAX_UNSENT:
            self.dropped += 1
            return
        self._unsent.append(memoryview(data))
        self._waiting += len(data)
        if len(self._unsent) == 1:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)

    def close(self) -> None:
        """Send nothing more; on_end is not called."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()

    async def drain(self) -> None:
        """Wait until all is sent, or the peer is gone."""
        while self._unsent and not self._closed:
            await asyncio.sleep(0.01)

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(1 << 18)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._on_end()
            return
        received = self._received
        received += data
        position = 0
        while len(received) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(received, position)
            start = position + _LENGTH.size
            if len(received) < start + length:
                break
            position = start + length
            self._on_message(pickle.loads(received[start:position]))
            if self._closed:
                return
        del received[:position]

    def _on_writable(self) -> None:
        while self._unsent:
            head = self._unsent[0]
            try:
                sent = self._sock.send(head)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._unsent.clear()
                self._waiting = 0
                break  # the reader will see that the peer is gone
            self._waiting -= sent
            if sent < len(head):
                self._unsent[0] = head[sent:]
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._sock.fileno())
