"""Who asks: from an IP address to a node, by what the kernel and the operator know.

What a client says of itself never decides; it may only agree
(docs/security.md, "Who is trusted for what").
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from server.content import Refused
from server.inventory import Inventory, Machine
from server.ltsconf import NodeId
from server.yamlfile import parse_ip, parse_mac

NEIGHBOUR_SECONDS = 1.0
"""How old the copy of the neighbour table may be."""
MISS_SECONDS = 0.01
"""How old it may be to say that somebody is not in it: firmware fetches a loader in 60 ms."""
MISS_SHARE = 20.0
"""A copy serves for so many times the time that reading took: misses cost a twentieth at most."""
_COMPLETE = 0x2
_NO_MAC = "00:00:00:00:00:00"


def parse_neighbours(text: str) -> dict[str, str]:
    """IP to MAC from the text of /proc/net/arp: complete entries only."""
    table: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 6:
            continue
        try:
            flags = int(fields[2], 16)
        except ValueError:
            continue
        mac = parse_mac(fields[3])
        if flags & _COMPLETE and mac is not None and mac != _NO_MAC:
            table[fields[0]] = mac
    return table


def parse_hosts(text: str) -> dict[str, str]:
    """IP to hostname (its first label) from the text of /etc/hosts; loopback left out."""
    table: dict[str, str] = {}
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        ip = parse_ip(fields[0]) if len(fields) > 1 else None
        if ip is not None and not ip.startswith("127."):
            table.setdefault(ip, fields[1].partition(".")[0])
    return table


class CachedFile:
    """A small text file as parsed; read again when older than `seconds`, and much sooner for a
    key that it does not have: that may have come since."""

    def __init__(
        self,
        path: Path | None,
        parse: Callable[[str], dict[str, str]],
        seconds: float = NEIGHBOUR_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._parse = parse
        self._seconds = seconds
        self._clock = clock
        self._read = float("-inf")
        self._cost = 0.0
        self._table: dict[str, str] = {}

    def get(self, key: str) -> str | None:
        age = self._clock() - self._read
        if age >= self._seconds or (
            key not in self._table and age >= max(MISS_SECONDS, MISS_SHARE * self._cost)
        ):
            self._load()
        return self._table.get(key)

    def all(self) -> Mapping[str, str]:
        """The whole table, not older than `seconds`."""
        if self._clock() - self._read >= self._seconds:
            self._load()
        return self._table

    def _load(self) -> None:
        if self._path is None:
            return
        self._read = self._clock()
        try:
            self._table = self._parse(self._path.read_text(errors="replace"))
        except OSError:
            self._table = {}
        self._cost = self._clock() - self._read


@dataclass(frozen=True)
class Identity:
    """A node as the server knows it. how: what told its MAC ("" when nothing did).

    serial, uuid: the inventory's, if it has them. is_listed: it stands there.
    """

    ip: str
    mac: str | None
    hostname: str | None
    how: str = ""
    serial: str | None = None
    uuid: str | None = None
    is_listed: bool = False

    @property
    def node_id(self) -> NodeId:
        return NodeId(hostname=self.hostname, ip=self.ip, mac=self.mac)

    @property
    def known(self) -> dict[str, str]:
        """Serial and uuid, as far as they are known."""
        known = {"serial": self.serial, "uuid": self.uuid}
        return {name: value for name, value in known.items() if value}


class Identifier:
    """Tells nodes apart. The neighbour table comes first, then the operator's lists."""

    def __init__(
        self,
        inventory: Inventory,
        address_map: Mapping[str, str],
        neighbours: CachedFile,
        hosts: CachedFile,
    ) -> None:
        self._inventory = inventory
        self._address_map = address_map
        self._neighbours = neighbours
        self._hosts = hosts

    def identify(self, ip: str, claimed: str | None = None) -> Identity:
        """The node at an address. claimed: the MAC that it says it has.

        Raises Refused when the claim is no MAC, or contradicts what is known.
        A claim that nothing confirms is ignored: it would let anybody behind
        a router ask for another node's secrets.
        """
        mac, how = self._find_mac(ip)
        if claimed is not None:
            said = parse_mac(claimed)
            if said is None:
                raise Refused(f"mac={claimed[:40]!r} is not a MAC address")
            if mac is not None and said != mac:
                raise Refused(f"{ip} is {mac} ({how}), not {said}")
        machine = self._find_machine(ip, mac)
        if machine is None:
            return Identity(ip, mac, self._hosts.get(ip), how)
        hostname = machine.hostname or self._hosts.get(ip)
        return Identity(ip, mac, hostname, how, machine.serial, machine.uuid, is_listed=True)

    def recall(self, ip: str, mac: str | None) -> Identity:
        """The node at an address that had `mac` when it was last heard of.

        The neighbour table forgets machines that are silent.
        """
        found, how = self._find_mac(ip)
        machine = self._find_machine(ip, found or mac)
        hostname = (machine.hostname if machine else None) or self._hosts.get(ip)
        return Identity(ip, found or mac, hostname, how)

    def hosts(self) -> Mapping[str, str]:
        """IP to hostname of the hosts file, as it is now."""
        return self._hosts.all()

    def _find_mac(self, ip: str) -> tuple[str | None, str]:
        if mac := self._neighbours.get(ip):
            return mac, "neighbour table"
        if mac := self._address_map.get(ip):
            return mac, "address_map of farm.yaml"
        if machine := self._inventory.by_ip.get(ip):
            return machine.mac, "inventory"
        return None, ""

    def _find_machine(self, ip: str, mac: str | None) -> Machine | None:
        return self._inventory.by_mac.get(mac) if mac else self._inventory.by_ip.get(ip)


def make_identifier(
    inventory: Inventory,
    address_map: Mapping[str, str],
    hosts_file: Path | None,
    neighbours: Path = Path("/proc/net/arp"),
) -> Identifier:
    """The identifier of a running server."""
    return Identifier(
        inventory,
        address_map,
        CachedFile(neighbours, parse_neighbours),
        CachedFile(hosts_file, parse_hosts, seconds=5.0),
    )
