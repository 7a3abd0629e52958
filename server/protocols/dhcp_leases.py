"""Addresses of a bench network: which machine has which until when. Pure; time is a parameter.

Leases are by hardware address, not by client identifier (docs/dhcp.md, Known deviations).
"""

import ipaddress
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from heapq import heapify, heappop, heappush
from typing import Final, Literal

from server.addresses import parse_ip, parse_mac

MAX_ADDRESSES: Final = 65536
"""Of a range: a /16."""

State = Literal["offered", "bound", "declined", "free"]
_STATES: Final = ("offered", "bound", "declined", "free")


@dataclass(frozen=True)
class Lease:
    """What is known of one address. until: seconds since the epoch.

    state: `offered` is held for a DHCPREQUEST; `declined` is in use by a machine
    that we know nothing of; `free` was given back, and mac had it last.
    """

    address: str
    mac: str
    until: float
    state: State


class LeaseTable:
    """The range, at most 65,536 addresses, and what became of each.

    record: called with each lease that must survive a restart. reserved: MAC to
    address of machines that always get the same one; it may lie outside the range.
    excluded: never given (the server's own, the router's).
    """

    def __init__(
        self,
        first: str,
        last: str,
        *,
        record: Callable[[Lease], None] = lambda lease: None,
        reserved: Mapping[str, str] | None = None,
        excluded: Iterable[str] = (),
        offer_seconds: float = 60.0,
        decline_seconds: float = 600.0,
    ) -> None:
        start, end = int(ipaddress.IPv4Address(first)), int(ipaddress.IPv4Address(last))
        if not 0 <= end - start < MAX_ADDRESSES:
            raise ValueError(f"{first}-{last} is not a range of 1 to {MAX_ADDRESSES} addresses")
        self._start, self._end = start, end
        self._record = record
        self._reserved = dict(reserved or {})
        self._kept = {address: mac for mac, address in self._reserved.items()}
        self._excluded = set(excluded)
        self._offer_seconds = offer_seconds
        self._decline_seconds = decline_seconds
        self._leases: dict[str, Lease] = {}
        self._of_mac: dict[str, str] = {}
        self._fresh = deque(
            address
            for address in (str(ipaddress.IPv4Address(number)) for number in range(start, end + 1))
            if address not in self._excluded and address not in self._kept
        )
        self._ends: list[tuple[float, int, str]] = []

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)

    def find(self, mac: str) -> Lease | None:
        """The address that this machine has, or had last and that no other machine got since."""
        address = self._of_mac.get(mac)
        return self._leases.get(address) if address is not None else None

    def offer(self, mac: str, wanted: str | None, now: float) -> str | None:
        """An address for DHCPOFFER, held for a minute; None when none is left.

        In RFC 2131's order (section 4.3.1): what it has, what it had, what it
        wants, one that nobody had, and then the one that is free longest.
        """
        known = self.find(mac)
        reserved = self._reserved.get(mac)
        bound = known is not None and known.state == "bound" and known.until > now
        if known is not None and bound and reserved in (None, known.address):
            return known.address
        candidates = [reserved] if reserved else [known.address if known else None, wanted]
        for candidate in candidates:
            if candidate is not None and self._is_free(candidate, mac, now):
                return self._hold(candidate, mac, now)
        if reserved:
            return None
        while self._fresh:
            address = self._fresh.popleft()
            if address not in self._leases and self._is_ours(address, mac):
                return self._hold(address, mac, now)
        while self._ends and self._ends[0][0] <= now:
            _, _, address = heappop(self._ends)
            if self._is_free(address, mac, now):
                return self._hold(address, mac, now)
        return None

    def confirm(self, mac: str, address: str, seconds: float, now: float) -> bool:
        """Bind an address for DHCPACK; False when it is not this machine's to have."""
        if not self._is_free(address, mac, now):
            return False
        self._store(Lease(address, mac, now + seconds, "bound"))
        return True

    def release(self, mac: str, address: str, now: float) -> bool:
        """DHCPRELEASE; False when the machine does not have that address."""
        lease = self._leases.get(address)
        if lease is None or lease.mac != mac or lease.state == "declined":
            return False
        self._store(Lease(address, mac, now, "free"))
        return True

    def withdraw(self, mac: str, now: float) -> None:
        """The machine chose another server's offer: what was held for it is free again."""
        lease = self.find(mac)
        if lease is not None and lease.state == "offered":
            self._store(Lease(lease.address, mac, now, "free"))

    def decline(self, mac: str, address: str, now: float) -> bool:
        """DHCPDECLINE: somebody else uses it. False when it was not this machine's to decline.

        A reserved address is not set aside: one forged packet would take it from its
        machine, which has no other. The lease ends, and the machine may ask again.
        """
        lease = self._leases.get(address)
        if lease is None or lease.mac != mac or lease.state == "declined":
            return False
        if self._kept.get(address) == mac:
            self._store(Lease(address, mac, now, "free"))
            return True
        del self._of_mac[mac]
        self._store(Lease(address, "", now + self._decline_seconds, "declined"))
        return True

    def is_reserved(self, address: str) -> bool:
        """Whether an address is kept for one machine."""
        return address in self._kept

    def reserve(self, reserved: Mapping[str, str]) -> None:
        """Keep these addresses (MAC to address) from now on, and no others.

        A lease of an address that is another machine's now is forgotten, as over a
        restart: whoever has it is refused when it renews, and asks anew.
        """
        before = set(self._kept)
        self._reserved = dict(reserved)
        self._kept = {address: mac for mac, address in self._reserved.items()}
        for address, lease in list(self._leases.items()):
            if not self._is_ours(address, lease.mac):
                del self._leases[address]
                if self._of_mac.get(lease.mac) == address:
                    del self._of_mac[lease.mac]
        for address in sorted(before - set(self._kept)):
            if address in self._leases:
                self._push(self._leases[address])
            elif self._is_ours(address, ""):
                self._fresh.append(address)

    def restore(self, lines: Iterable[str]) -> int:
        """Take over what `dump_lease` wrote, later lines winning; the number of bad lines.

        Addresses that are no longer in the range are forgotten.
        """
        bad = 0
        for line in lines:
            lease = parse_lease(line)
            if lease is None:
                bad += 1
            elif self._is_ours(lease.address, lease.mac):
                self._store(lease, tell=False)
        return bad

    def _is_ours(self, address: str, mac: str) -> bool:
        if address in self._kept:
            return self._kept[address] == mac
        try:
            number = int(ipaddress.IPv4Address(address))
        except ValueError:
            return False
        return self._start <= number <= self._end and address not in self._excluded

    def _is_free(self, address: str, mac: str, now: float) -> bool:
        """Whether `mac` may have the address now: it is free, or its own already."""
        if not self._is_ours(address, mac):
            return False
        if self._reserved.get(mac, address) != address:
            return False
        lease = self._leases.get(address)
        if lease is None or lease.state == "free" or lease.until <= now:
            return True
        return lease.mac == mac and lease.state != "declined"

    def _hold(self, address: str, mac: str, now: float) -> str:
        self._store(Lease(address, mac, now + self._offer_seconds, "offered"), tell=False)
        return address

    def _store(self, lease: Lease, *, tell: bool = True) -> None:
        before = self._leases.get(lease.address)
        if before is not None and before.mac and before.mac != lease.mac:
            self._of_mac.pop(before.mac, None)
        previous = self._of_mac.get(lease.mac)
        if previous is not None and previous != lease.address:
            # One machine, one address: what it had before is free for others.
            self._leases[previous] = Lease(previous, "", 0.0, "free")
            self._push(self._leases[previous])
        self._leases[lease.address] = lease
        if lease.mac:
            self._of_mac[lease.mac] = lease.address
        self._push(lease)
        if tell:
            self._record(lease)

    def _push(self, lease: Lease) -> None:
        if lease.address in self._kept:
            return
        heappush(self._ends, (lease.until, len(self._ends), lease.address))
        if len(self._ends) > 4 * (self._end - self._start + 16):
            # Renewals leave entries behind that are out of date.
            self._ends = [
                (lease.until, index, lease.address)
                for index, lease in enumerate(self._leases.values())
                if lease.address not in self._kept
            ]
            heapify(self._ends)


def dump_lease(lease: Lease) -> str:
    """One line of JSON, without its newline."""
    return json.dumps(asdict(lease), sort_keys=True)


def parse_lease(line: str) -> Lease | None:
    """Read what `dump_lease` wrote; None for a line that it did not write, or that was cut."""
    try:
        data = json.loads(line)
        lease = Lease(data["address"], data["mac"], float(data["until"]), data["state"])
        address, mac = parse_ip(lease.address), parse_mac(lease.mac) if lease.mac else ""
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    if (address, mac) != (lease.address, lease.mac) or lease.state not in _STATES:
        return None
    return lease if math.isfinite(lease.until) else None
