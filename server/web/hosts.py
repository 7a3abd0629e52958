"""Which names the server is asked by: against pages that another name leads here.

A web page may have its own name point at this server's address for a moment (DNS
rebinding) and then reads, through the browser of whoever looks at it, what that
machine may read. The browser says in `Host` which name it asked (RFC 9110, 7.2), so
a name that is not ours gets no page. An address is nobody's name, and programs that
are no browsers may leave Host out: both are taken.
"""

import ipaddress
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from server.addresses import parse_ip
from server.farm.config import Config
from server.machines.identity import CachedFile
from server.protocols.http import Request, Response
from server.services.interfaces import list_addresses
from server.web.replies import NO_STORE, TEXT

HOSTS_SECONDS: Final = 5.0
"""So long a copy of the hosts file serves."""
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/]*)(?::([0-9]*))?")


def split_host(header: str) -> tuple[str, str] | None:
    """Name or address, in lower case and without a last dot, and port ("" for the default).

    None for what is no Host header (RFC 9110, 7.2).
    """
    match = _HOST.fullmatch(header.strip().lower())
    if match is None:
        return None
    port = match[2] or ""
    return match[1].removesuffix("."), "" if port == "80" else port


def is_address(host: str) -> bool:
    """Whether a host is an IPv4 address, or an IPv6 one in brackets."""
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
        return True
    return parse_ip(host) is not None


def parse_names(text: str) -> dict[str, str]:
    """Each name of /etc/hosts, in lower case, to its first IPv4 address."""
    names: dict[str, str] = {}
    for line in text.splitlines():
        ip, *rest = line.partition("#")[0].split() or ("",)
        if parse_ip(ip) is not None:
            for name in rest:
                names.setdefault(name.lower().removesuffix("."), ip)
    return names


class Hosts:
    """The names that this server goes by. config: farm.yaml as it is in force.

    They are: localhost and names below it, the machine's hostname, `http.names`, the zone
    of `dns` with all below it, and what the hosts file calls one of the machine's own
    addresses.
    """

    def __init__(
        self,
        config: Callable[[], Config] = Config,
        hostname: str | None = None,
        own: Callable[[], set[str]] | None = None,
    ) -> None:
        self._config = config
        name = (socket.gethostname() if hostname is None else hostname).lower()
        self._hostname = {name, name.partition(".")[0]} - {""}
        self._own = own or _list_own
        self._file = _open_hosts(None)

    def refuse(self, request: Request) -> Response | None:
        """The 421 for a request that asked for somebody else's name; None when it is ours."""
        header = request.headers.get("host", "")
        if self.knows(header):
            return None
        words = (
            f"this server is not known as {header[:100]!r}: ask for its address, or add the name"
            " to `http: {names: […]}` in farm.yaml\n"
        )
        return Response(421, words.encode("utf-8", "replace"), TEXT, (NO_STORE,))

    def refuse_foreign(self, request: Request) -> Response | None:
        """The 403 for a form that another site's page has sent; None for all else.

        A browser says whose page it was: `Origin` (Fetch standard, 3.1), and where it may,
        `Sec-Fetch-Site` (Fetch Metadata, 2.3). What is no browser says neither.
        """
        site = request.headers.get("sec-fetch-site", "same-origin").strip().lower()
        origin = request.headers.get("origin")
        same = site in ("same-origin", "none")
        if same and (origin is None or self._is_ours(origin, request.headers.get("host", ""))):
            return None
        words = "this was sent by a page of another site; only this server's own may\n"
        return Response(403, words.encode(), TEXT, (NO_STORE,))

    @staticmethod
    def is_browser(request: Request) -> bool:
        """Whether the request may come from a browser.

        A browser says which encodings it takes, which no page can keep from it (Fetch
        standard, 2.2.2: forbidden request-headers); no boot loader says so.
        """
        return "accept-encoding" in request.headers

    def knows(self, header: str) -> bool:
        """Whether a Host header leads here by right."""
        if not header.strip():
            return True
        parts = split_host(header)
        return parts is not None and (is_address(parts[0]) or self._is_name(parts[0]))

    def _is_ours(self, origin: str, host: str) -> bool:
        """Whether an Origin is that of our own pages. Behind a proxy with TLS its port, and
        perhaps Host, are others."""
        scheme, separator, authority = origin.strip().partition("://")
        parts = split_host(authority)
        if scheme.lower() not in ("http", "https") or not separator or parts is None:
            return False  # `null`, too
        return parts == split_host(host) or parts[0] in self._config().http_names

    def _is_name(self, name: str) -> bool:
        config = self._config()
        if name == "localhost" or name.endswith(".localhost") or name in self._hostname:
            return True
        if name in config.http_names:
            return True
        if config.dns is not None:
            zone = config.dns.zone
            if name in (zone, config.dns.server) or name.endswith(f".{zone}"):
                return True
        return self._is_own(config.hosts_file, name)

    def _is_own(self, path: Path | None, name: str) -> bool:
        if path != self._file.path:
            self._file = _open_hosts(path)
        ip = self._file.get(name)
        return ip is not None and (ip.startswith("127.") or ip in self._own())


def _list_own() -> set[str]:
    return {entry.address for entry in list_addresses()}


def _open_hosts(path: Path | None) -> CachedFile:
    return CachedFile(path, parse_names, HOSTS_SECONDS)
