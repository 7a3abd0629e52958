"""`python -m tests.floods [--only NAME]… [--record PAGE]`: every flood, the table, the bars."""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.marks import write_between
from tests.floods.attack import FLOODS, Flood
from tests.floods.honest import ASKED
from tests.floods.place import HOUSE, FloodsError, Place, Server, make_place, publish_farm

BEGIN: Final = "<!-- floods: written by `make test-floods` -->"
END: Final = "<!-- /floods -->"
BEFORE_SECONDS: Final = 6.0
RISE_SECONDS: Final = 4.0
"""What a flood has before it is looked at."""
DURING_SECONDS: Final = 8.0
SLOWER: Final = 3.0
LEAST_MS: Final = 5.0
"""A median below it counts as this: of a millisecond three are noise, the flood's own CPU."""
GROWTH_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Outcome:
    """One flood. before, during: of honest.py. memory: bytes before, and the most during."""

    flood: Flood
    before: dict[str, Any]
    during: dict[str, Any]
    memory: tuple[int, int]

    def faults(self) -> list[str]:
        """Each bar that was not met."""
        found = []
        for name in ASKED:
            before, during = self.before[name], self.during[name]
            for when, result in (("before", before), ("during", during)):
                if result["failed"]:
                    found.append(
                        f"{name} {when}: {result['failed']} of {result['count']} requests failed"
                        f" ({'; '.join(result['why'])})"
                    )
            allowed = SLOWER * max(before["median"], LEAST_MS)
            if during["median"] > allowed:
                found.append(
                    f"{name}: median {during['median']:.1f} ms, at most {allowed:.1f} were allowed"
                )
        grown = self.memory[1] - self.memory[0]
        if grown > GROWTH_BYTES:
            found.append(f"the server took {grown >> 20} MiB more")
        return found


def look(place: Place, seconds: float) -> dict[str, Any]:
    """What the honest machine felt for so long."""
    argv = place.argv(place.honest, sys.executable, "-m", "tests.floods.honest", str(seconds))
    done = subprocess.run(argv, cwd=HOUSE, capture_output=True, text=True)
    if done.returncode != 0:
        raise FloodsError(f"the honest machine: {done.stderr.strip()[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def try_flood(flood: Flood) -> Outcome:
    """One flood against a fresh server."""
    with tempfile.TemporaryDirectory(prefix="floods-") as folder, make_place() as place:
        work = Path(folder)
        publish_farm(work)
        with Server(place, work) as server:
            before, small = look(place, BEFORE_SECONDS), server.memory()
            seconds = str(RISE_SECONDS + DURING_SECONDS + 1)
            # Behind the others: it would have a processor of its own.
            words = ("nice", "-n", "5", sys.executable, "-m", "tests.floods.attack")
            attack = subprocess.Popen(
                place.argv(place.flooder, *words, flood.name, seconds), cwd=HOUSE
            )
            try:
                time.sleep(RISE_SECONDS)
                most = server.memory()
                during = look(place, DURING_SECONDS)
                most = max(most, server.memory())
                if (status := attack.poll()) not in (None, 0):
                    raise FloodsError(f"{flood.name}: the flood itself ended with {status}")
            finally:
                attack.kill()
                attack.wait()
            return Outcome(flood, before, during, (small, most))


def render(outcomes: Sequence[Outcome], date: str) -> str:
    """The table as Markdown."""
    head = ["flood", *ASKED, "MiB"]
    lines = [
        f"Last run {date}; medians before → during, in milliseconds.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for one in outcomes:
        cells = [
            f"{one.before[name]['median']:.1f} → {one.during[name]['median']:.1f}"
            + (f", {one.during[name]['failed']} failed" if one.during[name]["failed"] else "")
            for name in ASKED
        ]
        memory = f"{one.memory[0] >> 20} → {one.memory[1] >> 20}"
        lines.append(f"| {one.flood.words} | {' | '.join(cells)} | {memory} |")
    return "\n".join(lines)


def main() -> int:
    names = [flood.name for flood in FLOODS]
    parser = argparse.ArgumentParser(prog="python -m tests.floods", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument("--record", type=Path, help="write the table into this page of docs/")
    options = parser.parse_args()
    wanted = [flood for flood in FLOODS if not options.only or flood.name in options.only]
    outcomes, broken = [], 0
    for flood in wanted:
        try:
            outcome = try_flood(flood)
        except FloodsError as error:
            print(f"{flood.name}: {error}", file=sys.stderr)
            return 2
        outcomes.append(outcome)
        faults = outcome.faults()
        broken += bool(faults)
        print(f"{flood.name}: {'; '.join(faults) or 'as it should be'}", flush=True)
        for name in ASKED:
            before, during = outcome.before[name], outcome.during[name]
            print(
                f"  {name:9} {before['count']:4} asked, median {before['median']:7.1f} ms, worst"
                f" {before['worst']:7.1f}; during the flood {during['count']:4}, {during['failed']}"
                f" failed, {during['median']:7.1f}, {during['worst']:7.1f}",
                flush=True,
            )
        print(f"  memory of its own {outcome.memory[0] >> 20} → {outcome.memory[1] >> 20} MiB")
    if options.record is not None:
        table = render(outcomes, f"{datetime.date.today():%Y-%m-%d}")
        write_between(options.record, BEGIN, END, table)
    print(f"{len(outcomes) - broken} passed, {broken} failed")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
