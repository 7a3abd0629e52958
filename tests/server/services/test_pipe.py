"""The pipe between the server and its workers."""

import asyncio
import socket
from typing import Any

from server.services import pipe as module
from server.services.pipe import Pipe, pack_message


async def wait_until(condition: Any) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


async def make() -> tuple[Pipe, Pipe, list[Any], list[str]]:
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    heard: list[Any] = []
    ends: list[str] = []
    first = Pipe(loop, one, heard.append, lambda: ends.append("first"))
    second = Pipe(loop, two, heard.append, lambda: ends.append("second"))
    return first, second, heard, ends


def test_messages_of_all_sizes_in_order() -> None:
    async def run() -> None:
        first, second, heard, ends = await make()
        messages = [{"n": n, "data": bytes(n * n * 100)} for n in range(100)]
        for message in messages:
            first.send(message)
        first.send_packed(pack_message("last"))
        await first.drain()
        await wait_until(lambda: len(heard) == 101)
        assert heard == [*messages, "last"]
        first.close()
        await wait_until(lambda: ends == ["second"])
        second.send("to nobody")
        first.send("closed")

    asyncio.run(run())


def test_bytes_one_by_one() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        heard: list[Any] = []
        Pipe(loop, theirs, heard.append, lambda: None)
        for byte in pack_message([1, "two"]) + pack_message(3):
            ours.send(bytes([byte]))
            await asyncio.sleep(0)
        await wait_until(lambda: len(heard) == 2)
        assert heard == [[1, "two"], 3]
        ours.close()

    asyncio.run(run())


def test_a_peer_that_does_not_read_costs_bounded_memory(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT", 1_000_000)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        pipe = Pipe(loop, ours, lambda message: None, lambda: None)
        for _ in range(100):
            pipe.send(bytes(100_000))
        assert pipe.dropped == 90
        assert pipe._waiting < 1_200_000
        pipe.close()
        theirs.close()

    asyncio.run(run())
