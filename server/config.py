"""farm.yaml: how the server itself runs (docs/farm.yaml.md).

Every key has a default, so the file may be empty or missing. Relative paths
count from the directory of the file. Errors name file, key path and remedy.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from server.dnszone import DnsZone, name_zone, read_dns
from server.extras import check_export_name
from server.inventory import Inventory, parse_inventory
from server.logconfig import Logs, read_logs
from server.yamlfile import (
    Section,
    YamlError,
    describe,
    load_yaml,
    parse_ip,
    parse_mac,
    suggest,
)

SERVICES = ("tftp", "nbd", "http")
ON_ERROR = ("shell", "reboot")
DHCP_MODES = ("off", "proxy", "full")
UNLISTED = ("boot", "menu", "refuse")

T = TypeVar("T")
_FACT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONFIGMAP = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class ConfigError(YamlError):
    """farm.yaml, or a flag that stands for one of its keys, is wrong."""


@dataclass(frozen=True)
class Transport:
    """One service: its port, and limits that differ from the service's own defaults."""

    port: int
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Menu:
    """The boot menu. timeout: seconds. serial_unit: COM port from 0, or None for no serial."""

    timeout: int = 3
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
    dhcp, dhcp_range, dhcp_limits, unlisted: docs/dhcp.md. exports: name to file, served over NBD
    besides the images. boot_tree: a folder that comes before the images' boot tree. dns:
    the zone that is answered for (None: no DNS).
    configmap: whose lts.conf this is; a refused one is told by an Event on it.
    logs, token_file: docs/status-page.md, docs/security.md.
    record_boot: a directory for recordings of real boots.
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
    single_port: bool = False
    default_image: str | None = None
    cmdline: tuple[str, ...] = ()
    on_error: str = "shell"
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
    logs: Logs = field(default_factory=Logs)
    token_file: Path | None = None
    record_boot: Path | None = None
    source: str = "farm.yaml"


def load_config(path: Path) -> Config:
    """Read farm.yaml. Raises YamlError: unreadable, not YAML, or a key that is wrong."""
    return parse_config(load_yaml(path), str(path), path.parent)


def parse_config(data: Any, where: str, base: Path) -> Config:
    """Check decoded YAML; `where` is the file's name in errors, `base` its directory."""
    top = Section(data, where)
    default = Config()
    tftp, single_port = _read_tftp(top.section("tftp"))
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
        http=_read_transport(top.section("http"), default.http.port),
        single_port=single_port,
        default_image=top.text("default_image"),
        cmdline=top.texts("cmdline"),
        on_error=top.choice("on_error", default.on_error, ON_ERROR),
        menu=_read_menu(top.section("menu")),
        inventory=_read_inventory(top, where, base),
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
        token_file=top.path_("token_file", base),
        record_boot=top.path_("record_boot", base),
        source=where,
        **_read_nodes(top.section("nodes")),
    )
    top.finish()
    return config


def override(config: Config, **flags: Any) -> Config:
    """The config with flags in place of its keys; None stands for a flag not given.

    `dns` names the zone. `tftp_port`, `nbd_port` and `http_port` replace the port of that service;
    `exports` adds to farm.yaml's, and replaces those of the same name.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    for name in ("listen", "address"):
        if name in given and parse_ip(given[name]) is None:
            raise ConfigError(
                f"--{name} {given[name]!r} is not an IPv4 address", hint="four numbers with dots"
            )
    for name in SERVICES:
        port = given.pop(f"{name}_port", None)
        if port is not None:
            given[name] = dataclasses.replace(getattr(config, name), port=port)
    if "dns" in given:
        given["dns"] = name_zone(given["dns"], config.dns)
    if "exports" in given:
        given["exports"] = {**config.exports, **given["exports"]}
    return dataclasses.replace(config, **given)


def parse_services(words: str) -> tuple[str, ...]:
    """`tftp,http` as the flag has it; ConfigError names what is unknown."""
    return _check_services(
        [word.strip() for word in words.split(",") if word.strip()], "--services"
    )


def parse_exports(words: Sequence[str]) -> dict[str, Path]:
    """`NAME=FILE` of each `--export`; ConfigError says which is none, or stands twice."""
    exports: dict[str, Path] = {}
    for word in words:
        name, separator, file = word.partition("=")
        problem = check_export_name(name) if separator else "there is no `=`"
        if name in exports:
            problem = "the name stands twice"
        if problem or not file:
            raise ConfigError(
                f"--export {word!r}: {problem or 'names no file'}",
                hint="write --export NAME=FILE, as --export disk=/srv/disk.img",
            )
        exports[name] = Path(file)
    return exports


def apply_limits(defaults: T, limits: Mapping[str, Any], where: str) -> T:
    """A limits dataclass with some fields replaced; ConfigError for others, or wrong types.

    where: file and key path, as `farm.yaml: nbd.limits`.
    """
    known = {item.name: getattr(defaults, item.name) for item in dataclasses.fields(defaults)}  # type: ignore[arg-type]
    for key, value in limits.items():
        if key not in known:
            raise ConfigError(f"{where}.{key}: unknown key", hint=suggest(key, known))
        whole = isinstance(known[key], int) and not isinstance(known[key], bool)
        fits = isinstance(value, int) if whole else isinstance(value, (int, float))
        if isinstance(value, bool) or not fits or value < 0:
            raise ConfigError(
                f"{where}.{key}: expected a {'whole ' if whole else ''}number from 0 on,"
                f" got {describe(value)}",
                hint=f"the default is {known[key]}",
            )
    return dataclasses.replace(defaults, **limits)  # type: ignore[type-var]


def _read_ip(section: Section, key: str) -> str | None:
    text = section.text(key)
    if text is None:
        return None
    ip = parse_ip(text)
    if ip is None:
        raise section.error(key, f"{text!r} is not an IPv4 address", "four numbers with dots")
    return ip


def _read_services(top: Section) -> tuple[str, ...]:
    names = top.texts("services", SERVICES)
    return _check_services(list(names), f"{top.where}: services")


def _check_services(names: list[str], where: str) -> tuple[str, ...]:
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


def _read_menu(section: Section) -> Menu:
    timeout = section.integer("timeout", Menu.timeout, 0, 3600)
    serial = section.text("serial", f"{Menu.serial_unit},{Menu.serial_speed}") or ""
    unit, _, speed = serial.partition(",")
    section.finish()
    if serial == "none":
        return Menu(timeout, None, Menu.serial_speed)
    if not unit.isdecimal() or not speed.isdecimal() or int(unit) > 3 or int(speed) > 921_600:
        raise section.error(
            "serial", f"{serial!r} is not a serial port", '`unit,speed` as "0,115200", or none'
        )
    return Menu(timeout, int(unit), int(speed))


def _read_inventory(top: Section, where: str, base: Path) -> Inventory:
    """Either the list itself, or the path of a file that holds it."""
    data = top.any("inventory")
    if isinstance(data, str):
        path = base / data
        return parse_inventory(load_yaml(path), str(path))
    return parse_inventory(data, where, "inventory")


def _read_address_map(top: Section) -> dict[str, str]:
    result: dict[str, str] = {}
    for key, value in top.pairs("address_map"):
        ip, mac = parse_ip(key), parse_mac(str(value))
        if ip is None or mac is None:
            raise top.error(
                f"address_map.{key}",
                f"{value!r} for {key!r} is not a MAC for an IPv4 address",
                'write `10.9.1.7: "52:54:00:12:34:56"`',
            )
        result[ip] = mac
    return result


def _read_exports(top: Section, base: Path) -> dict[str, Path]:
    exports: dict[str, Path] = {}
    for name, file in top.pairs("exports"):
        if problem := check_export_name(name):
            raise top.error(f"exports.{name}", problem, "write `name: /path/of/file`")
        if not isinstance(file, str) or not file or not file.isprintable():
            raise top.error(
                f"exports.{name}",
                f"expected the path of a file, got {describe(file)}",
                "write `name: /path/of/file`",
            )
        exports[name] = base / file
    return exports


def _read_facts(top: Section) -> dict[str, Any]:
    facts = dict(top.pairs("facts"))
    for key, value in facts.items():
        _check_fact(top, f"facts.{key}", key, value)
    return facts


def _check_fact(top: Section, where: str, key: str, value: Any) -> None:
    """A name that a template can write, and text, numbers, true, false, lists or keys of such."""
    if not _FACT.fullmatch(key):
        raise top.error(
            where, f"{key!r} is no name for templates", "letters, digits and _, no digit first"
        )
    if isinstance(value, Mapping):
        for inner, content in value.items():
            _check_fact(top, f"{where}.{inner}", str(inner), content)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_fact(top, f"{where}[{number}]", key, item)
    elif value is None:
        raise top.error(where, "has no value", 'write "" for an empty text')
    elif isinstance(value, str) and not value.isprintable():
        raise top.error(where, "holds control characters", "write it on one line")


def _read_hosts_file(top: Section, base: Path) -> Path | None:
    text = top.text("hosts_file", "/etc/hosts")
    return None if text in (None, "none", "") else base / str(text)


def _read_configmap(top: Section) -> str | None:
    name = top.text("configmap")
    if name is not None and (len(name) > 253 or not _CONFIGMAP.fullmatch(name)):
        raise top.error(
            "configmap", f"{name!r} is not a ConfigMap's name", "its name only, as ltsp-config"
        )
    return name


def _read_nodes(section: Section) -> dict[str, int]:
    values = {
        "max_nodes": section.integer("limit", Config.max_nodes, 1, 1_000_000),
        "events_per_node": section.integer("events", Config.events_per_node, 8, 10_000),
    }
    section.finish()
    return values
