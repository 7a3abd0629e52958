"""`bootfarm events`: the last events of the services, and those that come."""

import json
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from imagebuild.options import (
    examples,
    is_data,
    output_options,
    render_data,
)
from imagebuild.yamlloader import did_you_mean
from server.addresses import parse_mac
from server.causes import CAUSES
from server.terminal.client import Api, LostError
from server.terminal.render import (
    name_of,
    render_event,
)
from server.terminal.target import (
    find_node,
    find_width,
    key_of,
    read_list,
    read_span,
    refuse_empty,
    server_options,
)
from server.terminal.words import cut, number_of, text_of

AGAIN_SECONDS = 3.0
"""Until a lost stream of events is asked for again."""
NAMES_SECONDS = 10.0
"""Between two questions for the names of nodes, with ten thousand of them."""


@click.command(
    "events",
    epilog=examples(
        "bootfarm events --follow",
        "bootfarm events --node node-3 --since 10m --errors",
    ),
)
@click.option("--follow", is_flag=True, help="Go on with those that come, until Ctrl-C.")
@click.option(
    "--node",
    metavar="MAC",
    default="",
    callback=refuse_empty,
    help="Of this node only (MAC, IP or hostname).",
)
@click.option(
    "--limit",
    type=click.IntRange(0, 2000),
    default=20,
    show_default=True,
    metavar="N",
    help="At most the last N to begin with.",
)
@click.option(
    "--since",
    metavar="SPAN",
    default="",
    callback=lambda context, option, value: read_span(value) if value else 0.0,
    help="Only of so long ago or later, as 90s, 10m, 2h.",
)
@click.option("--errors", is_flag=True, help="Only errors.")
@click.option(
    "--source",
    metavar="NAME",
    default="",
    callback=lambda context, option, value: _check_source(refuse_empty(context, option, value)),
    help=f"Only of this source: {', '.join(CAUSES)}.",
)
@output_options()
@server_options
def events_command(
    follow: bool,
    node: str,
    limit: int,
    since: float,
    errors: bool,
    source: str,
    output: str,
    server: str,
    token: str,
) -> None:
    """What the server's services saw lately, oldest first.

    Events go on coming, so each stands by itself: with --output json it is a line, with
    yaml a document, with name its number.
    """
    api = Api(server, token)
    key = parse_mac(node) or (key_of(find_node(api, node)) if node else "")
    query = {"node": key} if key else {}
    wanted = _Wanted(time.time() - since if since else 0.0, errors, source)
    names = _Names(api)
    asked = {**query, "limit": str(limit if wanted.is_all else 2000)}
    events = read_list(api, api.get("/api/events", asked))
    last = str(events[-1].get("id", "")) if events else ""
    fitting = list(filter(wanted.has, events))
    shown = fitting[max(0, len(fitting) - limit) :]
    for event in shown:
        _print_event(event, names, output)
    if not shown and limit and not is_data(output) and not follow:
        click.echo("no such event since the server's start", err=True)
    if not follow:
        return
    try:
        for data in _follow(api, query, last):
            event = _read_event(data)
            if wanted.has(event):
                _print_event(event, names, output)
    except KeyboardInterrupt:
        click.echo()


@dataclass(frozen=True)
class _Wanted:
    """Which events are to be shown. oldest: seconds since the epoch."""

    oldest: float
    errors: bool
    source: str

    @property
    def is_all(self) -> bool:
        """Whether every event is wanted."""
        return not (self.oldest or self.errors or self.source)

    def has(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is wanted."""
        detail = event.get("detail")
        status = detail.get("status") if isinstance(detail, Mapping) else None
        return (
            bool(event)
            and number_of(event, "time") >= self.oldest
            and (not self.errors or status == "error")
            and (not self.source or event.get("source") == self.source)
        )


class _Names:
    """What nodes are called: asked for when one comes that is not known, now and then at most."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._names: dict[str, str] = {}
        self._asked = float("-inf")

    def get(self, key: str) -> str:
        """The node's name, or its key as long as that is not known."""
        if key and key not in self._names and time.monotonic() - self._asked >= NAMES_SECONDS:
            self._asked = time.monotonic()
            try:
                for node in read_list(self._api, self._api.get("/api/nodes")):
                    self._names[key_of(node)] = name_of(node)
            except LostError:
                pass  # its events are shown all the same
        return self._names.get(key, key)


def _check_source(name: str) -> str:
    """A source of events, or "" for all; click.BadParameter for what is none."""
    if name and name not in CAUSES:
        hint = did_you_mean(name, CAUSES, f"it is one of {', '.join(CAUSES)}")
        raise click.BadParameter(f"{name[:60]!r} is no source of events: {hint}")
    return name


def _follow(api: Api, query: Mapping[str, str], last: str) -> Generator[str, None, None]:
    """Events as they come, for ever; the stream is taken up again where it broke off."""
    while True:
        try:
            since = {"since": last} if last else {}
            for message in api.follow("/api/events", {**query, "follow": "1", **since}):
                if message is not None:
                    last = message.id or last
                    yield message.data
        except LostError as error:
            click.echo(f"{error.message}; trying again", err=True)
        time.sleep(AGAIN_SECONDS)


def _read_event(data: str) -> dict[str, Any]:
    """An event of the stream; {} for what is none."""
    try:
        event = json.loads(data)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _print_event(event: Mapping[str, Any], names: _Names, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(event))
    elif output == "yaml":
        click.echo("---\n" + render_data(dict(event), output), nl=False)
    elif output == "name":
        click.echo(text_of(event, "id"))
    else:
        name = names.get(str(event.get("node") or ""))
        width = None if output == "wide" else find_width()
        click.echo(cut(render_event(event, name or None), width))
    sys.stdout.flush()
