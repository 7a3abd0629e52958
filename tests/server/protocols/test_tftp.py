"""TFTP transfers: by hand, and against a client behind a network that loses, doubles and delays."""

import heapq
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.protocols.tftp import (
    FIRST_RTO,
    MAX_RTO,
    MIN_RTO,
    NEVER,
    UNCONFIRMED_RETRIES,
    Negotiated,
    Outcome,
    Transfer,
    negotiate,
)
from server.protocols.tftp_wire import pack_ack, pack_error


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Negotiated()),
        ({"blksize": "1428"}, Negotiated(1428, 1, None, {"blksize": "1428"})),
        ({"blksize": "65464"}, Negotiated(8192, 1, None, {"blksize": "8192"})),
        ({"blksize": "99999999"}, Negotiated(8192, 1, None, {"blksize": "8192"})),
        ({"blksize": "7"}, Negotiated()),
        ({"blksize": "-1"}, Negotiated()),
        ({"blksize": "x"}, Negotiated()),
        ({"blksize": "²"}, Negotiated()),
        ({"blksize": ""}, Negotiated()),
        ({"blksize": "9" * 5000}, Negotiated()),
        ({"tsize": "0"}, Negotiated(oack={"tsize": "1000"})),
        ({"timeout": "3"}, Negotiated(timeout=3, oack={"timeout": "3"})),
        ({"timeout": "0"}, Negotiated()),
        ({"timeout": "256"}, Negotiated()),
        ({"windowsize": "16"}, Negotiated(512, 16, None, {"windowsize": "16"})),
        ({"windowsize": "65535"}, Negotiated(512, 64, None, {"windowsize": "64"})),
        ({"windowsize": "0"}, Negotiated()),
        (
            {"windowsize": "64", "blksize": "8192"},
            Negotiated(8192, 16, None, {"windowsize": "16", "blksize": "8192"}),
        ),
        ({"multicast": "", "rollover": "1", "x": "1"}, Negotiated()),
        ({"rollover": "0"}, Negotiated(512, 1, None, {"rollover": "0"})),
        (
            {"tsize": "0", "x": "1", "windowsize": "4", "blksize": "512"},
            Negotiated(512, 4, None, {"tsize": "1000", "windowsize": "4", "blksize": "512"}),
        ),
    ],
)
def test_negotiation_answers_what_it_understood(
    options: dict[str, str], expected: Negotiated
) -> None:
    got = negotiate(options, 1000, max_blksize=8192)
    assert got == expected
    # In the order in which they were asked for.
    assert list(got.oack or ()) == [name for name in options if name in (got.oack or ())]


def test_a_block_larger_than_a_windows_bytes_goes_alone() -> None:
    got = negotiate({"blksize": "65464", "windowsize": "9"}, 1, max_window_bytes=60_000)
    assert (got.blksize, got.windowsize) == (65464, 1)


def test_an_unknown_size_is_not_told() -> None:
    assert negotiate({"tsize": "0"}, None) == Negotiated()


def start(size: int = 2000, **options: str) -> Transfer:
    transfer = Transfer(size, negotiate(options, size))
    transfer.start(0.0)
    return transfer


def wants(transfer: Transfer) -> tuple[int, int]:
    return transfer.first, transfer.count


class TestLockstep:
    def test_whole_transfer_without_options(self) -> None:
        transfer = start(1024)
        assert (transfer.total, wants(transfer)) == (3, (1, 1))
        assert transfer.receive(pack_ack(1), 0.1)
        assert wants(transfer) == (2, 1)
        assert transfer.receive(pack_ack(2), 0.2)
        assert wants(transfer) == (3, 1)
        assert not transfer.receive(pack_ack(3), 0.3)
        assert transfer.outcome == Outcome("ok")
        assert (transfer.deadline, transfer.farewell, transfer.retries) == (NEVER, b"", 0)

    def test_an_empty_file_is_one_empty_block(self) -> None:
        transfer = start(0)
        assert (transfer.total, wants(transfer)) == (1, (1, 1))
        transfer.receive(pack_ack(1), 0.1)
        assert transfer.outcome == Outcome("ok")

    def test_options_are_acknowledged_before_any_data(self) -> None:
        transfer = start(2000, blksize="1000")
        assert wants(transfer) == (0, 1)
        assert transfer.oack == b"\0\6blksize\x001000\0"
        assert not transfer.confirmed
        assert not transfer.receive(pack_ack(1), 0.1)  # there was no block 1 yet
        assert transfer.receive(pack_ack(0), 0.1)
        assert transfer.confirmed
        assert wants(transfer) == (1, 1)

    def test_duplicate_acks_send_nothing(self) -> None:
        transfer = start(5000)
        transfer.receive(pack_ack(1), 0.1)
        assert not transfer.receive(pack_ack(1), 0.11)
        assert not transfer.receive(pack_ack(1), 5.0)
        assert not transfer.receive(pack_ack(0), 0.12)
        assert transfer.receive(pack_ack(2), 0.13)

    @pytest.mark.parametrize("block", [3, 100, 65535])
    def test_acks_of_what_was_not_sent_are_ignored(self, block: int) -> None:
        transfer = start(5000)
        transfer.receive(pack_ack(1), 0.1)
        assert not transfer.receive(pack_ack(block), 0.2)
        assert transfer.acked == 1

    def test_block_numbers_wrap(self) -> None:
        transfer = start(8 * 140_000, blksize="8")
        assert transfer.receive(pack_ack(0), 0.0)
        for block in range(1, transfer.total):
            assert wants(transfer) == (block, 1)
            assert transfer.receive(pack_ack(block), block * 0.001)
        assert not transfer.receive(pack_ack(transfer.total), 200.0)
        assert transfer.outcome == Outcome("ok")
        assert transfer.retries == 0

    @pytest.mark.parametrize(
        "packet",
        [b"", b"\0", b"\0\4", b"\0\4\0", b"\0\3\0\1data", b"\0\7\0\0", b"\1\4\0\1", b"\0\5"],
    )
    def test_other_packets_are_ignored(self, packet: bytes) -> None:
        transfer = start()
        assert not transfer.receive(packet, 0.1)
        assert transfer.outcome is None

    def test_the_client_may_end_it(self) -> None:
        transfer = start(5000, tsize="0")
        assert not transfer.receive(pack_error(8, "only the size"), 0.1)
        assert transfer.outcome == Outcome("stop", "the client ended it: only the size (code 8)")
        assert transfer.farewell == b""
        assert not transfer.timeout(100.0)


class TestTimers:
    def test_before_any_answer_two_retransmissions_and_no_more(self) -> None:
        transfer = start(100_000)
        sent, now = 1, 0.0
        while transfer.outcome is None:
            assert transfer.deadline > now
            now = transfer.deadline
            if transfer.timeout(now):
                assert wants(transfer) == (1, 1)
                sent += 1
        assert sent == 1 + UNCONFIRMED_RETRIES == 3
        assert now == FIRST_RTO * (1 + 2 + 4)
        assert transfer.outcome.status == "error"
        assert transfer.farewell == b""  # nobody there

    def test_an_early_call_does_nothing(self) -> None:
        transfer = start()
        assert not transfer.timeout(0.9)
        assert transfer.timeout(1.0)

    def test_a_repeated_request_counts_as_one_of_them(self) -> None:
        transfer = start(blksize="512")
        assert transfer.repeat(0.1)
        assert wants(transfer) == (0, 1)
        assert transfer.repeat(0.2)
        assert not transfer.repeat(0.3)

    def test_a_request_repeated_after_an_answer_sends_nothing(self) -> None:
        transfer = start(blksize="512")
        transfer.receive(pack_ack(0), 0.1)
        assert not transfer.repeat(0.2)

    def test_the_measured_round_trip_sets_the_timer(self) -> None:
        transfer = start(512 * 100)
        for block in range(1, 50):
            now = block * 0.2
            assert transfer.receive(pack_ack(block), now)
        # steady 0.2 s: the variance is gone
        assert 0.2 < transfer.deadline - now < 0.3

    def test_the_timer_has_a_floor_and_a_ceiling(self) -> None:
        transfer = start(512 * 100)
        for block in range(1, 50):
            now = block * 0.0001
            transfer.receive(pack_ack(block), now)
        assert transfer.deadline == pytest.approx(now + MIN_RTO)
        waits = []
        while transfer.outcome is None:
            waits.append(transfer.deadline - now)
            now = transfer.deadline
            transfer.timeout(now)
        assert waits[1] == pytest.approx(2 * MIN_RTO)
        assert max(waits) == pytest.approx(MAX_RTO)
        assert waits == sorted(waits)

    def test_retransmitted_blocks_are_not_measured(self) -> None:
        transfer = start(512 * 100)
        transfer.receive(pack_ack(1), 0.1)
        deadline = transfer.deadline
        assert transfer.timeout(deadline)
        assert transfer.receive(pack_ack(2), deadline + 0.0001)
        # Karn: 0.1 ms would have brought the timer down.
        assert transfer.deadline - (deadline + 0.0001) == pytest.approx(0.1 + 4 * 0.05)

    def test_the_clients_timeout_is_the_ceiling(self) -> None:
        transfer = start(timeout="2")
        assert transfer.deadline == 2.0
        transfer.receive(pack_ack(0), 0.001)
        now, longest = 0.001, 0.0
        while transfer.outcome is None:
            longest = max(longest, transfer.deadline - now)
            now = transfer.deadline
            transfer.timeout(now)
        assert longest == pytest.approx(2.0)

    def test_a_silent_client_is_given_up_and_told(self) -> None:
        transfer = start(5000)
        transfer.receive(pack_ack(1), 10.0)
        now = 10.0
        while transfer.outcome is None:
            now = transfer.deadline
            transfer.timeout(now)
        assert 40.0 <= now <= 40.0 + MAX_RTO
        assert transfer.outcome == Outcome(
            "error", f"no answer for {now - 10:.0f} s at block 2 of 10", "timeout"
        )
        assert transfer.farewell == pack_error(0, "timed out")

    def test_a_long_client_timeout_is_waited_for(self) -> None:
        transfer = start(timeout="60")
        transfer.receive(pack_ack(0), 0.0)
        now = 0.0
        while transfer.outcome is None:
            now = transfer.deadline
            transfer.timeout(now)
        assert now >= 300

    def test_held_blocks_are_neither_timed_nor_measured(self) -> None:
        transfer = start(5000)
        transfer.receive(pack_ack(1), 0.001)
        transfer.hold()
        assert transfer.deadline == NEVER
        transfer.sent(3.0)
        transfer.receive(pack_ack(2), 3.001)
        assert transfer.deadline == pytest.approx(3.001 + MIN_RTO)


class TestWindows:
    def start(self, blocks: int = 100, window: int = 4) -> Transfer:
        transfer = start(512 * blocks - 1, windowsize=str(window))
        assert transfer.receive(pack_ack(0), 0.01)
        assert wants(transfer) == (1, window)
        return transfer

    def test_a_window_follows_an_ack_of_its_last_block(self) -> None:
        transfer = self.start()
        assert transfer.receive(pack_ack(4), 0.02)
        assert wants(transfer) == (5, 4)

    def test_the_last_window_is_short(self) -> None:
        transfer = self.start(blocks=6)
        transfer.receive(pack_ack(4), 0.02)
        assert wants(transfer) == (5, 2)
        transfer.receive(pack_ack(6), 0.03)
        assert transfer.outcome == Outcome("ok")

    def test_a_gap_is_filled_from_the_block_after_the_acknowledged(self) -> None:
        transfer = self.start()
        assert transfer.receive(pack_ack(2), 0.02)
        assert wants(transfer) == (3, 4)
        assert transfer.retries == 1

    def test_more_reports_of_the_same_gap_send_nothing_more(self) -> None:
        transfer = self.start()
        assert transfer.receive(pack_ack(2), 0.02)
        assert not transfer.receive(pack_ack(2), 0.0201)
        assert not transfer.receive(pack_ack(2), 0.0202)
        assert transfer.receive(pack_ack(6), 0.03)
        assert wants(transfer) == (7, 4)

    def test_a_window_lost_from_its_first_block_is_sent_again_once(self) -> None:
        transfer = self.start()
        transfer.receive(pack_ack(4), 0.02)
        assert transfer.receive(pack_ack(4), 0.03)
        assert wants(transfer) == (5, 4)
        assert not transfer.receive(pack_ack(4), 0.031)

    def test_a_late_ack_does_not_send_a_window_twice(self) -> None:
        transfer = self.start()
        now = transfer.deadline
        assert transfer.timeout(now)
        assert wants(transfer) == (1, 4)
        assert transfer.receive(pack_ack(4), now + 0.001)  # of the first sending
        assert wants(transfer) == (5, 4)
        assert not transfer.receive(pack_ack(4), now + 0.0011)  # of the second

    def test_a_client_that_acknowledges_each_block_gets_no_flood(self) -> None:
        transfer = self.start(blocks=1000, window=16)
        sent, now, block = 16, 0.02, 0
        while transfer.outcome is None and now < 100:
            block += 1
            now += 0.0001
            if transfer.receive(pack_ack(block), now):
                sent += transfer.count
            if block >= transfer._sent:
                now = max(now, transfer.deadline)
                if transfer.timeout(now):
                    sent += transfer.count
        assert transfer.outcome == Outcome("ok")
        assert sent < 4 * 1000  # a window for each ACK would be 16 * 1000

    def test_nothing_but_the_first_block_before_the_client_answers(self) -> None:
        transfer = Transfer(100_000, Negotiated(windowsize=16))
        transfer.start(0.0)
        assert wants(transfer) == (1, 1)
        assert transfer.timeout(transfer.deadline)
        assert wants(transfer) == (1, 1)


class TestUnreachable:
    def test_after_the_last_block_it_is_well(self) -> None:
        transfer = start(1000)
        transfer.receive(pack_ack(1), 0.1)
        transfer.unreachable()
        assert transfer.outcome == Outcome("ok")

    def test_at_the_start_the_client_had_enough(self) -> None:
        transfer = start(1000, tsize="0")
        transfer.unreachable()
        assert transfer.outcome is not None
        assert transfer.outcome.status == "stop"

    def test_in_between_it_is_an_error(self) -> None:
        transfer = start(10_000)
        transfer.receive(pack_ack(1), 0.1)
        transfer.unreachable()
        assert transfer.outcome == Outcome(
            "error", "the client closed its port at block 2", "hung_up"
        )

    def test_not_once_it_is_over(self) -> None:
        transfer = start(10)
        transfer.receive(pack_ack(1), 0.1)
        transfer.unreachable()
        assert transfer.outcome == Outcome("ok")


def test_the_server_may_end_it() -> None:
    transfer = start()
    transfer.fail("the server is stopping")
    assert transfer.outcome == Outcome("error", "the server is stopping", "stopped")
    assert transfer.farewell == pack_error(0, "the server is stopping")


@dataclass
class Client:
    """A client by the RFCs: takes blocks in order, acknowledges windows, reports gaps."""

    window: int
    total: int
    expected: int = 1
    since_ack: int = 0
    reported: int = -1
    received: list[int] = field(default_factory=list)
    over: bool = False

    def receive(self, block: int) -> list[int]:
        """A DATA block (not wrapped) arrives; the ACKs to send."""
        if self.over:
            return [self.expected - 1] if block == self.total else []
        if block == self.expected:
            self.received.append(block)
            self.expected += 1
            self.since_ack += 1
            if block == self.total:
                self.over = True
                return [block]
            if self.since_ack == self.window:
                self.since_ack = 0
                return [block]
            return []
        if self.window == 1:
            return [self.expected - 1]  # a duplicate: acknowledged again
        self.since_ack = 0
        if block > self.expected and self.reported == self.expected:
            return []
        self.reported = self.expected
        return [self.expected - 1]


@dataclass
class Net:
    """Both ends and a wire between them, in simulated time."""

    transfer: Transfer
    client: Client
    dice: random.Random
    loss: float
    double: float
    delay: float
    now: float = 0.0
    data_sent: int = 0
    queue: list[tuple[float, int, str, int]] = field(default_factory=list)
    counter: int = 0

    def put(self, kind: str, number: int, latency: float) -> None:
        copies = 1 + (self.dice.random() < self.double)
        for _ in range(copies):
            if self.dice.random() < self.loss:
                continue
            self.counter += 1
            late = self.dice.random() * self.delay
            heapq.heappush(self.queue, (self.now + latency + late, self.counter, kind, number))

    def send(self) -> None:
        transfer = self.transfer
        if transfer.first == 0:
            self.put("oack", 0, 0.001)
            return
        for block in range(transfer.first, transfer.first + transfer.count):
            assert 1 <= block <= transfer.total
            self.data_sent += 1
            self.put("data", block, 0.001 + 0.00001 * (block - transfer.first))

    def run(self) -> None:
        self.transfer.start(0.0)
        self.send()
        idle_since = 0.0
        for _ in range(200_000):
            if self.transfer.outcome is not None:
                return
            if self.queue and self.queue[0][0] <= self.transfer.deadline:
                self.now, _, kind, number = heapq.heappop(self.queue)
                if kind == "ack":
                    if self.transfer.receive(pack_ack(number), self.now):
                        self.send()
                    continue
                idle_since = self.now
                if kind == "oack":
                    acks = [0] if self.client.expected == 1 else []
                else:
                    acks = self.client.receive(number)
                for ack in acks:
                    self.put("ack", ack, 0.001)
            else:
                self.now = max(self.now, self.transfer.deadline)
                if self.transfer.timeout(self.now):
                    self.send()
            if self.now - idle_since > 100:
                return
        raise AssertionError("it never ends")


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    blocks=st.integers(1, 200),
    window=st.sampled_from([1, 1, 2, 4, 16, 64]),
    loss=st.sampled_from([0.0, 0.02, 0.1]),
    double=st.sampled_from([0.0, 0.1, 1.0]),
    delay=st.sampled_from([0.0, 0.0005, 0.05]),
)
def test_any_network_gets_the_file_through(
    seed: int, blocks: int, window: int, loss: float, double: float, delay: float
) -> None:
    size = 512 * blocks - 1
    transfer = Transfer(size, negotiate({"windowsize": str(window), "blksize": "512"}, size))
    net = Net(transfer, Client(window, blocks), random.Random(seed), loss, double, delay)
    net.run()
    assert net.client.received == list(range(1, len(net.client.received) + 1))
    if transfer.confirmed and not (net.client.over and transfer.outcome != Outcome("ok")):
        # Either both know that it is through, or only the very last ACKs were lost.
        assert transfer.outcome == Outcome("ok")
        assert net.client.over
    if delay == 0.0:
        # Whatever is lost or doubled, going back costs a bounded multiple.
        assert net.data_sent <= (blocks + window) * (4 if loss < 0.1 else 20)
    if loss == 0.0 and delay == 0.0 and double == 0.0:
        assert net.data_sent == blocks
        assert transfer.retries == 0


@pytest.mark.parametrize("window", [1, 4, 64])
def test_every_packet_doubled_is_no_sorcerers_apprentice(window: int) -> None:
    """RFC 1123, 4.2.3.1: doubled ACKs must not double the data for ever."""
    blocks = 2000
    size = 512 * blocks - 1
    transfer = Transfer(size, negotiate({"windowsize": str(window)}, size))
    net = Net(transfer, Client(window, blocks), random.Random(1), 0.0, 1.0, 0.0)
    net.run()
    assert transfer.outcome == Outcome("ok")
    assert net.data_sent <= blocks * (1 if window == 1 else 2.1)


@given(st.lists(st.tuples(st.floats(0, 3), st.binary(max_size=8)), max_size=40), st.booleans())
def test_no_packets_make_it_raise(packets: list[tuple[float, bytes]], windows: bool) -> None:
    transfer = start(5000, **({"windowsize": "8"} if windows else {}))
    now = 0.0
    for wait, packet in packets:
        now += wait
        for whole in (packet, b"\0\4" + packet):
            if transfer.receive(whole, now) or transfer.timeout(now):
                assert transfer.first + transfer.count - 1 <= transfer.total
        if transfer.outcome is not None:
            break
