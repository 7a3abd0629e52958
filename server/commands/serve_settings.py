"""What `serve --check` says of keys that do not fit each other, or do nothing; reads no file."""

from collections.abc import Iterator
from dataclasses import dataclass

from server.farm.config import Config
from server.farm.join import Join
from server.farm.rollout import Rollouts
from server.services.ports import Kind

DHCP_PORTS = (67, 4011)


@dataclass(frozen=True)
class Wanted:
    """A port that a service wants. key: of farm.yaml. port: 0 is any free one."""

    key: str
    service: str
    kind: Kind
    address: str
    port: int


@dataclass(frozen=True)
class Idle:
    """A key that does nothing as it stands, or nothing that helps: a warning."""

    key: str
    words: str
    hint: str


def list_ports(config: Config) -> Iterator[Wanted]:
    """Each port that is wanted."""
    kinds: dict[str, Kind] = {"tftp": "udp", "nbd": "tcp", "http": "tcp"}
    for name in config.services:
        port = getattr(config, name).port
        yield Wanted(f"{name}.port", name, kinds[name], config.listen, port)
    if "http" in config.services:
        for kind, port in config.logs.ports.items():
            yield Wanted(f"logs.{kind}", kind, "udp", config.listen, port)
    if config.dns is not None:
        address = config.dns.listen or config.listen
        yield Wanted("dns.port", "dns", "udp", address, config.dns.port)
        yield Wanted("dns.port", "dns", "tcp", address, config.dns.port)
    if config.dhcp != "off":
        for port in DHCP_PORTS:
            yield Wanted("dhcp", "dhcp", "udp", "0.0.0.0", port)


def find_shared(config: Config) -> list[tuple[Wanted, str]]:
    """Ports that two keys want, each with the key that has it already."""
    first: dict[tuple[Kind, int], str] = {}
    found = []
    for wanted in list_ports(config):
        other = first.setdefault((wanted.kind, wanted.port), wanted.key)
        if wanted.port and other != wanted.key:
            found.append((wanted, other))
    return found


def find_idle(config: Config) -> Iterator[Idle]:
    """Keys that are given and count only with another one, or give machines a dead end."""
    if config.join != Join() and not config.join.certificates:
        yield Idle(
            "join",
            "without `certificates: true` nothing below it counts",
            "add certificates: true, or take the section out",
        )
    if config.rollout != Rollouts() and not config.rollout.enabled:
        yield Idle(
            "rollout",
            "without `enabled: true` nothing below it counts",
            "add enabled: true, or take the section out",
        )
    if config.dhcp_limits and config.dhcp == "off":
        yield Idle(
            "dhcp_limits", "the server answers no DHCP", "`dhcp: proxy` or `full`, or take it out"
        )
    address = config.address
    if address is not None and address.startswith("127.") and not config.listen.startswith("127."):
        yield Idle(
            "address",
            f"{address} is each machine's own: a machine that is told it asks itself",
            "the one that nodes reach this machine by",
        )
