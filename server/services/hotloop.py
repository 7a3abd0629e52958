"""An event loop whose add_reader and add_writer cost little for each event.

asyncio makes a handle of each event, queues it and runs it in a context. Here the
callbacks of add_reader and add_writer are called at once, inside the selector,
which polls again without a turn of the loop as long as nothing else wants one.
Everything else of asyncio (timers, tasks, signals, threads) is as it was.

One turn of the selector: read from all that has something (readers), send the short
answers (`after_reads`), a few of the long ones (`in_bulk`), and look again. What has
a lane (server/fastpath) is served before that, without a line of Python.

Belongs to the loop's thread, as all of asyncio's calls that do not say otherwise.
"""

import asyncio
import functools
import os
import select
import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, Final, TypeVarTuple, Unpack

from server.fastpath import BULK_PER_TURN, MIXED_TURNS, Lane, Poller

WATCH_SECONDS: Final = 60e-6
"""Seconds for which a loop with a single client polls again before it sleeps, where the
machine has another core for that client: waking up takes as long."""
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_NOT_IN: Final = ~select.EPOLLIN
_NOT_OUT: Final = ~select.EPOLLOUT
_EDGE: Final = select.EPOLLET

Ready = Callable[[], object]
Ts = TypeVarTuple("Ts")


class HotLoop(asyncio.SelectorEventLoop):
    """asyncio's loop over a HotSelector."""

    def __init__(self) -> None:
        self._hot = HotSelector(self._on_error)
        super().__init__(self._hot)
        # The clock that asyncio's own method reads, without that method around it.
        self.time = time.monotonic  # type: ignore[method-assign]

    def add_reader(self, fd: Any, callback: Callable[[Unpack[Ts]], Any], *args: *Ts) -> None:
        """As asyncio's; the callback is called inside the selector."""
        ready = functools.partial(callback, *args) if args else callback
        self._hot.set_reader(_number(fd), ready)

    def remove_reader(self, fd: Any) -> bool:
        """As asyncio's."""
        return self._hot.set_reader(_number(fd), None)

    def add_edge_reader(self, fd: int, ready: "Ready") -> None:
        """As add_reader, but `ready` is called once for what has arrived (EPOLLET): it has to
        read until nothing is left. Spares the kernel a second look at each event."""
        self._hot.set_reader(fd, ready, edge=True)

    def attach(self, lane: Lane) -> None:
        """Let a lane serve its descriptor before the reader. The reader is called for what the lane
        leaves.

        The lane goes when reader and writer are removed.
        """
        self._hot.poller.attach(lane)

    @property
    def clock(self) -> Poller:
        """The poller; its `now` is the time at which the events in hand were found."""
        return self._hot.poller

    @property
    def after_reads(self) -> Callable[["Ready"], object]:
        """A function that takes a callback; the loop calls it after it has read all sockets
        that are readable in this turn.

        Answers that are sent so leave one after the other: a sleeping receiver is woken
        once, not for each answer.
        """
        return self._hot.after.append

    @property
    def in_bulk(self) -> Callable[["Ready"], object]:
        """A function that takes a callback for a long answer; the loop calls a few of them
        (BULK_PER_TURN), then looks at all readers, then calls the next few.

        Short answers do not wait for all long ones.
        """
        return self._hot.bulk.append

    def add_writer(self, fd: Any, callback: Callable[[Unpack[Ts]], Any], *args: *Ts) -> None:
        """As asyncio's; the callback is called inside the selector."""
        ready = functools.partial(callback, *args) if args else callback
        self._hot.set_writer(_number(fd), ready)

    def remove_writer(self, fd: Any) -> bool:
        """As asyncio's."""
        return self._hot.set_writer(_number(fd), None)

    # These give the loop something to do, so they end the selector's own turn.

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """As asyncio's; the selector returns to the loop."""
        self._hot.wanted = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's; the selector returns to the loop."""
        self._hot.wanted = True
        return super().call_at(when, callback, *args, context=context)

    def stop(self) -> None:
        """As asyncio's; the selector returns to the loop."""
        self._hot.wanted = True
        super().stop()

    def _on_error(self, error: Exception, ready: Ready) -> None:
        self.call_exception_handler(
            {"message": f"Exception in callback {ready!r}", "exception": error}
        )


class HotSelector(selectors.BaseSelector):
    """epoll, with readers and writers that are called inside `select`.

    What is registered as with any selector is told as by any selector.
    on_error: takes what a reader or writer raised.
    """

    def __init__(self, on_error: Callable[[Exception, Ready], None]) -> None:
        self.wanted = False
        """Set it when the loop has to have a turn."""
        self.poller = Poller(WATCH_SECONDS if len(os.sched_getaffinity(0)) > 1 else 0.0)
        self.after: list[Ready] = []
        """Called, and forgotten, when the readers and writers of a poll have been."""
        self.bulk: deque[Ready] = deque()
        """Called after those, a few after each poll."""
        self._mixed = 0
        """Above 0: there are short answers too, which wait for one long one at most."""
        self._edges: set[int] = set()
        self._on_error = on_error
        self._readers: dict[int, Ready] = {}
        self._writers: dict[int, Ready] = {}
        self._keys: dict[int, selectors.SelectorKey] = {}

    def set_reader(self, fd: int, ready: Ready | None, *, edge: bool = False) -> bool:
        """Set or remove (None) a reader; True when there was one."""
        (self._edges.add if edge else self._edges.discard)(fd)
        return self._set(self._readers, fd, ready)

    def set_writer(self, fd: int, ready: Ready | None) -> bool:
        """Set or remove (None) a writer; True when there was one."""
        return self._set(self._writers, fd, ready)

    def _set(self, table: dict[int, Ready], fd: int, ready: Ready | None) -> bool:
        if fd in self._keys:
            raise RuntimeError(f"descriptor {fd} belongs to a transport")
        before = self._mask(fd)
        had = fd in table
        if ready is None:
            if not had:
                return False
            del table[fd]
        else:
            table[fd] = ready
        after = self._mask(fd)
        if before == after:
            return had
        if not after:
            try:
                self.poller.unregister(fd)
            except OSError:
                pass  # closed before it was removed
        elif before:
            self.poller.modify(fd, after)
        else:
            try:
                self.poller.register(fd, after)
            except OSError:
                del table[fd]
                raise
        return had

    def _mask(self, fd: int) -> int:
        kinds = (_IN if fd in self._readers else 0) | (_OUT if fd in self._writers else 0)
        return kinds | _EDGE if kinds and fd in self._edges else kinds

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Call readers and writers until the loop is wanted, or for `timeout` seconds."""
        poll, keys = self.poller.poll, self._keys
        reader_of, writer_of = self._readers.get, self._writers.get
        wait = -1.0 if timeout is None else max(timeout, 0.0)
        end = time.monotonic() + wait
        told: list[tuple[selectors.SelectorKey, int]] = []
        self.wanted = False
        after, bulk = self.after, self.bulk
        while True:
            events = poll(0.0 if bulk or after else wait)
            for fd, mask in events:
                # Looked up now: an earlier one of these events may have changed it.
                if mask & _NOT_OUT:
                    ready = reader_of(fd)
                    if ready is not None:
                        try:
                            ready()
                        except Exception as error:
                            self._on_error(error, ready)
                        if mask == _IN:
                            continue
                if mask & _NOT_IN:
                    ready = writer_of(fd)
                    if ready is not None:
                        try:
                            ready()
                        except Exception as error:
                            self._on_error(error, ready)
                        continue
                key = keys.get(fd)
                if key is not None:
                    kinds = (selectors.EVENT_READ if mask & _NOT_OUT else 0) | (
                        selectors.EVENT_WRITE if mask & _NOT_IN else 0
                    )
                    if kinds & key.events:
                        told.append((key, kinds & key.events))
            if after:
                self._mixed = MIXED_TURNS
            if bulk:
                self._mixed -= 1
                most = 1 if self._mixed > 0 else BULK_PER_TURN
                after += [bulk.popleft() for _ in range(min(len(bulk), most))]
            due = bool(after)
            for call in after:
                try:
                    call()
                except Exception as error:
                    self._on_error(error, call)
            after.clear()
            if told or self.wanted or not (events or due):
                return told
            if wait > 0:
                wait = end - time.monotonic()
            if wait == 0 or (timeout is not None and wait <= 0):
                return told

    # What BaseSelector asks for: asyncio's own descriptors.

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As selectors.BaseSelector.register, for descriptors of asyncio's own."""
        fd = _number(fileobj)
        if fd in self._keys or fd in self._readers or fd in self._writers:
            raise KeyError(f"descriptor {fd} is registered already")
        self.poller.register(fd, _to_epoll(events))
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """As selectors.BaseSelector.unregister."""
        key = self._keys.pop(_number(fileobj))
        try:
            self.poller.unregister(key.fd)
        except OSError:
            pass  # closed before
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As selectors.BaseSelector.modify."""
        fd = _number(fileobj)
        key = self._keys[fd]
        if events != key.events:
            self.poller.modify(fd, _to_epoll(events))
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """As selectors.BaseSelector.get_key."""
        return self._keys[_number(fileobj)]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """As selectors.BaseSelector.get_map."""
        return self._keys

    def close(self) -> None:
        """Close the poller."""
        self.poller.close()
        self._keys.clear()
        self.after.clear()
        self.bulk.clear()
        self._readers.clear()
        self._writers.clear()


def _to_epoll(events: int) -> int:
    return (_IN if events & selectors.EVENT_READ else 0) | (
        _OUT if events & selectors.EVENT_WRITE else 0
    )


def _number(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
