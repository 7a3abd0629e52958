"""TFTP over UDP: a shell of raw non-blocking sockets around the protocol core."""

import asyncio
import errno
import heapq
import itertools
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Final

from server.content import Lookup, NotFound, Refused
from server.events import Emit, Event
from server.protocols.tftp import NEVER, Outcome, Transfer, negotiate
from server.protocols.tftp_wire import (
    MAX_REQUEST,
    ErrorCode,
    Opcode,
    Request,
    RequestError,
    pack_error,
    parse_request,
)
from server.services.blocks import BlockCache, Reader
from server.services.gate import SPARE, Gate, IsKnown, Proven, nobody
from server.services.hotloop import HotLoop
from server.services.limits import TftpLimits
from server.services.pktinfo import pack_packet_info, read_packet_info, receive_packet_info
from server.services.ports import bind_port, raise_file_limit
from server.services.ratelimit import RateLimit
from server.services.tftp_link import SOL_UDP, TICK, UDP_SEGMENT, Address, Link
from server.services.throttle import make_throttle

__all__ = ["TftpLimits", "TftpService"]

REQUESTS_PER_TURN: Final = 32
"""Requests taken at once before others have their turn."""
OPTIONS_TEXT: Final = 80
"""Characters of a request's options that an event shows."""
LISTENER_BUFFER: Final = 4 * 1024 * 1024
"""Bytes of the listening socket's buffers: the requests of a rack switched on at once."""
DOUBLE_SECONDS = 1.0
"""For so long without an acknowledgement, a request that comes again is taken for a double."""
TOLD_STARTS: Final = 200.0
"""Transfers a second, of addresses that have proved nothing yet, whose start makes an event."""
LOOKED_AT: Final = 64
"""Most transfers that are looked at to find one that gives way."""
_IP_RECVERR: Final = 11
"""Of linux/in.h; Python's socket module does not have it."""
_RRQ: Final = Opcode.RRQ.to_bytes(2, "big")
_OTHERS_ERRORS: Final = 4
"""Tries to send, each of which may fail for what another client's machine said."""
_EXTENDED: Final = struct.Struct("=IB")
"""The head of linux/errqueue.h's sock_extended_err: errno, origin."""
_BY_ICMP: Final = 2
"""SO_EE_ORIGIN_ICMP of linux/errqueue.h."""
_SEGMENT: Final = struct.Struct("=H")


class TftpService:
    """Serves what `lookup` finds. All methods belong to the loop's thread.

    single_port: answer from the port that was asked, for clients behind NAT;
    else each transfer has a port of its own (RFC 1350, section 4). is_known: of
    which addresses the operator knows that there is a machine.
    """

    owner: Final = "tftp"

    def __init__(
        self,
        loop: HotLoop,
        *,
        address: str,
        port: int,
        lookup: Lookup,
        emit: Emit,
        limits: TftpLimits | None = None,
        single_port: bool = False,
        listener: socket.socket | None = None,
        is_known: IsKnown = nobody,
    ) -> None:
        self.loop = loop
        self.limits = limits or TftpLimits()
        self.cache = BlockCache(loop, self.limits.cache_bytes)
        self.single_port = single_port
        self._address = address
        self._port = port
        self._lookup = lookup
        self._emit = emit
        self._listener = listener
        self._links: dict[Address, Link] = {}
        self._per_client: dict[str, int] = {}
        limits = self.limits
        rate, strangers = limits.requests_per_second, limits.strangers_per_second
        self._requests = Gate(
            RateLimit(rate, 2 * rate),
            RateLimit(strangers, strangers),
            RateLimit(SPARE * rate, SPARE * rate),
        )
        self._proven = Proven(is_known)
        # Transfers whose client has not answered yet, the oldest first: these give way.
        self._unconfirmed: dict[Link, None] = {}
        self._unconfirmed_of: dict[str, dict[Link, None]] = {}
        self._told_starts = RateLimit(TOLD_STARTS, TOLD_STARTS)
        self._errors = RateLimit(limits.errors_per_second, 4 * limits.errors_per_second)
        limit = limits.events_per_second
        self._complaints = RateLimit(limit, max(5.0, 5 * limit))
        self.throttle = make_throttle("tftp", limits.bytes_per_second)
        self._timers: list[tuple[float, int, Link]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._stopped: asyncio.Future[None] | None = None

    @property
    def port(self) -> int:
        """The port that is bound, or was asked for."""
        return self._port

    @property
    def listener(self) -> socket.socket:
        """The socket that takes requests, for workers."""
        if self._listener is None:
            raise RuntimeError("TftpService.bind was not called")
        return self._listener

    def bind(self) -> None:
        """Take the port. Raises ServerError that says who has it."""
        if self._listener is None:
            self._listener = bind_listener(self._address, self._port)
        self._port = int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Serve, once bound."""
        raise_file_limit()
        if self.single_port:
            # A socket for all clients is not connected: without this the kernel
            # would not tell of one that is gone, or that never asked at all.
            self.listener.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        self.loop.add_reader(self.listener.fileno(), self._on_readable)

    async def stop(self) -> None:
        """Take no new requests, let transfers end for stop_seconds, abort the others."""
        if self._listener is None:
            return
        self._stopped = self.loop.create_future()
        self._check_stopped()
        try:
            await asyncio.wait_for(self._stopped, self.limits.stop_seconds)
        except TimeoutError:
            for link in list(self._links.values()):
                link.transfer.fail("the server is stopping")
                link.finish()
        self.loop.remove_reader(self._listener.fileno())
        self._listener.close()
        if self._timer is not None:
            self._timer.cancel()
        self.cache.close()

    # Requests.

    def _on_readable(self) -> None:
        if self.single_port:
            self._hear_refusals()
        for _ in range(REQUESTS_PER_TURN):
            try:
                packet, ancillary, _, peer = self.listener.recvmsg(MAX_REQUEST + 1, 64)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # somebody's ICMP error
            client = (str(peer[0]), int(peer[1]))
            link = self._links.get(client)
            if link is not None and link.sock is None and packet[:2] != _RRQ:
                link.on_packet(packet)
                continue
            local = _asked_address(ancillary)
            if local is not None and self._stopped is None and client[1] != 0:
                self._on_request(packet, client, local)

    def _hear_refusals(self) -> None:
        """Read which ports machines have reported as closed (ip(7), IP_RECVERR)."""
        while True:
            try:
                _, ancillary, _, peer = self.listener.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return
            link = self._links.get((str(peer[0]), int(peer[1])))
            if link is not None and link.sock is None and _is_refusal(ancillary):
                # Later: a link may be in the midst of sending.
                self.loop.call_soon(link.refused)

    def _on_request(self, packet: bytes, client: Address, local: str) -> None:
        now = self.loop.time()
        opcode = int.from_bytes(packet[:2], "big")
        if opcode not in (Opcode.RRQ, Opcode.WRQ):
            return  # a late ACK, or an answer to an answer: never answered
        if not self._requests.allow(client[0], now, known=client[0] in self._proven):
            why = "more requests than limits.requests_per_second"
            self.complain(client[0], "", why, "limit")
            return
        link = self._links.get(client)
        if link is not None:
            link.catch_up()  # its last ACK may be waiting, sent before this request
        if link is not None and not link.closed:
            if link.packet == packet and not link.transfer.confirmed:
                link.asked += 1
                link.repeat(now)
                return
            if link.packet == packet and self._is_double(link, now):
                return
            # The port is used anew: the old transfer is over for the client.
            link.transfer.outcome = Outcome("stop", "the client began anew")
            link.finish()
        try:
            request = parse_request(packet)
            self._start(request, packet, client, local, now)
        except RequestError as error:
            self._refuse(client, local, "", error.code, str(error), "malformed")

    def _is_double(self, link: Link, now: float) -> bool:
        """Whether the network doubled a request, or delivered it late (RFC 1350, section 4):
        the transfer that the client has proven goes on. A client that began anew
        acknowledges nothing, and asks again."""
        if link.doubled[0] != link.transfer.acked:
            link.doubled = (link.transfer.acked, now)
        return now - link.doubled[1] < DOUBLE_SECONDS

    def _start(
        self, request: Request, packet: bytes, client: Address, local: str, now: float
    ) -> None:
        limits = self.limits
        path = request.path
        running = self._per_client.get(client[0], 0)
        if running >= limits.per_client and self._make_room(self._unconfirmed_of.get(client[0])):
            running -= 1
        if running >= limits.per_client:
            why = f"more than {limits.per_client} transfers (limits.per_client)"
            self._refuse(client, local, path, ErrorCode.UNDEFINED, why, "limit")
            return
        if len(self._links) >= limits.transfers and not self._make_room(self._unconfirmed):
            why = f"the server has its {limits.transfers} transfers (limits.transfers)"
            self._refuse(client, local, path, ErrorCode.UNDEFINED, why, "limit")
            return
        try:
            content = self._lookup(path, client[0])
            source = self.cache.open(content, netascii=request.netascii)
        except NotFound as error:
            self._refuse(client, local, path, ErrorCode.NOT_FOUND, error.reason, "not_found")
            return
        except Refused as error:
            self._refuse(client, local, path, ErrorCode.ACCESS, error.reason, "refused")
            return
        except OSError as error:
            why = error.strerror or str(error)
            self._refuse(client, local, path, ErrorCode.UNDEFINED, why, "unreadable")
            return
        negotiated = negotiate(
            request.options,
            source.size,
            max_blksize=limits.max_blksize,
            max_windowsize=limits.max_windowsize,
        )
        if not negotiated.oack and running:
            unconfirmed = sum(
                1
                for link in self._unconfirmed_of.get(client[0], ())
                if not link.transfer.confirmed and not link.transfer.oack
            )
            if unconfirmed >= limits.unconfirmed:
                why = "too many transfers that were never answered (limits.unconfirmed)"
                self.complain(client[0], path, why, "limit")
                return
        transfer = Transfer(source.size, negotiated, give_up=limits.give_up_seconds)
        reader = Reader(self.cache, source, negotiated.blksize)
        try:
            link = Link(self, client, local, packet, path, transfer, reader)
            link.options = _name_options(request)
        except OSError as error:
            why = error.strerror or str(error)
            self._refuse(client, local, path, ErrorCode.UNDEFINED, why, "network")
            return
        self._links[client] = link
        self._per_client[client[0]] = running + 1
        self._unconfirmed[link] = None
        self._unconfirmed_of.setdefault(client[0], {})[link] = None
        # A flood of forged requests is not told one by one.
        link.told = client[0] in self._proven or self._told_starts.allow("", now)
        if link.told:
            self.report(link)
        link.start(now)

    def _make_room(self, links: dict[Link, None] | None) -> bool:
        """Have the oldest transfer of these end that its client has not confirmed; of machines
        that are known, only where there is no other. False when each is confirmed."""
        while (victim := self._oldest(links or {})) is not None:
            victim.catch_up()  # its first ACK may be waiting
            if victim.closed or victim.transfer.confirmed:
                continue
            victim.transfer.fail(
                "gave way to a new transfer: it was never answered, and there are as many as"
                " limits.transfers or limits.per_client",
                cause="limit",
            )
            victim.transfer.farewell = b""  # most likely nobody ever asked
            victim.finish()
            return True
        return False

    def _oldest(self, links: dict[Link, None]) -> Link | None:
        """The oldest unconfirmed transfer of these; an unknown machine's before a known one's."""
        found: Link | None = None
        confirmed, looked = [], 0
        for link in links:
            if link.closed or link.transfer.confirmed:
                confirmed.append(link)
                continue
            found = found or link
            looked += 1
            if link.client[0] not in self._proven:
                found = link
                break
            if looked >= LOOKED_AT:
                break
        for link in confirmed:
            self._confirmed(link)
        return found

    def _confirmed(self, link: Link) -> None:
        """The client has answered: its transfer need not give way any more."""
        self._unconfirmed.pop(link, None)
        mine = self._unconfirmed_of.get(link.client[0])
        if mine is not None:
            mine.pop(link, None)
            if not mine:
                del self._unconfirmed_of[link.client[0]]

    def _refuse(
        self,
        client: Address,
        local: str,
        path: str,
        code: ErrorCode,
        message: str,
        cause: str,
    ) -> None:
        self.complain(client[0], path, message, cause)
        if self._errors.allow(client[0], self.loop.time()):
            self.send_datagram(pack_error(code, message), client, local)

    def send_from_listener(
        self, buffers: Sequence[bytes | memoryview], client: Address, local: str, segment: int = 0
    ) -> None:
        """Send from the port that takes requests, and the address that was asked.

        segment: bytes to cut the buffers into, 0 for one datagram. Raises OSError.
        """
        ancillary: list[tuple[int, int, bytes]] = []
        if segment:
            ancillary.append((SOL_UDP, UDP_SEGMENT, _SEGMENT.pack(segment)))
        if local:
            ancillary.append(pack_packet_info(local))
        if not self.single_port:
            self.listener.sendmsg(buffers, ancillary, 0, client)
            return
        for _ in range(_OTHERS_ERRORS):
            try:
                self.listener.sendmsg(buffers, ancillary, 0, client)
                return
            except (BlockingIOError, InterruptedError):
                raise
            except OSError:
                self._hear_refusals()  # it may be what was said of another client
        self.listener.sendmsg(buffers, ancillary, 0, client)

    def send_datagram(self, packet: bytes, client: Address, local: str) -> None:
        """Send one packet that nobody waits for."""
        try:
            self.send_from_listener([packet], client, local)
        except OSError:
            pass

    # Timers: one entry a transfer, put off lazily, so that an ACK costs nothing here.

    def watch(self, link: Link) -> None:
        """Call link.on_timeout at its transfer's deadline, or somewhat later."""
        deadline = link.transfer.deadline
        if deadline == NEVER:
            link.watched = NEVER
            return
        link.watched = deadline
        heapq.heappush(self._timers, (deadline, next(self._order), link))
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self.loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        # A call of `watch` from within finds the timer set: the line at the end sets it.
        self._timer_at = -NEVER
        self._timer = None
        now = self.loop.time()
        timers = self._timers
        try:
            while timers and timers[0][0] <= now + TICK:
                at, _, link = heapq.heappop(timers)
                if link.closed or link.watched != at:
                    continue
                link.on_timer(now)
        finally:
            self._timer_at = NEVER
            if timers:
                self._timer_at = max(timers[0][0], now + TICK)
                self._timer = self.loop.call_at(self._timer_at, self._on_timer)

    # Ends and events.

    def ended(self, link: Link) -> None:
        """A transfer is over (called by its link)."""
        self._confirmed(link)
        if link.transfer.confirmed:
            self._proven.note(link.client[0])
        if self._links.get(link.client) is link:
            del self._links[link.client]
        left = self._per_client.get(link.client[0], 0) - 1
        if left > 0:
            self._per_client[link.client[0]] = left
        else:
            self._per_client.pop(link.client[0], None)
        outcome = link.transfer.outcome
        if outcome is not None and (link.told or link.transfer.confirmed):
            self.report(link, outcome)
        self._check_stopped()

    def report(self, link: Link, outcome: Outcome | None = None) -> None:
        """Emit that a transfer began, or how it ended."""
        transfer = link.transfer
        status = outcome.status if outcome else "start"
        if status == "ok":
            sent = transfer.size
        else:
            sent = min(transfer.size, max(0, transfer.acked) * transfer.blksize)
        detail: dict[str, str | int | float | bool] = {
            "path": link.path,
            "bytes": sent,
            "size": transfer.size,
            "seconds": round(self.loop.time() - link.began, 6),
            "retries": transfer.retries,
            "status": status,
        }
        if outcome and outcome.message:
            detail["message"] = outcome.message
        if link.options:
            detail["options"] = link.options
        if status == "error" and not transfer.confirmed:
            # For the diagnosis: nothing ever came back, and how often it was asked for.
            detail.update(answered=False, oack=bool(transfer.oack), asked=link.asked)
        if outcome and outcome.cause:
            detail["cause"] = outcome.cause
        if outcome and outcome.errno:
            detail["errno"] = outcome.errno
        self._emit_event(link.client[0], detail)

    def complain(self, client: str, path: str, message: str, cause: str) -> None:
        """Report something refused, at a bounded rate for each client."""
        if self._complaints.allow(client, self.loop.time()):
            detail = {"path": path, "status": "error", "message": message, "cause": cause}
            self._emit_event(client, detail)

    def _emit_event(self, client: str, detail: Mapping[str, str | int | float | bool]) -> None:
        self._emit(Event(time.time(), client, "tftp", "transfer", detail))

    def _check_stopped(self) -> None:
        if self._stopped is not None and not self._links and not self._stopped.done():
            self._stopped.set_result(None)


def bind_listener(address: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket for requests. Raises ServerError that says who has the port."""
    sock = bind_port("tftp", "udp", address, port, reuse_port=reuse_port)
    # Which of this machine's addresses was asked: the answer comes from it. Set
    # here and not later: a packet that came before carries no such address.
    receive_packet_info(sock)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, LISTENER_BUFFER)
    return sock


def _name_options(request: Request) -> str:
    """What the client asked for, as `blksize=1468 windowsize=4`: firmware is known by it."""
    words = " ".join(f"{name}={value}" for name, value in request.options.items())
    return "".join(char for char in words if char.isprintable())[:OPTIONS_TEXT]


def _asked_address(ancillary: list[tuple[int, int, bytes]]) -> str | None:
    """The local address that a request was sent to; None for a broadcast (RFC 1123, 4.2.3.4)."""
    info = read_packet_info(ancillary)
    if info is None or info.local == "0.0.0.0":
        return ""  # the packet came before the socket was set up
    return info.local if info.local == info.destination else None


def _is_refusal(ancillary: list[tuple[int, int, bytes]]) -> bool:
    """Whether the kernel reports an ICMP message that nobody listens on that port."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_RECVERR) and len(data) >= _EXTENDED.size:
            number, origin = _EXTENDED.unpack_from(data)
            return bool(number == errno.ECONNREFUSED and origin == _BY_ICMP)
    return False
