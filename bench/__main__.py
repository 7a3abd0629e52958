"""`python -m bench`: run the table, print it, write it to bench/results.json."""

import argparse
import datetime
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.client import compile_client
from bench.data import make_data, warm
from bench.marks import write_between
from bench.page import PAGE, PAGE_TITLE, measure_page
from bench.place import BenchError, come_first, describe_machine, leave_network, load_average
from bench.report import BEGIN, END, render_head, render_page, render_row
from bench.rows import Row, Scale, make_rows, set_image_bytes
from bench.run import run_row
from bench.servers import Servers
from imagebuild.wholefile import write_whole

LONG: Final = ("tftp-whole",)
"""Rows that quick runs leave out."""
WORK = Path(__file__).resolve().parent.parent / "build" / "bench"


def main() -> int:
    """Run the bench with the command line's options; the exit code."""
    options = read_options()
    left_out = LONG if options.quick and not options.only else ()
    rows = [
        row
        for row in make_rows()
        if (not options.only or row.key in options.only) and row.key not in left_out
    ]
    page = not options.only or "page" in options.only
    if not rows and not page:
        keys = ", ".join([*(row.key for row in make_rows()), "page"])
        print(f"no such row; there are {keys}", file=sys.stderr)
        return 2
    os.chdir(Path(__file__).parent.parent)
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        return 0 if run(rows, page, options) else 1
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def read_options() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three minutes: fewer, shorter runs")
    parser.add_argument("--only", action="append", default=[], metavar="ROW")
    parser.add_argument("--runs", type=int, help="interleaved runs of each server")
    parser.add_argument("--seconds", type=float, help="measured in each run")
    parser.add_argument("--nodes", type=int, help="of the storm")
    parser.add_argument(
        "--ours",
        action="append",
        metavar="NAME",
        help="`bootfarm`, or `bootfarm N` for N workers; may be repeated",
    )
    parser.add_argument("--output", type=Path, default=Path("bench/results.json"))
    parser.add_argument("--record", type=Path, metavar="PAGE", help="put the table into a page")
    return parser.parse_args()


def run(rows: list[Row], page: bool, options: argparse.Namespace) -> bool:
    """True when every row could be run."""
    quick = options.quick
    runs = options.runs or (2 if quick else 5)
    seconds = options.seconds or (0.4 if quick else 3.0)
    print("preparing: files, peers, load client", file=sys.stderr)
    data = make_data(WORK, 320 if quick else 1024)
    set_image_bytes(data.size)
    program = compile_client(WORK)
    scale = Scale(seconds, 0.1 if quick else 0.5, options.nodes or (16 if quick else 640), 150,
                  program, WORK)  # fmt: skip
    servers = Servers(data, WORK)
    for row in rows:
        for name in row.peers:
            servers.get(name)  # unpacked now, while there is a network
    leave_network()
    come_first()
    for path in (data.image, *data.tree.rglob("*")):
        if path.is_file():
            warm(path)
    began = load_average()
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "runs": runs,
        "seconds": seconds,
        "load_average": [round(began, 1)],
        "rows": [],
    }
    ours = options.ours or ["bootfarm"]
    steps = [
        (row.key, row.title, partial(run_row, row, runs, scale, servers, ours)) for row in rows
    ]
    if page:
        steps.append((PAGE, PAGE_TITLE, partial(measure_page, runs)))
    print(render_head(report), end="\n\n")
    for key, title, step in steps:
        started = time.monotonic()
        try:
            result = step()
        except BenchError as error:
            result = {"key": key, "title": title, "error": str(error)}
        report["rows"].append(result)
        print(f"{key}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        print(render_row(result), end="\n\n", flush=True)
        # Written after each row: a failure in the last row does not lose an hour of others.
        _write_report(options.output, report)
    report["load_average"].append(round(load_average(), 1))
    _write_report(options.output, report)
    if options.record:
        record(report, options.record)
    return not any("error" in row for row in report["rows"])


def _write_report(path: Path, report: dict[str, Any]) -> None:
    write_whole(path, f"{json.dumps(report, indent=1)}\n".encode(), mode=0o644)


def record(report: dict[str, Any], page: Path) -> None:
    """Put the goals' table into a page, between its marks."""
    write_between(page, BEGIN, END, render_page(report))


if __name__ == "__main__":
    sys.exit(main())
