"""The site that each test of a check breaks in one place."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.doctor.site import FakeSite, fake_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FakeSite]:
    with fake_site(tmp_path) as site:
        yield site
