"""A small blocking NBD client: opens an export, reads it. The protocol text is doc/proto.md."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from server.protocols.nbd_wire import (
    CLIENT_FLAGS,
    EXPORT_REPLY,
    GREETING,
    INIT_MAGIC,
    MAX_STRING,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    Command,
    Errno,
    HandshakeFlag,
    Info,
    Option,
    Reply,
)

_ERROR_BIT: Final = 0x80000000
_LIMIT: Final = 64 * 1024
"""Bytes of an option's reply; a server that sends more is none."""
_MOST_REPLIES: Final = 65_536
"""To one option: NBD_OPT_LIST gets one for each export."""


class NbdError(Exception):
    """The server refused, or does not speak NBD; in words."""


class NbdRefusedError(NbdError):
    """The server speaks NBD and refuses this export."""


class NbdExport:
    """One export, opened for reading. size: in bytes."""

    def __init__(self, host: str, port: int, name: str, timeout: float = 10.0) -> None:
        """Connect and negotiate (NBD_OPT_GO). Raises OSError, NbdError, NbdRefusedError."""
        self._socket = socket.create_connection((host, port), timeout)
        self._cookie = 0
        self.size = 0
        try:
            self._negotiate(name.encode())
        except BaseException:
            self._socket.close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`. Raises OSError, or NbdError when the server refuses."""
        self._cookie += 1
        self._socket.sendall(
            REQUEST.pack(REQUEST_MAGIC, 0, Command.READ, self._cookie, offset, length)
        )
        magic, error, cookie = SIMPLE_REPLY.unpack(self._take(SIMPLE_REPLY.size))
        if magic != SIMPLE_REPLY_MAGIC or cookie != self._cookie:
            raise NbdError("an answer that is none to what was asked")
        if error:
            name = Errno(error).name if error in list(Errno) else f"error {error}"
            raise NbdError(f"{name} at {offset}")
        return self._take(length)

    def chunks(self, size: int = 1024 * 1024) -> Iterator[bytes]:
        """All of it, in order."""
        for offset in range(0, self.size, size):
            yield self.read(offset, min(size, self.size - offset))

    def close(self) -> None:
        """Disconnect (NBD_CMD_DISC) and close the socket."""
        with contextlib.suppress(OSError):
            self._socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, Command.DISC, 0, 0, 0))
        self._socket.close()

    def __enter__(self) -> "NbdExport":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _negotiate(self, name: bytes) -> None:
        _greet(self._socket)
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        for kind, body in _ask(self._socket, Option.GO, data):
            if kind == Reply.INFO and body[:2] == Info.EXPORT.to_bytes(2, "big"):
                self.size = EXPORT_REPLY.unpack_from(body, 2)[0]

    def _take(self, count: int) -> bytes:
        return _take(self._socket, count)


def list_exports(host: str, port: int, timeout: float = 10.0) -> list[str]:
    """The names that NBD_OPT_LIST gives. Raises OSError, NbdError, NbdRefusedError."""
    with socket.create_connection((host, port), timeout) as sock:
        _greet(sock)
        names = []
        for kind, body in _ask(sock, Option.LIST, b""):
            if kind == Reply.SERVER and len(body) >= 4:
                length = int.from_bytes(body[:4], "big")
                names.append(body[4 : 4 + length].decode("utf-8", "replace"))
        with contextlib.suppress(OSError):
            sock.sendall(OPTION.pack(OPTION_MAGIC, Option.ABORT, 0))
        return names


def _greet(sock: socket.socket) -> None:
    magic, option_magic, flags = GREETING.unpack(_take(sock, GREETING.size))
    if (magic, option_magic) != (INIT_MAGIC, OPTION_MAGIC):
        raise NbdError("what answers there does not speak NBD")
    known = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
    sock.sendall(CLIENT_FLAGS.pack(flags & known))


def _ask(sock: socket.socket, option: Option, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Send an option; (kind, data) of each reply before the ACK that ends them."""
    sock.sendall(OPTION.pack(OPTION_MAGIC, option, len(data)) + data)
    for _ in range(_MOST_REPLIES):
        magic, about, kind, length = OPTION_REPLY.unpack(_take(sock, OPTION_REPLY.size))
        if magic != OPTION_REPLY_MAGIC or about != option or length > _LIMIT:
            raise NbdError("a broken answer in the handshake")
        body = _take(sock, length)
        if kind == Reply.ACK:
            return
        if kind & _ERROR_BIT:
            known = Reply(kind).name if kind in list(Reply) else f"error {kind:#x}"
            words = body[:MAX_STRING].decode("utf-8", "replace")
            raise NbdRefusedError(f"{known} {words}".strip())
        yield kind, body
    raise NbdError("a handshake without an end")


def _take(sock: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    done = 0
    while done < count:
        got = sock.recv_into(view[done:])
        if not got:
            raise NbdError("the server hung up")
        done += got
    return bytes(data)


def sample_offsets(size: int, length: int, count: int, seed: str) -> list[int]:
    """Where to look: the first bytes, the last, and others spread over all of it."""
    if size <= length * count:
        return list(range(0, size, length))
    step = size // count
    jitter = int.from_bytes(os.fsencode(seed)[:4].ljust(4, b"\0"), "big")
    spread = [number * step + (jitter * (number + 1)) % step for number in range(1, count - 1)]
    return sorted({0, *(min(offset, size - length) for offset in spread), size - length})
