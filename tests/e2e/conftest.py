"""Images and racks that the end-to-end tests share.

Racks, each with a file of tests, in two runs of pytest side by side: test_cluster.py
has a control plane, the others have none and run one after the other. The tests of a
file go in its order, since one machine's boots prove many lines.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rack.rack import Rack
from tests.e2e.images import RESULTS, build_images


@pytest.fixture(scope="session")
def store() -> Path:
    """A store with the demo's image and its variants (containerd, Debian 12), from the recipes."""
    return build_images()


@pytest.fixture(scope="module")
def rack(request: pytest.FixtureRequest) -> Iterator[Rack]:
    """An empty rack that ends with the module's tests; their DHCP says what the site has of it."""
    name = request.path.stem.removeprefix("test_")
    shutil.rmtree(RESULTS / name, ignore_errors=True)
    with Rack(RESULTS / name, dhcp=getattr(request.module, "DHCP", "loader")) as rack:
        yield rack
