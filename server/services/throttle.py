"""Bytes a second for one address: a client that has had too much waits, and no other."""

import logging
from collections import OrderedDict
from typing import Final

from server.services.ratelimit import MAX_KEYS, RateLimit

TOLD_SECONDS: Final = 60.0
"""Between two lines of the log about one address."""
_log = logging.getLogger(__name__)


class Throttle:
    """Counts what each address was sent. rate: bytes a second; a second's worth may come at once.

    service: its name in the log, where a slowed address is told of once a
    minute. The addresses that have been idle longest are forgotten first.
    """

    def __init__(self, service: str, rate: float, *, max_keys: int = MAX_KEYS) -> None:
        self._service = service
        self._rate = rate
        self._max_keys = max_keys
        self._debts: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._told = RateLimit(1 / TOLD_SECONDS, 1.0)

    def take(self, client: str, amount: int, now: float) -> float:
        """Count bytes that were sent to a client.

        The seconds until it may have more; 0: at once.
        """
        debt, since = self._debts.pop(client, (-self._rate, now))
        debt = max(-self._rate, debt - (now - since) * self._rate) + amount
        self._debts[client] = (debt, now)
        if len(self._debts) > self._max_keys:
            self._debts.popitem(last=False)
        if debt <= 0:
            return 0.0
        if self._told.allow(client, now):
            _log.warning(
                "%s: %s wants more than %s.limits.bytes_per_second (%g) and is slowed down",
                self._service,
                client,
                self._service,
                self._rate,
            )
        return debt / self._rate


def make_throttle(service: str, rate: float) -> Throttle | None:
    """A throttle, or None where there is no limit."""
    return Throttle(service, rate) if rate > 0 else None
