"""The reading half of server-sent events (HTML Living Standard, section 9.2), sans-IO."""

from dataclasses import dataclass
from typing import Final

LINE_MAX: Final = 1024 * 1024
"""Bytes; a longer line is dropped: no event of ours has that."""


@dataclass(frozen=True)
class Message:
    """One event. id: the last that the stream named, "" before that."""

    id: str
    data: str


class EventStream:
    """Give it the bytes as they come; it gives the messages that are whole."""

    def __init__(self) -> None:
        self._rest = b""
        self._dropping = False
        self._data: list[str] = []
        self._id = ""

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes; lines end with LF or CRLF (the server writes LF)."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages: list[Message] = []
        for line in lines:
            if self._dropping:
                self._dropping = False
                continue
            self._take(line.removesuffix(b"\r").decode("utf-8", "replace"), messages)
        if len(self._rest) > LINE_MAX:
            self._rest, self._dropping = b"", True
        return messages

    def _take(self, line: str, messages: list[Message]) -> None:
        if not line:
            if self._data:
                messages.append(Message(self._id, "\n".join(self._data)))
            self._data = []
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
