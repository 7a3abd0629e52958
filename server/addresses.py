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
CARD: Final[Mapping[str, Any]] = {
    "type": "string",
    "pattern": "^(?!(00[:-]){5}00$)[0-9A-Fa-f][02468ACEace]([:-][0-9A-Fa-f]{2}){5}$",
}
HOST: Final[Mapping[str, Any]] = {
    "type": "string",
    "pattern": f"^(22[0-3]|2[01][0-9]|1[0-9]{{2}}|[1-9][0-9]?)([.]{_BYTE}){{3}}$",
}
"""The same without what `explain_no_card` and `explain_no_host` explain."""

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


def explain_no_card(mac: str) -> str:
    """Why no machine's card has a MAC (in its one spelling), or "" (IEEE 802, 8.2)."""
    if mac == "00:00:00:00:00:00":
        return "is what firmware shows that could not read its card's"
    if mac == "ff:ff:ff:ff:ff:ff":
        return "is the broadcast address: all cards' and no one's"
    if int(mac[:2], 16) & 1:
        return "is a group's (multicast), and no card's"
    return ""


def explain_no_host(ip: str) -> str:
    """Why no machine has an IPv4 address (in its one spelling), or "" (RFC 6890)."""
    address = ipaddress.IPv4Address(ip)
    if address in ipaddress.IPv4Network("0.0.0.0/8"):
        return "is no machine's: addresses that begin with 0 mean 'none yet'"
    if address.is_multicast:
        return "is a group's (multicast), and no machine's"
    if address in ipaddress.IPv4Network("240.0.0.0/4"):
        return "is reserved or for broadcasts, and no machine's"
    return ""


def is_label(text: str) -> bool:
    """Whether it is one label of a host name (RFC 1123, 2.1), in lower case."""
    return _LABEL.fullmatch(text) is not None
