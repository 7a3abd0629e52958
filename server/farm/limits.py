"""A service's `limits` in farm.yaml, laid over the defaults of the service."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from server.farm.config import ConfigError
from server.yamlfile import (
    Faults,
    describe,
    locate,
    suggest,
)

T = TypeVar("T")
_NEEDED_TEXT = """
transfers per_client requests_per_second give_up_seconds connections handshakes handshake_seconds
turn_requests turn_bytes cold_requests header_bytes body_bytes request_seconds idle_seconds
stall_seconds loop_share burst_seconds client_rate client_burst total_rate total_burst"""
_NEEDED = frozenset(_NEEDED_TEXT.split())
"""Limits of which 0 lets nobody in."""
_LIMITS: Mapping[str, tuple[int, int | None]] = {
    "max_blksize": (8, 65464),  # RFC 2348
    "max_windowsize": (1, 65535),  # RFC 7440
    "header_bytes": (1024, None),  # a firmware's request has some hundreds
    "body_bytes": (512, None),  # a beacon's fields
}


def apply_limits(defaults: T, limits: Mapping[str, Any], where: str, path: str = "") -> T:
    """A limits dataclass with some fields replaced; ConfigError for others, or wrong types.

    where, path: file and key path, as `farm.yaml` and `nbd.limits`.
    """
    known = {item.name: getattr(defaults, item.name) for item in dataclasses.fields(defaults)}  # type: ignore[arg-type]
    faults = Faults()
    for key, value in limits.items():
        place = locate(where, f"{path}.{key}") if path else f"{where}.{key}"
        if key not in known:
            wrong = ConfigError(f"{place}: unknown key", hint=suggest(key, known))
            faults.add(where, f"{path}.{key}", wrong)
            continue
        whole = isinstance(known[key], int) and not isinstance(known[key], bool)
        fits = isinstance(value, int) if whole else isinstance(value, (int, float))
        if isinstance(value, bool) or not fits or value < 0:
            wrong = ConfigError(
                f"{place}: expected a {'whole ' if whole else ''}number from 0 on,"
                f" got {describe(value)}",
                hint=f"the default is {known[key]}",
            )
            faults.add(where, f"{path}.{key}", wrong)
            continue
        low, high = _LIMITS.get(key, (0, None))
        if (key in _NEEDED and not value) or value < low or (high is not None and value > high):
            words = f"from {low} to {high}" if high is not None else "more than 0"
            wrong = ConfigError(
                f"{place}: with {value} no machine can boot",
                hint=f"{words}; the default is {known[key]}",
            )
            faults.add(where, f"{path}.{key}", wrong)
    faults.check()
    return dataclasses.replace(defaults, **limits)  # type: ignore[type-var]
