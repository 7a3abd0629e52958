"""An NBD client, sans-IO: attaches as the kernel's does and reads in a given order.

Simple replies, many requests on their way at a time; the content is counted,
and of some reads hashed.
"""

import struct
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from server.protocols.nbd import pack_request
from server.protocols.nbd_wire import (
    GREETING,
    INIT_MAGIC,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    Command,
    HandshakeFlag,
    Info,
    Option,
    Reply,
)

_HEAD: Final = SIMPLE_REPLY.size


class NbdClient:
    """One connection. `receive` takes bytes and gives bytes.

    size: of the export, once it is attached. busy: reads are on their way.
    skip: bytes of content that come next and that nobody looks at: the shell
    may throw them away unseen, and says so by `skipped`. hashes: number of the
    read -> SHA-256, of those that `want_hash` names.
    """

    def __init__(self, export: str, want_hash: Callable[[int], bool]) -> None:
        self.size: int | None = None
        self.error = ""
        self.read = 0
        self.skip = 0
        self.hashes: dict[int, str] = {}
        self._export = export
        self._want_hash = want_hash
        self._greeted = False
        self._buffer = b""
        self._lengths: dict[int, int] = {}
        self._digest: Any = None
        self._number = 0
        self._next = 0

    @property
    def busy(self) -> bool:
        """Whether reads are on their way."""
        return bool(self._lengths) or self.skip > 0

    def ask(self, group: tuple[tuple[int, int], ...]) -> bytes:
        """Requests for a group of reads."""
        out = []
        for offset, length in group:
            self._lengths[self._next] = length
            out.append(pack_request(Command.READ, self._next, offset, length))
            self._next += 1
        return b"".join(out)

    def receive(self, data: memoryview) -> bytes:
        """Take bytes from the server; what to send at once."""
        if self.size is None:
            return self._negotiate(bytes(data))
        self._take(data)
        return b""

    def skipped(self, count: int) -> None:
        """Note that `count` of the `skip` bytes were thrown away."""
        self.skip -= count
        self.read += count

    def _take(self, data: memoryview) -> None:
        if self._buffer:
            data = memoryview(self._buffer + bytes(data))
            self._buffer = b""
        position, end = 0, len(data)
        while position < end and not self.error:
            if self.skip:
                count = min(self.skip, end - position)
                if self._digest is not None:
                    self._digest.update(data[position : position + count])
                self.skipped(count)
                position += count
                if self.skip == 0 and self._digest is not None:
                    self.hashes[self._number] = self._digest.hexdigest()
                    self._digest = None
                continue
            if end - position < _HEAD:
                self._buffer = bytes(data[position:])
                return
            magic, error, cookie = SIMPLE_REPLY.unpack_from(data, position)
            position += _HEAD
            length = self._lengths.pop(cookie, None)
            if magic != SIMPLE_REPLY_MAGIC or length is None:
                self.error = "a reply that nobody asked for"
            elif error:
                self.error = f"a read of {length} bytes failed with error {error}"
            else:
                self.skip = length
                self._number = cookie
                self._digest = sha256() if self._want_hash(cookie) else None

    @property
    def may_skip(self) -> int:
        """How many of the next bytes the shell may discard unseen."""
        return 0 if self._digest is not None else self.skip

    def _negotiate(self, data: bytes) -> bytes:
        self._buffer += data
        if not self._greeted:
            if len(self._buffer) < GREETING.size:
                return b""
            magic, option_magic, flags = GREETING.unpack_from(self._buffer)
            fixed = flags & HandshakeFlag.FIXED_NEWSTYLE
            if magic != INIT_MAGIC or option_magic != OPTION_MAGIC or not fixed:
                self.error = "not a server of fixed newstyle NBD"
                return b""
            self._buffer = self._buffer[GREETING.size :]
            self._greeted = True
            name = self._export.encode()
            body = struct.pack(">I", len(name)) + name + b"\0\0"
            asked = OPTION.pack(OPTION_MAGIC, Option.GO, len(body)) + body
            return struct.pack(">I", flags & 3) + asked
        return self._read_replies()

    def _read_replies(self) -> bytes:
        size = None
        while len(self._buffer) >= OPTION_REPLY.size:
            magic, _, reply, length = OPTION_REPLY.unpack_from(self._buffer)
            end = OPTION_REPLY.size + length
            if magic != OPTION_REPLY_MAGIC or length > 65_536:
                self.error = "not a reply to an option"
                return b""
            if len(self._buffer) < end:
                break
            body, self._buffer = self._buffer[OPTION_REPLY.size : end], self._buffer[end:]
            if reply & 0x80000000:
                said = body.decode(errors="replace") or f"error {reply & 0xFFFF}"
                self.error = f"export {self._export}: {said}"
                return b""
            if reply == Reply.INFO and body[:2] == struct.pack(">H", Info.EXPORT):
                (self._announced,) = struct.unpack_from(">Q", body, 2)
            elif reply == Reply.ACK:
                size = self._announced
                break
        self.size = size
        return b""

    _announced: int = 0
