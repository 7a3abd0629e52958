from pathlib import Path

import pytest

from tests.server.sources.edited import Farm


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path)
