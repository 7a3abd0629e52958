from pathlib import Path

import pytest

from server.app import App
from server.assemble.parts import make_parts
from server.boot.catalog import find_address
from server.errors import ServerError
from server.farm.config import Config, Transport
from server.services.hotloop import HotLoop
from server.services.http import HttpService
from server.services.running import find_owner
from tests.server.farm import publish


def test_the_address_that_nodes_are_told() -> None:
    assert find_address("10.9.0.2", "127.0.0.9", "127.0.0.1") == "10.9.0.2"
    assert find_address(None, "127.0.0.9", "127.0.0.1") == "127.0.0.9"
    assert find_address(None, "0.0.0.0", "127.0.0.1") == "127.0.0.1"
    with pytest.raises(ServerError, match="no route to"):
        find_address(None, "0.0.0.0", "not an address")


def test_what_fails_in_a_service_is_told_under_its_name(tmp_path: Path) -> None:
    publish(tmp_path / "store")
    loop = HotLoop()
    try:
        config = Config(store=tmp_path / "store", services=("http",), http=Transport(0))
        app = App(make_parts(config, loop))
        health = app.parts.health
        http = app.parts.running.services["http"]
        assert isinstance(http, HttpService)
        with pytest.raises(RuntimeError) as caught:
            http.start()  # was never bound
        assert find_owner(caught.value) == "http"
        app._on_failure(loop, {"exception": caught.value})
        assert health.describe()["status"] == "degraded"
        assert health.describe()["problems"][0].startswith("http failed: ")
        app._on_failure(loop, {"message": "something else"})
        assert "server failed: something else" in health.describe()["problems"]
    finally:
        loop.close()


def test_a_duty_that_fails_is_told_until_it_works_again(tmp_path: Path) -> None:
    publish(tmp_path / "store")
    loop = HotLoop()
    try:
        config = Config(store=tmp_path / "store", services=("http",), http=Transport(0))
        app = App(make_parts(config, loop))
        failing = [True]

        def duty() -> None:
            if failing:
                raise KeyError("maybe")

        timer = loop.call_later(60, duty)
        app._turn(timer, 60, duty)
        (problem,) = app.parts.health.problems()
        assert "a regular duty fails: KeyError in " in problem
        failing.clear()
        app._turn(timer, 60, duty)
        assert app.parts.health.problems() == []
    finally:
        loop.close()


def test_a_state_directory_that_cannot_be_written(tmp_path: Path) -> None:
    publish(tmp_path / "store")
    (tmp_path / "state").write_text("a file")
    loop = HotLoop()
    try:
        with pytest.raises(ServerError, match="--state"):
            make_parts(Config(store=tmp_path / "store", state=tmp_path / "state"), loop)
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("mode", "given", "says"),
    [
        ("off", "10.9.1.1-10.9.1.9", "nothing gives addresses"),
        ("full", None, "needs a range"),
        ("proxy", "10.9.1.1-10.9.1.9", "gives no addresses"),
        ("full", "10.9.1.9", "is not a range"),
    ],
)
def test_dhcp_settings_that_do_not_fit(
    tmp_path: Path, mode: str, given: str | None, says: str
) -> None:
    publish(tmp_path / "store")
    loop = HotLoop()
    try:
        with pytest.raises(ServerError, match=says) as caught:
            make_parts(Config(store=tmp_path / "store", dhcp=mode, dhcp_range=given), loop)
        assert caught.value.hint
        parts = make_parts(Config(store=tmp_path / "store"), loop)
        assert "dhcp" not in parts.running.services
    finally:
        loop.close()


def make_app(tmp_path: Path, *services: str, problems: tuple[str, ...] = ()) -> App:
    publish(tmp_path / "store")
    port = Transport(0)
    config = Config(
        store=tmp_path / "store",
        state=tmp_path / "state",
        services=services,
        tftp=port,
        nbd=port,
        http=port,
    )
    return App(make_parts(config, HotLoop(), problems))


def test_what_was_wrong_before_the_start_is_told(tmp_path: Path) -> None:
    app = make_app(tmp_path, "http", problems=("no room for the image",))
    assert app.parts.health.describe()["status"] == "degraded"
    assert app.parts.health.describe()["problems"] == ["no room for the image"]
    app._loop.close()


def test_only_who_shows_timelines_keeps_them(tmp_path: Path) -> None:
    for services, kept in ((("nbd",), False), (("tftp", "http"), True)):
        app = make_app(tmp_path, *services)
        app.parts.upkeep.save_some()
        assert (tmp_path / "state/nodes").exists() == kept
        app._loop.close()


def test_collecting_needs_a_state_directory(tmp_path: Path) -> None:
    publish(tmp_path / "store")
    loop = HotLoop()
    try:
        with pytest.raises(ServerError, match="collect_after"):
            make_parts(Config(store=tmp_path / "store", collect_after=60), loop)
    finally:
        loop.close()


def test_a_fault_deep_below_is_its_callers(tmp_path: Path) -> None:
    """By who was called, whatever the file is called that it arose in."""

    class Map:
        def touch(self) -> None:
            raise OSError("no memory")

    class Client:
        owner = "nbd"

        def read(self) -> None:
            Map().touch()

    with pytest.raises(OSError, match="no memory") as caught:
        Client().read()
    assert find_owner(caught.value) == "nbd"
    with pytest.raises(OSError, match="no memory") as caught:
        Map().touch()
    assert find_owner(caught.value) == "server"


def test_each_service_names_itself(tmp_path: Path) -> None:
    app = make_app(tmp_path, "tftp", "nbd", "http")
    services = app.parts.running.services
    assert {name: getattr(service, "owner", "") for name, service in services.items()} == {
        name: name for name in ("tftp", "nbd", "http")
    }
    app._loop.close()
