"""Flags of `bootfarm serve` laid over farm.yaml: as their words are read, and what they replace."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.addresses import (
    parse_ip,
)
from server.farm.config import (
    _ADDRESS_HINT,
    SERVICES,
    Config,
    ConfigError,
    _explain_address,
    check_services,
)
from server.farm.dns import name_zone
from server.farm.extras import check_export_name
from server.farm.peers import Fetching, read_fetching
from server.yamlfile import Section


def override(config: Config, **flags: Any) -> Config:
    """The config with flags in place of its keys; None stands for a flag not given.

    `dns` names the zone. `tftp_port`, `nbd_port` and `http_port` replace the port of that service;
    `exports` adds to farm.yaml's, and replaces those of the same name.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    for name in ("listen", "address"):
        ip = parse_ip(given[name]) if name in given else None
        if name in given and ip is None:
            raise ConfigError(
                f"--{name} {given[name]!r} is not an IPv4 address", hint="four numbers with dots"
            )
        if ip is not None and (why := _explain_address(name, ip)):
            raise ConfigError(f"--{name}: {ip} {why}", hint=_ADDRESS_HINT)
    for name in SERVICES:
        port = given.pop(f"{name}_port", None)
        if port is not None:
            given[name] = dataclasses.replace(getattr(config, name), port=port)
    if "peers" in given:
        given["fetching"] = read_peers(given.pop("peers"), config.fetching)
    if "dns" in given:
        given["dns"] = name_zone(given["dns"], config.dns)
    if "exports" in given:
        given["exports"] = {**config.exports, **given["exports"]}
    return dataclasses.replace(config, **given)


def read_peers(urls: Sequence[str], fetching: Fetching) -> Fetching:
    """farm.yaml's `peers` replaced by those of `--peer`, each checked as there."""
    found = read_fetching(Section({"peers": list(urls)}, "--peer"))
    return dataclasses.replace(fetching, peers=found.peers)


def parse_services(words: str) -> tuple[str, ...]:
    """`tftp,http` as the flag has it; ConfigError names what is unknown."""
    return check_services([word.strip() for word in words.split(",") if word.strip()], "--services")


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
