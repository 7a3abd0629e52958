"""Long files of HTTP, sent by threads beside the event loop (server/fastpath/download.c)."""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from server.fastpath import Download, Sender

THREADS: Final = 6
"""Threads that send files. On two cores, too: the more of them have something to send, the less
often a receiver falls asleep between two packets; and one that waits for a disk after all holds
up a sixth of the others."""
STOP_SECONDS: Final = 1.0
"""For a thread to end; one that hangs in a disk is left alone."""

Done = Callable[[], None]
"""Called in the loop's thread when a download was given back."""


class Downloads:
    """Has downloads sent. The threads start with the first of them.

    All methods belong to the loop's thread.
    """

    owner: Final = "http"

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int = THREADS) -> None:
        self._workers = [_Worker(loop) for _ in range(threads)]

    def send(self, download: Download, done: Done) -> None:
        """Have a download sent. Its socket and file are lent until `done` is called."""
        min(self._workers, key=lambda worker: len(worker.waiting)).send(download, done)

    async def stop(self) -> None:
        """Have everything given back, and the threads ended."""
        await asyncio.gather(*(worker.stop() for worker in self._workers))


class _Worker:
    """One sender and its thread. waiting: its downloads, and whom to call for each."""

    owner: Final = "http"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiting: dict[Download, Done] = {}
        self._loop = loop
        self._sender: Sender | None = None
        self._thread: threading.Thread | None = None

    def send(self, download: Download, done: Done) -> None:
        self._start().add(download)
        self.waiting[download] = done

    async def stop(self) -> None:
        if self._sender is None or self._thread is None:
            return
        self._sender.stop()
        await self._loop.run_in_executor(None, self._thread.join, STOP_SECONDS)
        self._loop.remove_reader(self._sender.fileno())
        self._take()
        self._sender = self._thread = None

    def _start(self) -> Sender:
        if self._sender is None:
            sender = Sender()
            thread = threading.Thread(target=sender.run, name="http-send", daemon=True)
            thread.start()
            self._loop.add_reader(sender.fileno(), self._take)
            self._sender, self._thread = sender, thread
        return self._sender

    def _take(self) -> None:
        assert self._sender is not None
        for download in self._sender.take():
            self.waiting.pop(download)()
