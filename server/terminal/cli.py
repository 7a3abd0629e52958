"""`bootfarm nodes`, `bootfarm node`, `bootfarm events` and `bootfarm forget`."""

import functools
import json
import os
import re
import shutil
import sys
import textwrap
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from imagebuild.yamlloader import did_you_mean
from server.addresses import parse_mac
from server.causes import CAUSES
from server.diagnosis import RULES
from server.errors import ServerError
from server.nodes.phases import PHASES
from server.observe.marks import ALL_STATES, LABEL_PREFIX, SORTS, STATES
from server.quantities import Seconds
from server.terminal.client import DEFAULT_SERVER, Api, LostError
from server.terminal.render import (
    count_nodes,
    is_in_trouble,
    name_of,
    render_causes,
    render_event,
    render_log,
    render_node,
    render_progress,
    render_screen,
    render_table,
)
from server.terminal.words import clean, cut, number_of

TROUBLE = 3
"""Exit code of --exit-code where a node is in trouble."""
AGAIN_SECONDS = 3.0
"""Until a lost stream of events is asked for again."""
FORGET_SECONDS = 60.0
"""Of silence at least, before a machine is forgotten for it."""
NAMES_SECONDS = 10.0
"""Between two questions for the names of nodes, with ten thousand of them."""
_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_CLEAR = "\x1b[H\x1b[J"
_COLOURS = {"look": "red", "booting": "blue", "ready": "green"}


def server_options(command: _F) -> _F:
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


def _refuse_empty(context: click.Context, option: click.Parameter, value: str) -> str:
    """An option's text; click.BadParameter where it was given and is empty: a variable of a script
    that has no value would stand for all."""
    given = context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
    if given and not value.strip(" ,"):
        raise click.BadParameter("it is empty: leave it out, or say which")
    return value


def _filter_options(command: _F) -> _F:
    for option in reversed(
        (
            click.option(
                "--state",
                metavar="STATE",
                default="",
                callback=_refuse_empty,
                help=f"Only these, with commas: {', '.join(ALL_STATES)}.",
            ),
            click.option("--trouble", is_flag=True, help="Short for --state look."),
            click.option("--phase", type=click.Choice(PHASES), help="Only in this phase."),
            click.option(
                "--image",
                metavar="IMAGE",
                default="",
                callback=_refuse_empty,
                help="Only of this image: amd64, amd64:canary, :current, a digest, or old: older"
                " than current.",
            ),
            click.option(
                "--label",
                "labels",
                metavar="NAME=VALUE",
                multiple=True,
                help="Only with this label of the inventory, as rack=r1; may be repeated.",
            ),
            click.option(
                "--cause",
                metavar="RULE",
                default="",
                callback=_refuse_empty,
                help="Only with this trouble.",
            ),
            click.option(
                "--sort",
                metavar="ORDER",
                default="trouble",
                show_default=True,
                help=f"{', '.join(SORTS)}, or label.NAME.",
            ),
        )
    ):
        command = option(command)

    @functools.wraps(command)
    def gather(*arguments: Any, **named: Any) -> Any:
        words = {name: named.pop(name) for name in ("state", "trouble", "phase", "image")}
        words |= {name: named.pop(name) for name in ("labels", "cause", "sort")}
        return command(*arguments, query=_read_query(**words), **named)

    return cast(_F, gather)


def _read_query(
    *,
    state: str,
    trouble: bool,
    phase: str | None,
    image: str,
    labels: Sequence[str],
    cause: str,
    sort: str,
) -> dict[str, str]:
    """The options as the API has them."""
    states = [word.strip() for word in state.split(",") if word.strip()]
    if trouble:
        states = ["look"]
    for word in states:
        if word not in ALL_STATES:
            raise click.BadParameter(
                f"{word!r} is none of {', '.join(ALL_STATES)}", param_hint="--state"
            )
    if sort not in SORTS and not sort.startswith(LABEL_PREFIX):
        raise click.BadParameter(
            f"{sort!r} is none of {', '.join(SORTS)}, label.NAME", param_hint="--sort"
        )
    rules = [rule.id for rule in RULES]
    if cause and cause.partition("~")[0] not in rules:
        hint = did_you_mean(cause, rules, "docs/diagnosis.md has all rules")
        raise click.BadParameter(f"{cause[:60]!r} is no rule: {hint}", param_hint="--cause")
    query = {"state": ",".join(states or STATES), "sort": sort}
    query |= {"phase": phase or "", "image": image, "cause": cause}
    for label in labels:
        name, separator, value = label.partition("=")
        if not separator or not name or not value:
            raise click.BadParameter(f"{label!r}: write NAME=VALUE", param_hint="--label")
        if query.setdefault(f"{LABEL_PREFIX}{name}", value) != value:
            raise click.BadParameter(
                f"{name} stands twice: no machine has both", param_hint="--label"
            )
    return {name: value for name, value in query.items() if value}


@click.command("nodes")
@click.argument("text", default="")
@click.option("--watch", is_flag=True, help="Show it anew every --interval seconds, until Ctrl-C.")
@click.option(
    "--interval",
    type=Seconds(0.5, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
)
@_filter_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "wide", "name", "causes")),
    default="table",
    show_default=True,
    help="wide: every column, however narrow the window; name: names only; causes: what is"
    " the matter, a line each.",
)
@click.option(
    "--exit-code", is_flag=True, help=f"Exit with {TROUBLE} if one of them is in trouble."
)
@server_options
def nodes_command(
    text: str,
    watch: bool,
    interval: float,
    query: dict[str, str],
    output: str,
    exit_code: bool,
    server: str,
    token: str,
    as_json: bool,
) -> None:
    """The machines of the farm: how far each has come, and what is the matter.

    Trouble first. TEXT keeps those that have it in name, MAC (however it is
    written), IP, serial, image or a label. The bar has a mark for each phase from
    dhcp to ready: `!` an error, `?` nothing came any more, `>` on its way; a line
    that begins with `i` is a note. docs/nodes.md tells more.

    Examples: `bootfarm nodes --trouble --label rack=r1`, `bootfarm nodes --image old
    -o name`, `bootfarm nodes --watch`.
    """
    if watch and (as_json or exit_code or output != "table"):
        raise click.UsageError("--watch is for people; leave --json, --exit-code and -o out")
    api = Api(server, token)
    query = query | ({"q": text} if text else {})

    def fetch(limit: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        most = {"limit": str(limit)} if limit else {}
        nodes = _objects(api, api.get("/api/nodes", query | most))
        wants_about = not (as_json or output == "name") or (not nodes and _may_be_unknown(query))
        about = api.get("/api/overview", query) if wants_about else {}
        return nodes, about if isinstance(about, dict) else {}

    if watch:
        _watch(fetch, interval)
        return
    found, about = fetch()
    _tell_unknown(about, is_empty=not found)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif output == "name":
        for node in found:
            click.echo(name_of(node))
    elif output == "causes":
        _echo_lines(render_causes(about, width=_width(), most=1000))
    else:
        _print_nodes(found, about, None if output == "wide" else _width())
    if exit_code and any(map(is_in_trouble, found)):
        sys.exit(TROUBLE)


def _may_be_unknown(query: Mapping[str, str]) -> bool:
    """Whether only the server can say that a word of the filter fits nothing."""
    return "image" in query or any(key.startswith(LABEL_PREFIX) for key in query)


def _tell_unknown(about: Mapping[str, Any], *, is_empty: bool) -> None:
    """Say which words of the filter can fit no machine. Raises ServerError where none was found:
    an empty list is the answer to another question."""
    told = about.get("notes")
    notes = [clean(str(note)) for note in told] if isinstance(told, list) else []
    if notes and is_empty:
        raise ServerError("\n".join(notes), hint="`bootfarm nodes -o wide` shows what there is")
    for note in notes:
        click.echo(f"note: {note}", err=True)


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


def _print_nodes(nodes: list[dict[str, Any]], about: Mapping[str, Any], width: int | None) -> None:
    causes = render_causes(about, width=width)
    if causes:
        click.echo("WHAT IS THE MATTER")
        _echo_lines(causes)
        click.echo()
    table = render_table(nodes, time.time(), width=width, unicode=_unicode())
    progress = render_progress(about)
    _echo_lines([*table, "", count_nodes(nodes), *([progress] if progress else [])], nodes)


def _echo_lines(lines: Sequence[str], nodes: Sequence[Mapping[str, Any]] = ()) -> None:
    """Print lines, the rows of `nodes` below a heading in the colours of their states."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for number, line in enumerate(lines):
        node = nodes[number - 1] if 0 < number <= len(nodes) else None
        state = str(node.get("state")) if node is not None else ""
        if colour and state in _COLOURS:
            line = click.style(line, fg=_COLOURS[state])
        click.echo(line)


def _watch(
    fetch: Callable[[int], tuple[list[dict[str, Any]], dict[str, Any]]], interval: float
) -> None:
    """Until Ctrl-C; a server that goes away for a while is told, and waited for."""
    told = False
    try:
        while True:
            width, height = shutil.get_terminal_size()
            nodes, about = _fetch_again(functools.partial(fetch, height), interval)
            if not told:
                _tell_unknown(about, is_empty=not nodes)
                told = True
            screen = render_screen(
                nodes, about, time.time(), width=width, height=height - 1, unicode=_unicode()
            )
            if sys.stdout.isatty():
                click.echo(_CLEAR, nl=False)
            _echo_lines([f"{time.strftime('%H:%M:%S')}  {screen[-1]}", *screen[:-1]])
            time.sleep(interval)
    except KeyboardInterrupt:
        click.echo()


def _fetch_again(fetch: Callable[[], _T], interval: float) -> _T:
    while True:
        try:
            return fetch()
        except LostError as error:
            click.echo(f"{error.message}; trying again", err=True)
        time.sleep(interval)


@click.command("node")
@click.argument("mac")
@click.option(
    "--events", type=click.IntRange(0), default=0, metavar="N", help="Its last N events, too."
)
@click.option(
    "--log",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Show the last N lines of its kernel log.",
)
@click.option("--exit-code", is_flag=True, help=f"Exit with {TROUBLE} if it is in trouble.")
@server_options
def node_command(
    mac: str, events: int, log: int, exit_code: bool, server: str, token: str, as_json: bool
) -> None:
    """One node: what is the matter, what to check, and the timeline of its boot.

    MAC, however it is written, or its IP, name or serial number. The timeline has a line
    for each phase: when it began and how long it lasted, the bytes, rate and
    retransmissions of its transfers. docs/nodes.md tells more.
    """
    api = Api(server, token)
    node = find_node(api, mac)
    key = key_of(node)
    if log:
        node["log"] = api.get(f"/api/nodes/{quote_key(key)}/log")
    if as_json:
        click.echo(json.dumps(node, indent=2))
    else:
        lines = render_node(node, time.time(), unicode=_unicode(), events=events)
        width = _width()
        _echo_lines([cut(line, width) for line in _wrap(lines, width)])
        if log:
            _echo_lines(render_log(node["log"], log))
    if exit_code and is_in_trouble(node):
        sys.exit(TROUBLE)


def _wrap(lines: Sequence[str], width: int | None) -> Iterator[str]:
    """Sentences that are longer than the window go on below; tables are cut."""
    for line in lines:
        if width is None or len(line) <= width or "   " in line.strip():
            yield line
            continue
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        yield from textwrap.wrap(line, width, subsequent_indent=indent)


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
            for one in _objects(
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
        _objects(api, None)
    return cast(dict[str, Any], node)


@click.command("events")
@click.option("--follow", is_flag=True, help="Go on with those that come, until Ctrl-C.")
@click.option(
    "--node",
    metavar="MAC",
    default="",
    callback=_refuse_empty,
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
    callback=lambda context, option, value: _read_span(value) if value else 0.0,
    help="Only of so long ago or later, as 90s, 10m, 2h.",
)
@click.option("--errors", is_flag=True, help="Only errors.")
@click.option(
    "--source",
    metavar="NAME",
    default="",
    callback=lambda context, option, value: _check_source(_refuse_empty(context, option, value)),
    help=f"Only of this source: {', '.join(CAUSES)}.",
)
@server_options
def events_command(
    follow: bool,
    node: str,
    limit: int,
    since: float,
    errors: bool,
    source: str,
    server: str,
    token: str,
    as_json: bool,
) -> None:
    """What the server's services saw lately, oldest first. With --json a line an event."""
    api = Api(server, token)
    key = parse_mac(node) or (key_of(find_node(api, node)) if node else "")
    query = {"node": key} if key else {}
    wanted = _Wanted(time.time() - since if since else 0.0, errors, source)
    names = _Names(api)
    asked = {**query, "limit": str(limit if wanted.is_all else 2000)}
    events = _objects(api, api.get("/api/events", asked))
    last = str(events[-1].get("id", "")) if events else ""
    fitting = list(filter(wanted.has, events))
    shown = fitting[max(0, len(fitting) - limit) :]
    for event in shown:
        _print_event(event, names, as_json)
    if not shown and limit and not as_json and not follow:
        click.echo("no such event since the server's start", err=True)
    if not follow:
        return
    try:
        for data in _follow(api, query, last):
            event = _read_event(data)
            if wanted.has(event):
                _print_event(event, names, as_json)
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
        return not (self.oldest or self.errors or self.source)

    def has(self, event: Mapping[str, Any]) -> bool:
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
                for node in _objects(self._api, self._api.get("/api/nodes")):
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


def _read_span(text: str) -> float:
    """Seconds of `90s`, `10m`, `2h`, `30d`, or a plain number of seconds."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r}: write a number and s, m, h or d, as 30d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]


def _read_old_span(text: str) -> float:
    """A span after which a machine may be forgotten: FORGET_SECONDS at least."""
    seconds = _read_span(text)
    if seconds < FORGET_SECONDS:
        raise click.BadParameter(f"{text!r}: a minute at least (60s)")
    return seconds


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


def _print_event(event: Mapping[str, Any], names: _Names, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(event))
    else:
        name = names.get(str(event.get("node") or ""))
        click.echo(cut(render_event(event, name or None), _width()))
    sys.stdout.flush()


@click.command("forget")
@click.argument("names", metavar="[NODE]...", nargs=-1)
@click.option(
    "--older-than",
    metavar="SPAN",
    default=None,
    callback=lambda context, option, value: None if value is None else _read_old_span(value),
    help="All that were silent for so long, as 30d.",
)
@click.option("--played", is_flag=True, help="All that simulate and doctor have played.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_options
def forget_command(
    names: tuple[str, ...],
    older_than: float | None,
    played: bool,
    yes: bool,
    server: str,
    token: str,
    as_json: bool,
) -> None:
    """Have the server forget machines: a board that was replaced, a guest, a test.

    NODE is a MAC, IP, name or serial number. Timeline and log go; a machine that
    is still there begins anew with what it does next, and one of the inventory is
    "not seen yet" again. Where there is no token, only from the server's own machine.
    """
    if not names and older_than is None and not played:
        raise click.UsageError("say which: NODE, --older-than 30d or --played")
    api = Api(server, token)
    keys = [key_of(find_node(api, name)) for name in names]
    words = [*names, *(["what was silent for so long"] if older_than is not None else [])]
    words += ["what was played"] if played else []
    if not yes and sys.stdin.isatty():
        click.confirm(f"Forget {', '.join(words)}?", abort=True)
    answers = [api.delete(f"/api/nodes/{quote_key(key)}") for key in keys]
    if older_than is not None:
        answers.append(api.delete("/api/nodes", {"older_than": f"{older_than:.0f}"}))
    if played:
        answers.append(api.delete("/api/nodes", {"state": "played"}))
    count = sum(int(number_of(one, "forgotten")) for one in answers if isinstance(one, dict))
    if as_json:
        click.echo(json.dumps({"forgotten": count}))
    else:
        click.echo(f"forgotten: {count} {'machine' if count == 1 else 'machines'}")


COMMANDS = [nodes_command, node_command, events_command, forget_command]
