"""The load client: compiled when it is needed, run as a process of its own."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.place import BenchError

SOURCES: Final = Path(__file__).with_name("client")
FLAGS: Final = ("-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11")


def compile_client(directory: Path) -> Path:
    """The program, built anew when a source is newer."""
    program = directory / "load"
    files = sorted(SOURCES.glob("*.[ch]"))
    if not program.exists() or program.stat().st_mtime < max(f.stat().st_mtime for f in files):
        sources = [str(file) for file in files if file.suffix == ".c"]
        subprocess.run(["gcc", *FLAGS, "-o", str(program), *sources], check=True)
    return program


def run_client(program: Path, words: Sequence[object], *, seconds: float) -> dict[str, Any]:
    """One run of the client; what it printed. seconds: after which something is wrong."""
    argv = [str(program), *map(str, words)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{' '.join(argv)}: not done after {seconds:g} s") from error
    if done.returncode:
        raise BenchError(f"{' '.join(argv)}: {done.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
