"""Stretches of DATA packets out of files: shared, cached, and read without stopping the loop."""

import asyncio
import errno
import os
import stat
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from server.content import BytesContent, FileContent
from server.protocols.tftp_blocks import Layout, build
from server.protocols.tftp_wire import encode_netascii

LOADER_THREADS: Final = 4
"""Threads that read what is not in memory: so many clients wait for a disk at once."""
READ_AHEAD: Final = 1024 * 1024
"""Bytes that the kernel is asked to read ahead of a transfer."""
MAX_NETASCII: Final = 16 * 1024 * 1024
"""Bytes of a file in netascii, which is held in memory as converted; texts are smaller."""

Done = Callable[[OSError | None], None]


class FileSource:
    """An open file whose stretches are shared by all transfers of it. key: its identity."""

    def __init__(self, path: Path) -> None:
        # O_NONBLOCK: opening a pipe does not wait for its other end.
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        weakref.finalize(self, os.close, self.fd).atexit = False
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        self.size = status.st_size
        self.key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def read(self, layout: Layout, index: int, flags: int = 0) -> memoryview:
        """One stretch. flags: of preadv2. Raises OSError; EAGAIN with RWF_NOWAIT
        where the disk would have to be waited for."""
        start, length = layout.span(index)
        buffer, places = layout.prepare(index)
        if length:
            got = os.preadv(self.fd, places, start, flags)
            if got < length and flags & os.RWF_NOWAIT:
                raise BlockingIOError(errno.EAGAIN, "not in memory")
            while got < length:  # a signal cut the read short, or the file ends
                rest = os.pread(self.fd, length - got, start + got)
                if not rest:
                    raise OSError(errno.EIO, "the file is shorter than it was")
                _scatter(places, got, rest)
                got += len(rest)
        return memoryview(buffer).toreadonly()


def _scatter(places: list[memoryview], skip: int, data: bytes) -> None:
    for place in places:
        if skip >= len(place):
            skip -= len(place)
            continue
        part = data[: len(place) - skip]
        place[skip : skip + len(part)] = part
        data = data[len(part) :]
        skip = 0
        if not data:
            return


class BytesSource:
    """Content that was made for one client."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, layout: Layout, index: int, flags: int = 0) -> memoryview:
        """One stretch. The flags are FileSource's; bytes in memory need none."""
        return build(layout, index, self.data)


Source = FileSource | BytesSource


class BlockCache:
    """Opens content, and keeps the stretches that were used last.

    max_bytes: of stretches kept beyond those that transfers are at.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_bytes: int) -> None:
        self._loop = loop
        self._max_bytes = max_bytes
        self._bytes = 0
        self._stretches: OrderedDict[tuple[object, ...], memoryview] = OrderedDict()
        self._threads = ThreadPoolExecutor(LOADER_THREADS, thread_name_prefix="blocks")
        self._files: weakref.WeakValueDictionary[tuple[int, ...], FileSource] = (
            weakref.WeakValueDictionary()
        )

    def open(self, content: FileContent | BytesContent, *, netascii: bool = False) -> Source:
        """Raises OSError. A text in netascii is translated at once, so it must not be large."""
        if isinstance(content, BytesContent):
            data = content.data
            return BytesSource(encode_netascii(data) if netascii else data)
        source = FileSource(content.path)
        if netascii:
            if source.size > MAX_NETASCII:
                raise OSError(errno.EFBIG, "too large for netascii, ask for octet")
            return BytesSource(encode_netascii(os.pread(source.fd, source.size, 0)))
        return self._files.setdefault(source.key, source)

    def get(self, source: Source, layout: Layout, index: int) -> memoryview | None:
        """A stretch, if it is to be had without waiting."""
        if isinstance(source, BytesSource):
            return source.read(layout, index)
        key = (source.key, layout.blksize, index)
        stretch = self._stretches.get(key)
        if stretch is not None:
            self._stretches.move_to_end(key)
            return stretch
        try:
            stretch = source.read(layout, index, os.RWF_NOWAIT)
        except OSError:
            return None  # cold, or a file system that cannot tell: a thread reads it
        self._keep(key, stretch)
        return stretch

    def load(
        self,
        source: Source,
        layout: Layout,
        indices: list[int],
        done: Callable[[dict[int, memoryview] | OSError], None],
    ) -> None:
        """Read stretches in a thread; done is called in the loop's thread, never at once."""
        try:
            self._threads.submit(self._load, source, layout, indices, done)
        except RuntimeError:  # closed
            error = OSError(errno.ESHUTDOWN, "the server is stopping")
            self._loop.call_soon(done, error)

    def _load(
        self,
        source: Source,
        layout: Layout,
        indices: list[int],
        done: Callable[[dict[int, memoryview] | OSError], None],
    ) -> None:
        result: dict[int, memoryview] | OSError
        try:
            if isinstance(source, FileSource):
                start, _ = layout.span(indices[0])
                os.posix_fadvise(source.fd, start, READ_AHEAD, os.POSIX_FADV_WILLNEED)
            result = {index: source.read(layout, index) for index in indices}
        except OSError as error:
            result = error
        try:
            self._loop.call_soon_threadsafe(self._loaded, source, layout, result, done)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def _loaded(
        self,
        source: Source,
        layout: Layout,
        result: dict[int, memoryview] | OSError,
        done: Callable[[dict[int, memoryview] | OSError], None],
    ) -> None:
        if isinstance(source, FileSource) and not isinstance(result, OSError):
            for index, stretch in result.items():
                self._keep((source.key, layout.blksize, index), stretch)
        done(result)

    def _keep(self, key: tuple[object, ...], stretch: memoryview) -> None:
        if key in self._stretches:
            return
        self._stretches[key] = stretch
        self._bytes += len(stretch)
        while self._bytes > self._max_bytes:
            _, oldest = self._stretches.popitem(last=False)
            self._bytes -= len(oldest)

    def close(self) -> None:
        """Drop the stretches and end the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._stretches.clear()
        self._bytes = 0


class Reader:
    """One transfer's place in its content."""

    __slots__ = (
        "_base",
        "_cache",
        "_held",
        "_length",
        "_stretch",
        "_stride",
        "layout",
        "source",
    )

    def __init__(self, cache: BlockCache, source: Source, blksize: int) -> None:
        self.source = source
        self.layout = Layout(source.size, blksize)
        self._cache = cache
        self._stride = self.layout.stride
        self._held: dict[int, memoryview] = {}
        self._stretch = memoryview(b"")
        """The stretch of the latest packet: `_length` bytes, block `_base` first."""
        self._base = self._length = 0

    def stretch(self, block: int) -> tuple[memoryview, int] | None:
        """The stretch at hand, if it has this block; and the number of its first block."""
        if 0 <= (block - self._base) * self._stride < self._length:
            return self._stretch, self._base
        return None

    def packets(self, first: int, count: int) -> list[memoryview] | None:
        """The packets [first, first + count) in few slices; None: load them first."""
        stride = self._stride
        start = (first - self._base) * stride
        if start >= 0 and start + (count - 1) * stride < self._length:
            return [self._stretch[start : start + count * stride]]
        layout = self.layout
        index = first // layout.blocks
        last = (first + count - 1) // layout.blocks
        held = self._held
        for old in [old for old in held if old < index]:
            del held[old]
        for wanted in range(index, last + 1):
            if wanted not in held:
                stretch = self._cache.get(self.source, layout, wanted)
                if stretch is None:
                    return None
                held[wanted] = stretch
        self._stretch = held[last]
        self._base, self._length = last * layout.blocks, len(self._stretch)
        return layout.slices(first, count, held)

    def load(self, first: int, count: int, done: Done) -> None:
        """Have the packets [first, first + count) at hand; `done` gets the error, or None."""
        blocks = self.layout.blocks
        wanted = range(first // blocks, (first + count - 1) // blocks + 1)
        missing = [index for index in wanted if index not in self._held]

        def loaded(result: dict[int, memoryview] | OSError) -> None:
            if isinstance(result, OSError):
                done(result)
                return
            self._held.update(result)
            done(None)

        self._cache.load(self.source, self.layout, missing, loaded)
