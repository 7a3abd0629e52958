"""The farm's servers hear which of them has a machine's root."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from server.web.beacon import parse_beacon
from tests.node.conftest import Server


def test_a_move_is_told_to_the_new_server_and_to_the_one_before(
    node: Any, served: Callable[[], Server]
) -> None:
    new, old = served(), Server()
    node.script("report", "rcfile", "ok", "all & done")
    assert [beacon["phase"] for beacon in new.beacons] == ["rcfile"]
    node.script("report", "space", "ok", "", "", "space=/:1:1:1")
    new.beacons.clear()
    here, before = f"127.0.0.1:{new.port}", f"127.0.0.1:{old.port}"
    node.state(root_moved=f"{here} {before} 3456 Connection reset by peer")
    node.script("tell-root")
    first, again = new.beacons
    assert (first["phase"], first["status"], first["cause"]) == ("root", "ok", "root_moved")
    assert first["detail"] == (
        "live NBD, from 127.0.0.1 instead of 127.0.0.1 (Connection reset by peer), "
        "3.4 s without a server"
    )
    assert (again["phase"], again["detail"]) == ("rcfile", "all & done")
    (elsewhere,) = old.beacons
    assert elsewhere["cause"] == "root_elsewhere"
    assert elsewhere["detail"] == "live NBD, from 127.0.0.1"
    for beacon in (first, elsewhere):
        body = "&".join(f"{name}={beacon[name]}" for name in ("phase", "status", "cause"))
        assert parse_beacon("", body.encode()).cause == beacon["cause"]
    node.script("tell-root")
    assert len(new.beacons) == 2, "once"
    old.close()


def test_a_server_that_is_back_hears_where_the_root_is(
    node: Any, served: Callable[[], Server]
) -> None:
    new, old = served(), Server()
    node.state(root_elsewhere=f"10.9.0.3:8080 127.0.0.1:{old.port}")
    node.script("tell-root")
    assert new.beacons == []
    (beacon,) = old.beacons
    assert (beacon["cause"], beacon["detail"]) == ("root_elsewhere", "live NBD, from 10.9.0.3")
    old.close()


def test_back_with_the_same_server(node: Any, served: Callable[[], Server]) -> None:
    server = served()
    here = f"127.0.0.1:{server.port}"
    node.state(root_moved=f"{here} {here} 61000 Connection timed out")
    node.script("tell-root")
    (beacon,) = server.beacons
    assert beacon["cause"] == "root_moved"
    assert "61.0 s without a server" in beacon["detail"]
