"""Which of a farm's servers a machine asks, and in which order; pure."""

import hashlib
from collections.abc import Sequence

from server.farm.peers import OtherServer, Server


def order_servers(
    machine: str, own: Server, others: Sequence[OtherServer], digest: str
) -> tuple[Server, ...]:
    """The servers that have an image, in the order in which one machine asks them.

    machine: its MAC, or its address. own: this server, which has the image. The order is
    that of rendezvous hashing: each server makes the same one, the machines spread evenly over the
    servers, and when one comes or goes only machines move that had it first. Servers that
    are away come last. A server that stands in farm.yaml by its own address is `own`.
    """
    here = {own.address: (own, True)}
    for other in others:
        if digest in other.digests:
            here.setdefault(other.server.address, (other.server, other.here))
    ranked = sorted(
        here.values(),
        key=lambda one: (not one[1], _weigh(machine, one[0].address)),
    )
    return tuple(server for server, _ in ranked)


def _weigh(machine: str, address: str) -> bytes:
    return hashlib.sha256(f"{machine} {address}".encode()).digest()


def write_servers(servers: Sequence[Server]) -> str:
    """All but the first as the kernel command line has them: `IP[:HTTP[:NBD]]`, with commas.

    Ports that are as the first server's are left out.
    """
    first = servers[0]
    words = []
    for server in servers[1:]:
        word = server.address
        if (server.http, server.nbd) != (first.http, first.nbd):
            word += f":{server.http}"
        if server.nbd != first.nbd:
            word += f":{server.nbd}"
        words.append(word)
    return ",".join(words)
