"""The doctor's DHCP on a real network: broadcasts out, every answer in."""

import contextlib
import os
import random
import select
import socket
import time
from collections.abc import Iterator
from typing import Final

from server.doctor.dhcpclient import Conversation, read_frame
from server.doctor.dhcpjudge import judge
from server.doctor.findings import found
from server.doctor.target import Survey, Target
from server.doctor.verdict import Verdict
from server.protocols.dhcp_wire import BROADCAST, CLIENT_PORT, PXE_PORT, SERVER_PORT

_ETH_P_ALL: Final = 3
_MOST: Final = 65536
"""Bytes: no frame is longer."""


def check_dhcp(target: Target, survey: Survey) -> Iterator[Verdict]:
    """Ask as each kind of machine; listen to every server that answers."""
    if not target.interface:
        yield found("dhcp.no-interface", "network", f"{target.server} is reached by none")
        return
    conversation = Conversation(target.mac, random.getrandbits(32))
    target.progress(
        f"asking for DHCP on {target.interface} as {target.mac}, {target.seconds:g} s long"
    )
    try:
        ask(conversation, target.interface, target.own_address, target.seconds)
    except PermissionError as error:
        yield found("dhcp.no-rights", target.interface, str(error.strerror))
        return
    except OSError as error:
        yield found("dhcp.no-interface", target.interface, error.strerror or str(error))
        return
    survey.conversation = conversation
    yield from judge(conversation, target.server)


def ask(conversation: Conversation, interface: str, own: str, seconds: float) -> None:
    """Hold the conversation on a real interface. Raises OSError; PermissionError without root.

    Sent by an ordinary socket: so the broadcast is also heard by a server on
    this very machine. Heard on the wire itself: so nothing needs port 68, which
    this machine's own DHCP client may hold, and answers to a MAC that no card
    has are seen. The broadcast flag makes servers answer where we can hear it.
    """
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(_socket(socket.AF_PACKET, socket.SOCK_RAW))
        raw.bind((interface, _ETH_P_ALL))
        out = stack.enter_context(_socket(socket.AF_INET, socket.SOCK_DGRAM))
        out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        try:
            out.bind(("", CLIENT_PORT))
        except OSError:
            pass  # this machine's DHCP client has it; servers answer port 68 all the same
        boot = stack.enter_context(_socket(socket.AF_INET, socket.SOCK_DGRAM))
        for _ in range(2):
            for request in conversation.discovers():
                out.sendto(request, (BROADCAST, SERVER_PORT))
            _listen(conversation, raw, boot, seconds / 2)
        waiting = conversation.boot_requests(own) if own else []
        for _ in range(2):
            for server, request in waiting:
                with contextlib.suppress(OSError):
                    boot.sendto(request, (server, PXE_PORT))
            if waiting and _listen(conversation, raw, boot, seconds / 4, len(waiting)):
                break


def _socket(family: int, kind: int) -> socket.socket:
    protocol = socket.htons(_ETH_P_ALL) if family == socket.AF_PACKET else 0
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)


def _listen(
    conversation: Conversation,
    raw: socket.socket,
    boot: socket.socket,
    seconds: float,
    wanted: int = 0,
) -> bool:
    """Take answers for so long, or until `wanted` boot servers have answered; True if they did."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for ready in select.select([raw, boot], [], [], left)[0]:
            try:
                data, peer = ready.recvfrom(_MOST)
            except OSError:
                continue  # an ICMP error: nobody on port 4011
            if ready is boot:
                conversation.take(data, str(peer[0]), boot_server=True)
            elif (packet := read_frame(data)) and packet[1] == CLIENT_PORT:
                conversation.take(packet[2], packet[0])
        if wanted and sum(map(len, conversation.boot_server.values())) >= wanted:
            return True
    return False


def default_seed() -> str:
    """What the played machine's MAC is made of: the same on this machine every time."""
    try:
        with open("/etc/machine-id") as file:
            return file.read().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename
