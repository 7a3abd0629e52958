"""The DHCP server without its sockets: datagrams and the time in, datagrams and events out."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Final, Literal

from server.addresses import explain_no_card
from server.content import Refused
from server.events import Event
from server.protocols.dhcp import (
    Client,
    Detail,
    Grant,
    Loaders,
    Network,
    Plan,
    Reply,
    answer,
    identify,
    route,
)
from server.protocols.dhcp_leases import LeaseTable
from server.protocols.dhcp_wire import (
    ANY,
    PXE_PORT,
    Message,
    MessageType,
    Op,
    Option,
    WireError,
    pack,
    unpack,
)

Mode = Literal["proxy", "full"]

FindLoaders = Callable[[Client], Loaders]
"""The loaders for a machine; raises Refused (and nothing else) when it shall get none."""

_NO_ADDRESS_NEEDED: Final = (MessageType.RELEASE, MessageType.DECLINE)


@dataclass(frozen=True)
class Pool:
    """Full mode's addresses. hostname: MAC to the machine's name in the answer, "" for none."""

    table: LeaseTable
    network: Network
    seconds: int = 3600
    hostname: Callable[[str], str] = lambda mac: ""


@dataclass(frozen=True)
class Outcome:
    """What to send (bytes, address, port), or None; and what to tell."""

    send: tuple[bytes, tuple[str, int]] | None = None
    events: list[Event] = field(default_factory=list)


def _drop(now: float, mac: str, words: str) -> Outcome:
    """No answer, and why. mac: whose timeline says so, or ""."""
    detail: Detail = {"status": "error", "message": words, "cause": "malformed"}
    return Outcome(None, [Event(now, mac, "dhcp", "dhcp", detail)])


class DhcpServer:
    """Answers requests one at a time.

    http_port: of the boot tree, None when HTTP is not served. pool: None in
    proxy mode, where no address is ever given.
    """

    def __init__(
        self, find_loaders: FindLoaders, *, http_port: int | None, pool: Pool | None = None
    ) -> None:
        self._find_loaders = find_loaders
        self._http_port = http_port
        self._pool = pool

    def receive(
        self, now: float, data: bytes, source: tuple[str, int], port: int, server: str
    ) -> Outcome:
        """Handle one datagram that came to `port` (67 or 4011).

        now: seconds since the epoch. source: its address and port. server: our
        address on the network that it came from.
        """
        try:
            request = unpack(data)
        except WireError as error:
            if not error.mac and not error.boots:
                return Outcome()  # on port 67 all sorts of broadcasts arrive
            return _drop(now, error.mac, f"its DHCP message cannot be read: {error}")
        if request.op != Op.REQUEST or (port == PXE_PORT and source[0] == ANY):
            return Outcome()
        client = identify(request)
        if why := explain_no_card(request.mac):
            # No machine has this MAC, so it is no machine's timeline either.
            words = f"a DHCP message names {request.mac} as its card, which {why}"
            return _drop(now, "", words) if client.vendor else Outcome()
        loaders, refusal, cause = self._choose_loaders(client)
        plan = Plan(
            server,
            port,
            http_port=self._http_port,
            loaders=loaders,
            refusal=refusal,
            cause=cause,
        )
        if self._pool is not None and port != PXE_PORT:
            found = self._decide_address(self._pool, request, plan, now)
            if isinstance(found, Outcome):
                return found
            plan = found
        decision = answer(request, plan)
        events = [self._event(now, request, decision.detail)] if decision.detail else []
        if not isinstance(decision, Reply):
            return Outcome(None, events)
        to = route(request, decision.message, source, port)
        return Outcome((pack(decision.message), to), events)

    def _choose_loaders(self, client: Client) -> tuple[Loaders | None, str, str]:
        """(the loaders, "", ""), or (None, why there are none, the cause)."""
        if not client.vendor:
            return None, "", ""
        try:
            return self._find_loaders(client), "", ""
        except Refused as refused:
            return None, refused.reason, refused.cause

    def _event(self, now: float, request: Message, detail: Detail) -> Event:
        return Event(now, request.mac, "dhcp", "dhcp", detail)

    def _decide_address(
        self, pool: Pool, request: Message, plan: Plan, now: float
    ) -> Plan | Outcome:
        """The plan with full mode's grant, refusal or silence; an Outcome when that is all."""
        table, mac, kind = pool.table, request.mac, request.type
        if request.giaddr != ANY and not _is_in(request.giaddr, pool):
            # A network that is not ours to serve. Only a machine that wants to boot is told of.
            why = f"its relay {request.giaddr} is not in {pool.network.subnet}: only there does"
            why += " `dhcp: full` give addresses; elsewhere use `--dhcp proxy`"
            boots = plan.loaders is not None or plan.refusal
            return _silent(plan, why, "refused") if boots else Outcome()
        wanted = request.address(Option.REQUESTED_ADDRESS)
        if kind in _NO_ADDRESS_NEEDED:
            return self._take_back(pool, request, wanted, now)
        if kind == MessageType.INFORM:
            if request.ciaddr == ANY:
                return Outcome()
            return _grant(plan, pool, mac, "")
        if kind == MessageType.DISCOVER:
            address = table.offer(mac, wanted, now)
            if address is None:
                why = "no address is left in the DHCP range: make it larger"
                return _silent(plan, why, "no_address")
            return _grant(plan, pool, mac, address)
        if kind != MessageType.REQUEST:
            return Outcome()  # an OFFER or ACK whose `op` says request
        return self._decide_request(pool, request, plan, wanted, now)

    def _decide_request(
        self, pool: Pool, request: Message, plan: Plan, wanted: str | None, now: float
    ) -> Plan | Outcome:
        """DHCPREQUEST in its three meanings (RFC 2131, section 4.3.2)."""
        table, mac = pool.table, request.mac
        chosen = request.address(Option.SERVER_ID)
        if chosen is not None and chosen != plan.server:
            table.withdraw(mac, now)
            return _silent(
                plan,
                f"it took an address of another DHCP server, {chosen}:"
                " with one on this network use `--dhcp proxy`",
                "other_server",
                chosen,
            )
        if chosen is None and wanted is not None:  # INIT-REBOOT: the machine had an address before
            known = table.find(mac)
            if not _is_in(wanted, pool):
                return _refuse(plan, f"{wanted} is not of this network, {pool.network.subnet}")
            if known is None:
                return Outcome()
        address = wanted if wanted is not None else request.ciaddr
        if address == ANY:
            return Outcome()
        if not table.confirm(mac, address, pool.seconds, now):
            return _refuse(plan, f"{address} is not this machine's address")
        return _grant(plan, pool, mac, address)

    def _take_back(self, pool: Pool, request: Message, wanted: str | None, now: float) -> Outcome:
        detail: Detail = {"request": request.type.name.lower()}
        if request.type == MessageType.RELEASE:
            if not pool.table.release(request.mac, request.ciaddr, now):
                return Outcome()
            detail.update(status="ok", address=request.ciaddr)
        else:
            if wanted is None or not pool.table.decline(request.mac, wanted, now):
                return Outcome()
            reason = f"{wanted} is used by another machine: it is set aside for a while"
            if pool.table.is_reserved(wanted):
                reason = (
                    f"{wanted} is used by another machine, says this one, for which the inventory"
                    " reserves it: find the other one, or give this one another address"
                )
            detail.update(status="error", address=wanted, message=reason, cause="address_in_use")
        return Outcome(None, [self._event(now, request, detail)])


def _is_in(address: str, pool: Pool) -> bool:
    return IPv4Address(address) in pool.network.subnet


def _grant(plan: Plan, pool: Pool, mac: str, address: str) -> Plan:
    seconds = pool.seconds if address else 0
    return replace(plan, grant=Grant(address, seconds, pool.network, pool.hostname(mac)))


def _refuse(plan: Plan, reason: str) -> Plan:
    return replace(plan, nak=reason)


def _silent(plan: Plan, reason: str, cause: str, rival: str = "") -> Plan:
    return replace(plan, silence=reason, cause=cause, rival=rival)
