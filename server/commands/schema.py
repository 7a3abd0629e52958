"""`bootfarm schema`: farm.yaml and recipes as JSON Schema, the web API as OpenAPI.

The recipe's belongs to the builder's half, and is added by the front door.
"""

import json
from typing import Any

import click

from imagebuild.options import examples
from server.farm.schema import describe
from server.protocols.http import HttpLimits
from server.services.dhcp import DhcpLimits
from server.services.dns import DnsLimits
from server.services.limits import NbdLimits, TftpLimits
from server.web.api import ROUTES
from server.web.openapi import describe as describe_api


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


@click.group("schema", epilog=examples("bootfarm schema farm >farm.schema.json"))
def schema_group() -> None:
    """Print the JSON Schema of a file, or the web API's OpenAPI document, for tools."""


@schema_group.command("farm", epilog=examples("bootfarm schema farm >farm.schema.json"))
def farm_command() -> None:
    """Print farm.yaml's JSON Schema."""
    click.echo(json.dumps(describe_farm(), indent=2, ensure_ascii=False))


@schema_group.command("api", epilog=examples("bootfarm schema api >openapi.json"))
def api_command() -> None:
    """Print the OpenAPI document of the web API, as a server has it at /api/openapi.json."""
    click.echo(json.dumps(describe_api(ROUTES), indent=2, ensure_ascii=False))
