"""Helm itself for the tests: compiled once from its Go module, kept by content.

`make test-helm` compiles it; other tests use it where it is there already.
"""

import subprocess
from pathlib import Path

from rack.kubernetes.build import compile_families
from rack.kubernetes.compile import cached_directory
from rack.kubernetes.families import HELM
from rack.kubernetes.toolchain import find_toolchain


def compile_helm() -> Path:
    """The program; minutes when it is not there yet."""
    return compile_families([HELM], find_toolchain(print), print)[HELM.name].program("helm")


def find_helm() -> Path | None:
    """The program if an earlier run has compiled it."""
    program = cached_directory(HELM, find_toolchain(lambda words: None)) / "bin" / "helm"
    return program if program.is_file() else None


def run_helm(program: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Helm with nothing of this machine's: no repositories, no plugins, no cluster."""
    return subprocess.run(
        [program, *words],
        env={"HOME": "/nonexistent", "HELM_PLUGINS": "/nonexistent", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    print(compile_helm())
