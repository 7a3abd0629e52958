"""The event loop of the data path: asyncio's promises, and callbacks inside the selector."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from server.services import hotloop
from server.services.hotloop import HotLoop


@pytest.fixture
def loop() -> Iterator[HotLoop]:
    loop = HotLoop()
    yield loop
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


Pair = tuple[socket.socket, socket.socket]


def run_briefly(loop: HotLoop, seconds: float = 5.0) -> None:
    """Run until somebody calls loop.stop; a test that forgets to fails."""
    late: list[bool] = []

    def give_up() -> None:
        late.append(True)
        loop.stop()

    timer = loop.call_later(seconds, give_up)
    loop.run_forever()
    timer.cancel()
    assert not late, "nobody stopped the loop"


def test_reader_is_called_with_its_arguments_until_removed(loop: HotLoop, pair: Pair) -> None:
    ours, theirs = pair
    seen: list[bytes] = []

    def read(word: str) -> None:
        assert word == "given"
        seen.append(ours.recv(1))
        if len(seen) == 3:
            assert loop.remove_reader(ours.fileno())
            assert not loop.remove_reader(ours.fileno())
            loop.call_later(0.01, loop.stop)

    loop.add_reader(ours.fileno(), read, "given")
    theirs.send(b"abcd")
    run_briefly(loop)
    assert seen == [b"a", b"b", b"c"]


def test_writer_and_reader_of_one_socket(loop: HotLoop, pair: Pair) -> None:
    ours, theirs = pair
    seen: list[str] = []

    def write() -> None:
        seen.append("write")
        ours.send(b"x")
        loop.remove_writer(ours.fileno())
        theirs.send(b"y")

    def read() -> None:
        seen.append("read")
        ours.recv(1)
        loop.stop()

    loop.add_reader(ours.fileno(), read)
    loop.add_writer(ours.fileno(), write)
    run_briefly(loop)
    assert seen == ["write", "read"]
    assert theirs.recv(9) == b"x"


def test_hang_up_wakes_reader_and_writer(loop: HotLoop, pair: Pair) -> None:
    ours, theirs = pair
    seen: set[str] = set()

    def tell(word: str) -> None:
        seen.add(word)
        if len(seen) == 2:
            loop.stop()

    ours.send(b"never read")
    theirs.close()
    loop.add_reader(ours.fileno(), tell, "read")
    loop.add_writer(ours.fileno(), tell, "write")
    run_briefly(loop)
    assert seen == {"read", "write"}


def test_reader_replaced_by_another(loop: HotLoop, pair: Pair) -> None:
    ours, theirs = pair
    loop.add_reader(ours.fileno(), pytest.fail, "the first is gone")
    loop.add_reader(ours.fileno(), loop.stop)
    theirs.send(b"x")
    run_briefly(loop)


def test_removed_by_another_reader_of_the_same_poll(loop: HotLoop) -> None:
    """Both are readable at once; the first to run removes the other."""
    pairs = [socket.socketpair() for _ in range(2)]
    fds = [ours.fileno() for ours, _ in pairs]
    ran: list[int] = []

    def read(fd: int) -> None:
        ran.append(fd)
        for number in fds:
            loop.remove_reader(number)
        loop.call_later(0.01, loop.stop)

    for ours, theirs in pairs:
        loop.add_reader(ours.fileno(), read, ours.fileno())
        theirs.send(b"x")
    run_briefly(loop)
    assert len(ran) == 1
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_timers_soon_calls_and_threads_get_their_turn_beside_a_busy_reader(
    loop: HotLoop, pair: Pair
) -> None:
    """A reader that is always ready must starve nobody."""
    ours, theirs = pair
    seen: set[str] = set()
    turns = 0

    def tell(word: str) -> None:
        seen.add(word)
        if seen == {"timer", "soon", "thread", "task"}:
            loop.stop()

    async def task() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        tell("task")

    def busy() -> None:  # reads nothing, so it is called again at once
        nonlocal turns
        turns += 1
        if turns == 3:
            loop.call_soon(tell, "soon")
            loop.call_later(0.002, tell, "timer")
            loop.create_task(task())
            threading.Thread(target=loop.call_soon_threadsafe, args=(tell, "thread")).start()

    loop.add_reader(ours.fileno(), busy)
    theirs.send(b"x")
    run_briefly(loop)
    assert seen == {"timer", "soon", "thread", "task"}


def test_timer_set_before_ends_the_polling_of_a_busy_reader(loop: HotLoop, pair: Pair) -> None:
    ours, theirs = pair
    loop.add_reader(ours.fileno(), lambda: None)
    theirs.send(b"x")
    loop.call_later(0.01, loop.stop)
    run_briefly(loop)


def test_exception_is_told_and_the_others_run_on(loop: HotLoop, pair: Pair) -> None:
    ours, theirs = pair
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))

    def read() -> None:
        ours.recv(1)
        if not told:
            raise ValueError("mine")
        loop.stop()

    loop.add_reader(ours.fileno(), read)
    theirs.send(b"xy")
    run_briefly(loop)
    assert len(told) == 1
    assert isinstance(told[0]["exception"], ValueError)


def test_descriptor_used_anew_by_another_socket(loop: HotLoop) -> None:
    """A socket that was closed without being removed does not stand in the way of the next."""
    first, other = socket.socketpair()
    number = first.fileno()
    loop.add_reader(number, pytest.fail, "the socket is gone")
    first.close()
    other.close()
    assert loop.remove_reader(number)
    ours, theirs = socket.socketpair()
    assert number in (ours.fileno(), theirs.fileno())
    mine, its = (ours, theirs) if ours.fileno() == number else (theirs, ours)
    loop.add_reader(number, loop.stop)
    its.send(b"x")
    run_briefly(loop)
    mine.close()
    its.close()


def test_bad_descriptor_is_refused(loop: HotLoop) -> None:
    with pytest.raises(OSError, match="descriptor"):
        loop.add_reader(9999, loop.stop)
    assert not loop.remove_reader(9999)


def test_signals_and_executors(loop: HotLoop) -> None:
    async def main() -> int:
        heard = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, heard.set_result, "heard")
        os.kill(os.getpid(), signal.SIGUSR1)
        assert await heard == "heard"
        return await loop.run_in_executor(None, lambda: 7)

    assert loop.run_until_complete(main()) == 7


def test_asyncios_own_streams_and_processes() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async def main() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RuntimeError, match="transport"):
            asyncio.get_running_loop().add_reader(server.sockets[0].fileno(), print)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"word\n")
        answer = await reader.readline()
        writer.close()
        server.close()
        return answer

    with asyncio.Runner(loop_factory=HotLoop) as runner:
        assert runner.run(main()) == b"WORD\n"


def test_edge_reader_is_told_once_of_what_it_leaves_and_again_of_more(
    loop: HotLoop, pair: Pair
) -> None:
    ours, theirs = pair
    seen: list[bytes] = []

    def read() -> None:
        seen.append(ours.recv(1))

    loop.add_edge_reader(ours.fileno(), read)
    theirs.send(b"ab")
    loop.call_later(0.05, theirs.send, b"c")
    loop.call_later(0.1, loop.stop)
    run_briefly(loop)
    assert seen == [b"a", b"b"]
    assert loop.remove_reader(ours.fileno())
    loop.add_reader(ours.fileno(), loop.stop)  # as any other again
    run_briefly(loop)


def test_answers_leave_when_all_was_read(loop: HotLoop) -> None:
    """Two readers with something each: both read before either answers."""
    pairs = [socket.socketpair() for _ in range(2)]
    order: list[str] = []

    def read(sock: socket.socket, name: str) -> None:
        sock.recv(1)
        order.append(f"read {name}")
        loop.after_reads(lambda: order.append(f"answer {name}"))
        loop.call_later(0.01, loop.stop)

    for (ours, theirs), name in zip(pairs, "ab", strict=True):
        loop.add_reader(ours.fileno(), read, ours, name)
        theirs.send(b"x")
    run_briefly(loop)
    assert sorted(order[:2]) == ["read a", "read b"]
    assert sorted(order[2:]) == ["answer a", "answer b"]
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_short_answer_waits_for_one_long_one_at_most(loop: HotLoop, pair: Pair) -> None:
    ours, theirs = pair
    order: list[str] = []

    def ask() -> None:
        theirs.send(b"x")
        order.append("asked")

    def read() -> None:
        ours.recv(1)
        loop.after_reads(lambda: order.append("short"))

    def long(number: int) -> None:
        order.append(f"long {number}")
        if number == 1:
            ask()
        if number == 9:
            loop.stop()

    loop.add_reader(ours.fileno(), read)
    ask()
    for number in range(10):
        loop.in_bulk(lambda number=number: long(number))  # type: ignore[misc]
    run_briefly(loop)
    place = [order.index("asked"), order.index("short")]
    assert place == [0, 1], order
    at = order.index("asked", 1)
    assert order[at + 1] == "short", order
    assert [word for word in order if "long" in word] == [f"long {n}" for n in range(10)]


@pytest.mark.parametrize("way", ["after_reads", "in_bulk"])
def test_what_a_timer_wants_sent_leaves_at_once(loop: HotLoop, way: str) -> None:
    """Nothing else happens on this loop: it must not sleep over it."""
    loop.call_later(0.01, getattr(loop, way), loop.stop)
    run_briefly(loop)


@pytest.mark.parametrize("way", ["after_reads", "in_bulk"])
def test_answer_that_fails_is_told_and_the_others_leave(loop: HotLoop, way: str) -> None:
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))

    def fail() -> None:
        raise ValueError("mine")

    loop.call_soon(getattr(loop, way), fail)
    loop.call_soon(getattr(loop, way), loop.stop)
    run_briefly(loop)
    assert len(told) == 1
    assert isinstance(told[0]["exception"], ValueError)


def test_a_single_client_is_answered_without_sleeping_in_between(loop: HotLoop, pair: Pair) -> None:
    """Asked again while it looks, it never comes to the poll that would sleep."""
    ours, theirs = pair
    count = 0
    loop.clock.watch_seconds = 5.0

    def read() -> None:
        nonlocal count
        ours.recv(1)
        count += 1
        if count == 20:
            loop.stop()
        else:
            theirs.send(b"x")

    loop.add_reader(ours.fileno(), read)
    theirs.send(b"x")
    run_briefly(loop)
    assert (loop.clock.looks, loop.clock.finds) == (19, 19)


def test_looking_in_vain_is_soon_given_up(loop: HotLoop, pair: Pair) -> None:
    ours, theirs = pair
    loop.clock.watch_seconds = hotloop.WATCH_SECONDS  # also on a single core
    left = 100
    theirs.setblocking(True)

    def read() -> None:
        nonlocal left
        word = ours.recv(1)
        left -= 1
        if left:
            ours.send(word)
        else:
            ours.shutdown(socket.SHUT_RDWR)
            loop.stop()

    def answer_late() -> None:
        while theirs.recv(1):
            time.sleep(0.001)
            theirs.send(b"x")

    theirs.send(b"x")
    loop.add_reader(ours.fileno(), read)
    client = threading.Thread(target=answer_late)
    client.start()
    run_briefly(loop)
    client.join()
    assert 1 <= loop.clock.looks <= 10
