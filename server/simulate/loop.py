"""The event loop of one process of simulated nodes: epoll on raw sockets, and their deadlines."""

import heapq
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from server.simulate.node import Node
from server.simulate.plan import Plan
from server.simulate.tally import Tally

TICK: Final = 0.05
"""Seconds; how often the nodes' deadlines are looked at."""


class Loop:
    """Runs nodes until each has its result. tell: called every `tell_seconds` or so."""

    def __init__(self, plan: Plan, tally: Tally) -> None:
        self._plan = plan
        self._tally = tally
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._running: set[Node] = set()

    # What nodes call.

    def watch(self, sock: socket.socket, ready: Callable[[int], None], events: int) -> None:
        """Call `ready(events)` when epoll reports one of `events` for the socket; replaces an
        earlier call."""
        fd = sock.fileno()
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = ready

    def forget(self, sock: socket.socket) -> None:
        """Watch a socket no more."""
        fd = sock.fileno()
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # What their process calls.

    def run(
        self,
        starts: Sequence[tuple[float, Node]],
        tell: Callable[[], None] = lambda: None,
        tell_seconds: float = 0.5,
    ) -> None:
        """Start each node at its time (monotonic), and play until all are done."""
        waiting = sorted(((at, node.number, node) for at, node in starts), key=lambda one: one[:2])
        heapq.heapify(waiting)
        self._tally.phases["waiting"] += len(waiting)
        look_at = tell_at = 0.0
        handlers = self._handlers
        while waiting or self._running:
            for fd, events in self._epoll.poll(TICK, 256):
                handler = handlers.get(fd)
                if handler is not None:
                    handler(events)
            now = time.monotonic()
            if now < look_at:
                continue
            look_at = now + TICK
            while waiting and waiting[0][0] <= now:
                _, _, node = heapq.heappop(waiting)
                self._tally.phases["waiting"] -= 1
                self._running.add(node)
                node.start(now)
            for node in self._running:
                if node.deadline <= now:
                    node.tick(now)
            self._running = {node for node in self._running if node.result is None}
            if now >= tell_at:
                tell_at = now + tell_seconds
                tell()
        self._epoll.close()
