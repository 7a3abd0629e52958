"""`dns:` of farm.yaml: the zone that the server answers for (docs/dns.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any, Final

from server.addresses import HOST, IPV4, explain_no_host, is_label, parse_ip
from server.yamlfile import Faults, Section, YamlError, locate

PORT: Final = 53
TTL: Final = 30
"""Seconds for which a resolver may keep a name: a machine may get another address."""
SERVER: Final = "boot"
_LABEL_HINT: Final = "letters, digits and dashes, at most 63, without a dot"


@dataclass(frozen=True)
class DnsZone:
    """One zone. server: the label of the server's own name in it.

    names: label to address, of what is no node (the API endpoint). networks:
    whose reverse names are ours, besides the /24 of each address that farm.yaml
    names. listen: None for the address that all services listen on.
    """

    zone: str
    port: int = PORT
    listen: str | None = None
    server: str = SERVER
    names: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[IPv4Network, ...] = ()
    ttl: int = TTL
    limits: Mapping[str, Any] = field(default_factory=dict)


def read_dns(section: Section) -> DnsZone | None:
    """The section's zone, None where it names none. YamlError: key, what is wrong, remedy."""
    zone = section.text("zone")
    found = DnsZone(
        zone="",
        port=section.integer("port", PORT, 0, 65535),
        listen=_read_listen(section),
        server=_read_label(section, "server", section.text("server", SERVER) or ""),
        names=_read_names(section),
        networks=_read_networks(section),
        ttl=section.integer("ttl", TTL, 0, 86400),
        limits=dict(section.pairs("limits")),
    )
    section.finish()
    if zone is None:
        if found != DnsZone(zone=""):
            section.fault("zone", "is missing", "write `zone: rack.example.org`")
        return None
    if found.server in found.names:
        section.fault(
            f"names.{found.server}", "is the server's own name", "choose another, or set `server`"
        )
    path = f"{section.path}.zone"
    faults = section.faults or Faults()
    zoned = faults.catch(
        section.where,
        path,
        lambda: _with_zone(found, zone, locate(section.where, path)),
        None,
    )
    if section.faults is None:
        faults.check()
    return zoned


def name_zone(zone: str, settings: DnsZone | None) -> DnsZone:
    """What `--dns ZONE` makes of farm.yaml's settings."""
    return _with_zone(settings or DnsZone(zone=""), zone, "--dns")


def _with_zone(settings: DnsZone, zone: str, where: str) -> DnsZone:
    name = zone.lower().rstrip(".")
    labels = name.split(".")
    if len(name) > 200 or not all(map(is_label, labels)) or labels[-1].isdecimal():
        raise YamlError(
            f"{where}: {zone!r} is not a DNS zone", hint="a name as rack.example.org, no address"
        )
    return DnsZone(**{**vars(settings), "zone": name})


def _read_listen(section: Section) -> str | None:
    text = section.text("listen", shape=IPV4)
    if text is not None and parse_ip(text) is None:
        section.fault("listen", f"{text!r} is not an IPv4 address", "four numbers with dots")
        return None
    return text


def _read_label(section: Section, key: str, text: str) -> str:
    label = text.lower()
    if not is_label(label):
        section.fault(key, f"{text!r} is not a name in the zone", _LABEL_HINT)
    return label


def _read_names(section: Section) -> dict[str, str]:
    names: dict[str, str] = {}
    for key, value in section.pairs("names", HOST):
        label = _read_label(section, f"names.{key}", str(key))
        address = parse_ip(str(value))
        if address is None:
            section.fault(
                f"names.{key}", f"{value!r} is not an IPv4 address", "four numbers with dots"
            )
        elif why := explain_no_host(address):
            section.fault(f"names.{key}", f"{address} {why}", "give the address of a machine")
        elif label in names:
            section.fault(f"names.{key}", "stands there twice", "names have no case")
        else:
            names[label] = address
    return names


def _read_networks(section: Section) -> tuple[IPv4Network, ...]:
    found = []
    for number, text in enumerate(section.texts("networks")):
        try:
            network = IPv4Network(text)
        except ValueError as error:
            section.fault(f"networks[{number}]", f"{text!r}: {error}", "as 10.9.0.0/16")
            continue
        if network.prefixlen < 8:
            section.fault(f"networks[{number}]", f"{text!r} is larger than a /8", "as 10.9.0.0/16")
            continue
        found.append(network)
    return tuple(found)
