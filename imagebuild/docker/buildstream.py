"""The engine's stream of a `docker build` as the pipeline's events."""

import re
import time
from collections.abc import Callable
from typing import Any

from imagebuild.pipeline import Event

_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)")
_FROM = re.compile(r"FROM \S+(?: AS (\S+))?", re.IGNORECASE)
_PAINT = re.compile(r"\x1b\[[0-9;]*m")
"""The classic builder paints what a step writes to its standard error."""
_CACHED = "---> Using cache"


class BuildStream:
    """Feed it the engine's messages; it tells `listen` of stages, steps and seconds.

    A stage all of whose steps came from the engine's cache is told as `cached`.
    Other output goes to `line`.
    """

    def __init__(
        self,
        listen: Callable[[Event], None],
        line: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listen = listen
        self._line = line
        self._clock = clock
        self._stage = ""
        self._since = 0.0
        self._steps = 0
        self._cached = 0
        self._begun = False
        self._pending = ""
        self._rest = ""

    def feed(self, message: dict[str, Any]) -> None:
        """Take one message of the stream."""
        self._rest += _PAINT.sub("", str(message.get("stream", "")))
        *lines, self._rest = self._rest.split("\n")
        for line in lines:
            self._take(line.strip("\r"))

    def close(self) -> None:
        """The stream has ended: the last stage is done."""
        self._end_stage()

    def _take(self, line: str) -> None:
        if step := _STEP.fullmatch(line):
            instruction = step[3]
            if start := _FROM.fullmatch(instruction):
                self._end_stage()
                self._stage, self._since = start[1] or f"step {step[1]}", self._clock()
                self._steps = self._cached = 0
                self._begun = False
            elif self._stage:
                self._settle()
                self._steps += 1
                self._pending = f"{step[1]}/{step[2]} {instruction}"
        elif line.strip() == _CACHED:
            self._cached += 1
            self._pending = ""
        elif self._pending and line.lstrip().startswith("---> Running in"):
            self._settle()
        elif line.strip() and not line.lstrip().startswith(("--->", "Removing intermediate")):
            self._settle()
            if line.startswith(f"{self._stage}: "):
                self._tell("step", line.removeprefix(f"{self._stage}: "))
            self._line(line)

    def _settle(self) -> None:
        """Tell that the step that was announced did not come from the cache."""
        if self._pending:
            self._tell("step", self._pending)
            self._pending = ""

    def _tell(self, kind: str, detail: str = "") -> None:
        if not self._begun:
            self._begun = True
            self._listen(Event(self._stage, "start"))
        self._listen(Event(self._stage, kind, self._clock() - self._since, detail))

    def _end_stage(self) -> None:
        if not self._stage:
            return
        self._settle()
        if self._steps and self._cached == self._steps:
            self._listen(Event(self._stage, "cached"))
        elif self._steps:
            self._tell("done")
        self._stage = ""
