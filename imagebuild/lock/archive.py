"""The .deb files of a lock: fetched once, kept by content, and laid out for apt.

CACHE/debs/<sha256>.deb is kept for as long as a lock's archive has it; CACHE/locks/<digest>/ is
such an archive: a flat repository, so that a build can be repeated when the mirror has moved on.
"""

import contextlib
import hashlib
import os
import shutil
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from imagebuild.errors import BuildError, count_words
from imagebuild.lock.lockfile import Lock, LockedPackage
from imagebuild.run import Log, ask, run

HELPER = "/usr/lib/apt/apt-helper"
AT_ONCE = 40
"""Files that one call of apt-helper fetches; between two of them the progress is told."""
KEPT_DAYS = 400
"""Days after which an archive that no build used is removed."""
TOOLS = {"apt-ftparchive": "apt-utils"}
_LISTED = ("Packages", "Release")


def fetch(
    lock: Lock,
    cache: Path,
    bases: Mapping[str, str],
    environment: Mapping[str, str],
    say: Callable[[str], None],
) -> None:
    """Bring every .deb of the lock into CACHE/debs; BuildError names those that cannot be had.

    bases: a package's `source` to the URI that its path counts from. environment: for apt.
    """
    debs = cache / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    missing = [one for one in lock.packages if not _have(debs, cache, one)]
    whole = sum(one.size for one in missing) >> 20
    done = 0
    for start in range(0, len(missing), AT_ONCE):
        some = missing[start : start + AT_ONCE]
        say(f"locked packages: {start} of {len(missing)} fetched, {done >> 20} of {whole} MiB")
        _fetch_some(some, debs, bases, environment)
        done += sum(one.size for one in some)
    lost = [one for one in missing if not (debs / f"{one.sha256}.deb").is_file()]
    if lost:
        named = ", ".join(f"{one.name} {one.version}" for one in lost[:5])
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        raise BuildError(
            f"--lock: {lock.file}: the archives do not have, as locked: {named}{more}",
            hint="name a mirror that keeps old packages (--mirrors; snapshot.debian.org), bring"
            f" CACHE/debs of the machine that made the lock, or remove {lock.file} to lock anew",
        )


def _have(debs: Path, cache: Path, package: LockedPackage) -> bool:
    """Whether it is there; taken from apt's own cache when that has it."""
    target = debs / f"{package.sha256}.deb"
    if target.is_file():
        return True
    held = cache / "apt" / "archives" / package.file
    if held.is_file() and held.stat().st_size == package.size:
        _take(held, target, package)
    return target.is_file()


def _take(source: Path, target: Path, package: LockedPackage) -> None:
    """A copy under its digest, if it is the one that is locked."""
    partial = target.with_suffix(".part")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    shutil.copyfile(source, partial)
    with partial.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() == package.sha256:
            partial.rename(target)
            return
    partial.unlink()


def _fetch_some(
    some: Sequence[LockedPackage],
    debs: Path,
    bases: Mapping[str, str],
    environment: Mapping[str, str],
) -> None:
    words: list[str] = []
    for one in some:
        base = bases.get(one.source, "")
        if base.startswith("file:"):
            place = Path(base.removeprefix("file:")) / urllib.parse.unquote(one.path)
            if place.is_file():
                _take(place, debs / f"{one.sha256}.deb", one)
        elif base:
            partial = debs / f"{one.sha256}.fetched"
            words += [f"{base}/{one.path}", str(partial), f"SHA256:{one.sha256}"]
    if words:
        # It fetches what it can and checks each digest; what is missing then is told by `fetch`.
        ask([HELPER, "download-file", *words], env=dict(environment))
    for one in some:
        partial = debs / f"{one.sha256}.fetched"
        if partial.is_file():
            _take(partial, debs / f"{one.sha256}.deb", one)
        for left in debs.glob(f"{one.sha256}.fetched*"):
            left.unlink()


def lay_out(lock: Lock, cache: Path, log: Log) -> Path:
    """The lock's archive below CACHE/locks, with indexes; every .deb must be in CACHE/debs."""
    target = cache / "locks" / lock.digest()
    if not all((target / name).is_file() for name in _LISTED):
        beside = target.with_suffix(".new")
        for place in (beside, target):
            shutil.rmtree(place, ignore_errors=True)
        beside.mkdir(parents=True)
        beside.chmod(0o755)
        for one in lock.packages:
            os.link(cache / "debs" / f"{one.sha256}.deb", beside / one.file)
        for verb, name in (("packages", "Packages"), ("release", "Release")):
            words = ["sh", "-ec", 'cd "$1"; apt-ftparchive "$2" . >"$3"', "sh"]
            run([*words, beside, verb, beside / name], log=log, what=f"cannot make {name}")
        beside.rename(target)
    os.utime(target)
    return target


def prune(cache: Path) -> None:
    """Remove archives that no build used for KEPT_DAYS, and .deb files of no archive."""
    oldest = time.time() - KEPT_DAYS * 86400
    for place in (cache / "locks").glob("*"):
        if place.stat().st_mtime < oldest:
            shutil.rmtree(place)
    for path in (cache / "debs").glob("*.deb"):
        if path.stat().st_nlink == 1:
            path.unlink()


def describe(lock: Lock) -> str:
    """For people: 412 packages, 310 MiB."""
    size = sum(one.size for one in lock.packages) >> 20
    return f"{count_words(len(lock.packages), 'package')}, {size} MiB"
