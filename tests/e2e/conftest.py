"""Images and racks that the end-to-end tests share.

Racks, each with a file of tests, in two runs of pytest side by side: test_cluster.py
has a control plane, the others have none and run one after the other. The tests of a
file go in its order, since one machine's boots prove many lines.
"""

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rack.rack import Rack
from rack.server import BOOTFARM

HOUSE = Path(__file__).parent.parent.parent
RESULTS = HOUSE / "build" / "e2e"
"""Consoles, server logs and stores of the last run."""

RECIPES = {
    "amd64": HOUSE / "recipes" / "demo.yaml",
    "amd64-containerd": HOUSE / "recipes" / "demo-containerd.yaml",
}


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Only one process of the test run at a time."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_bootfarm(*words: str) -> str:
    """Run `bootfarm` as a user would; its output."""
    done = subprocess.run(
        [*BOOTFARM, *words], cwd=HOUSE, capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, f"bootfarm {' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def store() -> Path:
    """A store with the demo's image and its containerd variant, built from the recipes."""
    directory = RESULTS / "store"
    with alone("build"):
        for recipe in RECIPES.values():
            run_bootfarm("build", str(recipe), "--store", str(directory), "--squashfs-level", "3")
    return directory


@pytest.fixture(scope="module")
def rack(request: pytest.FixtureRequest) -> Iterator[Rack]:
    """An empty rack that ends with the module's tests; their DHCP says what the site has of it."""
    name = request.path.stem.removeprefix("test_")
    shutil.rmtree(RESULTS / name, ignore_errors=True)
    with Rack(RESULTS / name, dhcp=getattr(request.module, "DHCP", "loader")) as rack:
        yield rack
