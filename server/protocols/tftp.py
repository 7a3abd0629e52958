"""TFTP read transfers, server side, sans-IO.

RFC 1350 (the protocol), 2347 (options), 2348 (blksize), 2349 (timeout, tsize),
7440 (windowsize). `negotiate` decides on the options, `Transfer` says which
blocks to send and when; the shell has the blocks and the socket.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from server.protocols.tftp_wire import (
    HEADER,
    ErrorCode,
    Opcode,
    pack_error,
    pack_oack,
    unpack_error,
)

DEFAULT_BLKSIZE: Final = 512
"""Bytes of a block where none is negotiated (RFC 1350)."""
MAX_BLKSIZE: Final = 65464
"""Bytes; the most that RFC 2348 allows."""
MAX_WINDOW_BYTES: Final = 128 * 1024
"""Bytes of a window: what a client's socket cannot hold is lost, and asked for again."""

FIRST_RTO: Final = 1.0
"""Seconds before the first retransmission, while no round trip has been measured."""
MIN_RTO: Final = 0.05
"""Seconds; none comes sooner: a busy machine may answer so late, and that is no loss."""
MAX_RTO: Final = 5.0
"""Seconds; none comes later, for people watch."""
UNCONFIRMED_RETRIES: Final = 2
"""Retransmissions to an address that has not answered: a forged one hurts nobody."""
NEVER: Final = float("inf")
_ACK: Final = int(Opcode.ACK)
"""A plain number: comparing with a member of an IntEnum costs a look-up for each packet."""


@dataclass(frozen=True)
class Negotiated:
    """What holds for a transfer. timeout: seconds, None where the client set none.
    oack: the options that are acknowledged; empty: no OACK, the data comes first."""

    blksize: int = DEFAULT_BLKSIZE
    windowsize: int = 1
    timeout: int | None = None
    oack: Mapping[str, str] | None = None


def negotiate(
    options: Mapping[str, str],
    size: int | None,
    *,
    max_blksize: int = MAX_BLKSIZE,
    max_windowsize: int = 64,
    max_window_bytes: int = MAX_WINDOW_BYTES,
) -> Negotiated:
    """Answer what was asked and understood, nothing else (RFC 2347).

    size: of what will be sent, in bytes; None where it is not known. A value
    that is out of range is left unanswered: the client then does without.
    """
    oack: dict[str, str] = {}
    blksize, windowsize, timeout = DEFAULT_BLKSIZE, 1, None
    for name, text in options.items():
        value = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None
        if value is None:
            continue
        if name == "blksize" and value >= 8:
            blksize = min(value, max_blksize)
            oack[name] = str(blksize)
        elif name == "timeout" and 1 <= value <= 255:
            timeout = value
            oack[name] = str(timeout)  # RFC 2349: the very value, or no answer
        elif name == "tsize" and size is not None:
            oack[name] = str(size)
        elif name == "windowsize" and 1 <= value <= 65535:
            windowsize = min(value, max_windowsize)
            oack[name] = str(windowsize)
        elif name == "rollover" and value == 0:
            # In no RFC. Clients ask by it which block number follows 65535; ours is 0.
            oack[name] = "0"
    if windowsize * blksize > max_window_bytes:
        # RFC 7440 section 3: the server may answer with less. What does not fit
        # into the client's socket buffer would be lost in each window anew.
        windowsize = max(1, max_window_bytes // blksize)
        oack["windowsize"] = str(windowsize)
    return Negotiated(blksize, windowsize, timeout, oack or None)


@dataclass(frozen=True)
class Outcome:
    """How a transfer ended. "stop": the client had enough (a size probe, a file
    that was closed early), which is no error. cause: an error's, one of server.causes'
    for tftp. errno: the system's name of it (`EPERM`), where the system refused."""

    status: Literal["ok", "stop", "error"]
    message: str = ""
    cause: str = ""
    errno: str = ""


class Transfer:
    """One read transfer.

    Blocks are counted from 1 without wrapping; the wire sees their low 16 bits.
    After `start`, and whenever `receive` or `timeout` gives True, the shell
    sends `count` blocks from `first` on; `first` == 0 stands for the OACK in
    `oack`. `timeout` is due at `deadline`. Once `outcome` is set, the shell
    sends `farewell` (if any) and forgets the transfer.
    """

    __slots__ = (
        "_backoff",
        "_give_up",
        "_progress",
        "_quiet_until",
        "_resent",
        "_rto",
        "_rttvar",
        "_sent",
        "_sent_at",
        "_srtt",
        "_timeout",
        "acked",
        "blksize",
        "confirmed",
        "count",
        "deadline",
        "farewell",
        "first",
        "oack",
        "outcome",
        "retries",
        "size",
        "total",
        "windowsize",
    )

    def __init__(self, size: int, negotiated: Negotiated, *, give_up: float = 30.0) -> None:
        """give_up: seconds without progress after which the client is given up."""
        self.size = size
        self.blksize = negotiated.blksize
        self.windowsize = negotiated.windowsize
        self.total = size // negotiated.blksize + 1
        """Blocks in all: the last one is short, or empty."""
        self.oack = pack_oack(negotiated.oack) if negotiated.oack else b""
        self.acked = -1 if self.oack else 0
        """Blocks that the client has; -1 before it has answered the OACK."""
        self.first = 0
        self.count = 0
        self.deadline = NEVER
        self.outcome: Outcome | None = None
        self.farewell = b""
        self.retries = 0
        """Retransmissions so far."""
        self.confirmed = False
        """True once the client has answered from its address."""
        self._timeout = negotiated.timeout
        self._give_up = max(give_up, 5.0 * (negotiated.timeout or 0))
        self._sent = self.acked
        self._sent_at = 0.0
        self._resent = False
        self._srtt: float | None = None
        self._rttvar = 0.0
        self._rto = float(negotiated.timeout or FIRST_RTO)
        self._backoff = 0
        self._progress = 0.0
        self._quiet_until = 0.0

    def start(self, now: float) -> None:
        """The first packets: the OACK, or the first block alone."""
        self._progress = now
        if self.oack:
            self.first, self.count = 0, 1
            self._sent = 0
        else:
            self.first, self.count = 1, 1
            self._sent = 1
        self._resent = False
        self.sent(now)

    def hold(self) -> None:
        """The blocks are not there yet: no timer runs until `sent`."""
        self.deadline = NEVER

    def sent(self, now: float) -> None:
        """The blocks left at `now`: the round trip is measured from here."""
        self._sent_at = now
        self.deadline = now + min(self._rto * (1 << self._backoff), self._ceiling())

    def passed(self, first: int, sent_at: float, rtt: float) -> None:
        """Lockstep went on outside: all blocks before `first` were acknowledged, and that
        was sent at `sent_at`. rtt: the latest round trip measured there, in seconds; 0: none."""
        self.acked = first - 1
        self.first = self._sent = first
        self._resent = False
        self._backoff = 0
        if rtt > 0:
            self._measure(rtt)
        self._progress = self._sent_at = sent_at
        self.deadline = sent_at + self._rto

    def receive(self, packet: bytes, now: float) -> bool:
        """Take a packet from the client's address; True when blocks are to be sent."""
        if len(packet) < HEADER or packet[0] != 0 or packet[1] != _ACK:
            return self._receive_other(packet)
        acked = self.acked
        step = ((packet[2] << 8 | packet[3]) - acked) & 0xFFFF
        in_flight = self._sent - acked
        if not 0 < step <= in_flight:
            return self._receive_duplicate(step, now)
        self.acked = acked = acked + step
        self.confirmed = True
        self._progress = now
        self._backoff = 0
        if not self._resent:
            self._measure(now - self._sent_at)
        if acked >= self.total:
            self._end("ok")
            return False
        if step < in_flight:
            # RFC 7440 section 4: the rest of the window was lost. A client that
            # acknowledges each block would say so many times: once a round trip.
            if now < self._quiet_until:
                return False
            self.retries += 1
            self._resent = True
            self._quiet_until = now + 0.5 * self._round_trip()
        else:
            self._resent = False
        self.first = acked + 1
        count = self.total - acked
        if count > self.windowsize:
            count = self.windowsize
        self.count = count
        self._sent = acked + count
        # As `sent`, without the back-off, in line: this is the fast path.
        self._sent_at = now
        self.deadline = now + self._rto
        return True

    def timeout(self, now: float) -> bool:
        """The deadline is over; True when blocks are to be sent again."""
        if self.outcome is not None or now < self.deadline:
            return False
        if not self.confirmed and self._backoff >= UNCONFIRMED_RETRIES:
            self._end("error", "the client never answered", "never_answered")
            return False
        if now - self._progress >= self._give_up:
            waited = f"no answer for {now - self._progress:.0f} s"
            self.farewell = pack_error(ErrorCode.UNDEFINED, "timed out")
            at = f"at block {self.acked + 1} of {self.total}"
            self._end("error", f"{waited} {at}", "timeout")
            return False
        self._backoff = min(self._backoff + 1, 16)
        self._send_again(now)
        return True

    def repeat(self, now: float) -> bool:
        """The same request came again: its answer was lost. True when to send again."""
        if self.confirmed or self.outcome is not None or self._backoff >= UNCONFIRMED_RETRIES:
            return False
        self._backoff += 1
        self._send_again(now)
        return True

    def unreachable(self) -> None:
        """The client's machine says by ICMP that nobody listens on its port any more."""
        if self.outcome is not None:
            return
        if self._sent >= self.total and self.confirmed:
            # The client had its last block and went away; its last ACK was lost.
            self._end("ok")
        elif self.acked <= 0:
            self._end("stop", "the client closed its port at the start")
        else:
            at = self.acked + 1
            self._end("error", f"the client closed its port at block {at}", "hung_up")

    def fail(
        self,
        message: str,
        code: ErrorCode = ErrorCode.UNDEFINED,
        *,
        cause: str = "stopped",
        errno: str = "",
    ) -> None:
        """End it from the server's side; the client gets an ERROR."""
        if self.outcome is None:
            self.farewell = pack_error(code, message)
            self._end("error", message, cause, errno)

    def _receive_other(self, packet: bytes) -> bool:
        opcode = int.from_bytes(packet[:2], "big")
        if opcode == Opcode.ERROR and len(packet) >= 4:
            code, message = unpack_error(packet)
            # GRUB closes a file so, PXE firmware a size probe; after an OACK it
            # may also mean that the options do not suit (RFC 2347, code 8).
            self._end("stop", f"the client ended it: {message or 'no message'} (code {code})")
        # Any other packet does not belong to a transfer: RFC 1350 lets it be ignored.
        return False

    def _receive_duplicate(self, step: int, now: float) -> bool:
        """An ACK that moves nothing: never a reason to send a block twice (RFC 1123,
        4.2.3.1), unless windows are used and the first block of one was lost."""
        if step != 0 or self.windowsize == 1 or self.acked < 0 or now < self._quiet_until:
            return False
        if now - self._sent_at < 0.5 * self._round_trip():
            return False
        self._quiet_until = now + self._round_trip()
        self._send_again(now)
        return True

    def _send_again(self, now: float) -> None:
        self.retries += 1
        self._resent = True
        if self.acked < 0:
            self.first, self.count = 0, 1
        else:
            count = self.windowsize if self.confirmed else 1
            self.first = self.acked + 1
            self.count = min(count, self.total - self.acked)
            self._sent = self.acked + self.count
        self.sent(now)

    def _measure(self, rtt: float) -> None:
        """RFC 6298, section 2."""
        if self._srtt is None:
            self._srtt = rtt
            self._rttvar = rtt / 2
        else:
            delta = rtt - self._srtt
            self._srtt += delta / 8
            self._rttvar += ((delta if delta > 0 else -delta) - self._rttvar) / 4
        rto = self._srtt + 4 * self._rttvar
        self._rto = MIN_RTO if rto < MIN_RTO else rto if rto < MAX_RTO else MAX_RTO

    def _round_trip(self) -> float:
        """Within this time an ACK may still be an answer to what was sent before."""
        return MIN_RTO if self._srtt is None else self._srtt

    def _ceiling(self) -> float:
        """Longest wait between two retransmissions: the client's timeout, if it named one."""
        return float(self._timeout) if self._timeout else MAX_RTO

    def _end(
        self,
        status: Literal["ok", "stop", "error"],
        message: str = "",
        cause: str = "",
        errno: str = "",
    ) -> None:
        self.outcome = Outcome(status, message, cause, errno)
        self.deadline = NEVER
