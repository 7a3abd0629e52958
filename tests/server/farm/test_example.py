"""The farm.yaml that packages bring: every key, and the defaults, as it is and uncommented."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from server.commands.schema import describe_farm
from server.farm.config import parse_config
from server.farm.example import render_example
from server.services.limits import NbdLimits, TftpLimits
from server.yamlfile import parse_yaml

SETTLED = {"store": "/srv/store", "state": "/srv/state"}
TEXT = render_example(describe_farm(), SETTLED)


def uncomment(text: str) -> str:
    """The text with each commented key as a key."""
    return re.sub(r"^#((?:  )*[a-z_]+:.*)$", r"\1", text, flags=re.M)


def list_paths(keys: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, key in keys.items():
        yield f"{above}{name}"
        yield from list_paths(key.get("properties", {}), f"{above}{name}.")


def list_written(data: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in data.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from list_written(value, f"{above}{name}.")


def test_as_it_is_only_what_is_settled_counts() -> None:
    assert parse_yaml(TEXT, "farm.yaml") == SETTLED
    config = parse_config(SETTLED, "farm.yaml", Path("/"))
    assert config.store == Path("/srv/store")


def test_uncommented_it_has_every_key_and_the_defaults() -> None:
    data = parse_yaml(uncomment(TEXT), "farm.yaml")
    assert set(list_written(data)) == set(list_paths(describe_farm()["properties"]))
    data["dns"]["zone"] = "farm.example"  # the one key that a part cannot be without
    assert data["tftp"].pop("limits") == dataclasses.asdict(TftpLimits())
    assert data["nbd"].pop("limits") == dataclasses.asdict(NbdLimits())
    for part in (data["http"], data["dns"]):
        assert part.pop("limits")
    assert data.pop("dhcp_limits")
    least = {**SETTLED, "dns": {"zone": "farm.example"}}
    assert parse_config(data, "farm.yaml", Path("/")) == parse_config(least, "farm.yaml", Path("/"))


def test_each_key_of_the_uppermost_level_says_what_it_means() -> None:
    lines = TEXT.splitlines()
    for name in describe_farm()["properties"]:
        (place,) = (number for number, line in enumerate(lines) if re.match(rf"#?{name}:", line))
        assert lines[place - 1].startswith("# "), name
    assert "# Answer DHCP: beside another server (proxy), or alone (full). One of: off" in TEXT
