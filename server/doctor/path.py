"""The path between machines and server: packets of full size, and the clocks at its ends."""

import contextlib
import select
import socket
from collections.abc import Iterator
from typing import Final

from server.doctor.findings import found
from server.doctor.target import Survey, Target
from server.doctor.verdict import Verdict, good
from server.doctor.web import fetch
from server.protocols.tftp_wire import ErrorCode, Opcode, pack_ack, pack_error, pack_request

IP_MTU_DISCOVER: Final = 10
IP_PMTUDISC_DO: Final = 2
IP_MTU: Final = 14
"""Of linux/in.h; Python's socket module does not have them."""
ETHERNET: Final = 1500
HEADERS: Final = 28
"""Of IP and UDP."""
FULL_BLOCK: Final = ETHERNET - HEADERS - 4
SMALL_BLOCK: Final = 512
LARGE_BLOCK: Final = 8192
"""In fragments wherever the MTU is Ethernet's."""
BLOCK_SECONDS: Final[float] = 1.0
"""For the answer to one packet of full size."""
TRIES: Final[int] = 3
"""Packets of one size before they count as lost."""
PROBE_SECONDS: Final[float] = 0.3
"""How long a router may take to say by ICMP that a packet is too large."""
CLOCKS_DIFFER: Final = 2.0
"""Seconds, beside what asking took, from which on the clocks are said to differ."""


def check_mtu(target: Target, survey: Survey) -> Iterator[Verdict]:
    """TFTP blocks of a packet's full size, and of several fragments; the path's MTU to there."""
    if "tftp" not in target.services:
        return
    mtu = probe_mtu(target.server, target.tftp_port)
    where = f"path to {target.server}"
    path = _find_large(survey)
    if not survey.tftp or path is None:
        yield found("mtu.unknown", where, "no file of 8 KiB could be fetched")
        return
    target.progress(f"blocks of {SMALL_BLOCK}, {FULL_BLOCK} and {LARGE_BLOCK} bytes of {path}")

    def comes(blksize: int) -> bool:
        return fetch_block(target.server, target.tftp_port, path, blksize)

    if not comes(SMALL_BLOCK):
        yield found("mtu.unknown", where, f"not even {SMALL_BLOCK} bytes of {path} came")
        return
    faults = []
    if not comes(FULL_BLOCK):
        words = f"a block of {FULL_BLOCK} bytes never came, {SMALL_BLOCK} did"
        faults.append(found("mtu.path", where, words))
    elif not comes(LARGE_BLOCK):
        words = f"a block of {LARGE_BLOCK} bytes never came in fragments"
        faults.append(found("mtu.fragments", where, words))
    if mtu is not None and mtu < ETHERNET:
        faults.append(found("mtu.small", where, f"it takes {mtu} bytes"))
    words = f"{'unknown' if mtu is None else mtu} bytes; blocks of {LARGE_BLOCK} bytes come whole"
    yield from faults or [good("mtu", where, words)]


def _find_large(survey: Survey) -> str | None:
    """A file of the boot tree that is large enough for one large block."""
    for image in survey.images:
        for key in ("vmlinuz", "initrd.img"):
            if key in image.manifest.files and image.manifest.files[key].size >= LARGE_BLOCK:
                return f"/ltsp/{image.name}/@{image.digest}/{key}"
    return None


def probe_mtu(host: str, port: int) -> int | None:
    """The MTU of the path as the kernel knows it, after a packet that may not be cut.

    The packet is an ACK for a transfer that there never was, which no TFTP
    server answers; a router that cannot pass it on says so by ICMP.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            sock.connect((host, port))
            mtu = int(sock.getsockopt(socket.IPPROTO_IP, IP_MTU))
            packet = Opcode.ACK.to_bytes(2, "big").ljust(min(mtu, ETHERNET) - HEADERS, b"\0")
            with contextlib.suppress(OSError):
                sock.send(packet)
                select.select([sock], [], [], PROBE_SECONDS)
            return min(mtu, int(sock.getsockopt(socket.IPPROTO_IP, IP_MTU)))
        except OSError:
            return None


def fetch_block(host: str, port: int, path: str, blksize: int) -> bool:
    """Whether the first block of that size comes; the transfer is then ended.

    A server that grants less (`max_blksize` in farm.yaml) sends no larger ones: those count.
    """
    wanted = Opcode.DATA.to_bytes(2, "big") + b"\0\1"
    for _ in range(TRIES):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(BLOCK_SECONDS)
            try:
                sock.sendto(pack_request(path, {"blksize": str(blksize)}), (host, port))
                packet, peer = sock.recvfrom(65536)
                granted = _read_blksize(packet)
                if not 0 < granted <= blksize:
                    return False
                sock.sendto(pack_ack(0), peer)
                packet, peer = sock.recvfrom(65536)
                sock.sendto(pack_error(ErrorCode.UNDEFINED, "enough"), peer)
                return packet[:4] == wanted and len(packet) == granted + 4
            except OSError:
                continue
    return False


def _read_blksize(packet: bytes) -> int:
    """The blksize of an OACK (RFC 2348); 0 when it is none, or grants none."""
    if packet[:2] != Opcode.OACK.to_bytes(2, "big"):
        return 0
    words = packet[2:].split(b"\0")
    text = dict(zip(words[::2], words[1::2], strict=False)).get(b"blksize", b"")
    return int(text) if text.isdigit() else 0


def check_clock(target: Target, survey: Survey) -> Iterator[Verdict]:
    """This machine's clock against the server's, by which nodes set theirs."""
    if not survey.http:
        yield found("clock.unknown", target.server, "no HTTP")
        return
    try:
        page = fetch(target.server, target.http_port, "/api/time")
        theirs = float(page.body)
    except (OSError, ValueError) as error:
        yield found("clock.unknown", target.server, str(error))
        return
    survey.server_offset = offset = theirs - (page.sent + page.came) / 2
    words = describe_offset("the server's clock", offset)
    if abs(offset) > CLOCKS_DIFFER + (page.came - page.sent) / 2:
        yield found("clock.server", target.server, words)
    else:
        yield good("clock", target.server, words)


def describe_offset(whose: str, offset: float) -> str:
    """`the server's clock is 3.0 s ahead`."""
    return f"{whose} is {abs(offset):.1f} s {'ahead' if offset >= 0 else 'behind'}"
