"""A node's serial console on this terminal."""

import os
import select
import socket
import sys
import termios
import tty
from pathlib import Path

from rack.errors import RackError

LEAVE = b"\x1d"
"""Ctrl-]"""


def attach_console(path: Path) -> None:
    """Connect the terminal to a console's socket until Ctrl-] or its end.

    Without a terminal it only prints what comes.
    """
    console = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        console.connect(str(path))
    except OSError as error:
        raise RackError(
            f"cannot reach the console {path}: {error}",
            hint="is the machine on, and nobody else attached to its console?",
        ) from None
    is_terminal = sys.stdin.isatty()
    before = termios.tcgetattr(0) if is_terminal else None
    try:
        if is_terminal:
            tty.setraw(0)
        _copy(console, is_terminal)
    finally:
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
        console.close()


def _copy(console: socket.socket, has_keyboard: bool) -> None:
    sources = [console.fileno(), 0] if has_keyboard else [console.fileno()]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if console.fileno() in ready:
            data = console.recv(65536)
            if not data:
                return
            os.write(1, data)
        if 0 in ready:
            keys = os.read(0, 1024)
            if not keys or LEAVE in keys:
                return
            console.sendall(keys)
