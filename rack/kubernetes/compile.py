"""One family of Go programs, compiled once and kept by content."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rack.cache import cache_directory, content_key, last_line, locked, whole_or_nothing
from rack.errors import RackError
from rack.kubernetes.families import Family
from rack.kubernetes.toolchain import Toolchain, go_environment
from rack.progress import Progress

TOOLS = "tool"
"""The pattern that names all programs of a go.mod's `tool` lines (Go 1.24)."""
DOWNLOAD_SECONDS = 1800.0
"""For the modules of one component, by a slow line."""
NO_PROXY = (
    "GOPROXY names the proxy that is asked (`go env GOPROXY`); set it to one that answers here. "
    "Without any, `--kubernetes debian` builds Kubernetes 1.20 from Debian's source package"
)


@dataclass(frozen=True)
class Built:
    """A compiled family. programs: name -> file. epoch: its version's date, in seconds."""

    family: Family
    directory: Path
    epoch: int

    def program(self, name: str) -> Path:
        """The file of a program by its name."""
        return self.directory / "bin" / name

    def file(self, path: str) -> bytes:
        """A file of the family's own module, kept beside the programs (see KEPT_FILES)."""
        return (self.directory / "files" / path.replace("/", "_")).read_bytes()


KEPT_FILES = {
    "kubernetes": ("build/pause/linux/pause.c",),
    "containerd": ("containerd.service",),
    "cri-dockerd": (
        "packaging/systemd/cri-docker.service",
        "packaging/systemd/cri-docker.socket",
    ),
}
"""Files of a family's module that its packages hold: they come from there, as it is built."""


def family_key(family: Family, toolchain: Toolchain) -> str:
    """A key of everything that the compiled programs depend on."""
    flags = json.dumps(
        [family.module, family.tags, dict(family.versions), family.static, dict(family.renamed)]
    )
    files = [family.directory / name for name in ("go.mod", "go.sum")]
    kept = KEPT_FILES.get(family.name, ())
    return content_key(toolchain.version, flags, *kept, *files)


def cached_directory(family: Family, toolchain: Toolchain) -> Path:
    """Where the compiled family is, or will be."""
    home = cache_directory() / "kubernetes"
    return home / f"{family.name}-{family.version}-{family_key(family, toolchain)}"


class Compilers:
    """The compilers that run now, in any thread: they are ended together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    @contextlib.contextmanager
    def running(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """While the block runs, `end` ends the process and all that it started."""
        with self._lock:
            self._running.add(process)
            if self._ended:
                _kill(process)
        try:
            yield
        except BaseException:
            _kill(process)
            process.wait()
            raise
        finally:
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """Kill those that run, and each that comes."""
        with self._lock:
            self._ended = True
            for process in self._running:
                _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its compilers, too


def compile_family(
    family: Family, toolchain: Toolchain, progress: Progress, compilers: Compilers
) -> Built:
    """The family's programs, compiled if need be. RackError says what to do without a proxy."""
    directory = cached_directory(family, toolchain)
    with locked(directory):
        if not directory.is_dir():
            with whole_or_nothing(directory) as work:
                log = directory.with_suffix(".log")
                _compile(family, toolchain, work, log, progress, compilers)
    return Built(family, directory, int((directory / "epoch").read_text()))


def _compile(
    family: Family,
    toolchain: Toolchain,
    work: Path,
    log: Path,
    progress: Progress,
    compilers: Compilers,
) -> None:
    progress(f"{family.name} {family.version}: fetching its modules")
    module = _download(family, toolchain)
    epoch = datetime.fromisoformat(module["Time"])
    (work / "epoch").write_text(f"{int(epoch.timestamp())}\n")
    (work / "files").mkdir()
    for path in KEPT_FILES.get(family.name, ()):
        kept = work / "files" / path.replace("/", "_")
        kept.write_bytes((Path(module["Dir"]) / path).read_bytes())
    options = build_options(family, epoch.strftime("%Y-%m-%dT%H:%M:%SZ"))
    environment = {"CGO_ENABLED": "1" if family.static else "0", "GOARCH": "amd64"}
    stale = "{{if .Stale}}{{.ImportPath}}{{end}}"
    listed = toolchain.run(
        family.directory,
        "list",
        *options,
        "-deps",
        "-f",
        stale,
        TOOLS,
        env=environment,
        timeout=600,
    )
    counted = _Counter(family, len(listed.split()), progress)
    (work / "bin").mkdir()
    argv = [toolchain.program, "build", "-v", *options, "-o", f"{work / 'bin'}/", TOOLS]
    _run_counted(
        [str(word) for word in argv],
        family.directory,
        {**os.environ, **go_environment(), **environment},
        log,
        counted,
        compilers,
    )
    for given, wanted in family.renamed.items():
        (work / "bin" / given).rename(work / "bin" / wanted)


def build_options(family: Family, date: str) -> list[str]:
    """`go build`'s options for the family; `date` (RFC 3339) goes into its version."""
    major, minor = family.version.split(".")[:2]
    values = {
        "tag": family.tag,
        "version": family.version,
        "major": major,
        "minor": minor,
        "date": date,
    }
    linker = ["-s", "-w"]
    linker += [f"-X {name}={text.format(**values)}" for name, text in family.versions.items()]
    if family.static:
        linker.append('-extldflags "-static"')
    tags = [f"-tags={','.join(family.tags)}"] if family.tags else []
    return ["-trimpath", *tags, f"-ldflags={' '.join(linker)}"]


def _download(family: Family, toolchain: Toolchain) -> dict[str, str]:
    """Fetch and verify all modules; what Go knows of the family's own (Dir, Time, Version)."""
    try:
        toolchain.run(family.directory, "mod", "download", timeout=DOWNLOAD_SECONDS)
        said = toolchain.run(family.directory, "list", "-m", "-json", family.module, timeout=600)
    except RackError as error:
        proxy = toolchain.run(family.directory, "env", "GOPROXY", timeout=60).strip()
        raise RackError(
            f"the modules of {family.name} {family.version} could not be fetched from "
            f"{proxy or 'any proxy'}: {error.message}",
            hint=NO_PROXY,
        ) from None
    known: dict[str, str] = json.loads(said)
    return known


class _Counter:
    """Prints how many of the packages are compiled, at most once for each hundredth."""

    def __init__(self, family: Family, total: int, progress: Progress) -> None:
        self._family, self._total, self._progress = family, total, progress
        self._done, self._said = 0, -1
        self._say()

    def count(self) -> None:
        self._done += 1
        self._say()

    def _say(self) -> None:
        total = max(self._total, self._done, 1)
        twentieth = self._done * 20 // total
        if twentieth == self._said:
            return
        self._said = twentieth
        name = f"{self._family.name} {self._family.version}"
        self._progress(f"{name}: {self._done} of {total} packages compiled")


def _run_counted(
    argv: list[str],
    directory: Path,
    environment: dict[str, str],
    log: Path,
    counted: _Counter,
    compilers: Compilers,
) -> None:
    """Run `go build -v`, which names each package that it begins to compile."""
    try:
        process = subprocess.Popen(
            argv,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise RackError(f"cannot run {argv[0]}: {error.strerror}") from None
    assert process.stdout is not None
    with compilers.running(process), log.open("w") as sink:
        for line in process.stdout:
            sink.write(line)
            # Everything else is the compiler's or the linker's complaint.
            if re.fullmatch(r"[A-Za-z0-9][\w.\-/~]*", line.strip()):
                counted.count()
    if process.wait():
        raise RackError(
            f"`{' '.join(argv[:2])}` failed with exit code {process.returncode}",
            hint=f"the whole log is {log}; it ends: {last_line(log)}",
        )
