"""Programs of other projects to test against, unpacked beside the system, never installed.

Installing a DHCP server would start it. Here its packages are only unpacked,
with what they depend on, into a cache directory, and run in there by chroot.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

SUITE = "bookworm"


def cache_directory() -> Path:
    """`$BOOTFARM_CACHE` or ~/.cache/bootfarm, and `peers` below it."""
    base = os.environ.get("BOOTFARM_CACHE") or Path.home() / ".cache" / "bootfarm"
    return Path(base) / "peers"


def unpack(*packages: str) -> Path:
    """A directory with these Debian packages and their dependencies in it, for `run_in`.

    Unpacked once; the directory's name is made of the packages' names. Needs
    root and mmdebstrap.
    """
    key = hashlib.sha256(" ".join([SUITE, *sorted(packages)]).encode()).hexdigest()[:16]
    target = cache_directory() / f"{packages[0]}-{key}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            beside = target.with_suffix(".new")
            shutil.rmtree(beside, ignore_errors=True)
            argv = [
                *("mmdebstrap", "--variant=extract", "--mode=root", "--quiet"),
                f"--include={','.join(packages)}",
                *(SUITE, str(beside)),
            ]
            done = subprocess.run(argv, capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr[-2000:]}"
            beside.rename(target)
    return target


def run_in(
    root: Path, argv: Sequence[str], files: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of `root` in a chroot; files: path in there -> text, written before."""
    for path, text in (files or {}).items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return subprocess.run(
        ["chroot", str(root), *argv], capture_output=True, text=True, timeout=60, check=False
    )
