"""Files that are not in the page cache, for tests of what happens before a disk has answered."""

import mmap
import os
from pathlib import Path

import pytest


def write_cold(path: Path, data: bytes) -> None:
    """Write whole pages past the page cache (O_DIRECT), so that none of them is in memory.

    Dropping them afterwards does not do: Linux may keep some for seconds. Skips the test where
    the file system cannot; on one that lives in memory the file is written, and stays there.
    """
    assert len(data) % mmap.PAGESIZE == 0
    path.unlink(missing_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    except OSError as error:
        pytest.skip(f"the file system of {path} has no O_DIRECT: {error.strerror}")
    with mmap.mmap(-1, len(data)) as aligned:
        aligned.write(data)
        written = os.write(file, aligned)
    os.close(file)
    assert written == len(data)
