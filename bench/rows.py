"""The rows of the table: what is done, by which servers, and what is aimed at."""

import itertools
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.client import run_client
from bench.data import KERNEL, MIB, storm_path
from bench.place import BenchError
from bench.servers import EXPORT, Server
from server.simulate.profile import DEFAULT, Fetch, Reads, load_profile

GIB: Final = 1024 * MIB
NBD_PEERS: Final = ("nbdkit", "nbd-server", "qemu-nbd")
TFTP_PEERS: Final = ("tftpd-hpa", "dnsmasq", "atftpd")
LOCKSTEP_PEERS: Final = ("tftpd-hpa", "dnsmasq")
HOT_BYTES: Final = 64 * MIB
"""In the row of the cold image, this much from its start is in the page cache."""

Figures = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How much is done. seconds: measured in each run, after `warm` seconds."""

    seconds: float
    warm: float
    nodes: int
    node_mib: int
    program: Path
    directory: Path


@dataclass(frozen=True)
class Goal:
    """`figure` of ours, divided by that of the best peer. against: which peers; () is all."""

    figure: str
    factor: float
    at_least: bool
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """main: the figure that decides which peer is the best. run: one run, on a server that runs."""

    key: str
    title: str
    main: str
    peers: tuple[str, ...]
    goals: tuple[Goal, ...]
    run: Callable[[Scale, Server], Figures]
    runs: int | None = None
    cold: bool = False
    fresh: bool = False
    """A server of its own for each run: nbdkit dies when clients leave with requests open."""


LOWER_IS_BETTER: Final = frozenset(
    [
        "p50_ms",
        "p99_ms",
        "hot_p99_ms",
        "quiet_p99_ms",
        "cpu_s_per_gib",
        "cpu_us_per_request",
        "cpu_s",
        "seconds",
        "bytes_per_node",
        "lost",
        "retries",
    ]
)


def _group(
    clients: int, depth: int, size: int, pattern: str, start: int = 0, length: int = 0
) -> Callable[[int], str]:
    """A group of NBD clients; length 0: up to the end of the image."""

    def text(image: int) -> str:
        return f"{clients}:{depth}:{size}:{pattern}:{start}:{length or image - start}"

    return text


def _nbd(*groups: Callable[[int], str]) -> Callable[[Scale, Server], Figures]:
    def run(scale: Scale, server: Server) -> Figures:
        text = ",".join(group(image_bytes(server)) for group in groups)
        words = ("nbd", server.ports["nbd"], EXPORT, scale.warm, scale.seconds, text)
        before = server.cpu_seconds()
        result = run_client(scale.program, words, seconds=60 + scale.seconds)
        cpu = server.cpu_seconds() - before
        first, seconds = result["groups"][0], result["seconds"]
        figures = {
            "mib_per_s": first["bytes"] / MIB / seconds,
            "requests_per_s": first["requests"] / seconds,
            "p50_ms": first["p50"] * 1e3,
            "p99_ms": first["p99"] * 1e3,
            "cpu_s_per_gib": cpu / (result["all_bytes"] / GIB),
            "cpu_us_per_request": cpu / result["all_requests"] * 1e6,
        }
        if len(groups) > 1:
            second = result["groups"][1]
            figures["second_mib_per_s"] = second["bytes"] / MIB / seconds
            figures["second_requests_per_s"] = second["requests"] / seconds
            figures["second_p99_ms"] = second["p99"] * 1e3
        return figures

    return run


_images: dict[str, int] = {}


def set_image_bytes(size: int) -> None:
    """Tell the rows how large the image is."""
    _images["size"] = size


def image_bytes(server: Server) -> int:
    """Bytes of the image, the same for every server."""
    return _images["size"]


def _tftp(
    clients: int, blksize: int, window: int = 1, *, whole: bool = False
) -> Callable[[Scale, Server], Figures]:
    def run(scale: Scale, server: Server) -> Figures:
        # Asking those for windows that have none would stop at the first.
        size = 1 if server.name in LOCKSTEP_PEERS else window
        seconds = 0.0 if whole else scale.seconds
        warm_up = 0.0 if whole else scale.warm
        words = ("tftp", server.ports["tftp"], KERNEL, warm_up, seconds, clients, blksize, size)
        before = server.cpu_seconds()
        result = run_client(scale.program, words, seconds=1800)
        cpu = server.cpu_seconds() - before
        return {
            "mib_per_s": result["bytes"] / MIB / result["seconds"],
            "cpu_s_per_gib": cpu / (result["all_bytes"] / GIB),
            "lost": result["lost"],
            "retries": result["retries"],
            "seconds": result["seconds"],
        }

    return run


def _http(clients: int) -> Callable[[Scale, Server], Figures]:
    def run(scale: Scale, server: Server) -> Figures:
        words = ("http", server.ports["http"], KERNEL, scale.warm, scale.seconds, clients)
        before = server.cpu_seconds()
        result = run_client(scale.program, words, seconds=60 + scale.seconds)
        cpu = server.cpu_seconds() - before
        return {
            "mib_per_s": result["bytes"] / MIB / result["seconds"],
            "cpu_s_per_gib": cpu / (result["all_bytes"] / GIB),
            "p99_ms": result["p99"] * 1e3,
        }

    return run


def _memory(clients: int) -> Callable[[Scale, Server], Figures]:
    """Clients that have attached and read once: what they cost while they are there."""

    def run(scale: Scale, server: Server) -> Figures:
        before = server.memory_bytes()
        group = _group(clients, 1, 128 * 1024, "seq")(image_bytes(server))
        argv = ["nbd", str(server.ports["nbd"]), EXPORT, "0", "0", group]
        with subprocess.Popen(
            [str(scale.program), *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            assert client.stdout is not None
            assert client.stdin is not None
            if client.stdout.readline().strip() != b"ready":
                raise BenchError(f"the clients of {server.name} could not attach")
            after = server.memory_bytes()
            client.stdin.close()
        time.sleep(0.5)
        return {"bytes_per_node": (after - before) / clients}

    return run


def _storm(scale: Scale, server: Server) -> Figures:
    """All nodes at once, each from its loader to the last read of its image."""
    profile = scale.directory / "profile"
    profile.write_text(make_profile(scale.node_mib * MIB))
    words = ("storm", server.ports["tftp"], server.ports["nbd"], scale.nodes, profile)
    before = server.cpu_seconds()
    result = run_client(scale.program, words, seconds=3600)
    cpu = server.cpu_seconds() - before
    return {
        "seconds": result["seconds"],
        "cpu_s": cpu,
        "whole": result["whole"],
        "lost": result["failed"],
        "retries": result["retries"],
        "node_p99_s": result["p99"],
    }


def make_profile(wanted: int) -> str:
    """A real boot, as a server of ours recorded it, for the load client.

    Fetches in order, those over HTTP by TFTP, as the peers have no HTTP; then the
    reads of the image in order, from the first on again up to `wanted` bytes.
    """
    profile = load_profile(DEFAULT)
    lines = [
        f"tftp {storm_path(step)} {step.blksize or 512} 1"
        for step in profile.steps
        if isinstance(step, Fetch)
    ]
    reads = [
        read
        for step in profile.steps
        if isinstance(step, Reads)
        for group in step.groups
        for read in group
    ]
    # Linux's client keeps several under way on its two connections.
    lines.append(f"nbd {EXPORT} 2")
    done = 0
    for offset, length in itertools.cycle(reads):
        if done >= wanted:
            break
        lines.append(f"read {offset} {length}")
        done += length
    return "\n".join(lines) + "\n"


def _cold(run: Callable[[Scale, Server], Figures]) -> Callable[[Scale, Server], Figures]:
    def cold(scale: Scale, server: Server) -> Figures:
        figures = run(scale, server)
        # The first group reads hot pages, the second the cold ones.
        return {
            "mib_per_s": figures["second_mib_per_s"],
            "hot_p99_ms": figures["p99_ms"],
            "hot_requests_per_s": figures["requests_per_s"],
            "cpu_us_per_request": figures["cpu_us_per_request"],
        }

    return cold


def _fair(run: Callable[[Scale, Server], Figures]) -> Callable[[Scale, Server], Figures]:
    def fair(scale: Scale, server: Server) -> Figures:
        figures = run(scale, server)
        return {
            "quiet_p99_ms": figures["p99_ms"],
            "requests_per_s": figures["requests_per_s"],
            "greedy_mib_per_s": figures["second_mib_per_s"],
        }

    return fair


KIB: Final = 1024
_FASTER: Final = Goal("mib_per_s", 1.3, at_least=True)
_CHEAPER: Final = Goal("cpu_s_per_gib", 0.5, at_least=False)
_PROMPT: Final = Goal("p99_ms", 1.0, at_least=False)


def make_rows() -> list[Row]:
    """The table of the bench, in its order."""
    nbd = NBD_PEERS
    return [
        Row(
            "nbd-seq-64",
            "NBD 128 KiB sequential, 64 clients",
            "mib_per_s",
            nbd,
            (_FASTER, _CHEAPER),
            _nbd(_group(64, 1, 128 * KIB, "seq")),
        ),
        Row(
            "nbd-seq-200",
            "NBD 128 KiB sequential, 200 clients",
            "mib_per_s",
            nbd,
            (_FASTER, _CHEAPER),
            _nbd(_group(200, 1, 128 * KIB, "seq")),
        ),
        Row(
            "nbd-random-64",
            "NBD 4 KiB random, 64 clients, depth 1",
            "requests_per_s",
            nbd,
            (Goal("requests_per_s", 1.8, at_least=True), _PROMPT),
            _nbd(_group(64, 1, 4 * KIB, "rand")),
        ),
        Row(
            "nbd-random-200",
            "NBD 4 KiB random, 200 clients, depth 16",
            "requests_per_s",
            nbd,
            (Goal("requests_per_s", 2.0, at_least=True), _PROMPT),
            _nbd(_group(200, 16, 4 * KIB, "rand")),
            fresh=True,
        ),
        Row(
            "nbd-one-1",
            "NBD 4 KiB, one client, depth 1",
            "p50_ms",
            nbd,
            (Goal("p50_ms", 1.15, at_least=False),),
            _nbd(_group(1, 1, 4 * KIB, "rand")),
        ),
        Row(
            "nbd-one-16",
            "NBD 4 KiB, one client, depth 16",
            "p50_ms",
            nbd,
            (Goal("p50_ms", 0.7, at_least=False),),
            _nbd(_group(1, 16, 4 * KIB, "rand")),
            fresh=True,
        ),
        Row(
            "nbd-cold",
            "NBD 128 KiB, cold image, 16 clients, and one that reads hot pages",
            "mib_per_s",
            nbd,
            (
                Goal("hot_p99_ms", 1.0, at_least=False),
                Goal("mib_per_s", 1.0, at_least=True),
            ),
            _cold(
                _nbd(
                    _group(1, 1, 4 * KIB, "rand", 0, HOT_BYTES),
                    _group(16, 1, 128 * KIB, "seq", HOT_BYTES),
                )
            ),
            cold=True,
        ),
        Row(
            "nbd-fair",
            "NBD 4 KiB, 199 quiet clients, and one that asks for 64 x 1 MiB at once",
            "requests_per_s",
            nbd,
            (Goal("quiet_p99_ms", 1.0, at_least=False),),
            _fair(
                _nbd(_group(199, 1, 4 * KIB, "rand"), _group(1, 64, MIB, "seq")),
            ),
            fresh=True,
        ),
        *(
            Row(
                f"tftp-one-{blksize}",
                f"TFTP lockstep, blksize {blksize}, 1 client",
                "mib_per_s",
                TFTP_PEERS,
                (Goal("mib_per_s", 0.95, at_least=True),),
                _tftp(1, blksize),
            )
            for blksize in (512, 1428)
        ),
        *(
            Row(
                f"tftp-{clients}",
                f"TFTP lockstep, blksize 1428, {clients} clients",
                "mib_per_s",
                TFTP_PEERS,
                (Goal("mib_per_s", 1.2, at_least=True),),
                _tftp(clients, 1428),
            )
            for clients in (64, 200)
        ),
        *(
            Row(
                f"tftp-window-{clients}",
                f"TFTP windowsize 16, blksize 1428, {clients} clients",
                "mib_per_s",
                TFTP_PEERS,
                (
                    Goal("mib_per_s", 3.5, at_least=True, against=LOCKSTEP_PEERS),
                    Goal("mib_per_s", factor, at_least=True, against=("atftpd",)),
                ),
                _tftp(clients, 1428, 16),
            )
            for clients, factor in ((64, 2.0), (200, 1.5))
        ),
        Row(
            "tftp-whole",
            "TFTP lockstep, 200 clients, a whole file of 40 MB each",
            "seconds",
            ("dnsmasq",),
            (Goal("seconds", 1 / 1.2, at_least=False),),
            _tftp(200, 1428, whole=True),
            runs=1,
        ),
        Row(
            "memory",
            "memory per connected node, 200 nodes",
            "bytes_per_node",
            ("nbd-server",),
            (Goal("bytes_per_node", 0.1, at_least=False),),
            _memory(200),
        ),
        Row(
            "storm",
            "a storm of nodes, each from loader to image",
            "seconds",
            ("nbd-server+tftpd-hpa",),
            (
                Goal("seconds", 0.6, at_least=False),
                Goal("cpu_s", 0.6, at_least=False),
            ),
            _storm,
            runs=3,
        ),
        Row(
            "http-64",
            "HTTP whole file of 40 MB, 64 clients",
            "mib_per_s",
            ("nginx",),
            (
                Goal("mib_per_s", 1.0, at_least=True),
                Goal("cpu_s_per_gib", 1.0, at_least=False),
            ),
            _http(64),
        ),
    ]
