"""TFTP: any request is read or refused; any exchange keeps to the transfer's bounds."""

# ruff: noqa: PT017 - what an error must say is a promise, too

from typing import Final

from fuzz.words import Words
from server.protocols.tftp import MAX_WINDOW_BYTES, Negotiated, Transfer, negotiate
from server.protocols.tftp_blocks import Layout, build
from server.protocols.tftp_wire import (
    Request,
    RequestError,
    pack_ack,
    pack_error,
    pack_request,
    parse_request,
    unpack_error,
)

SIZES: Final = (0, 1, 511, 512, 513, 70_000, 65_535 * 512 + 7, 5_000_000_000)
_STEPS: Final = 64

REQUESTS: Final = (
    pack_request("/ltsp/amd64/vmlinuz"),
    pack_request("a", {"blksize": "1428", "tsize": "0", "windowsize": "16", "timeout": "3"}),
    pack_request("a", {"BLKSIZE": "65464", "x": "y"}, "NETASCII"),
    b"\0\2up\0octet\0",
    b"\0\1a\xff\0octet",
)
SEEDS: Final = (
    *(b"\0" + request for request in REQUESTS),
    *(bytes([1, kind, 1, 8, 16]) + b"\0" * 20 for kind in range(8)),
    b"\2" + pack_ack(0) + b"\2" + pack_ack(1) + b"\1" + pack_error(8, "no"),
    bytes([1, 5, 1, 8, 4]) + b"\4" * 40,
)


def check(data: bytes) -> None:
    """data: one byte that chooses what is checked, then a request, or the steps of a transfer."""
    words = Words(data)
    if words.number() % 2 == 0:
        _check_request(words.rest())
    else:
        _check_transfer(words)


def _check_request(packet: bytes) -> None:
    try:
        request = parse_request(packet)
    except RequestError as error:
        assert str(error)
        return
    assert request.path.startswith("/")
    assert "//" not in request.path
    assert "\0" not in request.path
    for size in (None, 0, 100_000):
        _check_answer(request, negotiate(request.options, size))


def _check_answer(request: Request, answer: Negotiated) -> None:
    assert 8 <= answer.blksize <= 65_464
    assert 1 <= answer.windowsize <= 64
    assert answer.windowsize * answer.blksize <= max(MAX_WINDOW_BYTES, answer.blksize)
    # RFC 2347: nothing is acknowledged that was not asked for.
    assert set(answer.oack or {}) <= set(request.options)


def _check_transfer(words: Words) -> None:
    size = SIZES[words.number() % len(SIZES)]
    asked = Negotiated()
    if words.number() % 2:
        blksize, window = max(8, 8 * words.number()), 1 + words.number() % 64
        asked = Negotiated(blksize, window, words.number() % 4 or None, {"tsize": str(size)})
    blksize = asked.blksize
    transfer = Transfer(size, asked, give_up=30.0)
    now = 0.0
    transfer.start(now)
    _check_send(transfer, first=True)
    sent = 1
    for _ in range(_STEPS):
        if not words or transfer.outcome is not None:
            break
        again, now = _step(words, transfer, now)
        if again:
            sent += transfer.count
            _check_send(transfer)
        if not transfer.confirmed:
            # No amplifier: to an address that has not answered, three packets in all.
            assert sent <= 3, "too much for an address that never answered"
    if transfer.outcome is not None:
        assert transfer.deadline == float("inf")
        assert not transfer.timeout(now + 1000)
        assert not transfer.repeat(now + 1000)
        if transfer.outcome.status == "ok":
            assert transfer.confirmed
    if size < 100_000:
        _check_blocks(size, blksize, transfer)


def _step(words: Words, transfer: Transfer, now: float) -> tuple[bool, float]:
    """One packet or one tick. (whether blocks are to be sent, the time after it)."""
    choice = words.number() % 8
    now += words.number() / 64
    if choice == 0:
        return transfer.receive(pack_ack(transfer.acked + transfer.count), now), now
    if choice == 1:
        return transfer.receive(pack_ack(max(transfer.acked, 0) + words.number()), now), now
    if choice == 2:
        return transfer.receive(words.take(words.number() % 16), now), now
    if choice == 3:
        return transfer.repeat(now), now
    if choice == 4:
        now = max(now, transfer.deadline)
        return transfer.timeout(now), now
    if choice == 5:
        return transfer.timeout(now), now
    if choice == 6:
        return transfer.receive(pack_ack(transfer.acked), now), now
    if words.number() > 250:
        transfer.unreachable()
    return False, now


def _check_send(transfer: Transfer, *, first: bool = False) -> None:
    assert transfer.outcome is None
    if transfer.first == 0:
        assert transfer.oack
        assert transfer.count == 1
    else:
        assert 1 <= transfer.count <= transfer.windowsize
        assert transfer.first + transfer.count - 1 <= transfer.total
        assert transfer.first == max(transfer.acked, 0) + 1
    if first:
        assert transfer.count == 1
    assert transfer.deadline < float("inf")


def _check_blocks(size: int, blksize: int, transfer: Transfer) -> None:
    """The packets that the transfer last asked for carry the file's bytes."""
    if transfer.first == 0:
        return
    layout = Layout(size, blksize)
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    last = transfer.first + transfer.count - 1
    stretches = {
        index: build(layout, index, content)
        for index in range(transfer.first // layout.blocks, last // layout.blocks + 1)
    }
    packets = b"".join(layout.slices(transfer.first, transfer.count, stretches))
    wanted = b"".join(
        b"\0\3"
        + (block & 0xFFFF).to_bytes(2, "big")
        + content[(block - 1) * blksize : block * blksize]
        for block in range(transfer.first, last + 1)
    )
    assert packets == wanted


def check_error_text(packet: bytes) -> None:
    """An ERROR's message is fit for a log, whatever it holds."""
    _, text = unpack_error(packet)
    assert text.isprintable()
