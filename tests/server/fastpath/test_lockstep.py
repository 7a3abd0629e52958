"""The lane of lockstep TFTP: answers the ACK it waits for, and keeps all else for Python."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.fastpath import Poller
from server.protocols.tftp import Negotiated, Transfer
from tests.server.fastpath.lanes import STRIDE, Wire, ack, data, make_packets


@pytest.fixture
def wire(poller: Poller) -> Iterator[Wire]:
    with Wire(poller) as wire:
        yield wire


def told(wire: Wire) -> bool:
    """Whether Python is told of the lane's socket."""
    events = wire.poller.poll(0.002)
    assert [fd for fd, _ in events] == [wire.fd] * len(events)
    return bool(events)


def test_each_ack_is_answered_by_the_next_block(wire: Wire) -> None:
    wire.lane.arm(make_packets(1, 5), STRIDE, 1, 1)
    for block in range(1, 5):
        assert wire.lane.block == block
        wire.theirs.send(ack(block))
        assert not told(wire)
        assert wire.theirs.recv(100) == data(block + 1)


def test_the_number_wraps_and_the_last_packet_is_short(wire: Wire) -> None:
    wire.lane.arm(make_packets(65_534, 4, tail=4), STRIDE, 65_534, 65_534)
    for block in range(65_534, 65_537):
        wire.theirs.send(ack(block))
        assert not told(wire)
    got = [wire.theirs.recv(100) for _ in range(3)]
    assert got == [data(65_535), data(65_536), b"\0\3\0\1"]


@pytest.mark.parametrize(
    "packet",
    [
        *(ack(0), ack(2), ack(3), ack(257), b"", b"\0", b"\0\4", b"\0\4\0", b"\0\4\0\1\0"),
        *(b"\0\5\0\0enough\0", b"\0\3\0\1", b"\1\4\0\1", b"\0\4\1\1", b"x" * 400),
    ],
)
def test_anything_else_is_kept_for_python(wire: Wire, packet: bytes) -> None:
    wire.lane.arm(make_packets(1, 5), STRIDE, 1, 1)
    wire.theirs.send(packet)
    assert told(wire)
    assert not wire.lane.armed
    assert wire.drain() == []
    with pytest.raises(RuntimeError, match="recv"):
        wire.lane.arm(make_packets(1, 5), STRIDE, 1, 1)
    assert wire.lane.recv(400) == packet
    with pytest.raises(BlockingIOError):
        wire.lane.recv(400)
    wire.lane.arm(make_packets(1, 5), STRIDE, 1, 1)
    wire.theirs.send(ack(1))
    assert not told(wire)
    assert wire.theirs.recv(100) == data(2)


def test_a_long_packet_is_cut(wire: Wire) -> None:
    wire.lane.arm(make_packets(1, 5), STRIDE, 1, 1)
    wire.theirs.send(b"y" * 9000)
    assert told(wire)
    assert wire.lane.recv(400) == b"y" * 400


def test_the_stretchs_last_block_is_for_python(wire: Wire) -> None:
    wire.lane.arm(make_packets(1, 2), STRIDE, 1, 1)
    wire.theirs.send(ack(1))
    assert not told(wire)
    wire.theirs.send(ack(2))
    assert told(wire)
    assert wire.lane.recv(400) == ack(2)
    assert wire.lane.block == 2
    assert wire.theirs.recv(100) == data(2)
    assert wire.drain() == []


@pytest.mark.parametrize("base", [0, 4, 9])
def test_a_block_before_or_behind_the_stretch_is_for_python(wire: Wire, base: int) -> None:
    wire.lane.arm(make_packets(1, 2), STRIDE, base, 2)
    wire.theirs.send(ack(2))
    assert told(wire)
    assert wire.drain() == []


def test_disarmed_it_leaves_all_to_python(wire: Wire) -> None:
    wire.lane.arm(make_packets(1, 5), STRIDE, 1, 1)
    wire.lane.disarm()
    wire.theirs.send(ack(1))
    assert told(wire)
    assert wire.lane.recv(400) == ack(1)


def test_nobody_listens_any_more(wire: Wire) -> None:
    """The ICMP message that the kernel keeps for the socket comes by recv, once."""
    wire.lane.arm(make_packets(1, 5), STRIDE, 1, 1)
    wire.theirs.send(ack(1))
    wire.theirs.close()
    assert told(wire)
    assert not wire.lane.armed
    with pytest.raises(ConnectionRefusedError):
        wire.lane.recv(400)
    with pytest.raises(BlockingIOError):
        wire.lane.recv(400)


def test_one_round_trip_of_eight_is_measured_none_of_pythons_blocks(wire: Wire) -> None:
    wire.lane.arm(make_packets(1, 40), STRIDE, 1, 7)
    wire.theirs.send(ack(7))
    assert not told(wire)
    assert wire.lane.rtt == 0.0  # block 8 is one of eight, but who knows when 7 was sent
    for block in range(8, 16):
        wire.theirs.send(ack(block))
        sent = wire.lane.sent_at
        assert not told(wire)
    assert wire.lane.rtt == pytest.approx(wire.lane.sent_at - sent)
    assert wire.lane.rtt > 0
    wire.lane.arm(make_packets(1, 40), STRIDE, 1, 16)
    assert (wire.lane.rtt, wire.lane.sent_at) == (0.0, 0.0)


@pytest.mark.parametrize("stride", [0, 4, 1 << 17])
def test_strides_that_cannot_be(wire: Wire, stride: int) -> None:
    with pytest.raises(ValueError, match="stride"):
        wire.lane.arm(b"", stride, 1, 1)


def test_packets_are_held_while_it_may_send_them(wire: Wire) -> None:
    packets = bytearray(make_packets(1, 5))
    for let_go in (wire.lane.disarm, lambda: wire.lane.arm(b"", STRIDE, 1, 1)):
        wire.lane.arm(packets, STRIDE, 1, 1)
        with pytest.raises(BufferError):
            packets.clear()
        let_go()
        packets += b"x"
        del packets[-1]
    wire.lane.arm(packets, STRIDE, 1, 1)
    wire.poller.unregister(wire.fd)
    del wire.lane
    packets.clear()


TOTAL = 70


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.just("next"),
            st.just("next"),
            st.integers(-3, 3).map(lambda step: f"ack {step}"),
            st.binary(max_size=8).map(lambda text: "raw " + text.hex()),
        ),
        max_size=120,
    ),
    st.integers(1, 9),
)
def test_with_the_lane_a_client_gets_what_it_gets_without(words: list[str], reach: int) -> None:
    """The same packets to a transfer alone, and to one with a lane of `reach` blocks."""
    alone, led = (Transfer(8 * TOTAL - 8, Negotiated(8)) for _ in range(2))
    poller = Poller()
    with Wire(poller) as wire:
        for transfer in (alone, led):
            transfer.start(0.0)
        for word in words:
            kind, _, rest = word.partition(" ")
            if kind == "raw":
                packet = bytes.fromhex(rest)
            else:
                packet = ack(alone.first + (int(rest) if rest else 0))
            expected = [data(alone.first)] if alone.receive(packet, 1.0) else []
            wire.theirs.send(packet)
            events = poller.poll(0.002)
            got = wire.drain()
            if events:
                if wire.lane.block > led.first:
                    led.passed(wire.lane.block, wire.lane.sent_at, wire.lane.rtt)
                if led.receive(wire.lane.recv(400), 1.0):
                    got.append(data(led.first))
            if led.outcome is None and not wire.lane.armed:
                wire.lane.arm(make_packets(led.first, reach), STRIDE, led.first, led.first)
            assert got == expected
        if wire.lane.block > led.first:
            led.passed(wire.lane.block, wire.lane.sent_at, wire.lane.rtt)
        assert (led.acked, led.first, led.outcome) == (alone.acked, alone.first, alone.outcome)
    poller.close()
