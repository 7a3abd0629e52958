"""What a person sees while something takes long: one line a step, with its seconds."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str], None]

HEARTBEAT = 30.0
"""Seconds after which a step that still runs says so, where the output is no terminal."""


class StepPrinter:
    """Prints each step as it starts and how long it took.

    On a terminal the running step's line counts its seconds; elsewhere each
    step is one plain line, and a sign of life follows every half minute.
    """

    def __init__(self) -> None:
        self._tty = sys.stdout.isatty()
        self._text = ""
        self._began = 0.0
        self._spoke = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()

    def __call__(self, text: str) -> None:
        """Begin the step `text`; the one before it is done."""
        with self._lock:
            self._end_step()
            self._text, self._began = text, time.monotonic()
            self._spoke = self._began
            if not self._tty:
                print(f"  {text}", flush=True)

    def close(self) -> None:
        """End the last step and stop counting."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._end_step()

    def _end_step(self) -> None:
        if self._text and self._tty:
            took = time.monotonic() - self._began
            print(f"\r\033[K  {self._text}  {took:.0f} s", flush=True)
        self._text = ""

    def _tick(self) -> None:
        while not self._stop.wait(1.0):
            with self._lock:
                if not self._text:
                    continue
                now = time.monotonic()
                if self._tty:
                    print(f"\r\033[K  {self._text} … {now - self._began:.0f} s", end="", flush=True)
                elif now - self._spoke >= HEARTBEAT:
                    self._spoke = now
                    print(f"  … {now - self._began:.0f} s", flush=True)


@contextmanager
def printed_steps() -> Iterator[StepPrinter]:
    """A StepPrinter that is closed when the block ends."""
    printer = StepPrinter()
    try:
        yield printer
    finally:
        printer.close()
