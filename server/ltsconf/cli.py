"""`bootfarm lts`: what an lts.conf means, before a node finds out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from server.ltsconf.conf import LtsConf, NodeId, encode
from server.ltsconf.problem import Problem


@click.group()
def lts() -> None:
    """Try an lts.conf: what each node gets, and why."""


def _node_options(command: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option("--mac", help="The node's MAC address, for instance 52:54:00:12:34:56."),
        click.option("--ip", help="The node's IPv4 address."),
        click.option("--hostname", help="The node's host name."),
    ):
        command = option(command)
    return command


_file_argument = click.argument("file", type=click.Path(path_type=Path))
_root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("."),
    show_default="the current directory",
    help="Includes, also absolute ones, are looked up below this directory and never leave it.",
)


@lts.command()
@_file_argument
@_root_option
@_node_options
@click.option("--ltsp5", is_flag=True, help="Lose what LTSP 5 loses, in silence but for a remark.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def resolve(
    file: Path,
    root: Path,
    hostname: str | None,
    ip: str | None,
    mac: str | None,
    ltsp5: bool,
    as_json: bool,
) -> None:
    """Print the values that a node gets from FILE.

    Exit status 1 with a diagnosis where LTSP 5 would silently lose a part of
    the file, or crash. Bytes that are not UTF-8 are printed as they are, and
    in JSON as \\udcXX.
    """
    conf = LtsConf.load(file, root, ltsp5=ltsp5)
    tell_problems(conf.problems)
    values = conf.resolve(NodeId(hostname, ip, mac))
    if as_json:
        click.echo(json.dumps(values, indent=2))
    else:
        for key, value in values.items():
            sys.stdout.buffer.write(encode(f'{key}="{value}"\n'))


def tell_problems(problems: list[Problem]) -> None:
    """Print problems on standard error, one line each and one with the remedy."""
    for problem in problems:
        where = f"{problem.path}:{problem.line}:{problem.column}"
        text = f"{problem.severity}: {where}: {problem.message} [{problem.code}]\n"
        sys.stderr.buffer.write(encode(f"{text}  hint: {problem.hint}\n"))
    sys.stderr.flush()


COMMANDS: list[click.Command] = [lts]
