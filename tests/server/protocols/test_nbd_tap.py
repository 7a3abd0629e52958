import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.nbd import pack_request
from server.protocols.nbd_tap import ReadTap, pack_reads, unpack_reads
from server.protocols.nbd_wire import Command

STREAM = b"".join(
    [
        pack_request(Command.READ, 1, 4096, 512),
        pack_request(Command.WRITE, 2, 0, 40) + pack_request(Command.READ, 9, 9, 9) + bytes(12),
        pack_request(Command.FLUSH, 3),
        pack_request(Command.READ, 4, 1 << 40, 131_072),
        pack_request(Command.BLOCK_STATUS, 5, 0, 4096),
    ]
)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_reads_however_the_bytes_are_cut(cuts: list[int]) -> None:
    tap = ReadTap()
    position = 0
    for number, cut in enumerate([*cuts, len(STREAM)]):
        piece = STREAM[position : position + cut]
        tap.receive(bytearray(piece) + b"left over", len(piece), float(number))
        position += cut
    assert [(offset, length) for _, offset, length in tap.take()] == [
        (4096, 512),
        (1 << 40, 131_072),
    ]
    assert tap.take() == []


def test_bounded_and_not_fooled() -> None:
    tap = ReadTap(limit=2)
    tap.receive(pack_request(Command.READ, 1, 0, 1) * 5, 28 * 5, 1.0)
    assert len(tap.take()) == 2
    tap = ReadTap()
    tap.receive(bytes(28) + pack_request(Command.READ, 1, 0, 1), 56, 1.0)
    assert tap.take() == []


def test_reads_as_text() -> None:
    reads = [(10.0, 0, 512), (10.000123, 1 << 40, 131_072)]
    again = unpack_reads(pack_reads(reads, 10.0), 10.0)
    assert [read[1:] for read in again] == [read[1:] for read in reads]
    assert again[1][0] == pytest.approx(10.000123)
