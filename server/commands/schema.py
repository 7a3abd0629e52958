"""`bootfarm schema`: farm.yaml and recipes as JSON Schema, for editors (docs/editors.md).

The recipe's belongs to the builder's half, and is added by the front door.
"""

import json
from typing import Any

import click

from server.farm.schema import describe
from server.protocols.http import HttpLimits
from server.services.dhcp import DhcpLimits
from server.services.dns import DnsLimits
from server.services.limits import NbdLimits, TftpLimits


def describe_farm() -> dict[str, Any]:
    """farm.yaml's schema, with the services' limits in it."""
    return describe(
        {
            "tftp.limits": TftpLimits(),
            "nbd.limits": NbdLimits(),
            "http.limits": HttpLimits(),
            "dhcp_limits": DhcpLimits(),
            "dns.limits": DnsLimits(),
        }
    )


@click.group("schema")
def schema_group() -> None:
    """Print the JSON Schema of a file, for editors and other tools.

    \b
    bootfarm schema farm > farm.schema.json
    """


@schema_group.command("farm")
def farm_command() -> None:
    """Print farm.yaml's JSON Schema."""
    click.echo(json.dumps(describe_farm(), indent=2, ensure_ascii=False))
