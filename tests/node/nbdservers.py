"""NBD servers for nbdroot to fail over between: QEMU's, a scripted one; and the driver."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

GREETING = b"NBDMAGICIHAVEOPT\0\3"
ABORT, INFO, GO = 2, 6, 7
READ, WRITE, DISCONNECT = 0, 1, 2
NAME = "/opt/ltsp/amd64@digest"


def free_port() -> int:
    """A TCP port of this machine that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def read_exactly(sock: socket.socket, length: int) -> bytes:
    """So many bytes. Raises EOFError when the other side hangs up before."""
    found = b""
    while len(found) < length:
        piece = sock.recv(length - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


class QemuNbd:
    """qemu-nbd with a file: a server that we did not write, and that can be killed."""

    def __init__(self, file: Path, name: str = NAME) -> None:
        self.file, self.name = file, name
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> QemuNbd:
        words = ["--read-only", "--persistent", "--shared=0", "--format=raw", "--bind=127.0.0.1"]
        words += [f"--port={self.port}", f"--export-name={self.name}", str(self.file)]
        self._process = subprocess.Popen(["qemu-nbd", *words])
        while self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return self
            time.sleep(0.01)
        raise AssertionError(f"qemu-nbd ended with {self._process.returncode}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Reply:
    """What a FakeNbd does with one read, besides answering it: error, or a hang-up after `cut`
    bytes of the reply, or nothing at all (silent)."""

    def __init__(self, *, error: int = 0, cut: int | None = None, silent: bool = False) -> None:
        self.error, self.cut, self.silent = error, cut, silent


class FakeNbd:
    """A server of `data` that does with each read what `misbehave` says (None: it answers).

    asked, opened: how often its export was asked for, and opened. mute: it accepts, and says
    nothing."""

    def __init__(
        self,
        data: bytes,
        misbehave: Callable[[int, int], Reply | None] = lambda offset, length: None,
        *,
        mute: bool = False,
        port: int = 0,
    ) -> None:
        self.data, self.misbehave, self.mute = data, misbehave, mute
        self.asked = self.opened = self.left = 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Hang up and listen no more."""
        for sock in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                threading.Thread(target=self._run, args=(client,), daemon=True).start()

    def _run(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            if not self.mute and self._negotiate(client):
                self._serve(client)
                client.close()

    def _negotiate(self, client: socket.socket) -> bool:
        client.sendall(GREETING)
        read_exactly(client, 4)
        while True:
            _, option, length = struct.unpack(">8sII", read_exactly(client, 16))
            read_exactly(client, length)
            if option == ABORT:
                return False
            self.asked += option == INFO
            self.opened += option == GO
            info = struct.pack(">HQH", 0, len(self.data), 3)
            head = struct.pack(">QIII", 0x0003E889045565A9, option, 3, len(info))
            client.sendall(head + info + struct.pack(">QIII", 0x0003E889045565A9, option, 1, 0))
            if option == GO:
                return True

    def _serve(self, client: socket.socket) -> None:
        while True:
            head = read_exactly(client, 28)
            _, _, kind, handle, offset, length = struct.unpack(">IHHQQI", head)
            if kind == DISCONNECT:
                self.left += 1
                return
            odd = self.misbehave(offset, length) or Reply()
            if odd.silent:
                continue
            data = b"" if odd.error else self.data[offset : offset + length]
            reply = struct.pack(">IIQ", 0x67446698, odd.error, handle) + data
            client.sendall(reply[: odd.cut])
            if odd.cut is not None:
                return


class Driver:
    """The kernel's side of the relay: reads that may all be under way at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._handle = 0
        self._asked: dict[int, tuple[int, int]] = {}

    def ask(self, offset: int, length: int, kind: int = READ, data: bytes = b"") -> int:
        """Send a request; its handle."""
        self._handle += 1
        self._asked[self._handle] = (offset, length if kind == READ else 0)
        head = struct.pack(">IHHQQI", 0x25609513, 0, kind, self._handle, offset, length)
        self._sock.sendall(head + data)
        return self._handle

    def take(self) -> tuple[int, int, int, bytes]:
        """The next reply, whichever it answers: handle, error, the read's offset, data."""
        self._sock.settimeout(60)
        magic, error, handle = struct.unpack(">IIQ", read_exactly(self._sock, 16))
        assert magic == 0x67446698
        offset, length = self._asked.pop(handle)
        return handle, error, offset, b"" if error else read_exactly(self._sock, length)

    def pending(self) -> int:
        """How many requests have no reply yet."""
        return len(self._asked)

    def close(self) -> None:
        """Let the device go, as `nbdroot detach` makes the kernel do."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def pieces(size: int, count: int, length: int = 128 * 1024) -> Iterator[tuple[int, int]]:
    """`count` reads all over a file of `size` bytes, of up to `length` bytes each."""
    for number in range(count):
        offset = number * 7919 * 4096 % (size - 4096)
        yield offset, min(length, size - offset)
