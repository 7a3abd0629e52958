"""farm.yaml's `peers`, `images` and `fetch`: where images come from (docs/two-servers.md)."""

import re
from dataclasses import dataclass
from typing import Final

from imagebuild.errors import BuildError
from imagebuild.store.registry import Reference
from server.addresses import explain_no_host, parse_ip
from server.yamlfile import Section

MOST_PEERS: Final = 16
_URL: Final = re.compile(r"http://([0-9.]{7,15})(?::([0-9]{1,5}))?/?")


@dataclass(frozen=True)
class Fetching:
    """peers: the farm's servers, `http://IP:PORT`, perhaps this one too. images: references in
    registries, `oci://…`, whose tags are followed. mbit: megabits a second that all fetching
    takes together; 0: no bound. every: seconds between two looks at a peer; registry_every:
    at a registry. plain_http: the registries have no TLS."""

    peers: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    mbit: int = 0
    every: int = 5
    registry_every: int = 60
    plain_http: bool = False

    @property
    def is_on(self) -> bool:
        """Whether anything is fetched."""
        return bool(self.peers or self.images)


@dataclass(frozen=True)
class Server:
    """One of the farm's servers, as menus and nodes write it. address: IPv4."""

    address: str
    http: int
    nbd: int


@dataclass(frozen=True)
class OtherServer:
    """Another server of the farm as it was last seen. here: it answers. digests: of the images
    that it has, and serves over NBD."""

    server: Server
    here: bool
    digests: frozenset[str]


def read_fetching(top: Section) -> Fetching:
    """Check the three keys."""
    peers = _read_peers(top)
    images = _read_images(top)
    section = top.section("fetch")
    found = Fetching(
        peers=peers,
        images=images,
        mbit=section.integer("mbit", Fetching.mbit, 0, 1_000_000),
        every=section.integer("every", Fetching.every, 1, 3600),
        registry_every=section.integer("registry_every", Fetching.registry_every, 5, 86_400),
        plain_http=section.boolean("plain_http", Fetching.plain_http),
    )
    section.finish()
    return found


def split_url(url: str) -> tuple[str, int] | None:
    """Address and port of `http://IP[:PORT]`; None for anything else."""
    match = _URL.fullmatch(url)
    ip = parse_ip(match[1]) if match is not None else None
    port = int(match[2] or 80) if match is not None else 0
    return (ip, port) if ip is not None and 0 < port < 65536 else None


def _read_peers(top: Section) -> tuple[str, ...]:
    shape = {"type": "string", "pattern": rf"^{_URL.pattern}$"}
    found: list[str] = []
    urls = top.texts("peers", shape=shape)
    top.describe("peers", {"maxItems": MOST_PEERS})
    if len(urls) > MOST_PEERS:
        top.fault("peers", f"names {len(urls)} servers", f"at most {MOST_PEERS}")
    for number, url in enumerate(urls):
        parts = split_url(url)
        if parts is None or (explain_no_host(parts[0]) and not parts[0].startswith("127.")):
            hint = "the server's IPv4 address, as http://10.9.0.2:8080: nodes are told it"
            top.fault(f"peers[{number}]", f"{url!r} is no server's address", hint)
        elif (whole := f"http://{parts[0]}:{parts[1]}") in found:
            top.fault(f"peers[{number}]", f"{whole} stands twice", "leave one out")
        else:
            found.append(whole)
    return tuple(found)


def _read_images(top: Section) -> tuple[str, ...]:
    found: list[str] = []
    shape = {"type": "string", "pattern": "^oci://"}
    for number, text in enumerate(top.texts("images", shape=shape)):
        try:
            reference = Reference.parse(text)
        except BuildError as error:
            top.fault(f"images[{number}]", error.message, error.hint)
            continue
        if reference.digest:
            hint = "write its tag; `bootfarm images pull` fetches a digest once"
            top.fault(f"images[{number}]", f"{text!r} is a digest, which never moves", hint)
        elif str(reference) in found:
            top.fault(f"images[{number}]", f"{reference} stands twice", "leave one out")
        else:
            found.append(str(reference))
    return tuple(found)
