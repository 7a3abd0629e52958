"""Digests of what servers of one farm must have alike in farm.yaml."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Final

from server.farm.config import Config

ALIKE: Final = (
    *("default_image", "cmdline", "on_error", "loader", "menu", "unlisted", "inventory"),
    *("facts", "dns", "join"),
)
"""Fields of Config by which a machine is answered: two servers that differ in one would boot the
same machine in two ways."""
DIGITS: Final = 16


def print_settings(config: Config) -> dict[str, str]:
    """Each key that servers must have alike, and a digest of its value. Nothing secret is in
    these values; `secrets` and `token_file` are not among them."""
    return {key: _print(_plain(key, getattr(config, key))) for key in ALIKE}


def _plain(key: str, value: Any) -> Any:
    if key == "inventory":
        return [dataclasses.asdict(machine) for machine in value.machines]
    if key == "dns" and value is not None:
        return [value.zone, value.ttl, dict(value.names)]
    if key == "join":
        return [value.certificates, value.machines, value.api]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _print(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=_tell)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:DIGITS]


def _tell(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return dict(value) if hasattr(value, "items") else list(value)
