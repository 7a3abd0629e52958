"""The inventory: which machines the operator knows, by MAC, with address and hostname.

    - {mac: "52:54:00:00:00:01", ip: 10.9.0.11, hostname: node-1}

`serial` and `uuid` may be told, too: facts for templates of lts.conf. A YAML
list, a file of its own (`bootfarm dhcp-config --inventory FILE`) or under
`inventory:` in farm.yaml. Only `mac` is required.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from server.ltsconf import NodeId
from server.yamlfile import Section, YamlError, describe, load_yaml, parse_ip, parse_mac

_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Machine:
    """A machine that the operator has listed. mac: lower case, colons. ip: dotted or None.

    serial, uuid: as the operator wrote them; nothing is compared with them.
    """

    mac: str
    ip: str | None = None
    hostname: str | None = None
    serial: str | None = None
    uuid: str | None = None


@dataclass(frozen=True)
class Inventory:
    """Machines by MAC and by IP; each MAC, IP and hostname stands there once."""

    machines: tuple[Machine, ...] = ()

    @cached_property
    def by_mac(self) -> dict[str, Machine]:
        return {machine.mac: machine for machine in self.machines}

    @cached_property
    def by_ip(self) -> dict[str, Machine]:
        return {machine.ip: machine for machine in self.machines if machine.ip}


def parse_inventory(data: Any, where: str, path: str = "") -> Inventory:
    """Check a decoded YAML list; YamlError names file, entry and remedy."""
    if data is None:
        return Inventory()
    if not isinstance(data, list):
        raise YamlError(
            f"{where}: {path or 'the file'}: expected a list of machines, got {describe(data)}",
            hint="write `- {mac: ..., ip: ..., hostname: ...}` lines",
        )
    machines: list[Machine] = []
    seen: dict[str, int] = {}
    for number, entry in enumerate(data):
        section = Section(entry, where, f"{path}[{number}]")
        machine = _read_machine(section)
        for key, value in (
            ("mac", machine.mac),
            ("ip", machine.ip),
            ("hostname", machine.hostname and machine.hostname.lower()),
        ):
            if value is None:
                continue
            first = seen.setdefault(f"{key} {value}", number)
            if first != number:
                raise section.error(
                    key, f"{value} stands already in entry [{first}]", "list each machine once"
                )
        machines.append(machine)
    return Inventory(tuple(machines))


def inventory_line(node: NodeId) -> str:
    """The entry of an inventory that would list this machine."""
    fields = [f"mac: {node.mac or 'its MAC'}"]
    fields += [f"ip: {node.ip}"] if node.ip and not node.mac else []
    return f"- {{{', '.join(fields)}}}"


def not_listed(node: NodeId) -> str:
    """Why a machine is held or refused."""
    return f"{node.mac or node.ip} is not in the inventory"


def _read_machine(section: Section) -> Machine:
    mac_text = section.required("mac")
    mac = parse_mac(mac_text)
    if mac is None:
        raise section.error(
            "mac", f"{mac_text!r} is not a MAC address", "six hex pairs, as 52:54:00:12:34:56"
        )
    ip_text = section.text("ip")
    ip = parse_ip(ip_text) if ip_text is not None else None
    if ip_text is not None and ip is None:
        raise section.error("ip", f"{ip_text!r} is not an IPv4 address", "four numbers with dots")
    hostname = section.text("hostname")
    if hostname is not None and _HOSTNAME.fullmatch(hostname) is None:
        raise section.error(
            "hostname",
            f"{hostname!r} is not a hostname",
            "letters, digits and dashes, at most 63, without a domain",
        )
    serial, uuid = section.text("serial"), section.text("uuid")
    section.finish()
    return Machine(mac, ip, hostname, serial, uuid)


def load_inventory(path: Path) -> Inventory:
    """Read an inventory file."""
    return parse_inventory(load_yaml(path), str(path))
