"""One TFTP transfer with its socket: asks the core what to send, and hands it to the kernel."""

import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from server.fastpath import COMPILED, Lockstep
from server.protocols.tftp import NEVER, Transfer
from server.services.blocks import Reader
from server.services.hotloop import HotLoop
from server.services.limits import TftpLimits
from server.services.throttle import Throttle

UDP_SEGMENT: Final = 103
"""Of linux/udp.h; Python 3.11's socket module does not have it."""
MAX_SEGMENTS: Final = 64
"""Packets of one call with UDP_SEGMENT (UDP_MAX_SEGMENTS of Linux)."""
MAX_DATAGRAM: Final = 65000
"""Most bytes handed to the kernel at once: a UDP datagram holds 65507."""
TICK: Final = 0.005
"""Seconds; due retransmissions this close together are done in one turn."""
MAX_ANSWER: Final = 400
"""Most bytes taken of a client's answer: an ACK has 4, an ERROR's text may be cut short."""
MAX_CATCH_UP: Final = 64
"""Most packets taken off one socket before others have their turn."""
SOL_UDP: Final = socket.IPPROTO_UDP
Address = tuple[str, int]


class LinkHost(Protocol):
    """What a link needs of its service.

    watch, ended: the link waits for its timer anew, is over.
    send_datagram: one packet from the service's own port (single-port TFTP).
    send_from_listener: many at once; segment: bytes of each, for UDP_SEGMENT (0: one packet).
    local: the server's address that the client spoke to.
    """

    @property
    def loop(self) -> HotLoop: ...
    @property
    def limits(self) -> TftpLimits: ...
    @property
    def single_port(self) -> bool: ...
    @property
    def throttle(self) -> Throttle | None: ...
    def watch(self, link: "Link") -> None: ...
    def ended(self, link: "Link") -> None: ...
    def send_datagram(self, packet: bytes, client: Address, local: str) -> None: ...
    def send_from_listener(
        self, buffers: Sequence[bytes | memoryview], client: Address, local: str, segment: int = 0
    ) -> None: ...


class Link:
    """One transfer with its socket (None: the service's own)."""

    owner: Final = "tftp"

    __slots__ = (
        "_clock",
        "_lane",
        "_loading",
        "_local",
        "_more",
        "_reader",
        "_recv",
        "_segmenting",
        "_segments",
        "_service",
        "asked",
        "began",
        "client",
        "closed",
        "doubled",
        "options",
        "packet",
        "path",
        "sock",
        "told",
        "transfer",
        "watched",
    )

    def __init__(
        self,
        service: LinkHost,
        client: Address,
        local: str,
        packet: bytes,
        path: str,
        transfer: Transfer,
        reader: Reader,
    ) -> None:
        """Raises OSError when there is no socket to be had."""
        self.client = client
        self.packet = packet
        self.path = path
        self.transfer = transfer
        self.closed = False
        self.options = ""
        """Those of the request, for people."""
        self.asked = 1
        """How often the same request came."""
        self.doubled = (-2, 0.0)
        """Blocks that the client had when its request came again, and when that was first."""
        self.told = True
        """Its start has made an event."""
        self.watched = NEVER
        self.began = service.loop.time()
        self._service = service
        self._reader = reader
        self._loading = False
        self._local = local
        stride = reader.layout.stride
        self._segments = max(1, min(MAX_SEGMENTS, MAX_DATAGRAM // stride))
        """Packets in one call; 1: the kernel cannot segment for this path."""
        self._segmenting = False
        self._clock = service.loop.clock
        self._more = False
        """Its socket may hold more than was taken; the loop will call again."""
        self.sock: socket.socket | None = None
        self._recv: Callable[[int], bytes]
        self._lane: Lockstep | None = None
        """Answers the usual ACKs, of as many blocks as there are at hand."""
        if not service.single_port:
            self.sock = sock = self._open(local)
            self._recv = sock.recv
            if COMPILED and transfer.windowsize == 1 and service.throttle is None:
                self._lane = Lockstep(sock.fileno())
                self._recv = self._lane.recv

    def _open(self, local: str) -> socket.socket:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = socket.socket(socket.AF_INET, kind)
        try:
            # Connected: the kernel drops strangers' packets and reports closed ports.
            sock.bind((local, 0))
            sock.connect(self.client)
            if self.transfer.windowsize > 1:
                window = self.transfer.windowsize * self._reader.layout.stride
                size = max(self._service.limits.send_buffer, 2 * window)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        except OSError:
            sock.close()
            raise
        return sock

    def start(self, now: float) -> None:
        """Send what comes first (DATA 1, OACK or ERROR); now: seconds of the loop's clock."""
        self.transfer.start(now)
        if self.sock is not None:
            self._service.loop.add_edge_reader(self.sock.fileno(), self._on_readable)
            if self._lane is not None:
                self._service.loop.attach(self._lane)
        self._send()
        self._watch()

    def repeat(self, now: float) -> None:
        """The client has asked the same again (a doubled request): send the last packet anew."""
        if not self._loading and self.transfer.repeat(now):
            self._send()

    def catch_up(self) -> None:
        """Take what has come to the link's own socket up to now."""
        if self.sock is not None:
            self._on_readable()

    def _on_readable(self) -> None:
        """Take the packets that the link's own socket has, as many as one turn may."""
        self._follow()
        self._take()
        self._lead()

    def _take(self) -> None:
        for _ in range(MAX_CATCH_UP):
            if self.closed:
                return
            try:
                packet = self._recv(MAX_ANSWER)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # closed too
                self._gone()
                return
            self.on_packet(packet)
        if not self._more:
            # The loop calls once for what has arrived (EPOLLET), and others wait.
            self._more = True
            self._service.loop.call_soon(self._take_more)

    def _take_more(self) -> None:
        self._more = False
        self._on_readable()

    # The lane.

    def _lead(self) -> None:
        """Let the lane answer from here on, if it has what comes next."""
        lane, transfer = self._lane, self.transfer
        if lane is None or lane.armed or self.closed or self._loading or transfer.first < 1:
            return
        at_hand = self._reader.stretch(transfer.first + 1)
        if at_hand is not None:
            stretch, base = at_hand
            lane.arm(stretch, self._reader.layout.stride, base, transfer.first)

    def _follow(self) -> None:
        """Move the core to the block that the lane has reached."""
        lane = self._lane
        if lane is not None and lane.block > self.transfer.first:
            self.transfer.passed(lane.block, lane.sent_at, lane.rtt)

    def on_packet(self, packet: bytes) -> None:
        """Take a packet from the client."""
        transfer = self.transfer
        if not transfer.receive(packet, self._clock.now):
            if transfer.outcome is not None:
                self.finish()
            return
        if self._loading:
            return
        if self._service.throttle is not None and self._waits(self._service.throttle):
            return
        self._send()
        if transfer.deadline < self.watched:
            self._watch()

    def _waits(self, throttle: Throttle) -> bool:
        """Count what is to be sent. True when the client has had too much: it is sent later."""
        transfer = self.transfer
        loop = self._service.loop
        amount = transfer.count * self._reader.layout.stride
        wait = throttle.take(self.client[0], amount, loop.time())
        if wait > 0:
            self._loading = True
            transfer.hold()
            loop.call_later(wait, self._loaded, None)
        return wait > 0

    def on_timer(self, now: float) -> None:
        """The deadline is over (called by the service): send again, or give up."""
        self._follow()
        transfer = self.transfer
        if not self._loading and transfer.timeout(max(now, min(transfer.deadline, now + TICK))):
            self._send()
        if transfer.outcome is not None:
            self.finish()
        elif not self.closed:
            self._lead()
            self._watch()

    def finish(self) -> None:
        """The transfer has its outcome: send the last packet, close, report."""
        if self.closed:
            return
        self._follow()
        self.closed = True
        transfer = self.transfer
        if transfer.farewell:
            self._segment(0)
            if self.sock is None:
                self._service.send_datagram(transfer.farewell, self.client, self._local)
            else:
                try:
                    self.sock.send(transfer.farewell)
                except OSError:
                    pass
        if self.sock is not None:
            self._service.loop.remove_reader(self.sock.fileno())
            self.sock.close()
            self.sock = None
            if self._lane is not None:
                self._lane.disarm()
        self._service.ended(self)

    def refused(self) -> None:
        """The client's machine says that nobody listens on its port."""
        if not self.closed:
            self._gone()

    def _watch(self) -> None:
        self._service.watch(self)

    def _gone(self) -> None:
        self.transfer.unreachable()
        self.finish()

    # Sending.

    def _send(self) -> None:
        """Send what the transfer wants sent."""
        transfer = self.transfer
        if self._lane is not None:
            self._lane.disarm()  # the lane does not measure what is sent from here
        first, count = transfer.first, transfer.count
        if first == 0:
            self._put([memoryview(transfer.oack)], 0)
            return
        if count > 1 and not self._segmenting:
            self._segment(self._reader.layout.stride)
        step = self._segments
        while count > 0:
            part = count if count < step else step
            packets = self._reader.packets(first, part)
            if packets is None:
                self._load()
                return
            if not self._put(packets, part):
                return
            first += part
            count -= part

    def _segment(self, size: int) -> None:
        """Have the kernel cut what is sent into packets of `size` bytes; 0: not at all.

        Not before the first window: the OACK may be longer than a block.
        """
        self._segmenting = size > 0
        if self.sock is not None and self._segments > 1:
            try:
                self.sock.setsockopt(SOL_UDP, UDP_SEGMENT, size)
            except OSError:
                self._segments = 1

    def _put(self, packets: list[memoryview], count: int) -> bool:
        """Hand packets to the kernel; False when the rest had better not follow now."""
        sock = self.sock
        try:
            if sock is None:
                segment = self._reader.layout.stride if count > 1 else 0
                self._service.send_from_listener(packets, self.client, self._local, segment)
            elif len(packets) == 1:
                sock.send(packets[0])
            else:
                sock.sendmsg(packets)
        except (BlockingIOError, InterruptedError):
            # The packet counts as lost on the way: the client or the timer asks again.
            return False
        except ConnectionRefusedError:
            self._gone()
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return False
            if count > 1 and self._segments > 1:
                return self._unsegmented(packets, count)
            self.transfer.fail(
                f"cannot send: {error.strerror or error}",
                cause="network",
                errno=errno.errorcode.get(error.errno or 0, ""),
            )
            self.finish()
            return False
        return True

    def _unsegmented(self, packets: list[memoryview], count: int) -> bool:
        """The path's MTU is less than a packet, or the device cannot: one by one from now on."""
        self._segment(0)
        self._segments = 1
        stride = self._reader.layout.stride
        for packet in packets:
            for start in range(0, len(packet), stride):
                if not self._put([packet[start : start + stride]], 1):
                    return False
        return True

    def _load(self) -> None:
        """The blocks are not in memory: a thread fetches them, the timer waits."""
        transfer = self.transfer
        self._loading = True
        transfer.hold()
        self._reader.load(transfer.first, transfer.count, self._loaded)

    def _loaded(self, error: OSError | None) -> None:
        self._loading = False
        if self.closed:
            return
        if error is not None:
            self.transfer.fail(
                f"cannot read the file: {error.strerror or error}", cause="unreadable"
            )
            self.finish()
            return
        self.transfer.sent(self._service.loop.time())
        self._send()
        if not self.closed:
            self._lead()
            self._watch()
