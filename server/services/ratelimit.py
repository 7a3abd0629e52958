"""Token buckets by key, in bounded memory."""

from collections import OrderedDict
from typing import Final

MAX_KEYS: Final = 4096
"""Addresses whose buckets are kept: a forged source each costs no more memory than these."""


class RateLimit:
    """Lets each key do `burst` things at once and `rate` a second after that.

    Time is given by the caller, in seconds from any start. The keys that were
    idle longest are forgotten first.
    """

    def __init__(self, rate: float, burst: float, *, max_keys: int = MAX_KEYS) -> None:
        self._rate = rate
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, key: str, now: float, cost: float = 1.0) -> bool:
        """True (and the cost is taken) when the key may; False when it must wait."""
        tokens, since = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - since) * self._rate)
        allowed = tokens >= cost
        self._buckets[key] = (tokens - cost if allowed else tokens, now)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return allowed
