"""`bootfarm nodes`, `bootfarm node` and `bootfarm events`."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import click

from server.errors import ServerError
from server.terminal.client import DEFAULT_SERVER, Api, LostError
from server.terminal.render import (
    is_in_trouble,
    render_event,
    render_log,
    render_node,
    render_nodes,
)
from server.yamlfile import parse_mac

TROUBLE = 3
"""Exit code of --exit-code where a node is in trouble."""
AGAIN_SECONDS = 3.0
_F = TypeVar("_F", bound=Callable[..., Any])
_CLEAR = "\x1b[H\x1b[J"


def _server_options(command: _F) -> _F:
    for option in reversed(
        (
            click.option(
                "--server",
                metavar="URL",
                envvar="BOOTFARM_SERVER",
                default=DEFAULT_SERVER,
                show_default=True,
                show_envvar=True,
                help="The running server, by HTTP.",
            ),
            click.option(
                "--token",
                envvar="BOOTFARM_TOKEN",
                default="",
                show_envvar=True,
                help="If the server asks for one.",
            ),
            click.option("--json", "as_json", is_flag=True, help="As the API has it."),
        )
    ):
        command = option(command)
    return command


@click.command("nodes")
@click.argument("text", default="")
@click.option("--watch", is_flag=True, help="Show it anew every --interval seconds, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.5, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
)
@click.option("--trouble", is_flag=True, help="Only nodes with an error, or stalled.")
@click.option(
    "--exit-code", is_flag=True, help=f"Exit with {TROUBLE} if one of them is in trouble."
)
@_server_options
def nodes_command(
    text: str,
    watch: bool,
    interval: float,
    trouble: bool,
    exit_code: bool,
    server: str,
    token: str,
    as_json: bool,
) -> None:
    """The nodes that the server has seen: how far each has come, and what is the matter.

    TEXT keeps those that have it in hostname, MAC or IP. The bar has a mark for
    each phase from dhcp to ready: `!` an error, `?` nothing came any more, `>` on
    its way; a line that begins with `i` is a note. docs/nodes.md tells more.
    """
    if watch and (as_json or exit_code):
        raise click.UsageError("--watch is for people; leave --json and --exit-code out")
    api = Api(server, token)
    wanted = text.lower()

    def fetch() -> list[dict[str, Any]]:
        return [
            node
            for node in _objects(api, api.get("/api/nodes"))
            if (not wanted or wanted in _searchable(node)) and (not trouble or is_in_trouble(node))
        ]

    if watch:
        _watch(fetch, interval)
        return
    found = fetch()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print_nodes(found)
    if exit_code and any(map(is_in_trouble, found)):
        sys.exit(TROUBLE)


def _searchable(node: Mapping[str, Any]) -> str:
    return " ".join(str(node.get(key) or "") for key in ("hostname", "mac", "ip")).lower()


def _objects(api: Api, answer: Any) -> list[dict[str, Any]]:
    if not isinstance(answer, list):
        raise ServerError(
            f"{api.url}: this is no bootfarm server of this version",
            hint="look at --server (BOOTFARM_SERVER)",
        )
    return [entry for entry in answer if isinstance(entry, dict)]


def _width() -> int | None:
    """Of the terminal; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _print_nodes(nodes: list[dict[str, Any]]) -> None:
    lines = render_nodes(nodes, time.time(), width=_width(), unicode=_unicode())
    click.echo("\n".join(lines))


def _watch(fetch: Callable[[], list[dict[str, Any]]], interval: float) -> None:
    """Until Ctrl-C; a server that goes away for a while is told, and waited for."""
    try:
        nodes = fetch()
        while True:
            if sys.stdout.isatty():
                click.echo(_CLEAR, nl=False)
            click.echo(time.strftime("%H:%M:%S"))
            _print_nodes(nodes)
            nodes = _fetch_again(fetch, interval)
    except KeyboardInterrupt:
        click.echo()


def _fetch_again(
    fetch: Callable[[], list[dict[str, Any]]], interval: float
) -> list[dict[str, Any]]:
    while True:
        time.sleep(interval)
        try:
            return fetch()
        except LostError as error:
            click.echo(f"{error.message}; trying again", err=True)


@click.command("node")
@click.argument("mac")
@click.option(
    "--events", type=click.IntRange(0), default=0, metavar="N", help="Its last N events, too."
)
@click.option(
    "--log", type=click.IntRange(0), default=0, metavar="N", help="The last N lines of its kernel."
)
@click.option("--exit-code", is_flag=True, help=f"Exit with {TROUBLE} if it is in trouble.")
@_server_options
def node_command(
    mac: str, events: int, log: int, exit_code: bool, server: str, token: str, as_json: bool
) -> None:
    """One node: what is the matter, what to check, and the timeline of its boot.

    MAC, or its IP or hostname. The timeline has a line for each phase: when it
    began and how long it lasted, the bytes, rate and retransmissions of its
    transfers. docs/nodes.md tells more.
    """
    api = Api(server, token)
    key = _key(api, mac)
    node = api.get(f"/api/nodes/{key}")
    if node is None:
        raise _no_such_node(mac)
    if not isinstance(node, dict):
        _objects(api, None)
    if log:
        node["log"] = api.get(f"/api/nodes/{key}/log")
    if as_json:
        click.echo(json.dumps(node, indent=2))
    else:
        lines = render_node(node, time.time(), unicode=_unicode(), events=events)
        click.echo("\n".join(lines + (render_log(node["log"], log) if log else [])))
    if exit_code and is_in_trouble(node):
        sys.exit(TROUBLE)


def _no_such_node(name: str) -> ServerError:
    return ServerError(
        f"the server has not seen a node {name!r}",
        hint="`bootfarm nodes` lists those that it has seen",
    )


def _key(api: Api, name: str) -> str:
    """The key of the node that is called so. Raises ServerError: none, or more than one."""
    if mac := parse_mac(name):
        return mac
    wanted = name.lower()
    found = [
        str(node.get("mac") or node.get("ip"))
        for node in _objects(api, api.get("/api/nodes"))
        if wanted in (str(node.get("ip")), str(node.get("hostname") or "").lower())
    ]
    if not found:
        raise _no_such_node(name)
    if len(found) > 1:
        raise ServerError(
            f"{len(found)} nodes are called {name!r}: {', '.join(found[:5])}", hint="give the MAC"
        )
    return found[0]


@click.command("events")
@click.option("--follow", is_flag=True, help="Go on with those that come, until Ctrl-C.")
@click.option("--node", metavar="MAC", default="", help="Of this node only (MAC, IP or hostname).")
@click.option(
    "--limit",
    type=click.IntRange(0, 2000),
    default=20,
    show_default=True,
    metavar="N",
    help="At most the last N to begin with.",
)
@_server_options
def events_command(
    follow: bool, node: str, limit: int, server: str, token: str, as_json: bool
) -> None:
    """What the server's services saw lately, oldest first. With --json a line an event."""
    api = Api(server, token)
    query = {"node": _key(api, node)} if node else {}
    last = ""
    for event in _objects(api, api.get("/api/events", {**query, "limit": str(limit)})):
        _print_event(json.dumps(event), as_json)
        last = str(event.get("id", ""))
    if not follow:
        return
    try:
        for data in _follow(api, query, last):
            _print_event(data, as_json)
    except KeyboardInterrupt:
        click.echo()


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


def _print_event(data: str, as_json: bool) -> None:
    if as_json:
        click.echo(data)
    else:
        try:
            event = json.loads(data)
        except ValueError:
            return
        if not isinstance(event, dict):
            return
        click.echo(render_event(event))
    sys.stdout.flush()


COMMANDS = [nodes_command, node_command, events_command]
