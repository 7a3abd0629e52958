"""A build's events as text: a live line on a terminal, plain lines in a log."""

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from imagebuild.pipeline import Event

_PERIOD = 0.5
"""Seconds between two drawings of the running step's line."""


def format_seconds(seconds: float) -> str:
    """`4.2 s`, `1 min 05 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


class Progress:
    """Prints each stage and its steps with their seconds; use as a context manager.

    On a terminal the running step is redrawn twice a second with the last
    line that its command wrote; elsewhere every step is a line of its own.
    """

    def __init__(
        self, stream: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._stage = ""
        self._step = ""
        self._line = ""
        self._since = 0.0
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Progress":
        if self.live:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self.live:
            self._ticker.join()
            self._clear()

    def line(self, text: str) -> None:
        """Remember the last line of a command's output."""
        if text.strip():
            self._line = text.strip()

    def event(self, event: Event) -> None:
        """Show an event of the pipeline."""
        with self._lock:
            if event.kind == "start":
                self._stage, self._step, self._since = event.stage, "", self.clock()
                if not self.live:
                    self._print(f"{event.stage} ...")
            elif event.kind == "step":
                self._step, self._line = event.detail, ""
                if not self.live:
                    self._print(f"  {event.stage}: {event.detail} ({event.seconds:.1f} s)")
            elif event.kind == "cached":
                self._print(f"{event.stage:<12} unchanged, from the cache")
            elif event.kind == "done":
                self._stage = ""
                self._print(f"{event.stage:<12} {format_seconds(event.seconds)}")
            elif event.kind == "note":
                self._print(event.detail)
            elif event.kind == "waiting":
                self._print(f"waiting for {event.detail}")

    def _print(self, text: str) -> None:
        self._clear()
        self.stream.write(text + "\n")
        self.stream.flush()

    def _clear(self) -> None:
        if self.live:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def _tick(self) -> None:
        while not self._stop.wait(_PERIOD):
            with self._lock:
                if self._stage:
                    seconds = format_seconds(self.clock() - self._since)
                    text = f"{self._stage:<12} {seconds}  {self._step}  {self._line}"
                    self.stream.write(f"\r\x1b[K{text[:100]}")
                    self.stream.flush()
