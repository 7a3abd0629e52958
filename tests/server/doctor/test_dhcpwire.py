"""Where the doctor cannot even ask; test_on_a_wire.py has the rest."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from server.doctor.dhcpwire import check_dhcp
from server.doctor.target import Survey, Target


def test_no_interface() -> None:
    target = Target("127.0.0.1")
    assert [v.id for v in check_dhcp(target, Survey())] == ["dhcp.no-interface"]
    (verdict,) = check_dhcp(replace(target, interface="nosuch0"), Survey())
    assert verdict.id in ("dhcp.no-interface", "dhcp.no-rights")  # whichever the kernel sees first


@pytest.fixture
def nobody() -> Iterator[None]:
    """This process without root's rights."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_no_rights(nobody: None) -> None:
    (verdict,) = check_dhcp(Target("127.0.0.1", interface="lo"), Survey())
    assert (verdict.id, verdict.words) == ("dhcp.no-rights", "Operation not permitted")
