"""`make bench-boot`: power-on to login, ours and LTSP's in turns, on one virtual machine each."""

import argparse
import datetime
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.boot.ltsp import LtspServer, make_trees
from bench.boot.measure import Figures, watch_boot
from bench.boot.report import BEGIN, END, render_page
from bench.marks import write_between
from bench.place import BenchError, describe_machine, load_average
from imagebuild.recipe.read import load_recipe
from imagebuild.stages import basesystem
from imagebuild.wholefile import write_whole
from rack.cache import run
from rack.errors import RackError
from rack.machine import Firmware, NodeSpec
from rack.process import Process
from rack.rack import Rack
from rack.server import BOOTFARM

HOUSE: Final = Path(__file__).resolve().parent.parent.parent
WORK: Final = HOUSE / "build" / "bench" / "boot"
RECIPE: Final = Path(__file__).parent / "recipe.yaml"
MEMORY: Final = 1024
"""MiB of each machine."""


@dataclass
class Side:
    """One way to boot, ready to be measured: its rack, and what serves in it."""

    rack: Rack
    servers: tuple[Process, ...]


def start_ours(stack: ExitStack, store: Path, grub: bool) -> Side:
    """`bootfarm serve` with an empty lts.conf, and the site's DHCP server as we describe it."""
    kind = "grub" if grub else "loader"
    directory = WORK / f"rack-{kind}"
    rack = stack.enter_context(
        Rack(directory, image_name="bench", dhcp="grub" if grub else "loader")
    )
    server = rack.serve(
        store, "[default]\nKEEP_SYSTEM_SERVICES = ssh\n", config={"default_image": "bench"}
    )
    return Side(rack, (*server.processes, *rack.dhcp.processes))


def start_ltsp(stack: ExitStack, tree: Path) -> Side:
    """LTSP's dnsmasq and an NFS server."""
    rack = stack.enter_context(Rack(WORK / "rack-ltsp", dhcp="none"))
    rack.dhcp.stop()
    server = LtspServer(rack.namespace, tree, rack.directory / "ltsp")
    server.start()
    return Side(rack, tuple(server.processes))


def read_options() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="bench.boot", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="boots of each side (5)")
    parser.add_argument(
        "--firmware", choices=("bios", "uefi"), action="append", help="both, if not given"
    )
    parser.add_argument("--no-ltsp", action="store_true", help="ours alone, to look for seconds")
    parser.add_argument("--grub", action="store_true", help="ours by GRUB, too")
    parser.add_argument("--output", type=Path, default=HOUSE / "bench" / "boot.json")
    parser.add_argument("--record", type=Path, metavar="PAGE", help="put the table into a page")
    return parser.parse_args()


def main() -> int:
    """Run `make bench-boot` with the command line's options; the exit code."""
    options = read_options()
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        report = measure(options)
    except (BenchError, RackError) as error:
        print(f"bench-boot: {error}", file=sys.stderr)
        return 1
    write_whole(options.output, (json.dumps(report, indent=1) + "\n").encode(), mode=0o644)
    page = render_page(report)
    print(page)
    if options.record:
        write_between(options.record, BEGIN, END, page)
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds; the report as it is written to bench/boot.json."""
    say("building the image of both sides (bench/boot/recipe.yaml); minutes when it is new")
    store = WORK / "store"
    run([*BOOTFARM, "build", RECIPE, "--store", store], cwd=HOUSE, log=WORK / "build.log")
    makers: dict[str, Callable[[ExitStack], Side]] = {
        "bootfarm": lambda stack: start_ours(stack, store, grub=False)
    }
    if options.grub:
        makers["bootfarm by GRUB"] = lambda stack: start_ours(stack, store, grub=True)
    if not options.no_ltsp:
        say("LTSP's trees: mmdebstrap, `ltsp image`; minutes when they are new")
        tree = make_trees(WORK, basesystem.packages(load_recipe(RECIPE)))
        makers["LTSP"] = lambda stack: start_ltsp(stack, tree)
    load = load_average()
    rounds: list[dict[str, Any]] = []
    with ExitStack() as stack:
        sides = {name: make(stack) for name, make in makers.items()}
        for firmware in options.firmware or ("bios", "uefi"):
            for number in range(options.rounds):
                for name, side in sides.items():
                    figures = boot(side, firmware)
                    say(
                        f"{firmware} {number + 1}/{options.rounds} {name}:"
                        f" {figures.seconds:.1f} s, QEMU {figures.cpu['login']:.1f} CPU s,"
                        f" {figures.to_node / 1e6:.1f} MB"
                    )
                    rounds.append(
                        {"firmware": firmware, "round": number, "side": name, **asdict(figures)}
                    )
    return {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "load_average": load,
        "rounds": rounds,
    }


def boot(side: Side, firmware: Firmware) -> Figures:
    """One boot of the side's machine with that firmware."""
    node = side.rack.nodes.get(firmware) or side.rack.add_node(
        NodeSpec(firmware, firmware=firmware, memory=MEMORY)
    )
    return watch_boot(side.rack.namespace, node, side.servers)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
