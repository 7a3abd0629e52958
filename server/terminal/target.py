"""Which server a command of the terminal asks, and for which node."""

import re
import shutil
import sys
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from server.errors import ServerError
from server.observe.marks import ALL_STATES
from server.terminal.client import DEFAULT_SERVER, Api

_F = TypeVar("_F", bound=Callable[..., Any])


def server_options(command: _F) -> _F:
    """Which server is asked, and with what token."""
    for option in reversed(
        (
            click.option(
                "--server",
                metavar="URL",
                envvar="BOOTFARM_SERVER",
                default=DEFAULT_SERVER,
                show_default=True,
                show_envvar=True,
                help="The server: its address, by HTTP.",
            ),
            click.option(
                "--token",
                envvar="BOOTFARM_TOKEN",
                default="",
                show_envvar=True,
                help="If the server asks for one.",
            ),
        )
    ):
        command = option(command)
    return command


def refuse_empty(context: click.Context, option: click.Parameter, value: str) -> str:
    """An option's text; click.BadParameter where it was given and is empty: a variable of a script
    that has no value would stand for all."""
    given = context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
    if given and not value.strip(" ,"):
        raise click.BadParameter("it is empty: leave it out, or say which")
    return value


def read_list(api: Api, answer: Any) -> list[dict[str, Any]]:
    """The objects of an answer that is a list. ServerError for any other answer."""
    if not isinstance(answer, list):
        raise ServerError(
            f"{api.url}: this is no bootfarm server of this version",
            hint="look at --server (BOOTFARM_SERVER)",
        )
    return [entry for entry in answer if isinstance(entry, dict)]


def find_width() -> int | None:
    """Columns of the terminal; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _no_such_node(name: str) -> ServerError:
    return ServerError(
        f"the server has not seen a node {name!r}",
        hint="`bootfarm nodes` lists those that it has seen",
    )


def quote_key(key: str) -> str:
    return urllib.parse.quote(key, safe=":")


def key_of(node: Mapping[str, Any]) -> str:
    return str(node.get("mac") or node.get("ip"))


def find_node(api: Api, name: str) -> dict[str, Any]:
    """The node that is called so. Raises ServerError: none, or more than one."""
    if not name.strip() or "/" in name:
        raise _no_such_node(name)  # the API would understand another question
    node = api.get(f"/api/nodes/{quote_key(name)}")
    if node is None:
        wanted = name.lower()
        found = [
            key_of(one)
            for one in read_list(
                api, api.get("/api/nodes", {"q": name, "state": ",".join(ALL_STATES)})
            )
            if wanted in [str(one.get(key) or "").lower() for key in ("ip", "hostname", "serial")]
        ]
        if not found:
            raise _no_such_node(name)
        if len(found) > 1:
            raise ServerError(
                f"{len(found)} nodes are called {name!r}: {', '.join(found[:5])}",
                hint="give the MAC",
            )
        node = api.get(f"/api/nodes/{quote_key(found[0])}")
    if node is None:
        raise _no_such_node(name)
    if not isinstance(node, dict):
        read_list(api, None)
    return cast(dict[str, Any], node)


def read_span(text: str) -> float:
    """Seconds of `90s`, `10m`, `2h`, `30d`, or a plain number of seconds."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r}: write a number and s, m, h or d, as 30d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]
