"""The images that the end-to-end tests boot; `python -m tests.e2e.images` builds them before.

Before, because a test's time limit counts what its fixtures do, and a cold build takes minutes.
"""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rack.server import BOOTFARM

HOUSE = Path(__file__).parent.parent.parent
RESULTS = HOUSE / "build" / "e2e"
"""Consoles, server logs and stores of the last run."""

RECIPES = {
    "amd64": HOUSE / "recipes" / "demo.yaml",
    "amd64-containerd": HOUSE / "recipes" / "demo-containerd.yaml",
    "amd64-bookworm": HOUSE / "recipes" / "demo-bookworm.yaml",
}


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Only one process of the test run at a time."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_bootfarm(*words: str) -> str:
    """Run `bootfarm` as a user would; its output on standard output."""
    done = subprocess.run(
        [*BOOTFARM, *words], cwd=HOUSE, capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, f"bootfarm {' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_images() -> Path:
    """The store with the demo's image and its variants, from the recipes; quick once built."""
    directory = RESULTS / "store"
    with alone("build"):
        for recipe in RECIPES.values():
            run_bootfarm("build", str(recipe), "--store", str(directory), "--squashfs-level", "3")
    return directory


if __name__ == "__main__":
    print(f"images are in {build_images()}", file=sys.stderr)
