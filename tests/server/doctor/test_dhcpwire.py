"""Where the doctor cannot even ask; test_on_a_wire.py has the rest."""

from dataclasses import replace

import pytest

from server.doctor import dhcpwire
from server.doctor.dhcpwire import check_dhcp
from server.doctor.target import Survey, Target


def test_no_interface() -> None:
    target = Target("127.0.0.1")
    assert [v.id for v in check_dhcp(target, Survey())] == ["dhcp.no-interface"]
    (verdict,) = check_dhcp(replace(target, interface="nosuch0"), Survey())
    assert verdict.id in ("dhcp.no-interface", "dhcp.no-rights")  # whichever the kernel sees first


def test_no_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(family: int, kind: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(dhcpwire, "_socket", refuse)
    (verdict,) = check_dhcp(Target("127.0.0.1", interface="lo"), Survey())
    assert (verdict.id, verdict.words) == ("dhcp.no-rights", "Operation not permitted")
