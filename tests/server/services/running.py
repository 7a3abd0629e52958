"""A loop in a thread, so that tests may speak to services with blocking clients."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from server.events import Event
from server.services.hotloop import HotLoop


class Service(Protocol):
    def bind(self) -> None: ...
    def start(self) -> None: ...
    async def stop(self) -> None: ...


T = TypeVar("T")
S = TypeVar("S", bound=Service)


@dataclass
class Seen:
    """The events of a service, and a way to wait for one."""

    events: list[Event] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def emit(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(
        self, wanted: Callable[[Event], bool], seconds: float = 20
    ) -> Mapping[str, str | int | float | bool]:
        """The detail of the first event that is wanted; fails when none comes."""
        with self._changed:
            self._changed.wait_for(lambda: any(map(wanted, self.events)), seconds)
            for event in self.events:
                if wanted(event):
                    return event.detail
        raise AssertionError(f"no such event among {self.events}")

    def wait_phase(self, phase: str) -> Mapping[str, str | int | float | bool]:
        return self.wait_for(lambda event: event.phase == phase)

    def wait_status(self, status: str) -> Mapping[str, str | int | float | bool]:
        return self.wait_for(lambda event: event.detail.get("status") == status)


class Running:
    """A loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self.loop = HotLoop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the loop's thread, give its result."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)

    def sleep(self, seconds: float) -> None:
        """Let the loop run for a while."""
        asyncio.run_coroutine_threadsafe(asyncio.sleep(seconds), self.loop).result(seconds + 20)

    def stop(self, service: Service) -> None:
        asyncio.run_coroutine_threadsafe(service.stop(), self.loop).result(30)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@contextmanager
def running(make: Callable[[HotLoop], S]) -> Iterator[S]:
    """A bound and started service in a loop of its own; stopped at the end."""
    runner = Running()
    try:
        service = make(runner.loop)
        service.bind()
        runner.call(service.start)
        try:
            yield service
        finally:
            runner.stop(service)
    finally:
        runner.close()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true, for as long as a busy machine may want."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")
