"""A lane on a real socket, and the packets for it."""

import select
import socket

from server.fastpath import Lockstep, Poller

STRIDE = 12
"""Bytes of a DATA packet here: eight of data."""


def ack(block: int) -> bytes:
    return b"\0\4" + (block & 0xFFFF).to_bytes(2, "big")


def data(block: int) -> bytes:
    return b"\0\3" + (block & 0xFFFF).to_bytes(2, "big") + block.to_bytes(8, "big")


def make_packets(first: int, count: int, tail: int = STRIDE) -> bytes:
    """DATA packets in a row; the last of `tail` bytes."""
    whole = b"".join(data(block) for block in range(first, first + count))
    return whole[: len(whole) - STRIDE + tail]


class Wire:
    """A lane's socket and its client's, connected over loopback."""

    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        self.ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for sock in (self.ours, self.theirs):
            sock.bind(("127.0.0.1", 0))
        self.ours.connect(self.theirs.getsockname())
        self.theirs.connect(self.ours.getsockname())
        self.ours.setblocking(False)
        self.theirs.settimeout(20)
        self.fd = self.ours.fileno()
        self.lane = Lockstep(self.fd)
        poller.register(self.fd, select.EPOLLIN | select.EPOLLET)
        poller.attach(self.lane)

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *error: object) -> None:
        self.ours.close()
        self.theirs.close()

    def drain(self) -> list[bytes]:
        """What the client was sent and has not read: over loopback it is there at once."""
        self.theirs.setblocking(False)
        packets = []
        try:
            while True:
                packets.append(self.theirs.recv(100))
        except BlockingIOError:
            return packets
        finally:
            self.theirs.settimeout(20)
