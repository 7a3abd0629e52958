"""The processes that play the nodes, as seen from the one that started them."""

import gc
import multiprocessing
import multiprocessing.connection
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Final

from server.errors import ServerError
from server.services.ports import raise_file_limit
from server.simulate.loop import Loop
from server.simulate.node import Node
from server.simulate.plan import Expected, Plan
from server.simulate.profile import Fetch
from server.simulate.tally import Result, Tally

TELL_SECONDS: Final = 0.5
"""Between two tallies of a process."""
SMALL: Final = 65_536
"""Files up to this size may be made for each node: two nodes' are compared."""
FILES_A_NODE: Final = 3
"""Descriptors that a simulated node holds at most."""


class Crew:
    """Plays `nodes` nodes, started over `ramp` seconds, in `count` processes."""

    def __init__(self, plan: Plan, nodes: int, count: int, ramp: float) -> None:
        self.started = 0.0
        self._plan = plan
        self._nodes = nodes
        self._count = count
        self._ramp = ramp
        self._tallies = [Tally() for _ in range(count)]
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [process.pid for process in self._processes if process.pid is not None]

    def start(self) -> None:
        """Raises ServerError when this process may not open enough files for its nodes."""
        needed = FILES_A_NODE * -(-self._nodes // self._count) + 64
        allowed = raise_file_limit()
        if allowed < needed:
            raise ServerError(
                f"{self._nodes} nodes want {needed} open files in a process, {allowed} are allowed",
                hint="raise the limit (ulimit -n), or use more --processes",
            )
        context = multiprocessing.get_context("fork")
        self.started = time.monotonic() + 0.2
        for part in range(self._count):
            ours, theirs = context.Pipe(duplex=False)
            numbers = range(part, self._nodes, self._count)
            starts = [self.started + self._ramp * n / max(1, self._nodes) for n in numbers]
            process = context.Process(
                target=_play, args=(self._plan, numbers, starts, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def poll(self, seconds: float) -> bool:
        """Take what the processes tell, for so long. False once all of them are done."""
        open_ = [
            pipe for pipe, tally in zip(self._pipes, self._tallies, strict=True) if not tally.over
        ]
        if not open_:
            return False
        for pipe in multiprocessing.connection.wait(open_, seconds):
            assert isinstance(pipe, Connection)
            index = self._pipes.index(pipe)
            try:
                said: Tally = pipe.recv()
            except EOFError:
                raise ServerError(
                    f"process {index} of the simulation ended before its nodes did",
                    hint="its last words are above; was it killed for want of memory?",
                ) from None
            results = self._tallies[index].results + said.results
            self._tallies[index] = replace(said, results=results)
        return True

    def stop(self) -> None:
        """End the processes, done or not."""
        for process in self._processes:
            if process.is_alive():
                process.terminate()
            process.join(5)

    def total(self) -> Tally:
        """All processes' tallies as one."""
        whole = Tally()
        for tally in self._tallies:
            whole.phases.update(tally.phases)
            whole.bytes += tally.bytes
            whole.results += tally.results
            whole.checked_files += tally.checked_files
            whole.checked_reads += tally.checked_reads
            whole.cpu += tally.cpu
        if not any(tally.pid for tally in self._tallies):
            whole.phases["waiting"] = self._nodes
        return whole


def _play(plan: Plan, numbers: Sequence[int], starts: Sequence[float], pipe: Connection) -> None:
    """A process's whole life."""
    gc.freeze()
    tally = Tally(pid=os.getpid())
    loop = Loop(plan, tally)
    nodes = [(at, Node(n, plan, loop, tally)) for n, at in zip(numbers, starts, strict=True)]

    def tell() -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        tally.cpu = used.ru_utime + used.ru_stime
        try:
            pipe.send(tally)
        except (BrokenPipeError, OSError):
            os._exit(1)  # the parent is gone
        tally.results = []

    try:
        loop.run(nodes, tell, TELL_SECONDS)
        tally.over = True
        tell()
    except KeyboardInterrupt:
        pass
    finally:
        pipe.close()


def play_first(plan: Plan) -> tuple[Expected, Result]:
    """Let two nodes of different addresses come up alone, one after the other.

    What both got alike is what all others must get; the second asks for small
    files only, for those may be made for each node. Gives that, the size of the
    root, and the first one's result. ServerError when it did not come up.
    """
    first = _play_alone(plan, 0)
    small = [
        step
        for number, step in enumerate(plan.steps)
        if isinstance(step, Fetch) and first.hashes.get(number, (SMALL + 1,))[0] <= SMALL
    ]
    files = dict(first.hashes)
    if small and len(plan.sources) > 1:
        part = replace(plan, profile=replace(plan.profile, steps=tuple(small)))
        second = _play_alone(part, 1)
        numbers = [number for number, step in enumerate(plan.steps) if step in small]
        for place, number in enumerate(numbers):
            if second.hashes.get(place) != files.get(number):
                files.pop(number, None)
    assert first.result is not None
    return Expected(files, dict(first.read_hashes)), first.result


def _play_alone(plan: Plan, number: int) -> Node:
    tally = Tally()
    loop = Loop(plan, tally)
    node = Node(number, plan, loop, tally, all_hashes=True)
    loop.run([(0.0, node)])
    assert node.result is not None
    if node.result.error:
        raise ServerError(
            f"a first node did not come up: {node.result.phase}: {node.result.error}",
            hint="check --target, its ports and --image; `bootfarm doctor` tells more",
        )
    return node
