"""Does the server answer, who holds its ports, and is it well: checks on the server itself."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from dnslib import QTYPE, RCODE, DNSRecord

from server.doctor.findings import found
from server.doctor.target import Survey, Target
from server.doctor.verdict import Verdict, good
from server.doctor.web import fetch
from server.protocols.dhcp_wire import PXE_PORT, SERVER_PORT
from server.services.ports import find_owner

_PROC: Final = Path("/proc")
DNS_SECONDS: Final[float] = 1.0
"""For an answer of the server's DNS."""


def check_server(target: Target, survey: Survey) -> Iterator[Verdict]:
    """/healthz: whether it is bootfarm, what it says of itself, which images it has."""
    where = f"http://{target.server}:{target.http_port}/healthz"
    try:
        page = fetch(target.server, target.http_port, "/healthz")
    except OSError as error:
        yield found("server.down", where, str(error))
        return
    health = _read_health(page.body) if page.status == 200 else None
    if health is None:
        yield found("server.alien", where, page.words[:120])
        return
    survey.http = True
    survey.tags = health["images"]
    for problem in health["problems"]:
        yield found("server.degraded", where, str(problem))
    current = {name: tags["current"] for name, tags in survey.tags.items() if "current" in tags}
    if not current:
        yield found("server.no-image", where, "it lists no image with the tag current")
    elif not health["problems"]:
        images = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(current.items()))
        yield good("server", where, f"well; {images}")


def _read_health(body: bytes) -> dict[str, Any] | None:
    try:
        health = json.loads(body)
        images = health["images"]
        known = {
            str(name): {str(tag): str(digest) for tag, digest in tags.items()}
            for name, tags in images.items()
        }
        return {"problems": list(health["problems"]), "images": known}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def check_ports(target: Target, survey: Survey) -> Iterator[Verdict]:
    """On the server's machine: which process holds each port that it should hold."""
    if not target.local:
        yield found("port.remote", target.server, "not an address of this machine")
        return
    for service, kind, port in list_ports(target):
        subject = f"{service} {kind.upper()} {port}"
        owner = find_owner(kind, target.server, port)
        if owner is None:
            yield found("port.free", subject, "nobody listens there")
        elif owner.pid is None:
            yield found("port.hidden", subject, str(owner))
        elif is_bootfarm(owner.pid):
            yield good("port", subject, f"{owner.address}, pid {owner.pid}")
        else:
            yield found("port.foreign", subject, str(owner))


def list_ports(target: Target) -> list[tuple[str, Literal["tcp", "udp"], int]]:
    """The ports that the server is to hold."""
    ports: list[tuple[str, Literal["tcp", "udp"], int]] = []
    if "tftp" in target.services:
        ports.append(("tftp", "udp", target.tftp_port))
    if "nbd" in target.services:
        ports.append(("nbd", "tcp", target.nbd_port))
    if "http" in target.services:
        ports.append(("http", "tcp", target.http_port))
    if "dhcp" in target.services:
        ports += [("dhcp", "udp", SERVER_PORT), ("dhcp", "udp", PXE_PORT)]
    if target.dns is not None:
        ports += [("dns", "udp", target.dns[1]), ("dns", "tcp", target.dns[1])]
    ports += [(kind, "udp", port) for kind, port in target.logs.items()]
    return ports


def is_bootfarm(pid: int, proc: Path = _PROC) -> bool:
    """Whether the process, or one that it descends from (a worker's parent), is bootfarm's."""
    for _ in range(8):
        try:
            words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
            status = (proc / str(pid) / "stat").read_bytes()
        except OSError:
            return False
        if any(b"bootfarm" in word for word in words) and b"serve" in words:
            return True
        pid = int(status.rpartition(b")")[2].split()[1])
        if pid <= 1:
            return False
    return False


def check_dns(target: Target, survey: Survey) -> Iterator[Verdict]:
    """Where the server answers for a zone: its own name, asked over UDP."""
    if target.dns is None:
        return
    name, port = target.dns
    where = f"{target.server} port {port}"
    query = DNSRecord.question(name)
    answer = _ask_dns(target.server, port, bytes(query.pack()))
    if answer is None:
        yield found("dns.silent", where, f"no answer for {name}")
        return
    try:
        reply = DNSRecord.parse(answer)
        code = RCODE.get(reply.header.rcode)
        addresses = [str(record.rdata) for record in reply.rr if record.rtype == QTYPE.A]
    except Exception as error:  # dnslib raises several kinds on damaged bytes
        yield found("dns.wrong", where, f"an answer that is none: {error}")
        return
    words = f"{name} is {', '.join(addresses) or f'nowhere ({code})'}"
    if target.server in addresses:
        yield good("dns", where, words)
    else:
        yield found("dns.wrong", where, words)


def _ask_dns(host: str, port: int, query: bytes) -> bytes | None:
    """The answer to a query, None when none of three was answered."""
    for _ in range(3):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(DNS_SECONDS)
            try:
                sock.connect((host, port))
                sock.send(query)
                answer = sock.recv(4096)
            except OSError:
                continue
            if answer[:2] == query[:2]:
                return answer
    return None
