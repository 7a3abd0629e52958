"""Which client is served now: each has its own share, strangers share one, and all the spare.

A flood of forged or unknown senders uses up the share of strangers, one sender
its own share; neither takes what known clients have.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from server.services.ratelimit import RateLimit

MAX_PROVEN: Final = 16_384
"""Addresses that are remembered as having proved that they are there."""
SPARE: Final = 4.0
"""What all clients together get beyond their own shares, in shares of one client."""
_ALL: Final = ""

IsKnown = Callable[[str], bool]
"""Whether an address is of a machine that the operator named (or of the server itself)."""


def nobody(address: str) -> bool:
    """The IsKnown of a service that knows no machine."""
    return False


class Gate:
    """own: the rate of one client. strangers: the rate of all unknown clients together.

    spare: what all clients together may do beyond their own shares. Because of it, a
    forger who sends under a client's address does not silence that client.
    """

    def __init__(
        self, own: RateLimit, strangers: RateLimit, spare: RateLimit | None = None
    ) -> None:
        self._own = own
        self._strangers = strangers
        self._spare = spare

    def allow(self, client: str, now: float, *, known: bool, cost: float = 1.0) -> bool:
        """Whether the client may be served now. The cost is taken from the share that pays."""
        if self._own.allow(client, now, cost):
            return known or self._strangers.allow(_ALL, now, cost)
        return self._spare is not None and self._spare.allow(_ALL, now, cost)


class Proven:
    """Addresses that have shown that they receive what is sent to them; bounded, by last use."""

    def __init__(self, is_known: IsKnown = nobody, *, most: int = MAX_PROVEN) -> None:
        self._is_known = is_known
        self._most = most
        self._seen: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, address: str) -> bool:
        return address in self._seen or self._is_known(address)

    def note(self, address: str) -> None:
        """Note that the address has answered."""
        self._seen[address] = None
        self._seen.move_to_end(address)
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
