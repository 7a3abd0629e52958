"""NBD's fixed newstyle negotiation, server side, sans-IO.

`Handshake` takes the client's bytes and gives the bytes to answer. It ends
with an `outcome`: `Attached` (the transmission phase begins, with what was
negotiated) or `Closed` (hang up after sending what is left to send).
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from server.content import Export
from server.protocols.nbd_wire import (
    BASE_ALLOCATION,
    CLIENT_FLAGS,
    EXPORT_REPLY,
    GREETING,
    INIT_MAGIC,
    MAX_STRING,
    OPTION,
    OPTION_MAGIC,
    ExportFlag,
    HandshakeFlag,
    Info,
    Option,
    Reply,
    pack_option_reply,
)

MAX_OPTION: Final = 32 * 1024
"""Options longer than this (bytes) are skipped and answered ERR_TOO_BIG."""
MAX_SKIPPED: Final = 1024 * 1024
"""Options longer than this end the connection."""
MAX_OPTIONS: Final = 4096
"""A client that is still negotiating after so many options is sent away."""
MAX_QUERIES: Final = 256
"""Metadata contexts that one option may ask about; clients ask about one."""

CONTEXT_ID: Final = 1
"""The number under which base:allocation is known once it is set."""

TRANSMISSION_FLAGS: Final = (
    ExportFlag.HAS_FLAGS
    | ExportFlag.READ_ONLY
    | ExportFlag.SEND_FLUSH
    | ExportFlag.CAN_MULTI_CONN
    | ExportFlag.SEND_CACHE
)


@dataclass(frozen=True)
class BlockSizes:
    """What reads must keep to, in bytes. minimum and preferred: powers of two."""

    minimum: int = 1
    preferred: int = 4096
    maximum: int = 32 * 1024 * 1024


@dataclass(frozen=True)
class Attached:
    """The client chose an export. leftover: bytes that belong to the next phase."""

    export: Export
    structured: bool
    allocation: bool
    leftover: bytes


@dataclass(frozen=True)
class Closed:
    """The connection is over. error: False where the client meant it so."""

    reason: str
    error: bool = True


class _InvalidOptionError(Exception):
    """The option's data cannot be read; the message goes to the client."""


class Handshake:
    """One connection's negotiation.

    find: export of a name as the client wrote it, or None. list_exports: the
    names that LIST tells. Neither may raise.
    """

    def __init__(
        self,
        find: Callable[[str], Export | None],
        list_exports: Callable[[], Sequence[str]],
        sizes: BlockSizes | None = None,
    ) -> None:
        self.outcome: Attached | Closed | None = None
        self.wanted: str | None = None
        """The export that was asked for last, found or not."""
        self._find = find
        self._list_exports = list_exports
        self._sizes = sizes or BlockSizes()
        self._buffer = b""
        self._step: Callable[[], bytes | None] = self._read_flags
        self._fixed = False
        self._zeroes = True
        self._structured = False
        self._context_export: str | None = None
        self._skip = 0
        self._options = 0

    def greet(self) -> bytes:
        """What the server says first."""
        flags = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
        return GREETING.pack(INIT_MAGIC, OPTION_MAGIC, flags)

    def receive(self, data: bytes) -> bytes:
        """Take what the client sent, in pieces of any size; give what to send.

        Once `outcome` is set, further bytes are ignored.
        """
        self._buffer += data
        answers = []
        while self.outcome is None:
            answer = self._step()
            if answer is None:
                break
            answers.append(answer)
        return b"".join(answers)

    # Steps: each eats from the buffer and gives an answer, or None for want of bytes.

    def _read_flags(self) -> bytes | None:
        if len(self._buffer) < CLIENT_FLAGS.size:
            return None
        (flags,) = CLIENT_FLAGS.unpack_from(self._buffer)
        self._buffer = self._buffer[CLIENT_FLAGS.size :]
        unknown = flags & ~int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
        if unknown:
            self._close(f"unknown client flags {unknown:#x}")
        self._fixed = bool(flags & HandshakeFlag.FIXED_NEWSTYLE)
        self._zeroes = not flags & HandshakeFlag.NO_ZEROES
        self._step = self._read_option
        return b""

    def _read_option(self) -> bytes | None:
        if len(self._buffer) < OPTION.size:
            return None
        magic, option, length = OPTION.unpack_from(self._buffer)
        if magic != OPTION_MAGIC:
            self._close(f"not an option: magic {magic:#x}")
            return b""
        if length > MAX_SKIPPED:
            self._close(f"option {_name(option)} of {length} bytes (limit {MAX_SKIPPED})")
            return b""
        if length > MAX_OPTION:
            if option == Option.EXPORT_NAME:
                self._close(f"export name of {length} bytes (limit {MAX_STRING})")
                return b""
            self._buffer = self._buffer[OPTION.size :]
            self._skip = length
            self._step = self._skip_option
            return _refuse(option, Reply.ERR_TOO_BIG, f"{length} bytes (limit {MAX_OPTION})")
        end = OPTION.size + length
        if len(self._buffer) < end:
            return None
        data, self._buffer = self._buffer[OPTION.size : end], self._buffer[end:]
        self._options += 1
        if self._options > MAX_OPTIONS:
            self._close(f"still negotiating after {MAX_OPTIONS} options")
            return b""
        if not self._fixed and option != Option.EXPORT_NAME:
            # Without fixed newstyle the client could not understand a reply.
            self._close(f"option {_name(option)} from a client that is not fixed newstyle")
            return b""
        return self._answer(option, data)

    def _skip_option(self) -> bytes | None:
        skipped = min(self._skip, len(self._buffer))
        self._buffer = self._buffer[skipped:]
        self._skip -= skipped
        if self._skip:
            return None
        self._step = self._read_option
        return b""

    def _answer(self, option: int, data: bytes) -> bytes:
        try:
            match option:
                case Option.EXPORT_NAME:
                    return self._export_name(data)
                case Option.ABORT:
                    self._close("the client ended the negotiation", error=False)
                    return pack_option_reply(option, Reply.ACK)
                case Option.LIST:
                    return self._list(data)
                case Option.INFO | Option.GO:
                    return self._info(option, data)
                case Option.STRUCTURED_REPLY:
                    if data:
                        raise _InvalidOptionError("STRUCTURED_REPLY carries no data")
                    self._structured = True
                    return pack_option_reply(option, Reply.ACK)
                case Option.LIST_META_CONTEXT | Option.SET_META_CONTEXT:
                    return self._meta_context(option, data)
                case Option.STARTTLS:
                    if data:
                        raise _InvalidOptionError("STARTTLS carries no data")
                    return _refuse(option, Reply.ERR_UNSUP, "this server does not speak TLS")
                case _:
                    return _refuse(option, Reply.ERR_UNSUP, f"unknown option {_name(option)}")
        except _InvalidOptionError as error:
            return _refuse(option, Reply.ERR_INVALID, str(error))

    def _export_name(self, data: bytes) -> bytes:
        # The oldest way to attach has no error reply: all that is left is to hang up.
        try:
            name = _decode(data)
        except _InvalidOptionError as error:
            self._close(str(error))
            return b""
        export = self._lookup(name)
        if export is None:
            self._close(f"no export {name!r}")
            return b""
        self._attach(export, name)
        zeroes = bytes(124) if self._zeroes else b""
        return EXPORT_REPLY.pack(export.size, self._flags()) + zeroes

    def _list(self, data: bytes) -> bytes:
        if data:
            raise _InvalidOptionError("LIST carries no data")
        replies = []
        for name in self._list_exports():
            text = name.encode()
            body = struct.pack(">I", len(text)) + text
            replies.append(pack_option_reply(Option.LIST, Reply.SERVER, body))
        replies.append(pack_option_reply(Option.LIST, Reply.ACK))
        return b"".join(replies)

    def _info(self, option: int, data: bytes) -> bytes:
        name, rest = _take_string(data)
        if len(rest) < 2:
            raise _InvalidOptionError("the number of information requests is missing")
        (count,) = struct.unpack_from(">H", rest)
        if len(rest) != 2 + 2 * count:
            raise _InvalidOptionError(
                f"{count} information requests announced, {len(rest) - 2} bytes of them sent"
            )
        requests = set(struct.unpack_from(f">{count}H", rest, 2))
        export = self._lookup(name)
        if export is None:
            return _refuse(option, Reply.ERR_UNKNOWN, f"no export {name!r}")
        if self._sizes.minimum > 1 and Info.BLOCK_SIZE not in requests:
            return _refuse(
                option, Reply.ERR_BLOCK_SIZE_REQD, f"ask for block sizes of {export.name!r}"
            )
        infos = [struct.pack(">HQH", Info.EXPORT, export.size, self._flags())]
        if Info.NAME in requests:
            infos.append(struct.pack(">H", Info.NAME) + export.name.encode()[:MAX_STRING])
        if Info.DESCRIPTION in requests and export.description:
            text = export.description.encode()[:MAX_STRING]
            infos.append(struct.pack(">H", Info.DESCRIPTION) + text)
        if Info.BLOCK_SIZE in requests:
            sizes = self._sizes
            infos.append(
                struct.pack(">HIII", Info.BLOCK_SIZE, sizes.minimum, sizes.preferred, sizes.maximum)
            )
        if option == Option.GO:
            self._attach(export, name)
        replies = [pack_option_reply(option, Reply.INFO, info) for info in infos]
        return b"".join([*replies, pack_option_reply(option, Reply.ACK)])

    def _meta_context(self, option: int, data: bytes) -> bytes:
        setting = option == Option.SET_META_CONTEXT
        if setting:
            self._context_export = None
        name, rest = _take_string(data)
        if len(rest) < 4:
            raise _InvalidOptionError("the number of queries is missing")
        (count,) = struct.unpack_from(">I", rest)
        if count > MAX_QUERIES:
            raise _InvalidOptionError(f"{count} queries (limit {MAX_QUERIES})")
        rest = rest[4:]
        queries = []
        for _ in range(count):
            query, rest = _take_string(rest)
            queries.append(query)
        if rest:
            raise _InvalidOptionError(f"{len(rest)} bytes after the last query")
        if not self._structured:
            raise _InvalidOptionError("negotiate structured replies first")
        if self._lookup(name) is None:
            return _refuse(option, Reply.ERR_UNKNOWN, f"no export {name!r}")
        if setting:
            chosen = BASE_ALLOCATION in queries
            self._context_export = name if chosen else None
        else:
            chosen = not queries or "base:" in queries or BASE_ALLOCATION in queries
        replies = b""
        if chosen:
            number = CONTEXT_ID if setting else 0
            body = struct.pack(">I", number) + BASE_ALLOCATION.encode()
            replies = pack_option_reply(option, Reply.META_CONTEXT, body)
        return replies + pack_option_reply(option, Reply.ACK)

    def _lookup(self, name: str) -> Export | None:
        self.wanted = name
        return self._find(name)

    def _flags(self) -> int:
        return TRANSMISSION_FLAGS | (ExportFlag.SEND_DF if self._structured else 0)

    def _attach(self, export: Export, name: str) -> None:
        # A context set for one export does not hold for another.
        allocation = self._structured and self._context_export == name
        self.outcome = Attached(export, self._structured, allocation, self._buffer)
        self._buffer = b""

    def _close(self, reason: str, *, error: bool = True) -> None:
        self.outcome = Closed(reason, error)
        self._buffer = b""


def _take_string(data: bytes) -> tuple[str, bytes]:
    if len(data) < 4:
        raise _InvalidOptionError("a string's length is missing")
    (length,) = struct.unpack_from(">I", data)
    if length > len(data) - 4:
        raise _InvalidOptionError(f"a string of {length} bytes, {len(data) - 4} sent")
    return _decode(data[4 : 4 + length]), data[4 + length :]


def _decode(data: bytes) -> str:
    if len(data) > MAX_STRING:
        raise _InvalidOptionError(f"a string of {len(data)} bytes (limit {MAX_STRING})")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _InvalidOptionError("a string that is not UTF-8") from None
    if "\0" in text:
        raise _InvalidOptionError("a string with a NUL in it")
    return text


def _refuse(option: int, reply: Reply, message: str) -> bytes:
    return pack_option_reply(option, reply, message.encode()[:MAX_STRING])


def _name(option: int) -> str:
    try:
        return Option(option).name
    except ValueError:
        return str(option)
