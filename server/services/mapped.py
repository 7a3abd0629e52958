"""Image files mapped into memory, and what of them may be touched without waiting.

The mapping is only ever read by the kernel (sendmsg, madvise): a file that is
cut short under it costs an EFAULT, not a SIGBUS. Parts that are not in the page
cache are loaded by threads, so that a cold page never stops the event loop.
"""

import asyncio
import ctypes
import errno
import mmap
import os
import stat
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from server.protocols.nbd import Granules

LOADER_THREADS: Final = 8
"""Threads that load what is not in memory: so many reads wait for a disk at once."""
RESCAN_SECONDS: Final = 2.0
"""How often it is checked that what was in memory still is."""
AHEAD: Final = 8
"""Granules that are read ahead of a client that reads in order."""
RUN: Final = 8
"""Most granules that one thread loads at once."""
MAX_HOLES: Final = 4096
"""Holes of a file that are looked for; a file with more is served as if it had none."""

_MADV_POPULATE_READ: Final = 22
_PAGE: Final = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_quick = ctypes.PyDLL(None)
"""The same without giving other threads a turn: for what takes less than that would."""
_quick.mincore.argtypes = _libc.mincore.argtypes
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


class _Mapping:
    """The address range; unmapped when nothing refers to its bytes any more."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = os.dup(fd)
        self.size = size
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address in (None, _MAP_FAILED):
            number = ctypes.get_errno()
            os.close(self.fd)
            raise OSError(number, f"mmap: {os.strerror(number)}")
        self.address: int = address
        # ctypes, not the mmap module: madvise and mincore need the address, and
        # through ctypes they let other threads run.
        self._array = (ctypes.c_ubyte * size).from_address(address)
        self._may_look = self._can_look()
        self._vector = ctypes.create_string_buffer((1 << Granules.SHIFT) // _PAGE)
        weakref.finalize(self._array, _unmap, address, size, self.fd).atexit = False

    def view(self) -> memoryview:
        return memoryview(self._array).cast("B").toreadonly()

    def populate(self, start: int, length: int) -> None:
        """Read a range from disk and map it; blocks. Raises OSError."""
        length = min(length, self.size - start)
        if _libc.madvise(self.address + start, length, _MADV_POPULATE_READ) == 0:
            return
        number = ctypes.get_errno()
        if number != errno.EINVAL:
            raise OSError(errno.EIO, f"cannot read the image: {os.strerror(number)}")
        # Before Linux 5.14: reading it is enough to have it in the page cache.
        position = start
        while position < start + length:
            data = os.pread(self.fd, min(1 << 17, start + length - position), position)
            if not data:
                raise OSError(errno.EIO, "the image is shorter than it was")
            position += len(data)

    def read_ahead(self, start: int, length: int) -> None:
        os.posix_fadvise(self.fd, start, length, os.POSIX_FADV_WILLNEED)

    def resident(self) -> bytes | None:
        """A byte a page, 0 where it is not in memory; None where the kernel won't tell."""
        if not self._may_look:
            return None
        vector = ctypes.create_string_buffer((self.size + _PAGE - 1) // _PAGE)
        if _libc.mincore(self.address, self.size, vector) != 0:
            return None
        return vector.raw

    def is_resident(self, start: int, length: int) -> bool:
        """True when a whole range is known to be in memory; takes a microsecond or two."""
        if not self._may_look:
            return False
        pages = (min(length, self.size - start) + _PAGE - 1) // _PAGE
        if _quick.mincore(self.address + start, pages * _PAGE, self._vector) != 0:
            return False
        return self._vector.raw.find(b"\0", 0, pages) < 0

    def _can_look(self) -> bool:
        """Whether mincore tells the truth: not of others' files (mincore(2), since 5.2)."""
        owner = os.geteuid() in (0, os.fstat(self.fd).st_uid)
        return owner or os.access(f"/proc/self/fd/{self.fd}", os.W_OK)

    def has_page(self, offset: int) -> bool:
        """True when the page at an offset can be read without waiting."""
        try:
            return os.preadv(self.fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
        except OSError:
            return False


def _unmap(address: int, size: int, fd: int) -> None:
    _libc.munmap(address, size)
    os.close(fd)


class MappedFile:
    """One immutable file, shared by all connections that read it.

    view: its bytes. fd: the file itself, open as long as the view is held. granules:
    what of it is in memory. holes: (start, end) of ranges that are not stored.
    All methods belong to the loop's thread.
    """

    def __init__(
        self, path: Path, loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor
    ) -> None:
        self.path = path
        self._loop = loop
        self._threads = threads
        self._waiting: dict[int, list[_Wait]] = {}
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            self.size = status.st_size
            if self.size == 0:
                raise OSError(errno.EINVAL, "the file is empty", str(path))
            self._mapping = _Mapping(fd, self.size)
            self.holes = _find_holes(fd, self.size)
        finally:
            os.close(fd)
        self.view = self._mapping.view()
        self.fd = self._mapping.fd
        self.granules = Granules(self.size, hot=False)
        self._rescanning = False
        self.rescan(first=True)

    def load(self, offset: int, length: int, done: Callable[[OSError | None], None]) -> None:
        """Have a range in memory; done is called in the loop's thread, never at once."""
        hot = self.granules.hot
        granules = []
        for index in self.granules.cold(offset, length):
            # Read ahead for somebody, most likely: no thread is needed to find it.
            if self._is_there(index):
                hot[index] = 1
                self._look_ahead(index)
            else:
                granules.append(index)
        if not granules:
            self._loop.call_soon(done, None)
            return
        wait = _Wait(len(granules), done)
        fresh = []
        for index in granules:
            waiters = self._waiting.get(index)
            if waiters is None:
                self._waiting[index] = [wait]
                fresh.append(index)
            else:
                waiters.append(wait)
        for run in _runs(fresh):
            self._submit(run)

    def _is_there(self, index: int) -> bool:
        shift = self.granules.shift
        return index not in self._waiting and self._mapping.is_resident(index << shift, 1 << shift)

    def _look_ahead(self, index: int) -> None:
        """Somebody reads in order what was read ahead: find how far that reaches, so that
        nothing of it comes here any more, and have the next part read in time."""
        hot, shift = self.granules.hot, self.granules.shift
        if index > 0 and not hot[index - 1]:
            return
        end = min(index + 1 + AHEAD, len(hot))
        following = index + 1
        while following < end and (hot[following] or self._is_there(following)):
            hot[following] = 1
            following += 1
        if following < len(hot) and not hot[following]:
            try:
                self._threads.submit(self._mapping.read_ahead, following << shift, AHEAD << shift)
            except RuntimeError:
                pass  # the cache is closed

    def _submit(self, run: range) -> None:
        hot = self.granules.hot
        before = run.start - 1
        in_order = before < 0 or hot[before] == 1 or before in self._waiting
        ahead = 0
        if in_order:
            after = hot[run.stop : run.stop + AHEAD]
            ahead = AHEAD if 0 in after else 0
        shift = self.granules.shift
        try:
            self._threads.submit(
                _load_run, self._mapping, run, shift, ahead, self._loop, self._loaded
            )
        except RuntimeError:  # the cache is closed
            error = OSError(errno.ESHUTDOWN, "the server is stopping")
            self._loop.call_soon(self._loaded, run, error)

    def _loaded(self, run: range, error: OSError | None) -> None:
        for index in run:
            if error is None:
                self.granules.hot[index] = 1
            for wait in self._waiting.pop(index, ()):
                wait.settle(error)

    def rescan(self, *, first: bool = False) -> None:
        """See in a thread what is in memory; at first also take what is there already."""
        if self._rescanning:
            return
        try:
            self._threads.submit(_rescan, weakref.ref(self), self._mapping, first, self._loop)
            self._rescanning = True
        except RuntimeError:
            pass  # the cache is closed

    def _rescanned(self, cold: list[int], warm: list[int]) -> None:
        self._rescanning = False
        hot = self.granules.hot
        for index in cold:
            hot[index] = 0
        for index in warm:
            hot[index] = 1


class _Wait:
    """A request that waits for several granules."""

    __slots__ = ("_done", "_error", "_left")

    def __init__(self, left: int, done: Callable[[OSError | None], None]) -> None:
        self._left = left
        self._done = done
        self._error: OSError | None = None

    def settle(self, error: OSError | None) -> None:
        self._left -= 1
        self._error = self._error or error
        if self._left == 0:
            self._done(self._error)


def _load_run(
    mapping: _Mapping,
    run: range,
    shift: int,
    ahead: int,
    loop: asyncio.AbstractEventLoop,
    done: Callable[[range, OSError | None], None],
) -> None:
    error = None
    start, length = run.start << shift, len(run) << shift
    try:
        if ahead:
            mapping.read_ahead(start, length + (ahead << shift))
        mapping.populate(start, length)
    except OSError as problem:
        error = problem
    _call(loop, done, run, error)


def _rescan(
    reference: "weakref.ref[MappedFile]",
    mapping: _Mapping,
    first: bool,
    loop: asyncio.AbstractEventLoop,
) -> None:
    file = reference()
    if file is None:
        return
    shift, hot = file.granules.shift, bytes(file.granules.hot)
    cold: Iterable[int]
    vector = mapping.resident()
    if vector is not None:
        pages = (1 << shift) // _PAGE
        missing = []
        position = vector.find(0)
        while position >= 0:
            missing.append(position // pages)
            position = vector.find(0, (position // pages + 1) * pages)
        cold = missing
    elif first:
        cold = range(len(hot))
    else:
        cold = [i for i, there in enumerate(hot) if there and not mapping.has_page(i << shift)]
    missing_set = set(cold)
    warm = [i for i in range(len(hot)) if i not in missing_set] if first else []
    # Reported before it is mapped: touching bytes that are in memory costs a fault and no wait.
    _call(loop, file._rescanned, [index for index in cold if hot[index]], warm)
    del file  # it may go while it is mapped
    for run in _runs(warm):
        try:
            mapping.populate(run.start << shift, len(run) << shift)
        except OSError:
            continue  # a read of it will report the error


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *values: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *values)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more


def _runs(indices: Iterable[int]) -> list[range]:
    """Neighbouring indices (given in order) as ranges of at most RUN."""
    runs: list[range] = []
    for index in indices:
        if runs and runs[-1].stop == index and len(runs[-1]) < RUN:
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return runs


def _find_holes(fd: int, size: int) -> list[tuple[int, int]]:
    """Ranges that the file system does not store; none when there are too many to keep."""
    holes: list[tuple[int, int]] = []
    position = 0
    try:
        while position < size:
            start = os.lseek(fd, position, os.SEEK_HOLE)
            if start >= size:
                break
            try:
                position = os.lseek(fd, start, os.SEEK_DATA)
            except OSError:  # ENXIO: no data up to the end
                position = size
            holes.append((start, min(position, size)))
            if len(holes) > MAX_HOLES:
                return []
    except OSError:
        return []
    return holes


class MapCache:
    """Maps of the files in use: one for each file, gone with its last reader."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = ThreadPoolExecutor(LOADER_THREADS, thread_name_prefix="load")
        self._files: weakref.WeakValueDictionary[tuple[int, ...], MappedFile] = (
            weakref.WeakValueDictionary()
        )
        self._timer: asyncio.TimerHandle | None = None

    def open(self, path: Path) -> MappedFile:
        """The map of a file. Raises OSError: unreadable, empty, not a regular file."""
        status = os.stat(path)
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = MappedFile(path, self._loop, self._threads)
        if self._timer is None:
            self._timer = self._loop.call_later(RESCAN_SECONDS, self._rescan)
        return file

    def _rescan(self) -> None:
        files = list(self._files.values())
        for file in files:
            file.rescan()
        self._timer = self._loop.call_later(RESCAN_SECONDS, self._rescan) if files else None

    def close(self) -> None:
        """Load nothing any more. Views that somebody holds stay valid."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._threads.shutdown(wait=False, cancel_futures=True)
