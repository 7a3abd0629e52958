"""Has the cluster sign what policy allows, in threads, for an event loop that may not wait.

The cluster's own requests are the memory: they outlive this server, and of two servers that
ask for one boot at once only one makes the object.
"""

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from server.farm.join import Join
from server.join.cluster import Cluster, NotIssuedError, is_of
from server.join.policy import (
    ENDS_SOON,
    LOOK_SECONDS,
    RENEWALS,
    Lease,
    Refusal,
    judge_lease,
    name_csr,
    refuse_twice,
)
from server.join.request import JoinRequest, read_end
from server.services.ratelimit import RateLimit

THREADS: Final = 4
"""Machines that are asked for at once; each waits mostly for the cluster."""
WAITING: Final = 1024
"""Machines that may wait."""
KEPT_SECONDS: Final = 30.0
"""How long an answer is kept for who asked."""
ADDRESS_SECONDS: Final = 60.0
"""How long the API server's address is known that the cluster told."""
LEASES: Final = 10_000
"""Leases that are watched at once."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """A certificate that policy allows, as far as it can be told without the cluster.

    ip: the address that asked.
    """

    ip: str
    mac: str
    request: JoinRequest


@dataclass(frozen=True)
class Certificate:
    """What a machine is answered, all of it public. pem: its certificate. api: https://host:port.

    authority: the cluster's CA, PEM. until: when it ends, seconds since the epoch. seconds:
    that it took. is_new: it was not there before.
    """

    node: str
    pem: str
    authority: str
    api: str
    until: float
    seconds: float = 0.0
    is_new: bool = True


Outcome = Certificate | Refusal


@dataclass
class _Watch:
    """A lease that nobody renews. version: it has had since. looked: when the last answer about
    it was there, by our clock. seconds: for how long it was seen to keep the version."""

    version: str
    looked: float
    seconds: float = 0.0


class Issuer:
    """Takes orders and gives outcomes; `ask` is for the loop's thread and never waits.

    done: told of each outcome, in one of the issuer's threads.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Join,
        *,
        done: Callable[[Order, Outcome], None] = lambda order, outcome: None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._done = done
        self._wall = wall
        self._clock = clock
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._outcomes: OrderedDict[Order, tuple[float, Outcome | None]] = OrderedDict()
        self._rate = RateLimit(settings.per_minute / 60, float(settings.per_minute))
        self._watches: OrderedDict[str, _Watch] = OrderedDict()
        self._address: tuple[float, str] | None = None

    def ask(self, order: Order) -> Outcome | None:
        """The outcome; None while it is under way: ask again. A refusal is given once, and
        what is asked after that is looked at anew."""
        now = self._clock()
        with self._lock:
            self._sweep(now)
            if order in self._outcomes:
                outcome = self._outcomes[order][1]
                if isinstance(outcome, Refusal):
                    del self._outcomes[order]
                return outcome
            if sum(outcome is None for _, outcome in self._outcomes.values()) >= WAITING:
                return Refusal("join_limit", f"{WAITING} machines ask at once; ask again")
            self._outcomes[order] = (now, None)
            if len(self._threads) < THREADS:
                thread = threading.Thread(target=self._run, name="join", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._orders.put(order)
        return None

    def _sweep(self, now: float) -> None:
        """Forget what was there for long, and of what is there the oldest: the cluster has it."""
        there = [(order, since) for order, (since, outcome) in self._outcomes.items() if outcome]
        for number, (order, since) in enumerate(there):
            if now - since > KEPT_SECONDS or number < len(there) - WAITING:
                del self._outcomes[order]

    def _run(self) -> None:
        while True:
            order = self._orders.get()
            outcome = self.issue(order)
            self._done(order, outcome)  # it stands in the timeline when the machine gets it
            with self._lock:
                self._outcomes[order] = (self._clock(), outcome)

    def issue(self, order: Order) -> Outcome:
        """The outcome, now; may take seconds. Raises nothing."""
        began = self._clock()
        try:
            pem, is_new = self._find_or_make(order)
            return Certificate(
                node=order.request.node,
                pem=pem.decode("ascii"),
                authority=self._cluster.read_authority(),
                api=self._find_address(),
                until=read_end(pem),
                seconds=self._clock() - began,
                is_new=is_new,
            )
        except NotIssuedError as error:
            return error.refusal
        except Exception:
            _log.exception("no certificate for %s", order.request.node)
            return Refusal("join_api", "the boot server failed; its log says why")

    def _find_or_make(self, order: Order) -> tuple[bytes, bool]:
        """The certificate of this boot's key, and whether it was made now."""
        for slot in range(self._settings.per_boot):
            for renewal in range(RENEWALS):
                found = self._find_in(order, name_csr(order.mac, order.request, slot, renewal))
                if found is None:
                    break  # another key has it
                pem, is_new = found
                # One that has ended, or nearly: the next one of the same key.
                if read_end(pem) - self._wall() > ENDS_SOON:
                    return pem, is_new
        raise NotIssuedError(refuse_twice(order.request.node))

    def _find_in(self, order: Order, name: str) -> tuple[bytes, bool] | None:
        """What the object of one name gives, made if there is none; None if it is another's."""
        csr = self._cluster.find_csr(name)
        is_new = csr is None
        if csr is None:
            self._check_lease(order.request.node)
            self._check_rate()
            csr = self._cluster.create_csr(name, order.request)
        if csr is None:  # somebody was quicker
            is_new = False
            csr = self._cluster.find_csr(name)
        if csr is None or not is_of(csr, order.request):
            return None
        return self._cluster.sign(csr), is_new

    def _check_lease(self, node: str) -> None:
        asked = self._clock()
        try:
            lease = self._cluster.find_lease(node)
        except NotIssuedError:
            # While the API server is away no kubelet can renew either.
            self._forget_watch(node)
            raise
        watched = self._watch(node, lease, asked)
        refusal = judge_lease(node, lease, self._wall(), self._settings.lease_seconds, watched)
        if refusal is not None:
            raise NotIssuedError(refusal)

    def _watch(self, node: str, lease: Lease | None, asked: float) -> float:
        """For how long the lease was seen to keep its version.

        asked: when the cluster was asked. The answer tells of some moment between that and
        now, so that a look counts from the end of the one before to its own beginning.
        """
        if lease is None:
            self._forget_watch(node)
            return 0.0
        now = self._clock()
        with self._lock:
            watch = self._watches.get(node)
            if watch is None or watch.version != lease.version:
                watch = self._watches[node] = _Watch(lease.version, now)
            else:
                watch.seconds += min(max(asked - watch.looked, 0.0), LOOK_SECONDS)
                watch.looked = now
            self._watches.move_to_end(node)
            if len(self._watches) > LEASES:
                self._watches.popitem(last=False)
            return watch.seconds

    def _forget_watch(self, node: str) -> None:
        with self._lock:
            self._watches.pop(node, None)

    def _check_rate(self) -> None:
        with self._lock:
            allowed = self._rate.allow("", self._clock())
        if not allowed:
            most = self._settings.per_minute
            words = f"{most} certificates a minute are given (join.per_minute); ask again"
            raise NotIssuedError(Refusal("join_limit", words))

    def _find_address(self) -> str:
        if self._settings.api is not None:
            return f"https://{self._settings.api}"
        now = self._clock()
        if self._address is None or now - self._address[0] > ADDRESS_SECONDS:
            self._address = (now, self._cluster.find_address())
        return self._address[1]
