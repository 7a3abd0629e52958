"""`bootfarm lts`: what an lts.conf means, before a node finds out."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from imagebuild.errors import show_plain
from imagebuild.options import AS_JSON, examples
from server.commands.lts_given import (
    Options,
    Scene,
    gather,
    list_nodes,
    parse_node,
)
from server.commands.lts_import import import_command
from server.commands.lts_machines import check_on_machines
from server.errors import ServerError
from server.ltsconf.conf import LtsConf, NodeId, decode, encode
from server.ltsconf.diff import NodeDiff, diff_nodes
from server.ltsconf.errors import LtsConfError
from server.ltsconf.explain import Explanation, Place, describe_losers, explain
from server.ltsconf.lint_values import suggest
from server.ltsconf.problem import Problem, Source
from server.ltsconf.reading import read_text, read_texts
from server.ltsconf.reference import render_reference, render_variable
from server.ltsconf.report import FORMATS, count, describe_count, render_report
from server.ltsconf.variables import Variable, find_variable
from server.quantities import compress_names

_PAGE = Path("docs/lts.conf.md")
_FOR_NODE = re.compile(r" \(for node [^)]*\)")
_F = TypeVar("_F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
UNREAD = 2
"""Exit status, where a file could not be read, or nodes could not be compared."""


class _Group(click.Group):
    """What `check` and `diff` could not read, and so not compare, ends with 2: 1 says that they
    found something."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ServerError as error:
            if ctx.invoked_subcommand not in ("check", "diff"):
                raise
            error.show()
            ctx.exit(UNREAD)


@click.group(
    cls=_Group,
    epilog=examples(
        "bootfarm lts check lts.conf --config farm.yaml",
        "bootfarm lts explain lts.conf --config farm.yaml --mac 52:54:00:12:34:56",
    ),
)
def lts() -> None:
    """Try an lts.conf: what each node gets, and why."""


def _options(*options: Callable[[Any], Any]) -> Callable[[_F], _F]:
    def decorate(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_node_options = _options(
    click.option("--hostname", help="The node's host name."),
    click.option("--ip", help="The node's IPv4 address."),
    click.option("--mac", help="The machine's MAC: for instance 52:54:00:12:34:56."),
)
_root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("."),
    show_default="the current directory",
    help="Includes, also absolute ones, are looked up below this directory and never leave it.",
)


def _scene_options(command: _F) -> _F:
    """The options that say what is known besides the text, as one argument `options`."""

    @functools.wraps(command)
    def gather_options(*arguments: Any, **named: Any) -> Any:
        fields = {field.name: named.pop(field.name) for field in dataclasses.fields(Options)}
        return command(*arguments, options=Options(**fields), **named)

    return _options(
        click.option(
            "--config",
            type=_PATH,
            help="The server's farm.yaml: facts, secrets, inventory, store and default_image.",
        ),
        click.option(
            "--secrets",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="For templates: a directory of files, as a mounted Secret is.",
        ),
        click.option(
            "--fact",
            "facts",
            multiple=True,
            metavar="NAME=VALUE",
            help="For templates: node.serial=…, farm.site=…; may be repeated.",
        ),
        click.option(
            "--image",
            help="The image: NAME[:TAG] of the store, or a manifest.json. Its lts_defaults are the"
            " lowest layer.",
        ),
        click.option("--store", type=_PATH, help="The store: holds the images."),
        click.option(
            "--inventory", type=_PATH, help="The machines: a YAML list of {mac, ip, hostname}."
        ),
        click.option("--show-secrets", is_flag=True, help="Print secrets as they are."),
    )(gather_options)  # type: ignore[return-value]


@lts.command(
    epilog=examples(
        "bootfarm lts resolve lts.conf --config farm.yaml --mac 52:54:00:12:34:56",
        "kubectl kustomize k8s/base | bootfarm lts resolve - --hostname node-1 --json",
    )
)
@click.argument("file", type=_PATH)
@_root_option
@_node_options
@_scene_options
@click.option("--ltsp5", is_flag=True, help="Lose what LTSP 5 loses, with no more than a remark.")
@click.option("--json", "as_json", is_flag=True, help=f"{AS_JSON[:-1]}: one object.")
def resolve(
    file: Path,
    root: Path,
    hostname: str | None,
    ip: str | None,
    mac: str | None,
    options: Options,
    ltsp5: bool,
    as_json: bool,
) -> None:
    """Print the values that a node gets from FILE (- is standard input).

    FILE is an lts.conf, a template of one, or a manifest with a ConfigMap or
    Secret that holds one (with --ltsp5 always an lts.conf). Secrets are masked.

    Exit status 1 with a diagnosis where LTSP 5 would silently lose a part of
    the file, or crash. Bytes that are not UTF-8 are printed as they are, and
    in JSON as \\udcXX.
    """
    # What is called lts.conf is read as the server reads it: a manifest is a mistake there.
    text = read_text(file, root, bare=ltsp5 or file.suffix == ".conf")
    scene = _gather(options)
    node = scene.find_node(parse_node(hostname, ip, mac))
    conf = text.parse(ltsp5=True) if ltsp5 else scene.make_conf(text, node)
    _tell(conf.problems)
    defaults, _ = scene.find_defaults(conf, node)
    values = {key: scene.mask(value) for key, value in conf.resolve(node, defaults).items()}
    if as_json:
        click.echo(json.dumps(values, indent=2))
    else:
        _write("".join(f'{key}="{value}"\n' for key, value in values.items()))


@lts.command(
    epilog=examples(
        "bootfarm lts render lts.conf --config farm.yaml --mac 52:54:00:12:34:56",
        "bootfarm lts render lts.conf --hostname node-1 --fact farm.site=lab --numbers",
    )
)
@click.argument("file", type=_PATH)
@_root_option
@_node_options
@_scene_options
@click.option("--numbers", is_flag=True, help="Put the template's line before each line.")
def render(
    file: Path,
    root: Path,
    hostname: str | None,
    ip: str | None,
    mac: str | None,
    options: Options,
    numbers: bool,
) -> None:
    """Print the text that a template gives for one node; other files as they are.

    Secrets are masked. Exit status 1 where it cannot be rendered.
    """
    text = read_text(file, root)
    scene = _gather(options)
    node = scene.find_node(parse_node(hostname, ip, mac))
    if text.is_template:
        source = scene.make_conf(text, node).document.sources[0]
    else:
        source = Source(text.main.path, text.main.data or b"", text.main.origin)
    lines = decode(source.data).split("\n")
    ends = lines.pop() if lines[-1] == "" else None
    shown = []
    for number, line in enumerate(lines, start=1):
        at = source.origin.find_line(number) if source.origin is not None else number
        shown.append(f"{at:>5}  {scene.mask(line)}" if numbers else scene.mask(line))
    _write("\n".join(shown) + ("\n" if ends is not None or numbers else ""))


@lts.command(
    epilog=examples(
        "bootfarm lts check lts.conf",
        "bootfarm lts check lts.conf --config farm.yaml --strict",
        "kubectl kustomize k8s/base | bootfarm lts check - --format github",
    )
)
@click.argument("files", type=_PATH, nargs=-1, required=True, metavar="FILE...")
@_root_option
@_scene_options
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="The format: of problems.",
)
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("--stdin-filename", default="", help="What - is called in messages.")
@click.pass_context
def check(
    context: click.Context,
    files: tuple[Path, ...],
    root: Path,
    options: Options,
    form: str,
    strict: bool,
    stdin_filename: str,
) -> None:
    """Tell all problems of FILE: an lts.conf, a template of one, or a manifest that holds one.

    With --config, --inventory or --store it is tried on the machines and images, too,
    as the server does.

    Exit status 0: no errors; 1: errors (with --strict also warnings); 2: a
    file cannot be read.
    """
    scene = _gather(options)
    problems: list[Problem] = []
    unread = 0
    for file in files:
        try:
            for text in read_texts(file, root, shown=stdin_filename if str(file) == "-" else ""):
                found = text.lint(farm=scene.farm, secrets=scene.secrets)
                problems += found + check_on_machines(text, scene, found)
        except LtsConfError as error:
            error.show()
            unread += 1
    _write(render_report(problems, form))
    errors, warnings = count(problems)
    if form == "text":
        names = ", ".join(stdin_filename or "<stdin>" if str(f) == "-" else str(f) for f in files)
        fine = not (errors or warnings or unread)
        said = f"{names}: ok" if fine else describe_count(errors, warnings)
        if unread:
            said += f", {unread} of {len(files)} could not be read"
        click.echo(said, err=True)
    if unread:
        context.exit(UNREAD)
    if errors or (strict and warnings):
        context.exit(1)


@lts.command(
    "explain",
    epilog=examples(
        "bootfarm lts explain lts.conf --config farm.yaml --mac 52:54:00:12:34:56",
        "bootfarm lts explain lts.conf --hostname node-1 --key TIMEZONE",
    ),
)
@click.argument("file", type=_PATH)
@_root_option
@_node_options
@_scene_options
@click.option("--key", help="Only this variable, or a family as RCFILE_*.")
@click.option("--json", "as_json", is_flag=True, help=f"{AS_JSON[:-1]}: a list.")
@click.pass_context
def explain_command(
    context: click.Context,
    file: Path,
    root: Path,
    hostname: str | None,
    ip: str | None,
    mac: str | None,
    options: Options,
    key: str | None,
    as_json: bool,
) -> None:
    """Tell for each value of a node where it comes from, what it overrode, and when it acts.

    Sections that match the node too and are not used are told as well. Secrets are masked.
    """
    if hostname is None and ip is None and mac is None:
        raise click.UsageError("which node? give --mac, --ip or --hostname")
    text = read_text(file, root)
    scene = _gather(options)
    node = scene.find_node(parse_node(hostname, ip, mac))
    conf = scene.make_conf(text, node)
    _tell(conf.problems)
    template = str(file) if text.is_template else ""
    defaults, shown = scene.find_defaults(conf, node)
    found = [
        _mask_explanation(one, scene)
        for one in explain(conf, node, defaults, image=shown, template=template)
    ]
    losers = describe_losers(conf, node)
    if key is not None:
        found = _pick(found, key)
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=2))
    else:
        _write(show_plain("".join(_render_explanation(one) for one in found)))
    if key in (None, "IMAGE") and (words := scene.explain_rollout(conf, node)):
        click.echo(f"rollout: {words}", err=as_json)
    if key is None:
        for line in losers:
            click.echo(f"not used: {line}", err=as_json)
    if not found:
        if key is None:
            click.echo("The node gets no values.", err=True)
        elif find_variable(key.upper()) is None and not key.endswith("*"):
            near = suggest(key.upper())
            hint = f"did you mean {near}?" if near else "`bootfarm lts reference` lists all"
            click.echo(f"error: {key.upper()} is no variable of this node; {hint}", err=True)
            context.exit(1)
        else:
            click.echo(f"{key.upper()} is not set for this node.", err=True)


def _pick(found: list[Explanation], key: str) -> list[Explanation]:
    wanted = key.upper()
    return [
        one
        for one in found
        if one.key == wanted or (wanted.endswith("*") and one.key.startswith(wanted[:-1]))
    ]


def _mask_explanation(one: Explanation, scene: Scene) -> Explanation:
    def mask(place: Place) -> Place:
        return dataclasses.replace(place, value=scene.mask(place.value))

    return dataclasses.replace(
        one,
        value=None if one.value is None else scene.mask(one.value),
        origin=mask(one.origin),
        overrode=tuple(mask(place) for place in one.overrode),
    )


def _render_explanation(one: Explanation) -> str:
    shown = "(unset by NONE)" if one.value is None else f'= "{one.value}"'
    lines = [f"{one.key} {shown}", f"    from  {_render_place(one.origin)}"]
    lines += [f'    over  "{place.value}" {_render_place(place)}' for place in one.overrode]
    lines.append(f"    acts  {one.step}: {one.actor}")
    return "".join(line + "\n" for line in lines)


def _render_place(place: Place) -> str:
    return f"{place.why} ({place.where})"


@lts.command(
    epilog=examples(
        "bootfarm lts diff <(git show HEAD:lts.conf) lts.conf --config farm.yaml",
    )
)
@click.argument("old", type=_PATH)
@click.argument("new", type=_PATH)
@_root_option
@_node_options
@_scene_options
@click.option(
    "--server",
    metavar="URL",
    help="The server: ask it for the nodes that it has seen; without other nodes"
    " BOOTFARM_SERVER's.",
)
@click.option(
    "--exit-code", is_flag=True, help="Tell by the exit code: 1 if any node gets something else."
)
@click.option("--summary", is_flag=True, help="Only which variables change, for how many nodes.")
@click.option("--names", is_flag=True, help="All names of the nodes of a change.")
@click.option("--json", "as_json", is_flag=True, help=f"{AS_JSON[:-1]}: a list, an object a node.")
@click.pass_context
def diff(
    context: click.Context,
    old: Path,
    new: Path,
    root: Path,
    hostname: str | None,
    ip: str | None,
    mac: str | None,
    options: Options,
    server: str | None,
    exit_code: bool,
    summary: bool,
    names: bool,
    as_json: bool,
) -> None:
    """Tell which nodes would get what different from NEW than from OLD.

    Nodes with the same changes are told together. Secrets are masked.

    Exit status 0; 1: with --exit-code, if a node gets something else; 2: nodes could
    not be compared, because one of the two gives them no values.
    """
    scene = _gather(options)
    nodes = list_nodes(scene, server, parse_node(hostname, ip, mac))
    if not nodes:
        raise click.UsageError(
            "which nodes? give --config, --inventory, --server, or --mac, --ip, --hostname"
        )
    found = diff_nodes(_make_conf_of(old, root, scene), _make_conf_of(new, root, scene), nodes)
    failed = sum(one.failed for one in found)
    changed = len(found) - failed
    if as_json:
        click.echo(json.dumps([_diff_to_json(one, scene) for one in found], indent=2))
    else:
        text = _render_summary(found) if summary else _render_groups(found, scene, names)
        _write(show_plain(scene.mask(text)))
    click.echo(f"{changed} of {len(nodes)} nodes get something different", err=True)
    if failed:
        click.echo(f"error: {failed} of {len(nodes)} nodes could not be compared", err=True)
        context.exit(UNREAD)
    if exit_code and changed:
        context.exit(1)


def _make_conf_of(file: Path, root: Path, scene: Scene) -> Callable[[NodeId], LtsConf]:
    text = read_text(file, root)
    if text.is_template:
        return lambda node: scene.make_conf(text, node)
    conf = text.parse()
    return lambda node: conf


def _name_node(node: NodeId) -> str:
    return " ".join(one for one in (node.hostname, node.ip, node.mac) if one is not None)


def _render_groups(found: Sequence[NodeDiff], scene: Scene, names: bool) -> str:
    """The nodes of each change together, the largest group first."""
    groups: dict[tuple[object, str, str], list[NodeDiff]] = {}
    for one in found:
        errors = (_FOR_NODE.sub("", one.old_error), _FOR_NODE.sub("", one.new_error))
        groups.setdefault((one.changes, *errors), []).append(one)
    parts = []
    for members in sorted(groups.values(), key=len, reverse=True):
        head = _name_node(members[0].node)
        if len(members) > 1:
            words = [_shorten_name(one.node) for one in members]
            shown = ", ".join(words) if names else compress_names(words)
            head = f"{len(members)} nodes ({shown})"
        parts.append(_render_diff(members[0], head))
    return "".join(parts)


def _shorten_name(node: NodeId) -> str:
    return node.hostname or node.mac or node.ip or "?"


def _render_summary(found: Sequence[NodeDiff]) -> str:
    counts: dict[str, int] = {}
    for one in found:
        for change in one.changes:
            counts[change.key] = counts.get(change.key, 0) + 1
    return "".join(
        f"{key}: {number} node{'' if number == 1 else 's'}\n" for key, number in counts.items()
    )


def _render_diff(one: NodeDiff, head: str) -> str:
    lines = [f"{head}:"]
    if one.old_error:
        lines.append(f"    old: {one.old_error}")
    if one.new_error:
        lines.append(f"    new: {one.new_error}")
    for change in one.changes:
        if change.old is not None:
            lines.append(f'  - {change.key}="{change.old}"')
        if change.new is not None:
            lines.append(f'  + {change.key}="{change.new}"')
    return "".join(line + "\n" for line in lines)


def _diff_to_json(one: NodeDiff, scene: Scene) -> dict[str, Any]:
    def mask(value: str | None) -> str | None:
        return None if value is None else scene.mask(value)

    return {
        "hostname": one.node.hostname,
        "ip": one.node.ip,
        "mac": one.node.mac,
        "changes": {c.key: {"old": mask(c.old), "new": mask(c.new)} for c in one.changes},
        "old_error": one.old_error,
        "new_error": one.new_error,
    }


@lts.command(
    epilog=examples(
        "bootfarm lts reference TIMEZONE",
        "bootfarm lts reference docs/lts.conf.md",
    )
)
@click.argument("what", metavar="[VARIABLE|FILE]", required=False)
@click.option("--check", "checked", is_flag=True, help="Only check: exit 1 if FILE differs.")
@click.pass_context
def reference(context: click.Context, what: str | None, checked: bool) -> None:
    """Print the reference page of the language and its variables, or what VARIABLE is.

    With FILE (a name with a dot or a slash) the page is written there.
    """
    is_file = what is not None and what != "-" and ("." in what or "/" in what)
    if what is not None and what != "-" and not is_file and not checked:
        click.echo(render_variable(_find_variable(what)), nl=False)
        return
    text = render_reference()
    output = Path(what) if is_file and what is not None else _PAGE
    if checked:
        if not output.is_file() or output.read_text("utf-8") != text:
            click.echo(
                f"{output} is not up to date: run `bootfarm lts reference {output}`", err=True
            )
            context.exit(1)
        return
    if not is_file:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise LtsConfError(
            f"cannot be written: {error.strerror}", path=str(output), hint="Name another file."
        ) from None


def _find_variable(name: str) -> Variable:
    key = name.upper().rstrip("*_")
    found = find_variable(key) or find_variable(key + "_")
    if found is not None:
        return found
    near = suggest(key)
    raise LtsConfError(
        f"there is no variable {name!r}",
        hint=f"Did you mean {near}?" if near else "`bootfarm lts reference` lists all.",
    )


def _gather(options: Options) -> Scene:
    """What the options name; what farm.yaml names and this machine has not is a line each."""
    scene = gather(options)
    for line in scene.missing:
        click.echo(f"note: {line}: what depends on it is not checked", err=True)
    return scene


def _tell(problems: Iterable[Problem]) -> None:
    """Problems on standard error, a line each and one with the remedy."""
    for problem in problems:
        where = f"{problem.path}:{problem.line}:{problem.column}"
        click.echo(f"{problem.severity}: {where}: {problem.message} [{problem.code}]", err=True)
        click.echo(f"  hint: {problem.hint}", err=True)


def _write(text: str) -> None:
    """Text that may hold bytes that are not UTF-8."""
    sys.stdout.buffer.write(encode(text))
    sys.stdout.buffer.flush()


lts.add_command(import_command)

COMMANDS: list[click.Command] = [lts]
