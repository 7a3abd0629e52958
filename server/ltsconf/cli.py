"""`bootfarm lts`: what an lts.conf means, before a node finds out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from imagebuild.manifest import Manifest, parse_manifest
from imagebuild.store import Store
from server.inventory import load_inventory
from server.ltsconf.conf import LtsConf, NodeId, encode
from server.ltsconf.diff import NodeDiff, diff_nodes
from server.ltsconf.errors import LtsConfError
from server.ltsconf.explain import Explanation, Place, explain
from server.ltsconf.problem import Problem
from server.ltsconf.reading import Given, fetch_nodes, parse_facts, read_text, read_texts
from server.ltsconf.reference import render_reference
from server.ltsconf.report import FORMATS, count, render_report
from server.ltsconf.template import read_secrets
from server.rendering import describe_image

_F = TypeVar("_F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)


@click.group()
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
    click.option("--mac", help="The node's MAC address, for instance 52:54:00:12:34:56."),
)
_root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("."),
    show_default="the current directory",
    help="Includes, also absolute ones, are looked up below this directory and never leave it.",
)
_template_options = _options(
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
        help="The node's image: NAME[:TAG] of --store, or a manifest.json. Its lts_defaults are"
        " the lowest layer.",
    ),
    click.option("--store", type=_PATH, help="The store that holds --image."),
)


@lts.command()
@click.argument("file", type=_PATH)
@_root_option
@_node_options
@_template_options
@click.option("--ltsp5", is_flag=True, help="Lose what LTSP 5 loses, with no more than a remark.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def resolve(
    file: Path,
    root: Path,
    hostname: str | None,
    ip: str | None,
    mac: str | None,
    secrets: Path | None,
    facts: tuple[str, ...],
    image: str | None,
    store: Path | None,
    ltsp5: bool,
    as_json: bool,
) -> None:
    """Print the values that a node gets from FILE (- is standard input).

    FILE is an lts.conf, a template of one, or a ConfigMap manifest whose name
    ends in .yaml, .yml or .json.

    Exit status 1 with a diagnosis where LTSP 5 would silently lose a part of
    the file, or crash. Bytes that are not UTF-8 are printed as they are, and
    in JSON as \\udcXX.
    """
    node = NodeId(hostname, ip, mac)
    # LTSP 5 knows no manifests, and one that is called lts.conf is a mistake to be told.
    text = read_text(file, root, bare=ltsp5 or file.suffix not in (".yaml", ".yml", ".json"))
    given, defaults, _ = _gather(secrets, facts, image, store)
    conf = text.parse(ltsp5=True) if ltsp5 else text.make_conf(node, given)
    _tell(conf.problems)
    values = conf.resolve(node, defaults)
    if as_json:
        click.echo(json.dumps(values, indent=2))
    else:
        _write("".join(f'{key}="{value}"\n' for key, value in values.items()))


@lts.command()
@click.argument("files", type=_PATH, nargs=-1, required=True, metavar="FILE...")
@_root_option
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.pass_context
def check(
    context: click.Context, files: tuple[Path, ...], root: Path, form: str, strict: bool
) -> None:
    """Tell all problems of FILE: an lts.conf, a template of one, or a ConfigMap manifest.

    Exit status 0: no errors; 1: errors (with --strict also warnings); 2: a
    file cannot be read.
    """
    problems: list[Problem] = []
    for file in files:
        try:
            for text in read_texts(file, root):
                problems += text.lint()
        except LtsConfError as error:
            error.show()
            context.exit(2)
    _write(render_report(problems, form))
    errors, warnings = count(problems)
    if form == "text":
        click.echo(f"{errors} errors, {warnings} warnings", err=True)
    if errors or (strict and warnings):
        context.exit(1)


@lts.command("explain")
@click.argument("file", type=_PATH)
@_root_option
@_node_options
@_template_options
@click.option("--key", help="Only this variable, or a family as RCFILE_*.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def explain_command(
    file: Path,
    root: Path,
    hostname: str | None,
    ip: str | None,
    mac: str | None,
    secrets: Path | None,
    facts: tuple[str, ...],
    image: str | None,
    store: Path | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Tell for each value of a node where it comes from, what it overrode, and when it acts."""
    if hostname is None and ip is None and mac is None:
        raise click.UsageError("which node? give --mac, --ip or --hostname")
    node = NodeId(hostname, ip, mac)
    text = read_text(file, root)
    given, defaults, shown = _gather(secrets, facts, image, store)
    conf = text.make_conf(node, given)
    _tell(conf.problems)
    template = str(file) if text.is_template else ""
    found = explain(conf, node, defaults, image=shown, template=template)
    if key is not None:
        wanted = key.upper()
        found = [
            one
            for one in found
            if one.key == wanted or (wanted.endswith("*") and one.key.startswith(wanted[:-1]))
        ]
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=2))
    else:
        _write("".join(_render_explanation(one) for one in found))
        if not found:
            click.echo("The node gets no values.", err=True)


def _render_explanation(one: Explanation) -> str:
    shown = "(unset by NONE)" if one.value is None else f'= "{one.value}"'
    lines = [f"{one.key} {shown}", f"    from  {_render_place(one.origin)}"]
    lines += [f'    over  "{place.value}" {_render_place(place)}' for place in one.overrode]
    lines.append(f"    acts  {one.step}: {one.actor}")
    return "".join(line + "\n" for line in lines)


def _render_place(place: Place) -> str:
    return f"{place.why} ({place.where})"


@lts.command()
@click.argument("old", type=_PATH)
@click.argument("new", type=_PATH)
@_root_option
@_node_options
@_template_options
@click.option("--inventory", type=_PATH, help="A YAML list of nodes: {mac: …, ip: …, hostname: …}.")
@click.option("--server", metavar="URL", help="Ask this server for the nodes that it has seen.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if any node gets something else.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_context
def diff(
    context: click.Context,
    old: Path,
    new: Path,
    root: Path,
    hostname: str | None,
    ip: str | None,
    mac: str | None,
    secrets: Path | None,
    facts: tuple[str, ...],
    image: str | None,
    store: Path | None,
    inventory: Path | None,
    server: str | None,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Tell which nodes would get what different from NEW than from OLD."""
    nodes: list[NodeId] = []
    if inventory is not None:
        nodes += [NodeId(m.hostname, m.ip, m.mac) for m in load_inventory(inventory).machines]
    if server is not None:
        known = {node.mac for node in nodes}
        nodes += [node for node in fetch_nodes(server) if node.mac not in known]
    if hostname is not None or ip is not None or mac is not None:
        nodes.append(NodeId(hostname, ip, mac))
    if not nodes:
        raise click.UsageError(
            "which nodes? give --inventory, --server, or --mac, --ip, --hostname"
        )
    given, _, _ = _gather(secrets, facts, image, store)
    found = diff_nodes(_make_conf_of(old, root, given), _make_conf_of(new, root, given), nodes)
    if as_json:
        click.echo(json.dumps([_diff_to_json(one) for one in found], indent=2))
    else:
        _write("".join(_render_diff(one) for one in found))
        click.echo(f"{len(found)} of {len(nodes)} nodes get something different", err=True)
    if exit_code and found:
        context.exit(1)


def _make_conf_of(file: Path, root: Path, given: Given) -> Callable[[NodeId], LtsConf]:
    text = read_text(file, root)
    if text.is_template:
        return lambda node: text.make_conf(node, given)
    conf = text.parse()
    return lambda node: conf


def _name_node(node: NodeId) -> str:
    return " ".join(one for one in (node.hostname, node.ip, node.mac) if one is not None)


def _render_diff(one: NodeDiff) -> str:
    lines = [f"{_name_node(one.node)}:"]
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


def _diff_to_json(one: NodeDiff) -> dict[str, Any]:
    return {
        "hostname": one.node.hostname,
        "ip": one.node.ip,
        "mac": one.node.mac,
        "changes": {c.key: {"old": c.old, "new": c.new} for c in one.changes},
        "old_error": one.old_error,
        "new_error": one.new_error,
    }


@lts.command()
@click.argument("output", type=_PATH, default=Path("docs/lts.conf.md"))
@click.option("--check", "only_check", is_flag=True, help="Write nothing; exit 1 if it differs.")
@click.pass_context
def reference(context: click.Context, output: Path, only_check: bool) -> None:
    """Write the reference page of the language and its variables [docs/lts.conf.md]."""
    text = render_reference()
    if only_check:
        if not output.exists() or output.read_text("utf-8") != text:
            click.echo(f"{output} is not up to date: run `bootfarm lts reference`", err=True)
            context.exit(1)
        return
    output.write_text(text, "utf-8")


def _gather(
    secrets: Path | None, facts: tuple[str, ...], image: str | None, store: Path | None
) -> tuple[Given, Mapping[str, str], str]:
    """What templates may use, the image's defaults, and how to name the image."""
    about_node, about_farm = parse_facts(facts)
    manifest, shown = _find_image(image, store)
    about_image = None
    if manifest is not None:
        about_image = describe_image(manifest)
        about_node = {"arch": manifest.architecture, **about_node}
    known_secrets = read_secrets(secrets) if secrets is not None else {}
    given = Given(about_node, about_farm, known_secrets, about_image)
    return given, manifest.lts_defaults if manifest is not None else {}, shown


def _find_image(image: str | None, store: Path | None) -> tuple[Manifest | None, str]:
    if image is None:
        return None, ""
    if store is None:
        path = Path(image)
        if not path.is_file():
            raise LtsConfError(
                f"--image {image!r} is no file", hint="Give a manifest.json, or --store and a name."
            )
        manifest = parse_manifest(path.read_bytes())
        return manifest, manifest.name
    name, _, tag = image.replace("@", ":").partition(":")
    found = Store(store).get(name, tag or "current")
    return found.manifest, f"{found.name}@{found.digest[:12]}"


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


COMMANDS: list[click.Command] = [lts]
