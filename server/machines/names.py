"""Which machine has which name: the farm's zone, kept up to date in small steps.

Names come from farm.yaml (`dns.names`), the inventory, the hosts file and
lts.conf (HOSTNAME, HOSTNAME_BASE and HOSTNAME_EXTRA, as the node itself applies
them), never from what a node says of itself. A machine that nothing names is
`node-<mac>`, as it calls itself then. Where lts.conf is a template, its
HOSTNAME does not count: rendering it takes too long to ask for a name.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from server.addresses import is_label
from server.errors import ServerError
from server.ltsconf import Conf, NodeId
from server.machines.identity import Identifier
from server.nodes.node import Node
from server.protocols.dns import Names
from server.site import Site

MAX_ADDRESSES: Final = 16
"""Of one name; more would make the server an amplifier."""
TURN_SECONDS: Final = 0.01
"""How long a turn may take the loop's time."""
HOSTS_SECONDS: Final = 5.0
"""Between two looks at the hosts file."""
_UNFIT = re.compile(r"[^a-z0-9.-]")


class Directory:
    """The names of the zone. All methods belong to the loop's thread.

    fixed: label to address of what is no node: nothing else gets these labels
    and addresses. networks: hosts of the hosts file count if they are in one.
    """

    def __init__(
        self,
        site: Callable[[], Site],
        identifier: Identifier,
        fixed: Mapping[str, str],
        networks: Iterable[IPv4Network],
        machines: Mapping[str, str],
    ) -> None:
        self._site = site
        self._identifier = identifier
        self._fixed: dict[str, str] = {}
        self._taken: set[str] = set()
        self._networks = tuple(networks)
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._labels: dict[str, str] = {}
        self._own: dict[str, tuple[str, ...]] = {}
        # Address to MAC, "" where the MAC is not known.
        self._listed = {ip: mac for mac, ip in machines.items()}
        self._seen: dict[str, str] = {}
        self._hosts: dict[str, str] = {}
        self._places: dict[str, tuple[str, str, str | None]] = {}
        self._queue: dict[str, None] = {}
        self._ltsconf: Conf | None = None
        self._hosts_at = float("-inf")
        self.names = Names(self._addresses, self._labels)
        """The zone's names; the mappings in it change from moment to moment."""
        self._fix(fixed)

    def adopt(self, fixed: Mapping[str, str], machines: Mapping[str, str]) -> None:
        """Names and listed addresses as farm.yaml has them now; turns take them up.

        machines: MAC to address, as for a new Directory.
        """
        waiting = [*self._listed, *machines.values(), *self._hosts, *self._seen]
        if fixed != self._fixed:
            # No machine may keep a label or an address that is fixed now.
            self._addresses.clear()
            self._labels.clear()
            self._own.clear()
            self._fix(fixed)
        self._listed = {ip: mac for mac, ip in machines.items()}
        self._queue.update(dict.fromkeys(waiting))

    def _fix(self, fixed: Mapping[str, str]) -> None:
        self._fixed = dict(fixed)
        self._taken = set(self._fixed.values())
        for label, address in self._fixed.items():
            self._addresses[label] = (address,)
            self._labels.setdefault(address, label)

    def change(self, key: str, node: Node | None) -> None:
        """A node was heard of; None: it was forgotten."""
        place = None
        if node is not None and node.ip:
            place = (node.ip, node.mac or "", node.hostname)
        old = self._places.get(key)
        if place == old:
            return
        if old is not None:
            ip, mac, _ = self._places.pop(key)
            if self._seen.get(ip) == mac:  # else another machine has it already
                del self._seen[ip]
            self._queue[ip] = None
        if place is not None:
            self._places[key] = place
            self._seen[place[0]] = place[1]
            self._queue[place[0]] = None

    def turn(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Name again the addresses that have changed; what takes longer than TURN_SECONDS waits."""
        until = clock() + TURN_SECONDS
        self._look_at_hosts(until - TURN_SECONDS)
        site = self._site()
        if site.ltsconf is not self._ltsconf:
            self._ltsconf = site.ltsconf
            self._queue.update(dict.fromkeys([*self._listed, *self._hosts, *self._seen]))
        while self._queue:
            ip = next(iter(self._queue))
            del self._queue[ip]
            self._replace(ip, self._name(ip, site))
            if clock() >= until:
                return

    def _look_at_hosts(self, now: float) -> None:
        if now - self._hosts_at < HOSTS_SECONDS:
            return
        self._hosts_at = now
        hosts = {
            ip: name
            for ip, name in self._identifier.hosts().items()
            if any(IPv4Address(ip) in network for network in self._networks)
        }
        for ip in hosts.keys() | self._hosts.keys():
            if hosts.get(ip) != self._hosts.get(ip):
                self._queue[ip] = None
        self._hosts = hosts

    def _name(self, ip: str, site: Site) -> tuple[str, ...]:
        """The labels of an address; the first is what its reverse name says."""
        known = self._seen.get(ip, self._listed.get(ip))
        if ip in self._taken or (known is None and ip not in self._hosts):
            return ()
        identity = self._identifier.recall(ip, known or None)
        told = told_hostname(site.ltsconf, identity.node_id)
        fallback = f"node-{identity.mac.replace(':', '')}" if identity.mac else ""
        names = [told, identity.hostname or ""]
        labels = dict.fromkeys(filter(None, map(make_label, names)))
        if not labels and fallback:
            labels = {fallback: None}
        return tuple(label for label in labels if label not in self._fixed)

    def _replace(self, ip: str, labels: tuple[str, ...]) -> None:
        old = self._own.pop(ip, ())
        for label in old:
            left = tuple(other for other in self._addresses.get(label, ()) if other != ip)
            if left:
                self._addresses[label] = left
            else:
                self._addresses.pop(label, None)
        if not labels:
            if old:
                del self._labels[ip]
            return
        self._own[ip] = labels
        self._labels[ip] = labels[0]
        for label in labels:
            others = self._addresses.get(label, ())
            if len(others) < MAX_ADDRESSES:
                self._addresses[label] = (*others, ip)


def told_hostname(ltsconf: Conf, node: NodeId) -> str:
    """The hostname that lts.conf gives a node, or "": as init.d/hostname.sh chooses.

    Of a template it is "".
    """
    try:
        values = ltsconf.peek(node)
    except ServerError:
        return ""
    if make_label(values.get("HOSTNAME", "")):
        return values["HOSTNAME"]
    base, extra = values.get("HOSTNAME_BASE", ""), values.get("HOSTNAME_EXTRA", "")
    if not base and not extra:
        return ""
    if extra.lower() == "mac":
        return (base or "ltsp") + (node.mac or "").replace(":", "")
    return (base or "ltsp") + (node.ip or "").rpartition(".")[2]


def surround(addresses: Iterable[str], networks: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """The networks, and the /24 of each address that is in none of them."""
    found = list(dict.fromkeys(networks))
    for address in addresses:
        if not any(IPv4Address(address) in network for network in found):
            found.append(IPv4Network(f"{address}/24", strict=False))
    return tuple(found)


def make_label(name: str) -> str:
    """The first label of a name as the node cleans it, or "" where none is left."""
    cleaned = _UNFIT.sub("-", name.lower())[:63].strip(".-").partition(".")[0].strip("-")
    return cleaned if is_label(cleaned) else ""
