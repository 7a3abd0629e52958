"""Binding the services' ports, and saying in plain words why one cannot be bound."""

import errno
import os
import resource
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from server.errors import ServerError

Kind = Literal["tcp", "udp"]

BACKLOG: Final = 4096
"""Connections that may wait to be accepted: a rack switched on at once."""
_TCP_LISTEN: Final = "0A"
_WILDCARDS: Final = {"00000000", "0" * 32}


@dataclass(frozen=True)
class PortOwner:
    """A process that holds a port. pid and command: of the first process found to hold it."""

    address: str
    pid: int | None
    command: str

    def __str__(self) -> str:
        if self.pid is None:
            return f"{self.address}, held by a process that this user may not look at"
        return f"{self.address}, held by {self.command} (pid {self.pid})"


def bind_port(
    service: str,
    kind: Kind,
    address: str,
    port: int,
    *,
    reuse_port: bool = False,
    interface: str | None = None,
    proc: Path = Path("/proc"),
) -> socket.socket:
    """A bound non-blocking socket; a TCP one listens.

    interface: hears and speaks on that one only (SO_BINDTODEVICE).

    Raises ServerError that names service, address, port, what stands in the
    way (the process that has the port) and the remedy.
    """
    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kinds[kind] | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if interface is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.bind((address, port))
        if kind == "tcp":
            sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        raise _explain(service, kind, address, port, error, proc) from error
    return sock


def _explain(
    service: str, kind: Kind, address: str, port: int, error: Exception, proc: Path
) -> ServerError:
    what = f"{service} cannot bind {kind.upper()} {address}:{port}"
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        owner = find_owner(kind, address, port, proc=proc)
        by = f"the port is in use on {owner}" if owner else "the port is in use"
        return ServerError(
            f"{what}: {by}",
            hint=f"stop that process, or give {service} another port or address"
            " (farm.yaml, or the flag of `bootfarm serve`)",
        )
    if number in (errno.EACCES, errno.EPERM):
        return ServerError(
            f"{what}: permission denied",
            hint="ports below 1024 want root or CAP_NET_BIND_SERVICE: run as root,"
            " set AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or"
            " `setcap cap_net_bind_service=+ep` on a copy of the Python binary",
        )
    if number == errno.EADDRNOTAVAIL:
        return ServerError(
            f"{what}: no interface of this machine has that address",
            hint="give an address that `ip address` shows, or 0.0.0.0 for all of them",
        )
    if number == errno.ENODEV:
        return ServerError(
            f"{what}: this machine has no such network interface",
            hint="`ip link` lists them",
        )
    reason = os.strerror(number) if number else str(error)
    return ServerError(f"{what}: {reason}", hint="check the address and the port")


def find_owner(
    kind: Kind, address: str, port: int, *, proc: Path = Path("/proc")
) -> PortOwner | None:
    """Who holds a port in this network namespace, from /proc/net and /proc/*/fd.

    None when nobody does (any more).
    """
    wanted = {_hex_address(address)} | _WILDCARDS
    everything = _hex_address(address) in _WILDCARDS
    for table in (kind, f"{kind}6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            host, _, number = fields[1].rpartition(":")
            if int(number, 16) != port or (kind == "tcp" and fields[3] != _TCP_LISTEN):
                continue
            if everything or host in wanted:
                pid = _find_holder(int(fields[9]), proc)
                command = _command(pid, proc) if pid is not None else ""
                return PortOwner(f"{_dotted(host)}:{port}", pid, command)
    return None


def _find_holder(inode: int, proc: Path) -> int | None:
    link = f"socket:[{inode}]"
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            for entry in (process / "fd").iterdir():
                if os.readlink(entry) == link:
                    return int(process.name)
        except OSError:
            continue  # gone, or somebody else's
    return None


def _command(pid: int, proc: Path) -> str:
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
        text = b" ".join(words).decode(errors="replace").strip()
        return text[:80] or (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return "a process that is gone"


def _hex_address(address: str) -> str:
    """An address as /proc/net writes it: 32-bit words in the machine's byte order."""
    try:
        if ":" in address:
            raw = socket.inet_pton(socket.AF_INET6, address)
        else:
            raw = socket.inet_pton(socket.AF_INET, address)
    except OSError:
        return ""
    words = [raw[index : index + 4] for index in range(0, len(raw), 4)]
    return "".join(word[::-1].hex().upper() for word in words)


def _dotted(host: str) -> str:
    raw = b"".join(bytes.fromhex(host[index : index + 8])[::-1] for index in range(0, len(host), 8))
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    return f"[{socket.inet_ntop(socket.AF_INET6, raw)}]"


def raise_file_limit() -> int:
    """Let this process hold as many files as it may; the limit that now holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def avoid_pacing(sock: socket.socket) -> None:
    """Where BBR is the machine's default, take another: its timers for each packet, made
    for long ways, cost as much CPU as all else on the short one to a node."""
    if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).startswith(b"bbr"):
        for name in (b"cubic", b"reno"):
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
                return
            except OSError:
                continue  # only reno is always there, and allowed to everybody


def is_local(sock: socket.socket, client: str) -> bool:
    """Whether a TCP client runs on this machine: the probes do, and no packet from outside can."""
    if client.startswith("127."):
        return True
    try:
        return bool(sock.getsockname()[0] == client)
    except OSError:
        return False
