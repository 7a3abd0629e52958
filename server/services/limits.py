"""What the data path grants its clients; every number can be set in farm.yaml."""

from dataclasses import dataclass

from server.protocols.tftp import MAX_BLKSIZE


@dataclass(frozen=True)
class TftpLimits:
    """What one TFTP server grants.

    transfers: in all; per_client: of one address; unconfirmed: of one address,
    started without options and not answered yet (these could be meant to flood
    somebody). requests_per_second, errors_per_second: answered for one address,
    with bursts of twice and four times that. strangers_per_second: requests of all
    addresses together that the inventory does not name and that have fetched
    nothing yet. give_up_seconds: without progress.
    cache_bytes: for packets that several clients are likely to fetch.
    bytes_per_second: of DATA for one address; 0: as many as there are.
    """

    transfers: int = 4096
    per_client: int = 128
    unconfirmed: int = 8
    requests_per_second: float = 200.0
    errors_per_second: float = 50.0
    strangers_per_second: float = 500.0
    max_blksize: int = MAX_BLKSIZE
    max_windowsize: int = 64
    give_up_seconds: float = 30.0
    cache_bytes: int = 64 * 1024 * 1024
    send_buffer: int = 1024 * 1024
    stop_seconds: float = 5.0
    bytes_per_second: float = 0.0
    events_per_second: float = 1.0
    """Of errors and refusals, by client."""


@dataclass(frozen=True)
class NbdLimits:
    """What one NBD server grants.

    connections: in all (one that has read nothing since it attached gives way to a
    new one, then one of whoever has most); per_client: of one address; handshakes:
    that have not chosen an export yet (the oldest is dropped for a new one);
    handshake_seconds: for the whole negotiation. turn_requests, turn_bytes:
    what one connection gets done before the others have theirs.
    cold_requests: that may wait for the disk, by connection. bytes_per_second:
    of replies to one address; 0: as many as there are.
    """

    connections: int = 8192
    per_client: int = 16
    handshakes: int = 512
    handshake_seconds: float = 20.0
    turn_requests: int = 256
    turn_bytes: int = 1024 * 1024
    cold_requests: int = 128
    close_seconds: float = 5.0
    bytes_per_second: float = 0.0
    send_buffer: int = 0
    """SO_SNDBUF in bytes; 0 leaves it to the kernel."""
    events_per_second: float = 1.0
    """Of refusals and errors, by client."""
