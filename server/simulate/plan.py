"""What every simulated node does, and how its results are judged: one value for all processes."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from server.errors import ServerError
from server.simulate.profile import Profile, Step

SAMPLE: Final = 16
"""The content of every so many-th NBD read is hashed, and of every so many-th node's files."""
PORTS: Final = {"tftp": 69, "nbd": 10809, "http": 8080}


@dataclass(frozen=True)
class Target:
    """The server. host: its IPv4 address."""

    host: str
    tftp: int = PORTS["tftp"]
    nbd: int = PORTS["nbd"]
    http: int = PORTS["http"]


@dataclass(frozen=True)
class Expected:
    """What the server gave to a first node. files: step -> (size, SHA-256); those that differ
    from node to node are not in it. reads: number of the read -> SHA-256."""

    files: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    reads: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """image, digest: what stands for `{image}` and `{digest}` in paths. export: of the root.
    pace: recorded times are divided by it; 0: each step as soon as the one before is done.
    sources: addresses that nodes come from, in turns; none: whatever routes there.
    patience: seconds without progress after which a node has failed."""

    target: Target
    profile: Profile
    image: str
    digest: str
    export: str
    expected: Expected = field(default_factory=Expected)
    pace: float = 0.0
    sources: tuple[str, ...] = ()
    patience: float = 60.0

    def path_of(self, path: str) -> str:
        """A step's path at this target."""
        return path.replace("{image}", self.image).replace("{digest}", self.digest)

    def source_of(self, number: int) -> str:
        """The address of a node; "" leaves it to the kernel."""
        return self.sources[number % len(self.sources)] if self.sources else ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The profile's steps."""
        return self.profile.steps


def parse_target(text: str) -> Target:
    """`HOST`, or `HOST:tftp=69,nbd=10809,http=8080` with any of the ports; HOST an IPv4 address."""
    host, _, rest = text.partition(":")
    ports = dict(PORTS)
    try:
        address = str(ipaddress.IPv4Address(host))
        for word in filter(None, rest.split(",")):
            name, separator, number = word.partition("=")
            if not separator or name not in PORTS or not 0 < int(number) < 65_536:
                raise ValueError(word)
            ports[name] = int(number)
    except ValueError as error:
        raise ServerError(
            f"--target {text!r}: {error}",
            hint="write the server's address, as 10.9.0.1 or 10.9.0.1:tftp=6969,nbd=10810",
        ) from None
    return Target(address, **ports)


def parse_sources(text: str) -> tuple[str, ...]:
    """`A-B` or one address."""
    first, _, last = text.partition("-")
    try:
        start = int(ipaddress.IPv4Address(first))
        end = int(ipaddress.IPv4Address(last or first))
        if not start <= end < start + 65_536:
            raise ValueError(f"{text} is no range of 1 to 65,536 addresses")
    except ValueError as error:
        raise ServerError(
            f"--sources {text!r}: {error}", hint="write FIRST-LAST, addresses of this machine"
        ) from None
    return tuple(str(ipaddress.IPv4Address(number)) for number in range(start, end + 1))


def loopback_sources(host: str, nodes: int) -> tuple[str, ...]:
    """On loopback each node has an address of its own: limits by address stay as on a wire."""
    if not ipaddress.IPv4Address(host).is_loopback:
        return ()
    base = int(ipaddress.IPv4Address("127.64.0.1"))
    return tuple(str(ipaddress.IPv4Address(base + number)) for number in range(nodes))
