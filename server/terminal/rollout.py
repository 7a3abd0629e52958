"""`bootfarm rollout`: a new image reaches machines in waves (docs/rollouts.md)."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from imagebuild.options import JSON_OPTION, examples, is_data, output_options, render_data
from imagebuild.wholefile import read_whole
from server.errors import ServerError
from server.rollout.spec import ON_DRAIN_TIMEOUT, ON_FAILURE, REBOOT, Spec, parse_spec
from server.rollout.state import BUSY, DONE, LEFT, ON_HOLD, OVER, PROVEN, WAITING
from server.terminal.client import Api, LostError
from server.terminal.target import server_options
from server.terminal.words import clean, number_of, text_of
from server.yamlfile import parse_yaml

LARGEST: Final = 1 << 20
"""Bytes of a rollout's YAML file."""
WATCH_SECONDS: Final = 2.0
NOT_PROVEN: Final = 3
"""Exit code of `watch` for a rollout that holds, or that was taken back."""
_QUIET: Final = (WAITING, PROVEN)


@click.group(
    epilog=examples(
        "bootfarm rollout start amd64:candidate --select rack=r1,r2 --max-unavailable 2",
        "bootfarm rollout watch",
        "bootfarm rollout undo",
    )
)
def rollout() -> None:
    """Have a new image reach machines in waves, and come back by itself when it is bad.

    A preview: docs/rollouts.md says what is proven. farm.yaml switches it on.
    """


@rollout.command(
    epilog=examples(
        "bootfarm rollout start amd64:candidate --waves 1,5%,25%,100%",
        "bootfarm rollout start amd64:candidate --select rack=r1 --window 'mon-fri 22:00-05:00'",
        "bootfarm rollout start --from rollout.yaml",
    )
)
@click.argument("image", required=False)
@click.option(
    "-f",
    "--from",
    "file",
    type=click.Path(path_type=Path),
    help="A YAML file with the same: image, select, waves, …; options count first.",
)
@click.option(
    "--select",
    multiple=True,
    metavar="TERM",
    help="For these machines only: rack=r1,r2 (the inventory's labels), k8s:zone=a (the Node's),"
    " a name, a glob, a MAC; may be repeated.",
)
@click.option(
    "--waves",
    metavar="SIZE,…",
    help="How many machines each wave has reached at its end; the last is 100%."
    f"  [default: {','.join(Spec.waves)}]",
)
@click.option(
    "--max-unavailable",
    metavar="SIZE",
    help="So many Nodes of the cluster may be away at once; a number or per cent.  [default: 1]",
)
@click.option("--window", metavar="TIME", help="When machines are begun with, in UTC.")
@click.option("--move-tag", metavar="TAG", help="The tag that moves to the image at the end.")
@click.option("--failures", type=click.IntRange(1), help="So many machines that fail hold it.")
@click.option("--on-failure", type=click.Choice(ON_FAILURE), help="When so many have failed.")
@click.option(
    "--on-drain-timeout",
    type=click.Choice(ON_DRAIN_TIMEOUT),
    help="What is done with a machine whose pods do not move in time.",
)
@click.option("--reboot-by", type=click.Choice(REBOOT), help="Who reboots machines.")
@click.option("--drain-seconds", type=click.IntRange(1), help="So long may pods take to move.")
@click.option("--boot-seconds", type=click.IntRange(1), help="So long may a machine take to boot.")
@click.option("--ready-seconds", type=click.IntRange(0), help="So long has everything to hold.")
@JSON_OPTION
@server_options
def start(
    image: str | None,
    file: Path | None,
    select: Sequence[str],
    waves: str | None,
    max_unavailable: str | None,
    window: str | None,
    move_tag: str | None,
    failures: int | None,
    on_failure: str | None,
    on_drain_timeout: str | None,
    reboot_by: str | None,
    drain_seconds: int | None,
    boot_seconds: int | None,
    ready_seconds: int | None,
    as_json: bool,
    server: str,
    token: str,
) -> None:
    """Begin a rollout of IMAGE: name:tag or name@digest."""
    given = _read_file(file) if file is not None else {}
    options = {
        "image": image,
        "select": ";".join(select) or None,
        "waves": waves,
        "max_unavailable": max_unavailable,
        "window": window,
        "tag": move_tag,
        "failures": failures,
        "on_failure": on_failure,
        "on_drain_timeout": on_drain_timeout,
        "reboot": reboot_by,
        "drain_seconds": drain_seconds,
        "boot_seconds": boot_seconds,
        "ready_seconds": ready_seconds,
    }
    given |= {key: value for key, value in options.items() if value is not None}
    if not given.get("image"):
        raise click.UsageError("which image? give it as name:tag, or in the file of --from")
    parse_spec(given)
    api = Api(server, token)
    found = _read_answer(api, api.put("/api/rollout", _make_query(given)))
    _say(found, as_json)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data = parse_yaml(read_whole(path, LARGEST), str(path))
    except OSError as error:
        raise ServerError(f"{path}: {error.strerror}", hint="name a YAML file") from None
    if not isinstance(data, dict):
        raise ServerError(f"{path}: it holds no keys", hint="write `image: amd64:candidate`, …")
    return {str(key): value for key, value in data.items()}


def _make_query(given: Mapping[str, Any]) -> dict[str, str]:
    between = {"select": ";", "waves": ","}
    return {
        key: between.get(key, ",").join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in given.items()
    }


@rollout.command(
    epilog=examples("bootfarm rollout status", "bootfarm rollout status --output json")
)
@output_options()
@server_options
def status(output: str, server: str, token: str) -> None:
    """Show the rollout that is under way, or the last one."""
    api = Api(server, token)
    found = _read_answer(api, api.get("/api/rollout"))
    if is_data(output):
        click.echo(render_data(found, output), nl=False)
        return
    machines = _list_machines(found)
    if output == "name":
        click.echo("".join(f"{clean(text_of(one, 'name'))}\n" for one in machines), nl=False)
        return
    click.echo(render_status(found))
    shown = (
        machines if output == "wide" else [one for one in machines if one["phase"] not in _QUIET]
    )
    for one in shown:
        click.echo(render_machine(one))


@rollout.command(epilog=examples("bootfarm rollout watch"))
@server_options
def watch(server: str, token: str) -> None:
    """Follow the rollout until it ends or holds; Ctrl-C ends the watching only.

    Exit status 0: done; 3: it holds, or it was taken back.
    """
    api = Api(server, token)
    said: dict[str, str] = {}
    head = ""
    while True:
        try:
            found = _read_answer(api, api.get("/api/rollout"))
        except LostError as error:
            click.echo(f"{error.message}; asking again", err=True)
            time.sleep(WATCH_SECONDS)
            continue
        now = render_status(found)
        if now != head:
            click.echo(now)
            head = now
        for one in _list_machines(found):
            line = render_machine(one)
            key = text_of(one, "node")
            if line != said.get(key, "") and (key in said or one["phase"] not in _QUIET):
                click.echo(line)
            said[key] = line
        state = text_of(_rollout_of(found), "state")
        if not state or state in (*OVER, ON_HOLD):
            sys.exit(0 if state in ("", DONE) else NOT_PROVEN)
        time.sleep(WATCH_SECONDS)


@rollout.command("pause", epilog=examples("bootfarm rollout pause"))
@JSON_OPTION
@server_options
def pause(as_json: bool, server: str, token: str) -> None:
    """Begin with no further machine; those that reboot go on to their end."""
    _order("pause", as_json, server, token)


@rollout.command("resume", epilog=examples("bootfarm rollout resume"))
@JSON_OPTION
@server_options
def resume(as_json: bool, server: str, token: str) -> None:
    """Go on with a rollout that is paused or holds; what has failed holds it no more."""
    _order("resume", as_json, server, token)


@rollout.command("undo", epilog=examples("bootfarm rollout undo", "bootfarm rollout undo --yes"))
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON_OPTION
@server_options
def undo(yes: bool, as_json: bool, server: str, token: str) -> None:
    """Give all machines of the rollout their last good image again, and the tag back."""
    if not yes:
        api = Api(server, token)
        found = _rollout_of(_read_answer(api, api.get("/api/rollout")))
        counts = found.get("counts")
        reached = number_of(counts, PROVEN) if isinstance(counts, dict) else 0
        click.confirm(f"{reached:.0f} machines that run it are rebooted. Go on?", abort=True)
    _order("undo", as_json, server, token)


def _order(do: str, as_json: bool, server: str, token: str) -> None:
    api = Api(server, token)
    _say(_read_answer(api, api.put("/api/rollout/order", {"do": do})), as_json)


def _say(found: Mapping[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(found) if as_json else render_status(found))


def _read_answer(api: Api, answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict) or "rollout" not in answer:
        raise ServerError(
            f"{api.url}: this is no bootfarm server of this version",
            hint="look at --server (BOOTFARM_SERVER)",
        )
    if not answer.get("enabled"):
        raise ServerError(
            f"{api.url}: this server rolls out nothing",
            hint="`rollout: {enabled: true}` in its farm.yaml (docs/rollouts.md)",
        )
    return answer


def _rollout_of(found: Mapping[str, Any]) -> Mapping[str, Any]:
    one = found.get("rollout")
    return one if isinstance(one, dict) else {}


def _list_machines(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    machines = _rollout_of(found).get("machines")
    return [
        {**one, "phase": text_of(one, "phase")}
        for one in (machines if isinstance(machines, list) else ())
        if isinstance(one, dict)
    ]


def render_status(found: Mapping[str, Any]) -> str:
    """The rollout in one to four lines."""
    one = _rollout_of(found)
    lines = []
    if not one:
        lines.append("there was no rollout yet")
    else:
        found_counts = one.get("counts")
        counts: dict[str, Any] = found_counts if isinstance(found_counts, dict) else {}
        counted = [
            f"{number:.0f} {phase}" for phase in counts if (number := number_of(counts, phase))
        ]
        lines.append(
            f"{text_of(one, 'reference')} {text_of(one, 'digest')[:12]}: {text_of(one, 'state')},"
            f" wave {number_of(one, 'wave'):.0f} of {number_of(one, 'waves'):.0f}:"
            f" {', '.join(counted)}"
        )
        lines += [f"  holds: {text_of(one, 'reason')}"] if text_of(one, "reason") else []
        lines += [f"  waits: {text_of(one, 'waits')}"] if text_of(one, "waits") else []
    lines += [f"  problem: {text_of(found, 'problem')}"] if text_of(found, "problem") else []
    return "\n".join(map(clean, lines))


def render_machine(one: Mapping[str, Any]) -> str:
    """One machine in a line."""
    phase, reason = text_of(one, "phase"), text_of(one, "reason")
    back = ", on its way back" if text_of(one, "goal") == "last" and phase in BUSY else ""
    why = f": {reason}" if reason and phase not in (PROVEN,) else ""
    wave = f"wave {number_of(one, 'wave'):.0f}" if phase != LEFT else "left alone"
    return clean(f"  {text_of(one, 'name')} ({wave}): {phase}{back}{why}")


COMMANDS: list[click.Command] = [rollout]
