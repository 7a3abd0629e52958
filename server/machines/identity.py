"""From an IP address to a node, by what the kernel and the operator know.

What a client says of itself never decides; it may only agree
(docs/security.md, "Who is trusted for what").
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagebuild.wholefile import read_whole
from server.addresses import parse_ip, parse_mac
from server.content import Refused
from server.farm.inventory import Inventory, Machine, list_known
from server.ltsconf import NodeId

NEIGHBOUR_SECONDS = 1.0
"""How old the copy of the neighbour table may be."""
MAX_TABLE = 64 * 2**20
"""Bytes of a table: 100,000 neighbours have 8 MB."""
MISS_SECONDS = 0.01
"""How old it may be to say that somebody is not in it: firmware fetches a loader in 60 ms."""
MISS_SHARE = 20.0
"""A copy serves for so many times the time that reading took: misses cost a twentieth at most."""
_COMPLETE = 0x2
"""ATF_COM of linux/if_arp.h: the entry has a MAC."""
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
        self.path = path
        self._parse = parse
        self._seconds = seconds
        self._clock = clock
        self._read = float("-inf")
        self._cost = 0.0
        self._table: dict[str, str] = {}

    def get(self, key: str, *, fresh: bool = False) -> str | None:
        """The key's value. fresh: as of now, as far as the bound on reading allows."""
        age = self._clock() - self._read
        if age >= self._seconds or (
            (fresh or key not in self._table) and age >= max(MISS_SECONDS, MISS_SHARE * self._cost)
        ):
            self._load()
        return self._table.get(key)

    def all(self) -> Mapping[str, str]:
        """The whole table, not older than `seconds`."""
        if self._clock() - self._read >= self._seconds:
            self._load()
        return self._table

    def _load(self) -> None:
        if self.path is None:
            return
        self._read = self._clock()
        try:
            self._table = self._parse(read_whole(self.path, MAX_TABLE).decode(errors="replace"))
        except OSError:
            self._table = {}
        self._cost = self._clock() - self._read


@dataclass(frozen=True)
class Identity:
    """A node as the server knows it. how: what told its MAC ("" when nothing did).

    serial, uuid, labels, bmc: the inventory's, if it has them. is_listed: it stands there.
    """

    ip: str
    mac: str | None
    hostname: str | None
    how: str = ""
    serial: str | None = None
    uuid: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    bmc: str | None = None
    is_listed: bool = False

    @property
    def node_id(self) -> NodeId:
        """The ids by which lts.conf finds the node's sections."""
        return NodeId(hostname=self.hostname, ip=self.ip, mac=self.mac)

    @property
    def known(self) -> dict[str, Any]:
        """What templates know of the node besides its ids, as far as it is known."""
        return list_known(self.serial, self.uuid, self.labels, self.bmc)


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

    def adopt(
        self, inventory: Inventory, address_map: Mapping[str, str], hosts_file: Path | None
    ) -> None:
        """Use these lists from now on."""
        self._inventory = inventory
        self._address_map = address_map
        if hosts_file != self._hosts.path:
            self._hosts = make_hosts(hosts_file)

    def identify(self, ip: str, claimed: str | None = None, *, fresh: bool = False) -> Identity:
        """The node at an address. claimed: the MAC that it says it has.

        fresh: for what holds secrets; the neighbour table of a second ago may name
        who had the address before.

        Raises Refused when the claim is no MAC, or contradicts what is known.
        A claim that nothing confirms is ignored: it would let anybody behind
        a router ask for another node's secrets.
        """
        mac, how = self._find_mac(ip, fresh=fresh)
        if claimed is not None:
            said = parse_mac(claimed)
            if said is None:
                raise Refused(f"mac={claimed[:40]!r} is not a MAC address", "contradiction")
            if mac is not None and said != mac:
                raise Refused(f"{ip} is {mac} ({how}), not {said}", "contradiction")
        machine = self._find_machine(ip, mac)
        if machine is None:
            return Identity(ip, mac, self._find_name(ip, mac), how)
        hostname = machine.hostname or self._find_name(ip, mac)
        return _make_listed(ip, mac, hostname, how, machine)

    def describe(self, ip: str, mac: str | None, hostname: str | None) -> Identity:
        """The machine with that MAC, wherever it is now: what the inventory says of it."""
        machine = self._inventory.by_mac.get(mac) if mac else None
        if machine is None:
            return Identity(ip, mac, hostname)
        name = machine.hostname or hostname
        return _make_listed(machine.ip or ip, mac, name, "inventory", machine)

    def recall(self, ip: str, mac: str | None) -> Identity:
        """The node at an address that had `mac` when it was last heard of.

        The neighbour table forgets machines that are silent.
        """
        found, how = self._find_mac(ip)
        machine = self._find_machine(ip, found or mac)
        hostname = (machine.hostname if machine else None) or self._find_name(ip, found or mac)
        return Identity(ip, found or mac, hostname, how)

    def is_listed(self, ip: str) -> bool:
        """Whether the inventory names the machine at an address. Cheap: asked for each request."""
        if ip in self._inventory.by_ip:
            return True
        mac = self._neighbours.get(ip) or self._address_map.get(ip)
        return mac is not None and mac in self._inventory.by_mac

    def mac_of(self, ip: str) -> str | None:
        """The MAC that is known to have an address, by whatever tells; None when nothing does."""
        return self._find_mac(ip)[0]

    def card(self, ip: str) -> str:
        """The MAC that answers for an address, or the address: one network card may have many
        addresses."""
        return self._neighbours.get(ip) or ip

    def is_still(self, ip: str, card: str) -> bool:
        """Whether the MAC that answers for an address is the same as before, or none is known."""
        now = self._neighbours.get(ip, fresh=True)
        return now is None or now == card or card == ip

    def hosts(self) -> Mapping[str, str]:
        """IP to hostname of the hosts file, as it is now."""
        return self._hosts.all()

    def _find_mac(self, ip: str, *, fresh: bool = False) -> tuple[str | None, str]:
        if mac := self._neighbours.get(ip, fresh=fresh):
            return mac, "neighbour table"
        if mac := self._address_map.get(ip):
            return mac, "address_map of farm.yaml"
        if machine := self._inventory.by_ip.get(ip):
            return machine.mac, "inventory"
        return None, ""

    def _find_name(self, ip: str, mac: str | None) -> str | None:
        """The hosts file's name of an address, unless the operator gave that address, or that
        name, to a machine with another MAC: the name, and the secrets that go with it, are its."""
        name = self._hosts.get(ip)
        if name is None or mac is None:
            return name
        owners = (self._inventory.by_ip.get(ip), self._inventory.by_hostname.get(name.lower()))
        macs = {owner.mac for owner in owners if owner is not None}
        if given := self._address_map.get(ip):
            macs.add(given)
        return name if macs <= {mac} else None

    def _find_machine(self, ip: str, mac: str | None) -> Machine | None:
        return self._inventory.by_mac.get(mac) if mac else self._inventory.by_ip.get(ip)


def _make_listed(
    ip: str, mac: str | None, hostname: str | None, how: str, machine: Machine
) -> Identity:
    return Identity(
        ip,
        mac,
        hostname,
        how,
        machine.serial,
        machine.uuid,
        machine.labels,
        machine.bmc,
        is_listed=True,
    )


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
        make_hosts(hosts_file),
    )


def make_hosts(path: Path | None) -> CachedFile:
    """The hosts file's names."""
    return CachedFile(path, parse_hosts, seconds=5.0)
