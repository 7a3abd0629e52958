"""`bootfarm note`: what people write about a machine, and whether somebody works on it."""

import json

import click

from imagebuild.options import JSON_OPTION, examples
from server.errors import ServerError
from server.nodes.node import NOTE_MAX
from server.terminal.client import Api
from server.terminal.target import find_node, key_of, quote_key, server_options
from server.terminal.words import clean


@click.command(
    "note",
    epilog=examples(
        'bootfarm note r1-n003 "disk ordered, Eva" --maintenance',
        'bootfarm note r1-n003 "" --no-maintenance',
    ),
)
@click.argument("name", metavar="NODE")
@click.argument("text", required=False)
@click.option(
    "--maintenance/--no-maintenance",
    default=None,
    help="Somebody works on it: it needs no look and fires no alert.",
)
@JSON_OPTION
@server_options
def note_command(
    name: str, text: str | None, maintenance: bool | None, as_json: bool, server: str, token: str
) -> None:
    """Write a note about a machine, for all who look at it; without TEXT, show it.

    NODE is a MAC, IP, name or serial number of a machine that was seen, or that the inventory
    has; an empty TEXT removes the note. Where there is no
    token, only from the server's own machine.
    """
    if text is not None and len(text) > NOTE_MAX:
        raise click.UsageError(f"a note has at most {NOTE_MAX} characters, this one {len(text)}")
    api = Api(server, token)
    node = find_node(api, name)
    if text is not None or maintenance is not None:
        query = {"note": text} if text is not None else {}
        query |= {"maintenance": str(int(maintenance))} if maintenance is not None else {}
        node = api.put(f"/api/nodes/{quote_key(key_of(node))}", query)
        if not isinstance(node, dict):
            raise ServerError(f"the server has forgotten {name} in this moment", hint="try again")
    found = {"note": str(node.get("note") or ""), "maintenance": bool(node.get("maintenance"))}
    if as_json:
        click.echo(json.dumps(found))
        return
    words = ["in maintenance"] if found["maintenance"] else []
    words += [clean(str(found["note"]))] if found["note"] else []
    click.echo(": ".join(words) or "no note")
