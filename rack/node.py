"""A bare machine of the rack: its power button, its console, SSH into it."""

import contextlib
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rack.cache import need_tools
from rack.console import Console
from rack.errors import RackError
from rack.machine import TCG, MachineFiles, NodeSpec, qemu_argv
from rack.namespace import Namespace
from rack.network import add_tap
from rack.process import Process
from rack.qmp import Qmp

# Console lines after which no boot goes on: waiting longer is of no use.
HOPELESS = re.compile(r"Kernel panic - not syncing|end Kernel panic")

TYPING_SECONDS = 1.0
"""How long a slow firmware may take to read the keys."""

SSH_OPTIONS = (
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"),
)


def ssh_argv(key: Path, ip: str, command: Sequence[str] = ()) -> list[str]:
    """ssh as root to a node with the rack's key; it knows no host's key."""
    return ["ssh", "-i", str(key), *SSH_OPTIONS, f"root@{ip}", *command]


class Node:
    """One machine. Made by Rack.boot; every wait ends with an error that tells
    the console's last lines and what the server saw."""

    def __init__(
        self,
        spec: NodeSpec,
        files: MachineFiles,
        namespace: Namespace,
        ssh_key: Path,
        seen_by_server: Callable[[], str],
        accelerator: Sequence[str] = TCG,
    ) -> None:
        self.spec = spec
        self.files = files
        self.console = Console(files.console_log)
        self._namespace = namespace
        self._ssh_key = ssh_key
        self._seen_by_server = seen_by_server
        self._accelerator = tuple(accelerator)
        self._process: Process | None = None
        self._peak = 0
        self.powered_on_at = 0.0
        files.directory.mkdir(parents=True, exist_ok=True)
        for tap in files.taps:
            add_tap(namespace, tap)

    @property
    def name(self) -> str:
        """The name in its NodeSpec."""
        return self.spec.name

    @property
    def ip(self) -> str:
        """The address that DHCP gives it."""
        return self.spec.ip

    @property
    def mac(self) -> str:
        """The MAC of the NIC that it boots from."""
        return self.spec.mac

    @property
    def process(self) -> Process | None:
        """Its QEMU since the last power-on; None before the first."""
        return self._process

    # Power

    def power_on(self) -> None:
        """Press the power button of a machine that is off."""
        if self.is_on():
            raise RackError(f"{self.name} is on already", hint="power_cut() it first")
        if self.spec.firmware == "uefi" and not self.files.variables.exists():
            emulator = self.spec.emulator
            for path in (emulator.code, emulator.variables):
                if not path.exists():
                    raise RackError(
                        f"{path} is missing", hint=f"install the package {emulator.package}"
                    )
            shutil.copyfile(emulator.variables, self.files.variables)
        for path in (self.files.console_socket, self.files.qmp_socket):
            path.unlink(missing_ok=True)
        self.console.begin()
        need_tools(self.spec.emulator.program)
        argv = qemu_argv(self.spec, self.files, self._accelerator)
        log = self.files.directory / "qemu.log"
        self.powered_on_at = time.time()
        self._process = self._namespace.start(f"qemu of {self.name}", argv, log)
        with self._qmp() as qmp:
            for index, nic in enumerate(self.spec.nics):
                if not nic.has_cable:
                    qmp.execute("set_link", name=f"net{index}", up=False)

    def power_cut(self) -> None:
        """Pull the plug: no warning, nothing is written."""
        if self._process is not None:
            self._process.kill()
            self._remember_peak()

    def power_button(self) -> None:
        """Press the button of a running machine: ACPI asks its system to shut down."""
        with self._qmp() as qmp:
            qmp.execute("system_powerdown")

    def reset(self) -> None:
        """Press the reset button."""
        self.console.begin()
        self.powered_on_at = time.time()
        with self._qmp() as qmp:
            qmp.execute("system_reset")

    def set_cable(self, plugged: bool) -> None:
        """Pull the cable out of the card that it boots from, or put it back."""
        with self._qmp() as qmp:
            qmp.execute("set_link", name=f"net{self.spec.boot_nic}", up=plugged)

    def is_on(self) -> bool:
        """Whether its QEMU runs."""
        return self._process is not None and self._process.is_running()

    def status(self) -> str:
        """ "off", or QEMU's run state ("running", …)."""
        if not self.is_on():
            return "off"
        with self._qmp() as qmp:
            return str(qmp.execute("query-status")["status"])

    def peak_memory(self) -> int:
        """The most resident memory (bytes) of its QEMU over all its power-ons."""
        self._remember_peak()
        return self._peak

    def type(self, text: str) -> None:
        """Type at its serial console, key by key."""
        with socket.socket(socket.AF_UNIX) as console:
            console.settimeout(10)
            console.connect(str(self.files.console_socket))
            console.sendall(text.encode())
            # QEMU forgets what the machine has not taken yet when the other side hangs up.
            end = time.monotonic() + TYPING_SECONDS
            while (left := end - time.monotonic()) > 0:
                console.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    console.recv(65536)

    # Waits

    def wait_console(
        self, pattern: str, timeout: float = 300.0, since: int | None = None
    ) -> "re.Match[str]":
        """Wait until the console matches `pattern` (re.MULTILINE); the match.

        Reads from the last power-on, or from a mark of `console.size`. Raises
        RackError after `timeout` seconds, or as soon as the machine is off or
        its kernel panicked.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        end = time.monotonic() + timeout
        while True:
            was_on = self.is_on()
            text = self.console.text(since)
            found = wanted.search(text)
            if found:
                return found
            if not was_on:
                raise self._error(f"{self.name} went off before its console said {pattern!r}")
            if HOPELESS.search(text):
                raise self._error(f"{self.name}'s kernel panicked before {pattern!r}")
            if time.monotonic() > end:
                raise self._error(
                    f"{self.name}'s console did not say {pattern!r} within {timeout:g} s"
                )
            time.sleep(0.2)

    def wait_off(self, timeout: float = 120.0) -> None:
        """Wait until the machine has switched itself off."""
        end = time.monotonic() + timeout
        while self.is_on():
            if time.monotonic() > end:
                raise self._error(f"{self.name} did not switch off within {timeout:g} s")
            time.sleep(0.2)
        self._remember_peak()

    def check(self) -> None:
        """Raise RackError if the machine is off or its kernel panicked."""
        if not self.is_on():
            raise self._error(f"{self.name} went off")
        if HOPELESS.search(self.console.text()):
            raise self._error(f"{self.name}'s kernel panicked")

    def ssh(self, command: str, timeout: float = 60.0, stdin: str = "") -> str:
        """Run a shell command on the node as root; its output, or RackError."""
        argv = ssh_argv(self._ssh_key, self.ip, [command])
        return self._namespace.run(argv, timeout=timeout, stdin=stdin)

    def wait_ssh(self, timeout: float = 300.0) -> None:
        """Wait until SSH lets the rack's key in."""
        end = time.monotonic() + timeout
        while True:
            self.check()
            try:
                self.ssh("true", timeout=15)
                return
            except RackError as error:
                if time.monotonic() > end:
                    raise self._error(
                        f"SSH to {self.name} ({self.ip}) failed for {timeout:g} s: {error.message}"
                    ) from None
                time.sleep(1.0)

    def explain(self, error: RackError) -> RackError:
        """The same error, with the last words of server and console."""
        if str(self.files.console_log) in error.hint:
            return error
        return self._error(error.message)

    def _error(self, message: str) -> RackError:
        seen = self._seen_by_server()
        lines = [message]
        if seen:
            lines.append(f"the server saw: {seen}")
        lines += ["the console ends:", self.console.tail() or "(nothing)"]
        return RackError("\n  ".join(lines), hint=f"the whole console is {self.files.console_log}")

    def _qmp(self) -> Qmp:
        if not self.is_on():
            raise self._error(f"{self.name} is off")
        return Qmp(self.files.qmp_socket)

    def _remember_peak(self) -> None:
        if self._process is not None:
            self._peak = max(self._peak, self._process.peak_memory())
