"""`python -m bench`: run the table, print it, write it to bench/results.json."""

import argparse
import datetime
import json
import os
import sys
from pathlib import Path

from bench.client import compile_client
from bench.data import make_data, warm
from bench.page import measure_page
from bench.place import BenchError, come_first, describe_machine, leave_network, load_average
from bench.report import render
from bench.rows import Row, Scale, make_rows, set_image_bytes
from bench.run import run_row
from bench.servers import Servers

WORK = Path(__file__).resolve().parent.parent / "build" / "bench"


def main() -> int:
    options = read_options()
    rows = [row for row in make_rows() if not options.only or row.key in options.only]
    page = not options.only or "page" in options.only
    if not rows and not page:
        keys = ", ".join([*(row.key for row in make_rows()), "page"])
        print(f"no such row; there are {keys}", file=sys.stderr)
        return 2
    os.chdir(Path(__file__).parent.parent)
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        run(rows, page, options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def read_options() -> argparse.Namespace:
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
    return parser.parse_args()


def run(rows: list[Row], page: bool, options: argparse.Namespace) -> None:
    quick = options.quick
    runs = options.runs or (3 if quick else 5)
    seconds = options.seconds or (0.7 if quick else 3.0)
    print("preparing: files, peers, load client", file=sys.stderr)
    data = make_data(WORK, 320 if quick else 1024)
    set_image_bytes(data.size)
    program = compile_client(WORK)
    scale = Scale(seconds, 0.2 if quick else 0.5, options.nodes or (64 if quick else 640), 150,
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
    results = [run_row(row, runs, scale, servers, options.ours or ["bootfarm"]) for row in rows]
    if page:
        results.append(measure_page(runs))
    report = {
        "machine": describe_machine(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "runs": runs,
        "seconds": seconds,
        "load_average": [round(began, 1), round(load_average(), 1)],
        "rows": results,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(render(report))


if __name__ == "__main__":
    sys.exit(main())
