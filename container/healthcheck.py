"""`bootfarm healthcheck`: asks each service for something, as a node would."""

import http.client
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from server.errors import ServerError
from server.farm.config import Config, load_config
from server.farm.flags import override, parse_services

TIMEOUT = 3.0
"""Seconds that each answer may take."""
LIVE_TIMEOUT = 8.0
"""The same for --live: less than the probe's own, and long for a loop that turns."""

_RRQ, _DATA, _ERROR, _OACK = 1, 3, 5, 6
_NBDMAGIC = b"NBDMAGIC"
_IHAVEOPT = b"IHAVEOPT"
_OPTION_REPLY = 0x3E889045565A9
_LIST, _ABORT, _ACK, _SERVER = 3, 2, 1, 2


class CheckError(ServerError):
    """A service that does not answer as it should."""


def check_tftp(address: str, port: int, path: str) -> str:
    """Ask for the first block of `path` (RFC 1350); a refusal is an answer too.

    Returns what was answered; the transfer is ended by an ERROR packet.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        request = struct.pack("!H", _RRQ) + path.encode() + b"\0octet\0"
        # One datagram may be lost on its way, also on loopback when a queue is full.
        for attempt in range(2):
            sock.sendto(request, (address, port))
            try:
                answer, peer = sock.recvfrom(65536)
                break
            except TimeoutError:
                if attempt:
                    raise
        if len(answer) < 4:
            raise CheckError(f"a TFTP answer of {len(answer)} bytes")
        opcode = struct.unpack_from("!H", answer)[0]
        if opcode in (_DATA, _OACK):
            sock.sendto(struct.pack("!HH", _ERROR, 0) + b"health check ends here\0", peer)
            return f"{len(answer) - 4} bytes of {path}"
        if opcode == _ERROR:
            return f"refused {path}: {answer[4:-1].decode(errors='replace')}"
        raise CheckError(f"TFTP opcode {opcode} in answer to a read request")


def check_nbd(address: str, port: int) -> str:
    """Handshake and NBD_OPT_LIST, then NBD_OPT_ABORT; how many exports there are."""
    with socket.create_connection((address, port), TIMEOUT) as sock:
        stream = sock.makefile("rb")

        def take(size: int) -> bytes:
            data = stream.read(size)
            if len(data) < size:
                raise CheckError("the NBD server hung up")
            return data

        if take(8) != _NBDMAGIC or take(8) != _IHAVEOPT:
            raise CheckError("no NBD newstyle greeting")
        take(2)
        sock.sendall(struct.pack("!I", 1) + _IHAVEOPT + struct.pack("!II", _LIST, 0))
        exports = 0
        while True:
            magic, option, kind, length = struct.unpack("!QIII", take(20))
            if magic != _OPTION_REPLY or option != _LIST or length > 65536:
                raise CheckError("no well-formed answer to NBD_OPT_LIST")
            take(length)
            if kind == _ACK:
                break
            if kind != _SERVER:
                raise CheckError(f"NBD_OPT_LIST was answered by error {kind:#x}")
            exports += 1
        sock.sendall(_IHAVEOPT + struct.pack("!II", _ABORT, 0))
        return f"{exports} exports"


def check_http(address: str, port: int) -> str:
    """GET /healthz; `degraded` is healthy enough: others are still served."""
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        body = response.read(1 << 20)
    finally:
        connection.close()
    if response.status != 200:
        raise CheckError(f"/healthz answered {response.status}")
    try:
        return str(json.loads(body)["status"])
    except (ValueError, KeyError, TypeError):
        raise CheckError("/healthz is not the JSON that it should be") from None


def check_turning(address: str, port: int) -> str:
    """GET /livez, which the server's loop answers by itself."""
    connection = http.client.HTTPConnection(address, port, timeout=LIVE_TIMEOUT)
    try:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        body = response.read(1000)
    finally:
        connection.close()
    if response.status != 200:
        raise CheckError(f"/livez answered {response.status}")
    return body.decode(errors="replace").strip()


def check_greeting(address: str, port: int) -> str:
    """Wait for the NBD server's greeting."""
    with socket.create_connection((address, port), LIVE_TIMEOUT) as sock:
        if sock.recv(len(_NBDMAGIC), socket.MSG_WAITALL) != _NBDMAGIC:
            raise CheckError("no NBD newstyle greeting")
    return "it greets"


def find_file(store: Path | None) -> str:
    """The TFTP path of a file that some image of the store has: a boot loader."""
    try:
        names = sorted(os.listdir(store / "images")) if store is not None else []
    except OSError:
        names = []
    return f"/ltsp/{names[0] if names else 'none'}/grub/i386-pc/core.0"


def check(config: Config, *, live: bool = False) -> dict[str, str]:
    """Each service of the config and what it answered; CheckError names who did not.

    live: only whether the server's loop turns, by one service: HTTP where it is
    served, else NBD or TFTP. Who restarts the server upon it must not do so
    because a service has much to do, or a file is missing.
    """
    address = "127.0.0.1" if config.listen == "0.0.0.0" else config.listen
    checks: Mapping[str, Callable[[], str]] = {
        "tftp": lambda: check_tftp(address, config.tftp.port, find_file(config.store)),
        "nbd": lambda: check_nbd(address, config.nbd.port),
        "http": lambda: check_http(address, config.http.port),
    }
    services: tuple[str, ...] = tuple(config.services)
    if live:
        checks = {
            **checks,
            "http": lambda: check_turning(address, config.http.port),
            "nbd": lambda: check_greeting(address, config.nbd.port),
        }
        services = tuple(name for name in ("http", "nbd", "tftp") if name in services)[:1]
    answers: dict[str, str] = {}
    for name in services:
        port = getattr(config, name).port
        try:
            answers[name] = checks[name]()
        except ServerError as error:
            raise CheckError(f"{name} at {address}:{port}: {error.message}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = "no answer" if isinstance(error, TimeoutError) else str(error)
            raise CheckError(f"{name} at {address}:{port}: {reason}") from None
    return answers


@click.command("healthcheck")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="The server's farm.yaml: what it runs with.",
)
@click.option("--services", help="The services: ask only these, as `tftp,http`.")
@click.option("--live", is_flag=True, help="Ask only whether the server's loop turns.")
def healthcheck_command(config_file: Path | None, services: str | None, live: bool) -> None:
    """Ask TFTP, NBD and HTTP for something; exit code 1 names the first that fails."""
    config = load_config(config_file) if config_file else Config()
    if services is not None:
        config = override(config, services=parse_services(services))
    for name, answer in check(config, live=live).items():
        click.echo(f"{name}: {answer}")
