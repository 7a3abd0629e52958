"""The loop's time, by client: a client that has had much of it waits, and no other."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from server.services.ratelimit import MAX_KEYS

SHORTEST_WAIT: Final = 0.01
"""Who waits is looked at again after so many seconds at the soonest."""


class Pace:
    """share: of the loop's time, for one client (0.2: a fifth). burst: seconds of it at once.

    Time is given by the caller, in seconds from any start. The clients that were
    idle longest are forgotten first.
    """

    def __init__(self, share: float, burst: float, *, max_keys: int = MAX_KEYS) -> None:
        self._share = share
        self._burst = burst
        self._max_keys = max_keys
        self._debts: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, client: str, seconds: float, now: float) -> None:
        """Count loop time that went to a client."""
        self._debts[client] = (self._debt(client, now) + seconds, now)
        self._debts.move_to_end(client)
        if len(self._debts) > self._max_keys:
            self._debts.popitem(last=False)

    def owed(self, client: str, now: float) -> float:
        """Seconds until a client may have time again; 0: now."""
        return max(0.0, self._debt(client, now) / self._share)

    def _debt(self, client: str, now: float) -> float:
        debt, since = self._debts.get(client, (-self._burst, now))
        return max(-self._burst, debt - max(0.0, now - since) * self._share)


class Timers(Protocol):
    """What Turns needs of an event loop: its clock (seconds), a call after `delay` seconds."""

    def time(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[str], None], arg: str, /) -> Any: ...


class Turns:
    """What waits until its client may have time again, in the order in which it came.

    There is one timer for each client, however much of the client's waits.
    """

    def __init__(self, loop: Timers, pace: Pace) -> None:
        self._loop = loop
        self._pace = pace
        self._waiting: dict[str, deque[Callable[[], None]]] = {}

    def must_wait(self, client: str) -> bool:
        """Whether a client has had too much time, or has something that waits already."""
        return client in self._waiting or self._pace.owed(client, self._loop.time()) > 0

    def wait(self, client: str, go: Callable[[], None]) -> None:
        """Have `go` called when it is the client's turn."""
        waiting = self._waiting.get(client)
        if waiting is None:
            self._waiting[client] = deque([go])
            self._look_later(client)
        else:
            waiting.append(go)

    def _look_later(self, client: str) -> None:
        owed = self._pace.owed(client, self._loop.time())
        self._loop.call_later(max(owed, SHORTEST_WAIT), self._look, client)

    def _look(self, client: str) -> None:
        waiting = self._waiting[client]
        try:
            while waiting and self._pace.owed(client, self._loop.time()) <= 0:
                waiting.popleft()()
        finally:
            if waiting:
                self._look_later(client)
            else:
                del self._waiting[client]
