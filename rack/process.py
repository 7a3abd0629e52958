"""A long-running program of the rack: its log, its memory, its end."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from rack.cache import last_line
from rack.errors import RackError


class Process:
    """A program that was started through nsenter.

    `pid` is the program's own (as seen from outside the namespace), `outer` is
    the nsenter that waits for it.
    """

    def __init__(self, name: str, outer: "subprocess.Popen[bytes]", pid: int, log: Path) -> None:
        self.name = name
        self.pid = pid
        self.log = log
        self._outer = outer
        self._peak = 0

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while the program runs."""
        return self._outer.poll()

    def is_running(self) -> bool:
        """Whether the program has not ended."""
        return self.exit_code is None

    def check(self) -> None:
        """Raise RackError, with the program's last words, if it has ended."""
        code = self.exit_code
        if code is not None:
            raise RackError(
                f"{self.name} ended with exit code {code}: {last_line(self.log)}",
                hint=f"its log is {self.log}",
            )

    def peak_memory(self) -> int:
        """The most resident memory (bytes) that it had so far; 0 if never seen."""
        try:
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self._peak = max(self._peak, int(line.split()[1]) * 1024)
        except OSError:
            pass
        return self._peak

    def signal(self, number: int) -> None:
        """Send a signal to the program itself; nothing if it has ended."""
        if self.is_running():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def stop(self, timeout: float = 10.0) -> int:
        """SIGTERM, and SIGKILL after `timeout` seconds; the exit code."""
        self.peak_memory()
        self.signal(signal.SIGTERM)
        try:
            return self._outer.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._outer.wait()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.peak_memory()
        self.signal(signal.SIGKILL)
        self._outer.wait()


def wait_for(
    condition: Callable[[], bool],
    timeout: float,
    what: str,
    *,
    processes: tuple[Process, ...] = (),
    interval: float = 0.2,
) -> None:
    """Poll until `condition()`; RackError "… did not …" after `timeout` seconds.

    An ended process among `processes` ends the wait at once with its last words.
    """
    end = time.monotonic() + timeout
    while not condition():
        for process in processes:
            process.check()
        if time.monotonic() > end:
            log = processes[0].log if processes else None
            raise RackError(
                f"{what} did not happen within {timeout:g} s",
                hint=f"see {log}; it ends: {last_line(log)}" if log else "",
            )
        time.sleep(interval)
