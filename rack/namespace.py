"""Network, process and mount namespaces that end with the process that made them."""

import ctypes
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rack.errors import RackError
from rack.process import Process

T = TypeVar("T")

CLONE_NEWNET = 0x40000000

# The first process of the process namespace. Its standard input is a pipe from
# the Python process: when that ends, however it ends, the kernel closes the
# pipe, cat ends, and the kernel kills everything else in the namespace and
# removes its network devices and mounts. SIGCHLD is ignored so that no orphan
# stays a zombie.
HOLDER = "trap '' CHLD; echo ready; exec cat >/dev/null"


def holder_argv() -> list[str]:
    """The command that makes the namespaces and stays in them."""
    return [
        *("unshare", "--net", "--pid", "--mount", "--propagation", "slave"),
        *("--fork", "--kill-child", "--mount-proc", "--", "sh", "-c", HOLDER),
    ]


def enter_argv(pid: int, argv: Sequence[str | Path]) -> list[str]:
    """`argv` as a command that runs in the namespaces of process `pid`."""
    return [
        *("nsenter", f"--target={pid}", "--net", "--pid", "--mount", "--"),
        *(str(word) for word in argv),
    ]


class Namespace:
    """Fresh namespaces; `close` (or the end of this process) kills all in them."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise RackError(
                "the virtual rack needs root: it makes a network namespace and taps",
                hint="run the command as root",
            )
        # A session of its own: Ctrl-C is for the Python process, which then closes it.
        self._holder = subprocess.Popen(
            holder_argv(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != b"ready\n":
            said = self._holder.stderr.read().decode(errors="replace").strip()
            self._holder.wait()
            raise RackError(
                f"cannot make a network namespace: {said or 'unshare said nothing'}",
                hint="the rack needs CAP_SYS_ADMIN and CAP_NET_ADMIN; "
                "in a container run it with --privileged",
            )
        self.pid = child_pid(self._holder.pid)

    def enter_argv(self, argv: Sequence[str | Path]) -> list[str]:
        """`argv` as a command that runs in the namespaces."""
        return enter_argv(self.pid, argv)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 60.0,
        check: bool = True,
    ) -> str:
        """Run a command to its end in here; its standard output.

        Raises RackError with the command's last words if it fails (unless
        `check` is false) or does not end within `timeout` seconds.
        """
        words = [str(word) for word in argv]
        try:
            done = subprocess.run(
                self.enter_argv(words),
                env={**os.environ, **(env or {})},
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise RackError(f"`{shlex.join(words)}` did not end within {timeout:g} s") from None
        if check and done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-4:]
            raise RackError(
                f"`{shlex.join(words)}` failed with exit code {done.returncode}: "
                + (" | ".join(said) or "it said nothing")
            )
        return done.stdout

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a long-running program in here; what it says is appended to `log`."""
        with open(log, "ab") as sink:
            outer = subprocess.Popen(
                self.enter_argv(argv),
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Process(name, outer, child_pid(outer.pid), log)

    def in_network(self, make: Callable[[], T]) -> T:
        """Call `make` in a thread that is in the network namespace; its result.

        A socket belongs to the network it was made in, so what `make` returns
        goes on working outside.
        """
        box: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                with open(f"/proc/{self.pid}/ns/net") as network:
                    if libc.setns(network.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                box.append(make())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return box[0]

    def connect(self, host: str, port: int, timeout: float = 5.0) -> socket.socket:
        """A TCP connection made from inside; raises OSError."""
        return self.in_network(lambda: socket.create_connection((host, port), timeout))

    def close(self) -> None:
        """Kill everything in here and wait until it is gone. May be called twice."""
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        try:
            self._holder.wait(10)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
        for stream in (self._holder.stdout, self._holder.stderr):
            if stream is not None:
                stream.close()


def child_pid(parent: int, timeout: float = 5.0) -> int:
    """The only child of a process that forks once; waits for it to appear."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            break
        if children:
            return int(children[0])
        time.sleep(0.005)
    return parent
