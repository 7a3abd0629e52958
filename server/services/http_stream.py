"""Replies without an end: their followers, how many there may be, and what waits for each."""

from collections.abc import Callable
from typing import Final, Protocol

from server.protocols.http import HttpLimits, Outflow, Response, Subscribe

TOO_SLOW: Final = "the follower was too slow"
_RETRY: Final = (("Retry-After", "10"), ("Cache-Control", "no-store"))


class Followers:
    """Counts the replies without an end: in all, and of each address."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self._by_client: dict[str, int] = {}
        self._streams: dict[Stream, None] = {}

    def __len__(self) -> int:
        return sum(self._by_client.values())

    def admit(self, client: str, response: Response, *, local: bool = False) -> Response:
        """The response, or a 503 when there are too many followers already.

        When there are too many in all, the oldest of the address that has most gives
        way to an address that has fewer. local: it is of this machine, and let in.
        """
        mine = self._by_client.get(client, 0)
        if local:
            return response
        has_room = mine < self.limits.followers_per_client and (
            len(self) < self.limits.followers or self._make_room(mine)
        )
        if has_room:
            return response
        text = b"too many follow already; try again, or ask without follow=1\n"
        return Response(503, text, "text/plain; charset=utf-8", _RETRY)

    def _make_room(self, mine: int) -> bool:
        most = max(self._by_client.values(), default=0)
        if most <= mine:
            return False
        oldest = next(stream for stream in self._streams if self._by_client[stream.client] == most)
        oldest.give_way()
        return True

    def add(self, stream: "Stream") -> None:
        """Count one more stream."""
        self._streams[stream] = None
        self._by_client[stream.client] = self._by_client.get(stream.client, 0) + 1

    def remove(self, stream: "Stream") -> None:
        """Count one stream less."""
        del self._streams[stream]
        client = stream.client
        left = self._by_client[client] - 1
        if left:
            self._by_client[client] = left
        else:
            del self._by_client[client]


class Connection(Protocol):
    """What a stream asks of the connection that it goes out on."""

    client: str

    @property
    def now(self) -> float: ...
    def is_busy(self) -> bool: ...
    def send_more(self, data: bytes) -> None: ...
    def call_soon(self, action: Callable[[], None]) -> None: ...
    def close(self, reason: str) -> None: ...


class Stream:
    """One follower. begin(), then end() exactly when its connection is closed."""

    def __init__(self, followers: Followers, connection: Connection) -> None:
        self.client = connection.client
        self._followers = followers
        self._connection = connection
        self._outflow = Outflow(followers.limits, connection.now)
        self._flushing = False
        self._ended = False
        self._unsubscribe: Callable[[], None] | None = None

    def begin(self, subscribe: Subscribe) -> None:
        """Count the stream, and subscribe it."""
        self._followers.add(self)
        unsubscribe = subscribe(self._push)
        if self._ended:
            unsubscribe()
        else:
            self._unsubscribe = unsubscribe

    def end(self) -> None:
        """The connection is closed: unsubscribe, and count one less."""
        if self._ended:
            return
        self._ended = True
        self._followers.remove(self)
        if self._unsubscribe is not None:
            self._unsubscribe()

    def give_way(self) -> None:
        """Hang up for another follower; a browser asks again."""
        self._connection.close("gave way to another follower (limits.followers)")

    def flush(self) -> None:
        """Send what waits, unless something is being sent; else a heartbeat when it is time."""
        self._flushing = False
        if self._ended or self._connection.is_busy():
            return
        data = self._outflow.take(self._connection.now)
        if data:
            self._connection.send_more(data)

    def _push(self, data: bytes) -> None:
        if self._ended:
            return
        if not self._outflow.push(data):
            self._connection.close(TOO_SLOW)
        elif not self._flushing:
            # What comes in one turn of the loop goes out together.
            self._flushing = True
            self._connection.call_soon(self.flush)
