"""Stretches: every packet of every file where it belongs."""

import random

import pytest

from server.protocols.tftp_blocks import Layout, build

DATA = random.Random(2).randbytes(200_000)


def expected(data: bytes, blksize: int, block: int) -> bytes:
    header = b"\0\3" + (block & 0xFFFF).to_bytes(2, "big")
    return header + data[(block - 1) * blksize : block * blksize]


@pytest.mark.parametrize("blksize", [8, 512, 1428, 65464])
@pytest.mark.parametrize(
    "size", [0, 1, 7, 8, 9, 511, 512, 513, 63 * 512 - 1, 63 * 512, 64 * 512, 64 * 512 + 1, 200_000]
)
def test_each_block(size: int, blksize: int) -> None:
    data = DATA[:size]
    layout = Layout(size, blksize)
    assert layout.total == size // blksize + 1
    stretches = {
        index: build(layout, index, data) for index in range(layout.total // layout.blocks + 1)
    }
    for block in range(1, layout.total + 1):
        (packet,) = layout.slices(block, 1, stretches)
        assert packet == expected(data, blksize, block)


@pytest.mark.parametrize(("first", "count"), [(1, 64), (60, 10), (63, 1), (64, 64), (1, 200)])
def test_windows_are_packets_in_a_row(first: int, count: int) -> None:
    layout = Layout(len(DATA), 512)
    stretches = {index: build(layout, index, DATA) for index in range(7)}
    slices = layout.slices(first, count, stretches)
    packets = [expected(DATA, 512, block) for block in range(first, first + count)]
    assert b"".join(slices) == b"".join(packets)
    # Only the very last packet of a file may be short: the kernel cuts by length.
    assert all(len(part) % layout.stride == 0 for part in slices)
    assert len(slices) <= count // layout.blocks + 2


def test_numbers_wrap_between_stretches() -> None:
    size = 70_000 * 8
    layout = Layout(size, 8)
    data = bytes(size)
    index = 65536 // layout.blocks
    stretches = {i: build(layout, i, data) for i in (index - 1, index)}
    packets = layout.slices(65535, 3, stretches)
    joined = b"".join(packets)
    assert [joined[n : n + 4] for n in (0, 12, 24)] == [b"\0\3\xff\xff", b"\0\3\0\0", b"\0\3\0\1"]


def test_spans_cover_the_file_once() -> None:
    layout = Layout(200_000, 1428)
    position = 0
    for index in range(layout.total // layout.blocks + 1):
        start, length = layout.span(index)
        assert start == position
        position += length
    assert position == 200_000
