"""Where the rack keeps what is expensive to make, and how it runs a tool."""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rack.errors import RackError


def cache_directory() -> Path:
    """`$BOOTFARM_CACHE`, else `~/.cache/bootfarm`; made when it is missing."""
    given = os.environ.get("BOOTFARM_CACHE")
    directory = Path(given) if given else Path.home() / ".cache" / "bootfarm"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def checkout_directory() -> Path:
    """The checkout that this package lies in; `build/rack` is below it.

    Raises RackError where there is none: as installed by pip, or by a package.
    """
    directory = Path(__file__).resolve().parent.parent
    if not (directory / "pyproject.toml").is_file():
        raise RackError(
            f"the rack works in a checkout of bootfarm, and {directory} is none",
            hint="clone bootfarm's repository and run `make install` there",
        )
    return directory


def content_key(*parts: str | bytes | Path) -> str:
    """A short key (16 hex digits) of texts and of files' bytes, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            data = part.read_bytes()
        else:
            data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold `<directory>.lock`, so that two builds of one thing take turns."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{directory}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def whole_or_nothing(directory: Path) -> Iterator[Path]:
    """A work directory beside `directory`, renamed to it when the block ends well.

    Whatever is left of an earlier try is removed first; what Ctrl-C ends leaves nothing. The
    caller holds the lock.
    """
    work = directory.with_name(directory.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
    except Exception:
        raise  # its logs tell why
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
    work.rename(directory)


def need_tools(*tools: str) -> None:
    """Raise RackError if a program is missing, before any work begins."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise RackError(
            f"the rack needs {', '.join(missing)}, which this machine has not",
            hint="run `make install`: it installs what apt-packages.txt lists",
        )


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
) -> str:
    """Run a tool; its standard output. Raises RackError with the tool's last words.

    With `log` both streams are appended to that file and "" is returned. `env`
    is added to this process's environment; `timeout` is in seconds.
    """
    words = [str(word) for word in argv]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        if log is not None:
            with open(log, "ab") as sink:
                done = subprocess.run(
                    words,
                    cwd=cwd,
                    env=environment,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    timeout=timeout,
                )
            if done.returncode:
                raise RackError(
                    f"{words[0]} failed with exit code {done.returncode}",
                    hint=f"the whole log is {log}; it ends: {last_line(log)}",
                )
            return ""
        finished = subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            input=stdin if stdin is not None else "",
            timeout=timeout,
        )
    except FileNotFoundError:
        raise RackError(f"there is no program {words[0]}", hint="run `make install`") from None
    except subprocess.TimeoutExpired:
        raise RackError(f"`{shlex.join(words)}` did not end within {timeout:g} seconds") from None
    if finished.returncode:
        said = (finished.stderr.strip() or finished.stdout.strip()).splitlines()[-3:]
        raise RackError(
            f"`{shlex.join(words)}` failed with exit code {finished.returncode}: "
            + (" | ".join(said) or "it said nothing")
        )
    return finished.stdout


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return next((line.strip() for line in reversed(lines) if line.strip()), "(empty)")
