"""MAC and IPv4 addresses, each in its one spelling; labels of host names."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final

MAC: Final[Mapping[str, Any]] = {
    "type": "string",
    "pattern": "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$",
}
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4: Final[Mapping[str, Any]] = {"type": "string", "pattern": f"^{_BYTE}([.]{_BYTE}){{3}}$"}
"""What `parse_mac` and `parse_ip` take, in words of JSON Schema."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def parse_mac(text: str) -> str | None:
    """A MAC address in lower case with colons (dashes are taken too), or None."""
    mac = text.strip().lower().replace("-", ":")
    return mac if _MAC.fullmatch(mac) else None


def parse_ip(text: str) -> str | None:
    """A dotted IPv4 address in its one spelling, or None."""
    try:
        return str(ipaddress.IPv4Address(text.strip()))
    except ValueError:
        return None


def is_label(text: str) -> bool:
    """Whether it is one label of a host name (RFC 1123, 2.1), in lower case."""
    return _LABEL.fullmatch(text) is not None
