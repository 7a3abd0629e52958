"""DHCP beside the site's own, or alone on a bench: sockets and timers around the core."""

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from server.errors import ServerError
from server.events import Emit, Event
from server.protocols.dhcp import Network
from server.protocols.dhcp_leases import LeaseTable
from server.protocols.dhcp_server import DhcpServer, FindLoaders, Mode, Outcome, Pool
from server.protocols.dhcp_wire import ANY, MAX_MESSAGE, PXE_PORT, SERVER_PORT
from server.services.dhcp_leases import LeaseFile
from server.services.gate import nobody
from server.services.interfaces import InterfaceAddress, list_addresses
from server.services.pktinfo import (
    PacketInfo,
    pack_packet_info,
    read_packet_info,
    receive_packet_info,
)
from server.services.ports import bind_port
from server.services.ratelimit import RateLimit

__all__ = ["DhcpLimits", "DhcpService", "Range", "parse_range"]

LEASE_FILE: Final = "dhcp-leases"
_TURN: Final = 64
"""Datagrams that are handled before other services have their turn."""


@dataclass(frozen=True)
class DhcpLimits:
    """What is answered, a second and at once; the rest is dropped without a word.

    client: of one address, or of one MAC while it has none. relay: of one relay, by
    the address that its packets come from. total: all together, of which broadcasts
    on this network, relays and the inventory's machines each have a share of their
    own as large. complaints: events about what cannot be sent.
    """

    client_rate: float = 5.0
    client_burst: float = 20.0
    relay_rate: float = 100.0
    relay_burst: float = 500.0
    total_rate: float = 500.0
    total_burst: float = 2000.0
    complaints_per_second: float = 0.2


@dataclass(frozen=True)
class Range:
    """What full mode gives: addresses from `first` to `last`, and what goes with them.

    router: "" for a network without a way out. reserved: MAC to address.
    hostnames: MAC to the name that the machine is told.
    """

    first: str
    last: str
    router: str = ""
    dns: tuple[str, ...] = ()
    domain: str = ""
    ntp: tuple[str, ...] = ()
    seconds: int = 3600
    reserved: Mapping[str, str] = field(default_factory=dict)
    hostnames: Mapping[str, str] = field(default_factory=dict)


def parse_range(text: str) -> Range:
    """`10.9.100.1-10.9.100.99` as the flag has it. Raises ServerError."""
    first, dash, last = (word.strip() for word in text.partition("-"))
    wrong = ServerError(
        f"--dhcp-range {text!r} is not a range of IPv4 addresses",
        hint="write it as 10.9.100.1-10.9.100.99, the lower address first",
    )
    try:
        start, end = ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)
    except ValueError:
        raise wrong from None
    if not dash or start > end:
        raise wrong
    if int(end) - int(start) >= 65536:
        raise ServerError(
            f"--dhcp-range {text!r} holds more than 65536 addresses",
            hint="a bench needs an address for each machine on it; choose a shorter range",
        )
    return Range(str(start), str(end))


class DhcpService:
    """Answers on UDP 67 and 4011. All methods belong to the loop's thread.

    address: what machines are told is the server's; "0.0.0.0" for the address
    of the interface that a request came by. With an address, requests from other
    networks are answered only if they were sent to it (by a relay). interface:
    hear and speak on this one only. find_loaders: Client -> Loaders, or Refused.
    is_listed: whether the inventory has a MAC. mac_of: the MAC that an address is
    known to have. addresses: the range of full mode. state: directory of the lease file, None
    to forget all leases at the end.
    """

    owner: Final = "dhcp"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        mode: Mode,
        find_loaders: FindLoaders,
        emit: Emit,
        address: str = ANY,
        interface: str | None = None,
        http_port: int | None = 8080,
        addresses: Range | None = None,
        state: Path | None = None,
        limits: DhcpLimits | None = None,
        ports: tuple[int, int] = (SERVER_PORT, PXE_PORT),
        is_listed: Callable[[str], bool] = nobody,
        mac_of: Callable[[str], str | None] = lambda address: None,
    ) -> None:
        if (mode == "full") != (addresses is not None):
            raise ServerError(
                f"dhcp: mode {mode!r} {'needs' if mode == 'full' else 'gives no addresses from'}"
                " a range",
                hint="`--dhcp full --dhcp-range A-B`, or `--dhcp proxy` beside another DHCP server",
            )
        self._loop = loop
        self._mode = mode
        self._find_loaders = find_loaders
        self._emit = emit
        self._address = address
        self._interface = interface
        self._http_port = http_port
        self._range = addresses
        self._file = LeaseFile(state / LEASE_FILE if state is not None else None)
        self._ports = ports
        self._sockets: list[tuple[socket.socket, int]] = []
        self._index: int | None = None
        self._server: DhcpServer | None = None
        self._table: tuple[LeaseTable, ipaddress.IPv4Network] | None = None
        limits = limits or DhcpLimits()
        self._clients = RateLimit(limits.client_rate, limits.client_burst)
        self._relays = RateLimit(limits.relay_rate, limits.relay_burst)
        self._total = RateLimit(limits.total_rate, limits.total_burst)
        self._spare = RateLimit(limits.total_rate / 2, limits.total_burst / 2)
        self._is_listed = is_listed
        self._mac_of = mac_of
        self._complaints = RateLimit(limits.complaints_per_second, 3.0)

    @property
    def ports(self) -> tuple[int, int]:
        """The ports that are bound (DHCP, boot server), or were asked for."""
        if not self._sockets:
            return self._ports
        first, second = (sock.getsockname()[1] for sock, _ in self._sockets)
        return first, second

    def reserve(self, reserved: Mapping[str, str], hostnames: Mapping[str, str]) -> None:
        """Full mode: what each listed machine gets from now on, by MAC; see Range."""
        if self._range is None:
            return
        self._range = replace(self._range, reserved=reserved, hostnames=hostnames)
        if self._table is not None:
            table, subnet = self._table
            table.reserve(_within(reserved, subnet))

    def bind(self) -> None:
        """Take the ports and read the leases. Raises ServerError that says what is wrong."""
        local = self._find_local()
        self._server = DhcpServer(
            self._find_loaders,
            http_port=self._http_port,
            pool=self._make_pool(local) if self._range is not None else None,
        )
        try:
            for port, role in zip(self._ports, (SERVER_PORT, PXE_PORT), strict=True):
                # Not bound to the address: broadcasts would not be heard.
                sock = bind_port("dhcp", "udp", ANY, port, interface=self._interface)
                self._sockets.append((sock, role))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                receive_packet_info(sock)
        except ServerError:
            self._close()
            raise

    def start(self) -> None:
        """Serve, once bound."""
        for sock, role in self._sockets:
            self._loop.add_reader(sock.fileno(), self._read, sock, role)

    async def stop(self) -> None:
        """Stop at once: an answer is one datagram, nothing is under way."""
        for sock, _ in self._sockets:
            self._loop.remove_reader(sock.fileno())
        self._close()

    def _close(self) -> None:
        for sock, _ in self._sockets:
            sock.close()
        self._sockets.clear()
        self._file.close()

    def _find_local(self) -> InterfaceAddress | None:
        """The server's address on the network that it serves, where farm.yaml gives one."""
        known = list_addresses()
        if self._interface is not None:
            known = [entry for entry in known if entry.name == self._interface]
        place = f"interface {self._interface}" if self._interface else "this machine"
        if self._address != ANY:
            found = next((entry for entry in known if entry.address == self._address), None)
            if found is None:
                raise ServerError(
                    f"dhcp: {place} does not have the address {self._address}",
                    hint="give an address that `ip address` shows, or none",
                )
            self._index = found.index
            return found
        if self._range is None:
            return None
        first = ipaddress.IPv4Address(self._range.first)
        found = next((entry for entry in known if first in entry.network.network), None)
        if found is None:
            raise ServerError(
                f"dhcp: no address of {place} is in the network of"
                f" {self._range.first}-{self._range.last}",
                hint="give the interface an address of that network, as"
                f" `ip address add {self._range.first.rpartition('.')[0]}.1/24 dev …`",
            )
        self._address, self._index = found.address, found.index
        return found

    def _make_pool(self, local: InterfaceAddress | None) -> Pool:
        assert self._range is not None
        assert local is not None
        given, subnet = self._range, local.network.network
        for address in (given.first, given.last):
            if ipaddress.IPv4Address(address) not in subnet:
                raise ServerError(
                    f"dhcp: {address} of the range is outside of {subnet}, the network of"
                    f" {local.address} on {local.name}",
                    hint="choose a range inside of that network",
                )
        edges = (str(subnet.network_address), str(subnet.broadcast_address))
        taken = {
            local.address: f"this server's own, on {local.name}",
            given.router or "": "the router's (dhcp_router)",
            **dict.fromkeys(given.dns, "a name server's (dhcp_dns)"),
            edges[0]: "the network's",
            edges[1]: "the broadcast address",
        }
        for mac, address in given.reserved.items():
            if address in taken:
                raise ServerError(
                    f"inventory: {address} of {mac} is {taken[address]}",
                    hint="give the machine an address of its own",
                )
        table = LeaseTable(
            given.first,
            given.last,
            record=lambda lease: self._file.record(lease, table),
            reserved=_within(given.reserved, subnet),
            excluded=(local.address, given.router, *edges),
        )
        self._file.load(table)
        self._table = (table, subnet)
        return Pool(
            table,
            Network(subnet, given.router, given.dns, given.domain, given.ntp),
            given.seconds,
            self._find_hostname,
        )

    def _find_hostname(self, mac: str) -> str:
        return self._range.hostnames.get(mac, "") if self._range is not None else ""

    def _read(self, sock: socket.socket, role: int) -> None:
        for _ in range(_TURN):
            try:
                data, control, _, source = sock.recvmsg(MAX_MESSAGE + 1, socket.CMSG_SPACE(12))
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error for an earlier answer
            arrival = read_packet_info(control)
            if arrival is not None and source[1] != 0:
                self._handle(sock, role, data, source, arrival)

    def _handle(
        self,
        sock: socket.socket,
        role: int,
        data: bytes,
        source: tuple[str, int],
        arrival: PacketInfo,
    ) -> None:
        local = arrival.local if self._address == ANY else self._address
        if self._index not in (None, arrival.interface) and arrival.destination != self._address:
            return
        if local == ANY or not self._allow(data, source, time.monotonic()):
            return
        assert self._server is not None
        now = time.time()
        try:
            outcome = self._server.receive(now, data, source, role, local)
        except ServerError as error:  # the lease cannot be written: then it is not promised either
            self._complain(now, source[0], error.one_line())
            return
        self._send(sock, outcome, local, arrival.interface, now)
        if outcome.events and self._tells(data, source):
            for event in outcome.events:
                self._emit(event)

    def _allow(self, data: bytes, source: tuple[str, int], now: float) -> bool:
        """Whether a message is looked at: its sender's own share first, then its kind's.

        Only the source address and the MAC are asked; giaddr is whatever the sender
        wrote, and a new one in each packet would be a new share each.
        """
        mac = data[28:34].hex(":")
        if source[0] == ANY:
            own, kind = self._clients.allow(mac, now), "broadcast"
        elif data[24:28] not in (b"\0\0\0\0", b""):
            own, kind = self._relays.allow(source[0], now), "relay"
        else:
            own, kind = self._clients.allow(source[0], now), "unicast"
        if self._is_listed(mac):
            # A sender that forges a listed MAC uses up that MAC's share, and not the spare one.
            return self._total.allow("listed", now) if own else self._spare.allow("listed", now)
        return own and self._total.allow(kind, now)

    def _tells(self, data: bytes, source: tuple[str, int]) -> bool:
        """Whether a message may change the timeline of the machine that it names.

        Not when it comes from an address that is known to be another machine's: a
        renewal comes from the machine itself. A relay's message comes from the relay,
        which the inventory does not name.
        """
        if source[0] == ANY:
            return True
        mac = data[28:34].hex(":")
        sender = self._mac_of(source[0])
        if sender is None or sender == mac:
            return True
        return data[24:28] != b"\0\0\0\0" and not self._is_listed(sender)

    def _send(
        self, sock: socket.socket, outcome: Outcome, local: str, interface: int, now: float
    ) -> None:
        if outcome.send is None:
            return
        data, to = outcome.send
        if not to[0].startswith("255."):
            interface = 0  # by the routes
        try:
            sock.sendmsg([data], [pack_packet_info(local, interface)], 0, to)
        except OSError as error:
            self._complain(now, to[0], f"cannot send to {to[0]} port {to[1]}: {error.strerror}")

    def _complain(self, now: float, node: str, message: str) -> None:
        if self._complaints.allow("", now):
            detail = {"status": "error", "message": message, "cause": "server"}
            self._emit(Event(now, node, "dhcp", "dhcp", detail))


def _within(reserved: Mapping[str, str], subnet: ipaddress.IPv4Network) -> dict[str, str]:
    """The reservations of one network."""
    return {
        mac: address
        for mac, address in reserved.items()
        if ipaddress.IPv4Address(address) in subnet
    }
