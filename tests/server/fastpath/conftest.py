"""What the tests of the fast path share."""

from collections.abc import Iterator

import pytest

from server.fastpath import Poller


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()
