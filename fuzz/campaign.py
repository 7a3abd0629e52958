"""`make fuzz`: the fuzzer on one core after another, in rounds, and the record of it.

Each round's count goes to build/fuzz/results.jsonl, so that a campaign may be
cut off and gone on with. `--record` writes the sums into docs/security.md.
"""

import argparse
import datetime
import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from bench.marks import write_between
from bench.place import BenchError

HOUSE: Final = Path(__file__).resolve().parent.parent
CORES: Final = ("tftp", "nbd", "http", "dhcp", "dns", "logs", "ltsconf", "join")
ROUND: Final = 500_000
"""Inputs of one run of the fuzzer: what an interrupted campaign loses at most."""
LONGEST: Final = {"http": 1024, "dns": 600, "ltsconf": 600}
"""Bytes of an input: room for several messages of the core; longer ones only take longer."""
MAX_LONGEST: Final = 4096
"""Bytes of an input for the other cores."""
BEGIN, END = "<!-- fuzz: written by `make fuzz` -->", "<!-- /fuzz -->"
_DONE: Final = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVER: Final = re.compile(r"cov: (\d+) ft: (\d+)")


def run_round(core: str, executions: int, place: Path) -> dict[str, Any]:
    """One run of the fuzzer; what it came to. The corpus stays in `place`/CORE."""
    corpus = place / core
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(importlib.import_module(f"fuzz.{core}").SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    argv = [
        *(
            sys.executable,
            "-m",
            "fuzz.run",
            core,
            f"-runs={executions}",
            f"-max_len={LONGEST.get(core, MAX_LONGEST)}",
        ),
        *("-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"),
        *(f"-artifact_prefix={place}/{core}-", str(corpus)),
    ]
    began = time.monotonic()
    log = place / f"{core}.log"
    with log.open("w") as file:
        status = subprocess.run(argv, stdout=file, stderr=file, cwd=HOUSE, check=False).returncode
    said = log.read_text(errors="replace")
    done = _DONE.findall(said)
    if not done:
        raise SystemExit(f"fuzz {core}: the fuzzer did not run; see {log}:\n{said[-2000:]}")
    covered = _COVER.findall(said)
    return {
        "core": core,
        "date": datetime.date.today().isoformat(),
        "executions": int(done[-1]),
        "seconds": round(time.monotonic() - began, 1),
        "edges": int(covered[-1][0]) if covered else 0,
        "finding": status != 0,
    }


def run_core(core: str, executions: int, place: Path) -> bool:
    """Rounds of one core up to its number; False when it found something, which ends it."""
    left = executions
    while left > 0:
        result = run_round(core, min(ROUND, left), place)
        with (place / "results.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")
        left -= max(result["executions"], 1)
        rate = result["executions"] / max(result["seconds"], 0.1)
        done = executions - max(left, 0)
        print(f"{core}: {done:,} of {executions:,}, {rate:,.0f}/s, {result['edges']} edges")
        sys.stdout.flush()
        if result["finding"]:
            print(f"{core}: FOUND SOMETHING: {place}/{core}-*, and the end of {place}/{core}.log")
            return False
    return True


def sum_up(results: Iterable[Mapping[str, Any]]) -> str:
    """The rounds so far as a table."""
    lines = [
        "| core | inputs | from, to | inputs a second | edges covered | rounds with a finding |",
        "|---|---|---|---|---|---|",
    ]
    found = list(results)
    for core in CORES:
        mine = [result for result in found if result["core"] == core]
        if not mine:
            continue
        total = sum(result["executions"] for result in mine)
        seconds = sum(result["seconds"] for result in mine)
        dates = sorted(result["date"] for result in mine)
        lines.append(
            f"| {core} | {total:,} | {dates[0]}, {dates[-1]} | {total / seconds:,.0f} |"
            f" {max(result['edges'] for result in mine)} |"
            f" {sum(result['finding'] for result in mine)} |"
        )
    return "\n".join(lines)


def record(place: Path, page: Path) -> None:
    """Put the table into a page, between its marks."""
    text = (place / "results.jsonl").read_text()
    table = sum_up(json.loads(line) for line in text.splitlines())
    write_between(page, BEGIN, END, table)


def main() -> None:
    """Run the campaign with the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=10_000_000, help="inputs for each core")
    parser.add_argument("--core", choices=CORES, action="append", help="only this one")
    parser.add_argument("--place", type=Path, default=HOUSE / "build" / "fuzz")
    parser.add_argument("--record", action="store_true", help="write the sums to docs/security.md")
    options = parser.parse_args()
    options.place.mkdir(parents=True, exist_ok=True)
    quiet = [run_core(core, options.executions, options.place) for core in options.core or CORES]
    if options.record:
        try:
            record(options.place, HOUSE / "docs" / "security.md")
        except BenchError as error:
            raise SystemExit(f"fuzz: {error}") from None
    sys.exit(0 if all(quiet) else 1)


if __name__ == "__main__":
    main()
