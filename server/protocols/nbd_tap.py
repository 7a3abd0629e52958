"""Which reads an NBD client asks for: seen beside the core, for recordings of boots."""

from typing import Final

from server.protocols.nbd_wire import REQUEST, REQUEST_MAGIC, Command

MAX_READS: Final = 200_000
"""Of one connection; what comes after is not noted."""


class ReadTap:
    """Takes the same bytes as a Transmission; notes (time, offset, length) of each read."""

    __slots__ = ("_drain", "_left", "_rest", "began", "reads")

    def __init__(self, limit: int = MAX_READS) -> None:
        self.reads: list[tuple[float, int, int]] = []
        self.began = 0.0
        """The time of the first of `reads`."""
        self._rest = b""
        self._drain = 0
        self._left = limit

    def receive(self, data: bytes | bytearray | memoryview, end: int, now: float) -> None:
        """Note the reads of data[:end], which came at `now`."""
        if self._left <= 0:
            return
        if self._rest:
            data = self._rest + bytes(data[:end])
            end = len(data)
        position = 0
        while True:
            skipped = min(self._drain, end - position)
            self._drain -= skipped
            position += skipped
            if end - position < REQUEST.size:
                break
            magic, _, command, _, offset, length = REQUEST.unpack_from(data, position)
            position += REQUEST.size
            if magic != REQUEST_MAGIC:
                self._left = 0  # a broken request: the core hangs up
                break
            if command == Command.WRITE:
                self._drain = length
            elif command == Command.READ and self._left > 0:
                if not self.reads:
                    self.began = now
                self.reads.append((now, offset, length))
                self._left -= 1
        self._rest = bytes(data[position:end]) if position < end else b""

    def take(self) -> list[tuple[float, int, int]]:
        """The reads that were noted since the last call."""
        reads, self.reads = self.reads, []
        return reads


def pack_reads(reads: list[tuple[float, int, int]], zero: float) -> str:
    """Reads as one text: `microseconds,offset,length` each, times counted from `zero`."""
    return ";".join(f"{(at - zero) * 1e6:.0f},{offset},{length}" for at, offset, length in reads)


def unpack_reads(text: str, zero: float) -> list[tuple[float, int, int]]:
    """Read what `pack_reads` wrote, times counted from `zero`."""
    found = []
    for word in text.split(";"):
        at, offset, length = word.split(",")
        found.append((zero + int(at) / 1e6, int(offset), int(length)))
    return found
