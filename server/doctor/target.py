"""What is checked, from where, and what one check learns for the next."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagebuild.store.manifest import Manifest
from server.doctor.dhcpclient import Conversation
from server.doctor.verdict import Verdict
from server.farm.join import Join

Check = Callable[["Target", "Survey"], Iterator[Verdict]]


@dataclass(frozen=True)
class Target:
    """A running site as its operator describes it.

    server: IPv4. local: whether that address is this machine's. interface: on
    which to ask for DHCP; "" for none. mac: of the machine that is played.
    services: what `serve` runs, with "dhcp" where it answers that. dns: the
    server's own name and the port, where it answers for a zone. logs: kind to
    port. token: for its API, "" where none is wanted. seconds: to wait for an
    answer. api, kubeconfig: "" where not given. join: what farm.yaml says of certificates,
    None without one. progress: told what is being done.
    """

    server: str
    tftp_port: int = 69
    nbd_port: int = 10809
    http_port: int = 8080
    local: bool = False
    interface: str = ""
    own_address: str = ""
    mac: str = "02:bf:00:00:00:01"
    services: tuple[str, ...] = ("tftp", "nbd", "http")
    dns: tuple[str, int] | None = None
    logs: Mapping[str, int] = field(default_factory=dict)
    token: str = ""
    store: Path | None = None
    state: Path | None = None
    api: str = ""
    kubeconfig: str = ""
    join: Join | None = None
    full: bool = False
    seconds: float = 5.0
    progress: Callable[[str], None] = lambda words: None
    clock: Callable[[], float] = time.time


@dataclass
class BootImage:
    """What the server would boot on this machine under one image's name.

    listed: False where farm.yaml keeps this machine out, and the current one stands here.
    """

    name: str
    digest: str
    manifest: Manifest
    listed: bool = True


@dataclass
class Survey:
    """What was learnt so far. tags: image name -> tag -> digest, as /healthz has it."""

    http: bool = False
    tftp: bool = False
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    images: list[BootImage] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    """lts.conf, resolved for this machine."""
    server_offset: float | None = None
    """Seconds that the server's clock is ahead of this machine's."""
    conversation: Conversation | None = None
    api: str = ""
    """The API server's URL that machines get with their certificates."""
