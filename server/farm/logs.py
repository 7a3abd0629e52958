"""`logs:` of farm.yaml: where syslog and netconsole are received, and how much is kept."""

from dataclasses import dataclass
from typing import Final

from server.yamlfile import Section, describe

PORTS: Final = {"syslog": 514, "netconsole": 6666}
"""What each has by convention."""


@dataclass(frozen=True)
class Logs:
    """UDP ports, None where nothing is received; bytes kept of a node, and nodes in all."""

    syslog: int | None = None
    netconsole: int | None = None
    bytes: int = 65_536
    nodes: int = 1000

    @property
    def ports(self) -> dict[str, int]:
        """Those that are wanted."""
        wanted = {"syslog": self.syslog, "netconsole": self.netconsole}
        return {kind: port for kind, port in wanted.items() if port is not None}


def read_logs(section: Section) -> Logs:
    """Check the section; ports are numbers, `on` (the usual one) or `off`."""
    logs = Logs(
        syslog=_read_port(section, "syslog"),
        netconsole=_read_port(section, "netconsole"),
        bytes=section.integer("bytes", Logs.bytes, 4096, 16 * 1024 * 1024),
        nodes=section.integer("nodes", Logs.nodes, 1, 100_000),
    )
    section.finish()
    return logs


def _read_port(section: Section, key: str) -> int | None:
    value = section.any(
        key,
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 65535},
                {"enum": ["on", "off", True, False]},
            ]
        },
    )
    if value is None or value is False or value == "off":
        return None
    if value is True or value == "on":
        return PORTS[key]
    if isinstance(value, int) and 0 <= value <= 65535:
        return value
    section.fault(key, f"expected a port or off, got {describe(value)}", f"usual is {PORTS[key]}")
    return None
