"""DATA packets of a file, laid out one after the other so that whole windows leave by one call.

A stretch is a run of consecutive DATA packets in one buffer: header, data,
header, data… A window is a slice of it, which UDP_SEGMENT cuts into packets,
and clients that fetch the same file with the same block size share stretches.
"""

from dataclasses import dataclass, field
from typing import Final

from server.protocols.tftp_wire import HEADER

MAX_BLOCKS: Final = 64
"""Blocks of a stretch, however small they are."""
STRETCH_BYTES: Final = 128 * 1024
"""Bytes of data in a stretch: what is read, laid out and cached at once."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file of `size` bytes lies in stretches, for one block size.

    Stretch i holds blocks [i * blocks, (i + 1) * blocks), counted from 1: the
    first place of stretch 0 stays unused. blocks is a power of two, so that
    the 16-bit numbers never wrap within a stretch.
    """

    size: int
    blksize: int
    blocks: int = field(init=False)
    stride: int = field(init=False)
    total: int = field(init=False)

    def __post_init__(self) -> None:
        blocks = MAX_BLOCKS
        while blocks > 1 and blocks * self.blksize > STRETCH_BYTES:
            blocks //= 2
        object.__setattr__(self, "blocks", blocks)
        object.__setattr__(self, "stride", self.blksize + HEADER)
        object.__setattr__(self, "total", self.size // self.blksize + 1)

    def span(self, stretch: int) -> tuple[int, int]:
        """(offset, length) in bytes of the file's part that a stretch carries."""
        first = max(1, stretch * self.blocks)
        start = (first - 1) * self.blksize
        stop = min(self.size, ((stretch + 1) * self.blocks - 1) * self.blksize)
        return start, max(0, stop - start)

    def prepare(self, stretch: int) -> tuple[bytearray, list[memoryview]]:
        """A stretch with its headers, and the places where the file's bytes of `span` go."""
        blocks, stride = self.blocks, self.stride
        first = stretch * blocks
        _, length = self.span(stretch)
        last = min(first + blocks - 1, self.total)
        used = last - first + 1
        tail = self.size - (last - 1) * self.blksize if last == self.total else self.blksize
        buffer = bytearray((used - 1) * stride + HEADER + tail)
        low = first & 0xFF
        numbers = bytes(range(low, low + min(used, 256 - low)))
        buffer[1::stride] = b"\3" * used
        buffer[2::stride] = bytes([(first >> 8) & 0xFF]) * used
        buffer[3::stride] = numbers
        view = memoryview(buffer)
        places = []
        block = max(1, first)
        position = (block - first) * stride + HEADER
        while length > 0:
            size = min(self.blksize, length)
            places.append(view[position : position + size])
            position += stride
            length -= size
        return buffer, places

    def slices(self, first: int, count: int, stretches: dict[int, memoryview]) -> list[memoryview]:
        """The packets [first, first + count) as few slices of the stretches at hand."""
        blocks, stride = self.blocks, self.stride
        out = []
        while count > 0:
            stretch, index = divmod(first, blocks)
            taken = min(count, blocks - index)
            out.append(stretches[stretch][index * stride : (index + taken) * stride])
            first += taken
            count -= taken
        return out


def build(layout: Layout, stretch: int, data: bytes | memoryview) -> memoryview:
    """A stretch out of bytes in memory: all of the content, not only the stretch's."""
    start, length = layout.span(stretch)
    buffer, places = layout.prepare(stretch)
    part = memoryview(data)[start : start + length]
    position = 0
    for place in places:
        place[:] = part[position : position + len(place)]
        position += len(place)
    return memoryview(buffer).toreadonly()
