"""The inventory: which machines the operator knows, by MAC, with address and hostname.

    - {mac: "52:54:00:00:00:01", ip: 10.9.0.11, hostname: node-1}

`serial`, `uuid`, `labels` (where it stands: rack, unit, …) and `bmc` (the page of its
management controller) may be told, too: facts for templates of lts.conf, and
labels to filter by. A YAML
list, a file of its own (`bootfarm dhcp-config --inventory FILE`) or under
`inventory:` in farm.yaml. Only `mac` is required.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from server.addresses import (
    CARD,
    HOST,
    explain_no_card,
    explain_no_host,
    parse_ip,
    parse_mac,
)
from server.ltsconf import NodeId
from server.yamlfile import Faults, Section, YamlError, describe, load_source, locate

MAX_LABELS: Final = 16
LABEL_MAX: Final = 63
"""Labels of one machine, and characters of a label's value."""
BMC_MAX: Final = 300
"""Characters of the address of a management controller's page."""
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_NOBODYS: Final = {
    "localhost": "is every machine's name for itself",
    "default": "is the section of lts.conf that all machines get",
}
_NO_NAMES = "|".join(
    "".join(f"[{char}{char.upper()}]" for char in name) for name in sorted(_NOBODYS)
)
_HOSTNAME_SHAPE = {"pattern": f"^(?!({_NO_NAMES})$){_HOSTNAME.pattern}$"}


@dataclass(frozen=True)
class Machine:
    """A machine that the operator has listed. mac: lower case, colons. ip: dotted or None.

    serial, uuid: as the operator wrote them; nothing is compared with them. labels:
    name and value, in the order of the list. bmc: a URL of http or https.
    """

    mac: str
    ip: str | None = None
    hostname: str | None = None
    serial: str | None = None
    uuid: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    bmc: str | None = None

    @property
    def known(self) -> dict[str, Any]:
        """What templates know of the machine besides its ids: the facts that the list gives."""
        return list_known(self.serial, self.uuid, self.labels, self.bmc)


def list_known(
    serial: str | None, uuid: str | None, labels: tuple[tuple[str, str], ...], bmc: str | None
) -> dict[str, Any]:
    """The facts that are given, by their names below `node` in templates."""
    facts = {"serial": serial, "uuid": uuid, "labels": dict(labels), "bmc": bmc}
    return {name: value for name, value in facts.items() if value}


@dataclass(frozen=True)
class Inventory:
    """Machines by MAC and by IP; each MAC, IP and hostname stands there once."""

    machines: tuple[Machine, ...] = ()

    @cached_property
    def by_mac(self) -> dict[str, Machine]:
        """Machines by MAC."""
        return {machine.mac: machine for machine in self.machines}

    @cached_property
    def by_ip(self) -> dict[str, Machine]:
        """Machines that have an address, by it."""
        return {machine.ip: machine for machine in self.machines if machine.ip}

    @cached_property
    def addresses(self) -> dict[str, str]:
        """MAC to address, of those that have one."""
        return {machine.mac: machine.ip for machine in self.machines if machine.ip}

    @cached_property
    def hostnames(self) -> dict[str, str]:
        """MAC to hostname, of those that have one."""
        return {machine.mac: machine.hostname for machine in self.machines if machine.hostname}

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """The names of all machines' labels, in the order in which the list has them first."""
        return tuple(dict.fromkeys(name for one in self.machines for name, _ in one.labels))

    @cached_property
    def by_hostname(self) -> dict[str, Machine]:
        """By hostname in lower case."""
        return {m.hostname.lower(): m for m in self.machines if m.hostname}


def empty_inventory(where: str) -> YamlError:
    """The error of a file of machines that holds nothing, as `> machines.yaml` leaves it."""
    return YamlError(f"{where}: there is no machine in it", hint="write `[]`, if there are none")


def parse_inventory(
    data: Any, where: str, path: str = "", faults: Faults | None = None
) -> Inventory:
    """Check a decoded YAML list; YamlError names file, entry and remedy.

    faults: gets all that is wrong, instead; without it all of it is raised.
    """
    gathered = faults if faults is not None else Faults()
    machines = _read_machines(data, where, path, gathered)
    if faults is None:
        gathered.check()
    return Inventory(tuple(machines))


def describe_inventory() -> dict[str, Any]:
    """A JSON Schema of the list: what an entry is asked for."""
    asked: dict[str, Any] = {}
    _read_machine(Section({}, "", "inventory[]", Faults(), asked))
    return {"type": "array", "items": {"type": "object", "properties": asked}}


def _read_machines(data: Any, where: str, path: str, faults: Faults) -> list[Machine]:
    if data is None:
        return []
    if not isinstance(data, list):
        error = YamlError(
            f"{locate(where, path) if path else f'{where}: the file'}:"
            f" expected a list of machines, got {describe(data)}",
            hint="write `- {mac: ..., ip: ..., hostname: ...}` lines",
        )
        faults.add(where, path, error)
        return []
    machines: list[Machine] = []
    seen: dict[str, int] = {}
    for number, entry in enumerate(data):
        section = Section(entry, where, f"{path}[{number}]", faults)
        if entry is not None and not isinstance(entry, dict):
            continue  # the fault is reported already
        machine = _read_machine(section)
        for key, value in (
            ("mac", machine.mac),
            ("ip", machine.ip),
            ("hostname", machine.hostname and machine.hostname.lower()),
        ):
            if not value:
                continue
            first = seen.setdefault(f"{key} {value}", number)
            if first != number:
                section.fault(
                    key, f"{value} stands already in entry [{first}]", "list each machine once"
                )
        machines.append(machine)
    return machines


def inventory_line(node: NodeId) -> str:
    """The entry of an inventory that would list this machine."""
    fields = [f"mac: {node.mac or 'its MAC'}"]
    fields += [f"ip: {node.ip}"] if node.ip and not node.mac else []
    return f"- {{{', '.join(fields)}}}"


def not_listed(node: NodeId) -> str:
    """Why a machine is held or refused."""
    return f"{node.mac or node.ip} is not in the inventory"


def _read_machine(section: Section) -> Machine:
    mac_text = section.required("mac", CARD)
    mac = parse_mac(mac_text)
    if mac is None:
        section.fault(
            "mac", f"{mac_text!r} is not a MAC address", "six hex pairs, as 52:54:00:12:34:56"
        )
    elif why := explain_no_card(mac):
        section.fault("mac", f"{mac} {why}", "its label, or its network card's setup, has its own")
    ip_text = section.text("ip", shape=HOST)
    ip = parse_ip(ip_text) if ip_text is not None else None
    if ip_text is not None and ip is None:
        section.fault("ip", f"{ip_text!r} is not an IPv4 address", "four numbers with dots")
    elif ip is not None and (why := explain_no_host(ip)):
        section.fault("ip", f"{ip} {why}", "give the machine an address of its own")
    hostname = section.text("hostname", shape=_HOSTNAME_SHAPE)
    if hostname is not None and _HOSTNAME.fullmatch(hostname) is None:
        section.fault(
            "hostname",
            f"{hostname!r} is not a hostname",
            "letters, digits and dashes, at most 63, without a domain",
        )
    elif hostname is not None and hostname.lower() in _NOBODYS:
        nobodys = _NOBODYS[hostname.lower()]
        section.fault("hostname", f"{hostname} {nobodys}", "give the machine a name of its own")
    serial, uuid = section.text("serial"), section.text("uuid")
    labels, bmc = _read_labels(section), _read_bmc(section)
    section.finish()
    return Machine(mac or "", ip, hostname, serial, uuid, labels, bmc)


def _read_labels(section: Section) -> tuple[tuple[str, str], ...]:
    labels = section.section("labels")
    shape = {"type": ["string", "number"], "pattern": rf"^\S(.{{0,{LABEL_MAX - 2}}}\S)?$"}
    named = {"pattern": f"^{_LABEL.pattern}$"}
    names = [name for name, _ in section.pairs("labels", shape, named)]
    section.describe("labels", {"maxProperties": MAX_LABELS})
    if len(names) > MAX_LABELS:
        section.fault("labels", f"has {len(names)} names", f"{MAX_LABELS} at most")
        return ()
    found = []
    for name in names:
        value = labels.text(name) or ""
        if _LABEL.fullmatch(name) is None:
            labels.fault(
                name,
                f"{name[:40]!r} is no name of a label",
                "letters, digits and _, no digit first, at most 32: as rack, unit",
            )
        elif not value or len(value) > LABEL_MAX or value != value.strip():
            labels.fault(
                name,
                f"{value[:40]!r} is no value of a label",
                f"1 to {LABEL_MAX} characters, no blank first or last",
            )
        else:
            found.append((name, value))
    return tuple(found)


def _read_bmc(section: Section) -> str | None:
    shape = {"type": "string", "pattern": r"^https?://[^@/ ]+(/[!-~]*)?$", "maxLength": BMC_MAX}
    text = section.text("bmc", shape=shape)
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and len(text) <= BMC_MAX
    except ValueError:
        fits = False
    if not fits or not text.isascii() or " " in text:
        section.fault("bmc", f"{text[:60]!r} is no web address", "its page, as https://10.0.0.17/")
        return None
    if "@" in parts.netloc:
        section.fault(
            "bmc",
            "holds a name or a password, which all who see the page would see",
            "leave it out",
        )
        return None
    return text


def load_inventory(path: Path) -> Inventory:
    """Read an inventory file."""
    data, where = load_source(path)
    if data is None:
        raise empty_inventory(where)
    return parse_inventory(data, where)
