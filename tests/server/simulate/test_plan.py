import pytest

from server.errors import ServerError
from server.simulate.plan import (
    Plan,
    Target,
    loopback_sources,
    parse_sources,
    parse_target,
)
from server.simulate.profile import Fetch, Profile


def test_targets() -> None:
    assert parse_target("10.9.0.1") == Target("10.9.0.1", 69, 10809, 8080)
    assert parse_target("10.9.0.1:nbd=1,tftp=2") == Target("10.9.0.1", 2, 1, 8080)


@pytest.mark.parametrize(
    "text", ["", "host", "10.9.0.1:80", "10.9.0.1:ftp=1", "10.9.0.1:nbd=0", "10.9.0.1:nbd=x"]
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(ServerError, match="--target") as caught:
        parse_target(text)
    assert caught.value.hint


def test_sources() -> None:
    assert parse_sources("10.9.0.5") == ("10.9.0.5",)
    assert parse_sources("10.9.0.254-10.9.1.1") == (
        *("10.9.0.254", "10.9.0.255"),
        *("10.9.1.0", "10.9.1.1"),
    )
    for text in ("x", "10.9.0.5-10.9.0.4", "10.0.0.0-11.0.0.0"):
        with pytest.raises(ServerError, match="--sources"):
            parse_sources(text)
    assert loopback_sources("10.9.0.1", 3) == ()
    assert loopback_sources("127.0.0.1", 300)[-1] == "127.64.1.44"


def test_paths_at_the_target() -> None:
    step = Fetch("tftp", "/ltsp/{image}/@{digest}/vmlinuz", 0, 0.0)
    plan = Plan(
        Target("10.9.0.1"), Profile("x", (step,), "a", "d", 0), "amd64", "f00", "/x", sources=("a",)
    )
    assert plan.path_of(step.path) == "/ltsp/amd64/@f00/vmlinuz"
    assert plan.source_of(7) == "a"
