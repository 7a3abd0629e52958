"""The site that each test of a check breaks in one place."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.doctor.site import FakeSite, fake_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FakeSite]:
    with fake_site(tmp_path) as site:
        yield site


@pytest.fixture(autouse=True)
def _no_routers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On loopback nobody says that a packet is too large: no need to wait for it."""
    monkeypatch.setattr("server.doctor.path.PROBE_SECONDS", 0.0)
