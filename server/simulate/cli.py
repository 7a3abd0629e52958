"""`bootfarm simulate`: the command."""

import json
import os
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from imagebuild.options import Renamed, examples
from server.errors import ServerError
from server.simulate.crew import Crew, play_first
from server.simulate.limits import Observer, is_local
from server.simulate.loop import Loop
from server.simulate.node import Node
from server.simulate.plan import Plan, loopback_sources, parse_sources, parse_target
from server.simulate.profile import DEFAULT, Fetch, Reads, Step, load_profile
from server.simulate.report import Storm, live_head, live_line, say, to_json
from server.simulate.tally import Result, Tally

LINE_SECONDS: Final = 1.0
"""Between two states of the live table."""
LOG_SECONDS: Final = 5.0
"""Between the lines of the table where it does not go to a terminal."""
MENU: Final = "/ltsp/{image}/grub/grub.cfg"
_DIGEST: Final = re.compile(rb"@([0-9a-f]{64})")
_FILE = click.Path(path_type=Path)


@click.command(
    "simulate",
    epilog=examples(
        "bootfarm simulate --nodes 64 --target 10.9.0.1",
        "bootfarm simulate --nodes 8 --target 127.0.0.1:http=8081 --report storm.json",
    ),
)
@click.option("--nodes", required=True, type=click.IntRange(1, 100_000), help="How many.")
@click.option(
    "--target",
    required=True,
    metavar="HOST[:PORTS]",
    help="The server, as 10.9.0.1 or 127.0.0.1:tftp=6969,nbd=10810,http=8081.",
)
@click.option("--profile", type=_FILE, help="A boot of `serve --record-boot`.  [default: a demo's]")
@click.option("--image", help="The image: what to boot.  [default: the profile's]")
@click.option("--export", help="An NBD export: what nodes read.  [default: the image's]")
@click.option("--ramp", default=0.0, show_default=True, help="Seconds over which nodes start.")
@click.option(
    "--pace",
    default=0.0,
    show_default=True,
    help="1: read when the recorded node did; 2: twice as fast; 0: as fast as it goes.",
)
@click.option(
    "--processes", type=click.IntRange(1, 256), help="Processes that play.  [default: by cores]"
)
@click.option("--sources", metavar="A-B", help="Addresses of this machine that nodes come from.")
@click.option("--patience", default=60.0, show_default=True, help="Seconds without progress.")
@click.option("--no-first-node", is_flag=True, help="No node alone first: the cache stays cold.")
@click.option(
    "report",
    "--report",
    cls=Renamed,
    older=("--json",),
    type=_FILE,
    help="Write the report here, as JSON; - for stdout.",
)
def simulate_command(
    nodes: int,
    target: str,
    profile: Path | None,
    image: str | None,
    export: str | None,
    ramp: float,
    pace: float,
    processes: int | None,
    sources: str | None,
    patience: float,
    no_first_node: bool,
    report: Path | None,
) -> None:
    """Play a storm of booting nodes against a running server.

    Each node fetches loader, kernel, initramfs and lts.conf and then reads the
    root over NBD, as a real one did that was recorded. Says how many nodes a
    minute come up, and what limits it. Only against a server of yours: it is
    as much traffic as the machines can make.
    """
    where = parse_target(target)
    recorded = load_profile(profile or DEFAULT)
    name = image or recorded.image
    plan = Plan(
        target=where,
        profile=recorded,
        image=name,
        digest=recorded.digest,
        export=export or f"/opt/ltsp/{name}",
        pace=pace,
        sources=parse_sources(sources) if sources else loopback_sources(where.host, nodes),
        patience=patience,
    )
    plan = _fit(find_digest(plan))
    alone: Result | None = None
    if not no_first_node:
        click.echo("a first node, alone: what it gets is what all others must get", err=True)
        expected, alone = play_first(replace(plan, pace=0.0))
        plan = replace(plan, expected=expected)
    local = is_local(where.host)
    cores = len(os.sched_getaffinity(0))
    count = min(nodes, processes or max(1, cores - 1 if local else cores))
    storm = run_storm(plan, nodes, count, ramp, alone)
    for line in say(storm):
        click.echo(line, err=report is not None and str(report) == "-")
    if report is not None:
        text = json.dumps(to_json(storm), indent=1) + "\n"
        if str(report) == "-":
            click.echo(text, nl=False)
        else:
            try:
                report.write_text(text)
            except OSError as error:
                raise ServerError(f"--report {report}: {error.strerror}") from None
    if storm.interrupted:
        sys.exit(128 + signal.SIGINT)
    if storm.failed:
        sys.exit(1)


def _fit(plan: Plan) -> Plan:
    """The profile for the root that the target has, where that is of another size."""
    if not any(isinstance(step, Reads) for step in plan.steps):
        return plan
    size = _play_one(plan, Reads((), (0.0,))).export_size
    if not size or size == plan.profile.export_size:
        return plan
    click.echo(
        f"the profile's root has {plan.profile.export_size:,} bytes, this one {size:,}:"
        " reads beyond its end are folded back",
        err=True,
    )
    return replace(plan, profile=plan.profile.fitted(size))


def find_digest(plan: Plan) -> Plan:
    """Ask the target's menu which image it boots now; else the recorded digest stays.

    A server that is none of bootfarm's may have the recorded paths laid out as files.
    """
    via = "http" if any(isinstance(s, Fetch) and s.via == "http" for s in plan.steps) else "tftp"
    for kind in dict.fromkeys((via, "tftp")):
        found = _fetch_menu(plan, kind)
        if found:
            return replace(plan, digest=found)
    return plan


def _fetch_menu(plan: Plan, via: str) -> str:
    node = _play_one(plan, Fetch("http" if via == "http" else "tftp", MENU, 0, 0.0))
    match = _DIGEST.search(node.kept)
    return match[1].decode() if match else ""


def _play_one(plan: Plan, step: Step) -> Node:
    """A node that does one thing only; it may fail."""
    part = replace(plan, profile=replace(plan.profile, steps=(step,)), patience=3.0, pace=0.0)
    tally = Tally()
    loop = Loop(part, tally)
    node = Node(0, part, loop, tally, keep=True)
    loop.run([(0.0, node)])
    return node


def run_storm(plan: Plan, nodes: int, count: int, ramp: float, alone: Result | None) -> Storm:
    """Play it, with the live table; Ctrl-C ends it, and what was seen is told."""
    observer = Observer(plan.target)
    observer.find()
    crew = Crew(plan, nodes, count, ramp)
    terminal = sys.stderr.isatty()
    began = said = time.monotonic()
    before = 0
    interrupted = False
    try:
        crew.start()
        click.echo(live_head(plan), err=True)
        observer.sample(crew.pids)
        while crew.poll(0.2):
            now = time.monotonic()
            if now - said < (LINE_SECONDS if terminal else LOG_SECONDS):
                continue
            observer.sample(crew.pids)
            total = crew.total()
            rate = (total.bytes - before) / (now - said)
            said, before = now, total.bytes
            _print_line(live_line(plan, total, nodes, now - began, rate), terminal)
    except KeyboardInterrupt:
        interrupted = True
        click.echo("\nInterrupted: bootfarm simulate: what was seen up to now", err=True)
    observer.sample(crew.pids)
    total = crew.total()
    seconds = time.monotonic() - began
    _print_line(live_line(plan, total, nodes, seconds, total.bytes / seconds), terminal)
    if terminal:
        click.echo("", err=True)
    crew.stop()
    paced = bool(plan.pace or ramp)
    limits = observer.judge(total.bytes, paced=paced)
    return Storm(plan, nodes, count, ramp, total, limits, alone, interrupted)


def _print_line(line: str, terminal: bool) -> None:
    if terminal:
        click.echo(f"\r{line}", nl=False, err=True)
    else:
        click.echo(line, err=True)
