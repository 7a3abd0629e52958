"""The NBD wire format: numbers and layouts, as the protocol text names them.

The protocol text is doc/proto.md of the NetworkBlockDevice project. Everything
is big-endian. Nothing here decides anything. Numbers that the fast path in C needs, too,
stand there (server/fastpath/fastpath.h).
"""

import struct
from enum import IntEnum, IntFlag
from typing import Final

from server.fastpath import (
    NBD_CHUNK_DONE,
    NBD_CHUNK_OFFSET_DATA,
    NBD_REQUEST_MAGIC,
    NBD_SIMPLE_REPLY_MAGIC,
    NBD_STRUCTURED_REPLY_MAGIC,
)

INIT_MAGIC: Final = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC: Final = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = NBD_REQUEST_MAGIC
SIMPLE_REPLY_MAGIC: Final = NBD_SIMPLE_REPLY_MAGIC
STRUCTURED_REPLY_MAGIC: Final = NBD_STRUCTURED_REPLY_MAGIC

MAX_STRING: Final = 4096
"""Longest export name, context name or message that the protocol allows, in bytes."""

GREETING: Final = struct.Struct(">QQH")
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION: Final = struct.Struct(">QII")
OPTION_REPLY: Final = struct.Struct(">QIII")
EXPORT_REPLY: Final = struct.Struct(">QH")
REQUEST: Final = struct.Struct(">IHHQQI")
"""magic, flags, command, cookie, offset, length"""
SIMPLE_REPLY: Final = struct.Struct(">IIQ")
"""magic, error, cookie"""
CHUNK: Final = struct.Struct(">IHHQI")
"""magic, flags, type, cookie, length of what follows"""
DATA_CHUNK: Final = struct.Struct(">IHHQIQ")
"""CHUNK, then the offset of the data"""
HOLE_CHUNK: Final = struct.Struct(">IHHQIQI")
"""CHUNK, then offset and length of the hole"""


class HandshakeFlag(IntFlag):
    """Handshake flags, of server and client."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """Options of the negotiation."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class Reply(IntEnum):
    """Replies to options."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_PLATFORM = 0x80000004
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007
    ERR_BLOCK_SIZE_REQD = 0x80000008
    ERR_TOO_BIG = 0x80000009


class Info(IntEnum):
    """Types of information in NBD_REP_INFO."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class ExportFlag(IntFlag):
    """Transmission flags of an export."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    ROTATIONAL = 16
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256
    SEND_RESIZE = 512
    SEND_CACHE = 1024


class Command(IntEnum):
    """Requests of the transmission phase."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


class CommandFlag(IntFlag):
    """Flags of a request."""

    FUA = 1
    NO_HOLE = 2
    DF = 4
    REQ_ONE = 8
    FAST_ZERO = 16


class Chunk(IntEnum):
    """Types of structured reply chunks."""

    NONE = 0
    OFFSET_DATA = NBD_CHUNK_OFFSET_DATA
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 0x8001
    ERROR_OFFSET = 0x8002


CHUNK_DONE: Final = NBD_CHUNK_DONE

STATE_HOLE: Final = 1
STATE_ZERO: Final = 2


class Errno(IntEnum):
    """Errors as the protocol numbers them (Linux's numbers)."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


BASE_ALLOCATION: Final = "base:allocation"


def pack_option_reply(option: int, reply: int, data: bytes = b"") -> bytes:
    """One reply to an option, with its data."""
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, reply, len(data)) + data


def pack_simple_reply(cookie: int, error: int = 0) -> bytes:
    """A simple reply's header; the data of a read follows it."""
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, cookie)


def pack_done(cookie: int) -> bytes:
    """A structured reply that says that all went well and carries nothing."""
    return CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, Chunk.NONE, cookie, 0)


def pack_error(cookie: int, error: int, message: str) -> bytes:
    """A structured reply's last chunk: an error with a message for a person."""
    text = message.encode()[:MAX_STRING]
    return (
        CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, Chunk.ERROR, cookie, 6 + len(text))
        + struct.pack(">IH", error, len(text))
        + text
    )


def pack_block_status(cookie: int, context: int, extents: list[tuple[int, int]]) -> bytes:
    """A structured reply of one BLOCK_STATUS chunk. extents: (length, state flags)."""
    body = b"".join(struct.pack(">II", length, flags) for length, flags in extents)
    head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, Chunk.BLOCK_STATUS, cookie, 4 + len(body))
    return head + struct.pack(">I", context) + body
