"""farm.yaml: how the server itself runs (docs/farm.yaml.md).

Every key has a default, so the file may be empty or missing. Relative paths
count from the directory of the file. Errors name file, line, key path and remedy,
and all of a file are told at once.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from server.addresses import (
    CARD,
    HOST,
    explain_no_card,
    explain_no_host,
    parse_ip,
    parse_mac,
)
from server.farm.defaultimage import DefaultImage, read_default_image
from server.farm.dns import DnsZone, read_dns
from server.farm.extras import check_export_name
from server.farm.inventory import (
    Inventory,
    describe_inventory,
    empty_inventory,
    parse_inventory,
)
from server.farm.join import Join, read_join
from server.farm.logs import Logs, read_logs
from server.farm.peers import Fetching, read_fetching
from server.farm.rollout import Rollouts, read_rollout
from server.ltsconf.cmdline import OTHER_WAY, check_cmdline, explain_ipxe
from server.yamlfile import (
    Faults,
    Section,
    YamlError,
    describe,
    load_source,
    suggest,
)

SERVICES = ("tftp", "nbd", "http")
ON_ERROR = ("shell", "reboot")
DHCP_MODES = ("off", "proxy", "full")
UNLISTED = ("boot", "menu", "refuse")
LOADERS = ("ipxe", "grub")
_LISTEN: Final = {"anyOf": [HOST, {"const": "0.0.0.0"}], "type": "string"}
_ADDRESS_HINT = "the one that nodes reach this machine by; `listen: 0.0.0.0` listens on all"
_FACT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*"
)
_CONFIGMAP = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
FACT: Mapping[str, Any] = {"type": ["string", "number", "boolean", "array", "object"]}


class ConfigError(YamlError):
    """farm.yaml, or a flag that stands for one of its keys, is wrong."""


@dataclass(frozen=True)
class Transport:
    """One service: its port, and limits that differ from the service's own defaults."""

    port: int
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Menu:
    """The boot menu. timeout: seconds that it waits for a key; 0 boots at once.

    serial_unit: COM port from 0, or None for no serial.
    """

    timeout: int = 0
    serial_unit: int | None = 0
    serial_speed: int = 115200


@dataclass(frozen=True)
class Config:
    """farm.yaml, checked. Where it says nothing, the defaults below hold.

    address: what nodes are told (None: the local address of the route to each).
    workers: further processes for the data path; None: `bootfarm serve` counts the
    cores, and an App by itself has none. address_map: IP to
    MAC of nodes behind a router, which the neighbour table cannot know. hosts_file: where
    hostnames of machines that the inventory does not name are looked up. facts,
    secrets: what templates of lts.conf know as farm.* and, a file each, as secrets.*.
    collect_after: seconds after which images without tags go that no node reads (None: never).
    dhcp, dhcp_range, dhcp_limits, unlisted, loader: docs/dhcp.md. exports: name to file,
    served over NBD besides the images. boot_tree: a folder that comes before the images' boot
    tree. dns: the zone that is answered for (None: no DNS).
    configmap: whose lts.conf this is; a refused one is told by an Event on it.
    join: certificates for machines that join the cluster, docs/join.md. rollout:
    docs/rollouts.md. fetching: the farm's other servers and the registries that images come from.
    logs, token_file: docs/status-page.md, docs/security.md. http_names: further names
    that the page and the API are asked by, in lower case.
    record_boot: a directory for recordings of real boots. require_signed: public keys, one of
    which has to have signed an image that is served (None: any is served); revoked: what of
    them, and of images, is not trusted any more; docs/security.md.
    source: the file's name in errors; inventory_file: the list's own, where it has one.
    """

    store: Path | None = None
    lts_conf: Path | None = None
    state: Path | None = None
    listen: str = "0.0.0.0"
    address: str | None = None
    services: tuple[str, ...] = SERVICES
    workers: int | None = None
    tftp: Transport = Transport(69)
    nbd: Transport = Transport(10809)
    http: Transport = Transport(8080)
    http_names: tuple[str, ...] = ()
    single_port: bool = False
    default_image: DefaultImage = None
    cmdline: tuple[str, ...] = ()
    on_error: str = "shell"
    loader: str = "ipxe"
    menu: Menu = Menu()
    inventory: Inventory = field(default_factory=Inventory)
    address_map: Mapping[str, str] = field(default_factory=dict)
    hosts_file: Path | None = Path("/etc/hosts")
    max_nodes: int = 10_000
    events_per_node: int = 64
    facts: Mapping[str, Any] = field(default_factory=dict)
    secrets: Path | None = None
    dhcp: str = "off"
    dhcp_range: str | None = None
    dhcp_limits: Mapping[str, Any] = field(default_factory=dict)
    unlisted: str = "boot"
    collect_after: int | None = None
    exports: Mapping[str, Path] = field(default_factory=dict)
    boot_tree: Path | None = None
    dns: DnsZone | None = None
    configmap: str | None = None
    join: Join = field(default_factory=Join)
    rollout: Rollouts = field(default_factory=Rollouts)
    logs: Logs = field(default_factory=Logs)
    fetching: Fetching = field(default_factory=Fetching)
    token_file: Path | None = None
    record_boot: Path | None = None
    require_signed: Path | None = None
    revoked: Path | None = None
    source: str = "farm.yaml"
    inventory_file: Path | None = None

    @property
    def own_paths(self) -> dict[str, Path | None]:
        """What only the server may read, by the key that names it."""
        return {"state": self.state, "secrets": self.secrets, "token_file": self.token_file}


def load_config(
    path: Path,
    opening: Callable[[Path], None] = lambda path: None,
    faults: Faults | None = None,
) -> Config:
    """Read farm.yaml. Raises YamlError: unreadable, not YAML, or keys that are wrong.

    opening: told of each file before it is read. faults: as `parse_config` has it.
    """
    opening(path)
    data, where = load_source(path)
    return parse_config(data, where, path.parent, opening, faults)


def parse_config(
    data: Any,
    where: str,
    base: Path,
    opening: Callable[[Path], None] = lambda path: None,
    faults: Faults | None = None,
    asked: dict[str, Any] | None = None,
) -> Config:
    """Check decoded YAML; `where` is the file's name in errors, `base` its directory.

    Raises YamlError, or FaultsError with all that is wrong. faults: gets them instead,
    and keys that are wrong have their defaults. asked: see Section.
    """
    gathered = faults if faults is not None else Faults()
    gathered.begin(where)
    config = _read_config(Section(data, where, "", gathered, asked), base, opening)
    if faults is None:
        gathered.check()
    return config


def _read_config(top: Section, base: Path, opening: Callable[[Path], None]) -> Config:
    default = Config()
    tftp, single_port = _read_tftp(top.section("tftp"))
    http, http_names = _read_http(top.section("http"))
    inventory, inventory_file = _read_inventory(top, base, opening)
    config = Config(
        store=top.path_("store", base),
        lts_conf=top.path_("lts_conf", base),
        state=top.path_("state", base),
        listen=_read_ip(top, "listen") or default.listen,
        address=_read_ip(top, "address"),
        services=_read_services(top),
        workers=workers if (workers := top.integer("workers", -1, 0, 256)) >= 0 else None,
        tftp=tftp,
        nbd=_read_transport(top.section("nbd"), default.nbd.port),
        http=http,
        http_names=http_names,
        single_port=single_port,
        default_image=read_default_image(top),
        cmdline=_read_cmdline(top),
        on_error=top.choice("on_error", default.on_error, ON_ERROR),
        loader=top.choice("loader", default.loader, LOADERS),
        menu=_read_menu(top.section("menu")),
        inventory=inventory,
        inventory_file=inventory_file,
        address_map=_read_address_map(top),
        hosts_file=_read_hosts_file(top, base),
        facts=_read_facts(top),
        secrets=top.path_("secrets", base),
        dhcp=top.choice("dhcp", default.dhcp, DHCP_MODES),
        dhcp_range=top.text("dhcp_range"),
        dhcp_limits=dict(top.pairs("dhcp_limits")),
        unlisted=top.choice("unlisted", default.unlisted, UNLISTED),
        configmap=_read_configmap(top),
        collect_after=top.integer("collect_after", 0, 1, 10_000_000) or None,
        exports=_read_exports(top, base),
        boot_tree=top.path_("boot_tree", base),
        dns=read_dns(top.section("dns")),
        logs=read_logs(top.section("logs")),
        join=read_join(top.section("join"), base),
        fetching=read_fetching(top),
        rollout=read_rollout(top.section("rollout"), base),
        token_file=top.path_("token_file", base),
        record_boot=top.path_("record_boot", base),
        require_signed=top.path_("require_signed", base),
        revoked=top.path_("revoked", base),
        source=top.where,
        **_read_nodes(top.section("nodes")),
    )
    top.finish()
    return config


def refuse_grub_beside_another(config: Config) -> None:
    """ConfigError where GRUB is wanted beside another DHCP server: it would find no menu."""
    if config.loader == "grub" and config.dhcp == "proxy":
        raise ConfigError(
            f"{config.source}: loader: grub does not work with dhcp: proxy: GRUB asks the server"
            " that gave the address for its menu",
            hint="leave `loader` out, or name GRUB in your DHCP server:"
            " `bootfarm dhcp-config --loader grub`",
        )


def explain_hosts_file(config: Config) -> str:
    """What is wrong with a hosts file that farm.yaml names, or "": without it its names match
    no section. The usual one need not be there."""
    path = config.hosts_file
    if path is None or path == Config.hosts_file:
        return ""
    if os.path.isfile(path) and os.access(path, os.R_OK):
        return ""
    return f"hosts_file: {path} is no file that the server can read"


def _read_ip(section: Section, key: str) -> str | None:
    text = section.text(key, shape=HOST if key == "address" else _LISTEN)
    ip = parse_ip(text) if text is not None else None
    if text is not None and ip is None:
        section.fault(key, f"{text!r} is not an IPv4 address", "four numbers with dots")
    elif ip is not None and (why := _explain_address(key, ip)):
        section.fault(key, f"{ip} {why}", _ADDRESS_HINT)
    return ip


def _explain_address(key: str, ip: str) -> str:
    """Why the server cannot have this address; `listen: 0.0.0.0` is all that it has."""
    return "" if key == "listen" and ip == "0.0.0.0" else explain_no_host(ip)


def _read_cmdline(top: Section) -> tuple[str, ...]:
    words = top.texts("cmdline")
    grub = top.has("loader") and top.text("loader") == "grub"
    for number, word in enumerate(words):
        wrong = check_cmdline(word)
        why = None if wrong is not None or grub else explain_ipxe(word)
        if why is not None:
            wrong = why, f"{OTHER_WAY}; `loader: grub` says that machines boot by GRUB"
        if wrong is not None:
            top.fault(f"cmdline[{number}]", *wrong)
    return words


def _read_services(top: Section) -> tuple[str, ...]:
    names = top.texts("services", SERVICES, shape={"type": "string", "enum": list(SERVICES)})
    top.describe("services", {"minItems": 1})
    unknown = [name for name in names if name not in SERVICES]
    if unknown:
        top.fault(
            "services",
            f"there is no service {', '.join(map(repr, unknown))}",
            suggest(unknown[0], SERVICES),
        )
    if not names:
        top.fault("services", "names no service", f"known here: {', '.join(SERVICES)}")
    return tuple(name for name in SERVICES if name in names)


def check_services(names: list[str], where: str) -> tuple[str, ...]:
    """Names of services, in the order of SERVICES; ConfigError for another name, or none."""
    for name in names:
        if name not in SERVICES:
            raise ConfigError(
                f"{where}: there is no service {name!r}", hint=suggest(name, SERVICES)
            )
    if not names:
        raise ConfigError(f"{where}: names no service", hint=f"known here: {', '.join(SERVICES)}")
    return tuple(name for name in SERVICES if name in names)


def _read_transport(section: Section, port: int) -> Transport:
    transport = Transport(section.integer("port", port, 0, 65535), dict(section.pairs("limits")))
    section.finish()
    return transport


def _read_tftp(section: Section) -> tuple[Transport, bool]:
    single_port = section.boolean("single_port", False)
    return _read_transport(section, Config.tftp.port), single_port


def _read_http(section: Section) -> tuple[Transport, tuple[str, ...]]:
    label = "[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
    shape = {"type": "string", "pattern": rf"^{label}(\.{label})*\.?$", "maxLength": 254}
    given = section.texts("names", shape=shape)
    names = tuple(name.lower().removesuffix(".") for name in given)
    for number, name in enumerate(names):
        if not _HOST.fullmatch(name):
            section.fault(
                f"names[{number}]",
                f"{name!r} is no host name",
                "a name as boot.example.org, without scheme and port",
            )
    return _read_transport(section, Config.http.port), names


def _read_menu(section: Section) -> Menu:
    timeout = section.integer("timeout", Menu.timeout, 0, 3600)
    usual = f"{Menu.serial_unit},{Menu.serial_speed}"
    shape = {"type": "string", "pattern": r"^([0-3],[0-9]{1,6}|none)$"}
    serial = section.text("serial", usual, shape=shape) or ""
    unit, _, speed = serial.partition(",")
    section.finish()
    if serial == "none":
        return Menu(timeout, None, Menu.serial_speed)
    if not unit.isdecimal() or not speed.isdecimal() or int(unit) > 3 or int(speed) > 921_600:
        section.fault(
            "serial", f"{serial!r} is not a serial port", '`unit,speed` as "0,115200", or none'
        )
        return Menu(timeout)
    return Menu(timeout, int(unit), int(speed))


def _read_inventory(
    top: Section, base: Path, opening: Callable[[Path], None]
) -> tuple[Inventory, Path | None]:
    """Either the list itself, or the path of a file that holds it; and that path."""
    shape = describe_inventory() if top.asked is not None else {}
    data = top.any("inventory", {"anyOf": [{"type": "string"}, shape]})
    faults = top.faults or Faults()
    if isinstance(data, str):
        path = base / data
        opening(path)
        if not path.is_file():
            top.fault("inventory", f"{path}: no such file", "the path of a list of machines")
            return Inventory(), path
        found = faults.catch(top.where, "inventory", lambda: load_source(path), None)
        if found is None:
            return Inventory(), path
        if found[0] is None:
            faults.add(top.where, "inventory", empty_inventory(found[1]))
            return Inventory(), path
        return parse_inventory(found[0], found[1], faults=faults), path
    return parse_inventory(data, top.where, "inventory", faults), None


def _read_address_map(top: Section) -> dict[str, str]:
    result: dict[str, str] = {}
    for key, value in top.pairs("address_map", CARD, HOST):
        ip, mac = parse_ip(key), parse_mac(str(value))
        if ip is None or mac is None:
            top.fault(
                f"address_map.{key}",
                f"{value!r} for {key!r} is not a MAC for an IPv4 address",
                'write `10.9.1.7: "52:54:00:12:34:56"`',
            )
            continue
        if why := explain_no_host(ip) or explain_no_card(mac):
            top.fault(f"address_map.{key}", f"{mac} for {ip}: {why}", "look at both again")
            continue
        result[ip] = mac
    return result


def _read_exports(top: Section, base: Path) -> dict[str, Path]:
    exports: dict[str, Path] = {}
    for name, file in top.pairs("exports", {"type": "string", "minLength": 1}):
        problem = check_export_name(name)
        if problem is None and (not isinstance(file, str) or not file or not file.isprintable()):
            problem = f"expected the path of a file, got {describe(file)}"
        if problem is not None:
            top.fault(f"exports.{name}", problem, "write `name: /path/of/file`")
            continue
        exports[name] = base / file
    return exports


def _read_facts(top: Section) -> dict[str, Any]:
    facts = dict(top.pairs("facts", FACT, {"pattern": f"^{_FACT.pattern}$"}))
    for key, value in facts.items():
        _check_fact(top, f"facts.{key}", key, value)
    return facts


def _check_fact(top: Section, where: str, key: str, value: Any) -> None:
    """A name that a template can write, and text, numbers, true, false, lists or keys of such."""
    if not _FACT.fullmatch(key):
        top.fault(
            where, f"{key!r} is no name for templates", "letters, digits and _, no digit first"
        )
    if isinstance(value, Mapping):
        for inner, content in value.items():
            _check_fact(top, f"{where}.{inner}", str(inner), content)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_fact(top, f"{where}[{number}]", key, item)
    elif value is None:
        top.fault(where, "has no value", 'write "" for an empty text')
    elif isinstance(value, str) and not value.isprintable():
        top.fault(where, "holds control characters", "write it on one line")


def _read_hosts_file(top: Section, base: Path) -> Path | None:
    text = top.text("hosts_file", "/etc/hosts")
    return None if text in (None, "none", "") else base / str(text)


def _read_configmap(top: Section) -> str | None:
    shape = {"type": "string", "pattern": f"^{_CONFIGMAP.pattern}$", "maxLength": 253}
    name = top.text("configmap", shape=shape)
    if name is not None and (len(name) > 253 or not _CONFIGMAP.fullmatch(name)):
        top.fault(
            "configmap", f"{name!r} is not a ConfigMap's name", "its name only, as ltsp-config"
        )
        return None
    return name


def _read_nodes(section: Section) -> dict[str, int]:
    values = {
        "max_nodes": section.integer("limit", Config.max_nodes, 1, 1_000_000),
        "events_per_node": section.integer("events", Config.events_per_node, 8, 10_000),
    }
    section.finish()
    return values
