"""Files as a whole or not at all: written beside, then renamed; read within a bound."""

import contextlib
import errno
import os
import select
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

WRITER_SECONDS = 1
"""How long a pipe waits for somebody who writes into it."""


def own(path: str, flags: int) -> int:
    """An `opener` for open(): a file that it makes is its owner's alone (mode 0600)."""
    return os.open(path, flags, 0o600)


def check_writable(directory: Path) -> None:
    """Raises OSError where no file can be written in a directory."""
    handle, probe = tempfile.mkstemp(prefix=".writable.", dir=directory)
    os.close(handle)
    os.unlink(probe)


def write_whole(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
    """Put `data` into the place of `path`; whoever reads it sees the old bytes or the new ones.

    Safe for processes that write the same path at once: the last one wins. mode: the file's;
    its owner's alone by default. durable: the bytes are on the disk before the name is theirs,
    so that a power cut, too, leaves the old ones or the new ones. Raises OSError, and then
    `path` is as it was.
    """
    with write_beside(path, mode=mode, durable=durable) as file:
        file.write(data)


@contextlib.contextmanager
def write_beside(path: Path, *, mode: int = 0o600, durable: bool = False) -> Iterator[IO[bytes]]:
    """A file to write into, which takes the place of `path` when the block ends well; see
    write_whole."""
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            yield file
            os.fchmod(file.fileno(), mode)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def read_whole(path: Path, most: int) -> bytes:
    """The bytes of a file, at most `most`; of a pipe what is written into it, if anything is.

    Raises OSError: also for what is too large (EFBIG), a pipe that nobody writes into,
    and what is neither of the two, as a device or a socket.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if stat.S_ISFIFO(mode):
            _await_writer(descriptor)
        elif not stat.S_ISREG(mode) and path != Path(os.devnull):
            raise OSError(errno.EINVAL, "is no file")
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"is larger than {most} bytes")
    return data


def _await_writer(descriptor: int) -> None:
    """Wait a moment for a writer of a named pipe. Raises OSError if none comes."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    named = not os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
    if named and not poll.poll(WRITER_SECONDS * 1000):
        raise OSError(errno.EAGAIN, "is a pipe that nobody writes into")
    os.set_blocking(descriptor, True)
