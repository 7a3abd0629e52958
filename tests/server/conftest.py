from collections.abc import Iterator
from pathlib import Path

import pytest

from server.ltsconf.template import Renderer
from tests.server.farm import GOOD, publish


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    """A directory with a store and a good lts.conf."""
    publish(tmp_path / "store")
    (tmp_path / "lts.conf").write_text(GOOD)
    return tmp_path


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    """A process that renders templates, one for a module's tests."""
    renderer = Renderer()
    yield renderer
    renderer.close()
