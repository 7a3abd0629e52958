"""`bootfarm nodes`, `bootfarm node` and `bootfarm forget`."""

import functools
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import click

from imagebuild.options import (
    JSON_OPTION,
    TABLE,
    Renamed,
    examples,
    is_data,
    output_options,
    render_data,
)
from imagebuild.yamlloader import did_you_mean
from server.diagnosis import RULES
from server.errors import ServerError
from server.nodes.phases import PHASES
from server.observe.marks import ALL_STATES, LABEL_PREFIX, SORTS, STATES
from server.quantities import Seconds
from server.terminal.client import Api, LostError
from server.terminal.render import (
    count_nodes,
    is_in_trouble,
    name_of,
    render_causes,
    render_log,
    render_node,
    render_progress,
    render_screen,
    render_table,
)
from server.terminal.target import (
    find_node,
    find_width,
    key_of,
    quote_key,
    read_list,
    read_span,
    refuse_empty,
    server_options,
)
from server.terminal.words import clean, cut, number_of

TROUBLE = 3
"""Exit code of --exit-code where a node is in trouble."""
FORGET_SECONDS = 60.0
"""Of silence at least, before a machine is forgotten for it."""
_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_CLEAR = "\x1b[H\x1b[J"
_COLOURS = {"look": "red", "booting": "blue", "ready": "green"}


def _filter_options(command: _F) -> _F:
    for option in reversed(
        (
            click.option(
                "state",
                "--states",
                cls=Renamed,
                older=("--state",),
                metavar="STATE,…",
                default="",
                callback=refuse_empty,
                help=f"Only these, with commas: {', '.join(ALL_STATES)}.",
            ),
            click.option("--trouble", is_flag=True, help="Short for --states look."),
            click.option("--phase", type=click.Choice(PHASES), help="Only in this phase."),
            click.option(
                "--image",
                metavar="IMAGE",
                default="",
                callback=refuse_empty,
                help="The image: amd64, amd64:canary, :current, a digest, or old: older"
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
                callback=refuse_empty,
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


@click.command(
    "nodes",
    epilog=examples(
        "bootfarm nodes --trouble --label rack=r1",
        "bootfarm nodes --image old --output name",
        "bootfarm nodes --watch",
    ),
)
@click.argument("text", default="")
@click.option("--watch", is_flag=True, help="Show it anew every --interval seconds, until Ctrl-C.")
@click.option(
    "--interval",
    type=Seconds(0.5, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: between two looks.",
)
@_filter_options
@click.option(
    "--exit-code",
    is_flag=True,
    help=f"Tell by the exit code: {TROUBLE} if one of them is in trouble.",
)
@output_options(["causes"], "causes: what is the matter, a line each.")
@server_options
def nodes_command(
    text: str,
    watch: bool,
    interval: float,
    query: dict[str, str],
    exit_code: bool,
    output: str,
    server: str,
    token: str,
) -> None:
    """The machines of the farm: how far each has come, and what is the matter.

    Trouble first. TEXT keeps those that have it in name, MAC (however it is
    written), IP, serial, image or a label. The bar has a mark for each phase from
    dhcp to ready: `!` an error, `?` nothing came any more, `>` on its way; a line
    that begins with `i` is a note. docs/nodes.md tells more.
    """
    if watch and (exit_code or output != TABLE):
        raise click.UsageError("--watch is for people; leave --json, --exit-code and -o out")
    api = Api(server, token)
    query = query | ({"q": text} if text else {})

    def fetch(limit: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        most = {"limit": str(limit)} if limit else {}
        nodes = read_list(api, api.get("/api/nodes", query | most))
        is_told = not is_data(output) and output != "name"
        wants_about = is_told or (not nodes and _may_be_unknown(query))
        about = api.get("/api/overview", query) if wants_about else {}
        return nodes, about if isinstance(about, dict) else {}

    if watch:
        _watch(fetch, interval)
        return
    found, about = fetch()
    _tell_unknown(about, is_empty=not found)
    if is_data(output):
        click.echo(render_data(found, output), nl=False)
    elif output == "name":
        for node in found:
            click.echo(name_of(node))
    elif output == "causes":
        _echo_lines(render_causes(about, width=find_width(), most=1000))
    else:
        _print_nodes(found, about, None if output == "wide" else find_width())
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


@click.command(
    "node",
    epilog=examples(
        "bootfarm node 52:54:00:12:34:56",
        "bootfarm node node-3 --events 20 --log 40",
        "bootfarm node 10.9.0.13 --output yaml",
    ),
)
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
@click.option(
    "--exit-code", is_flag=True, help=f"Tell by the exit code: {TROUBLE} if it is in trouble."
)
@output_options()
@server_options
def node_command(
    mac: str, events: int, log: int, exit_code: bool, output: str, server: str, token: str
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
    if is_data(output):
        click.echo(render_data(node, output), nl=False)
    elif output == "name":
        click.echo(name_of(node))
    else:
        lines = render_node(node, time.time(), unicode=_unicode(), events=events)
        width = None if output == "wide" else find_width()
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


def _read_old_span(text: str) -> float:
    """A span after which a machine may be forgotten: FORGET_SECONDS at least."""
    seconds = read_span(text)
    if seconds < FORGET_SECONDS:
        raise click.BadParameter(f"{text!r}: a minute at least (60s)")
    return seconds


@click.command(
    "forget",
    epilog=examples("bootfarm forget node-3", "bootfarm forget --older-than 30d --yes"),
)
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
@JSON_OPTION
@server_options
def forget_command(
    names: tuple[str, ...],
    older_than: float | None,
    played: bool,
    yes: bool,
    as_json: bool,
    server: str,
    token: str,
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


COMMANDS = [nodes_command, node_command, forget_command]
