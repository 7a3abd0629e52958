"""All checks in their order."""

from collections.abc import Iterator, Sequence
from typing import Final

from server.doctor.cluster import check_api
from server.doctor.dhcpwire import check_dhcp
from server.doctor.disk import check_space, check_store
from server.doctor.exports import check_nbd
from server.doctor.joining import check_join
from server.doctor.path import check_clock, check_mtu
from server.doctor.service import check_dns, check_ports, check_server
from server.doctor.target import Check, Survey, Target
from server.doctor.tree import check_http, check_menu, check_tftp
from server.doctor.verdict import Verdict

CHECKS: Final[Sequence[Check]] = (
    check_server,
    check_ports,
    check_dhcp,
    check_menu,
    check_tftp,
    check_http,
    check_nbd,
    check_dns,
    check_mtu,
    check_clock,
    check_join,
    check_api,
    check_space,
    check_store,
)
"""Later ones use what earlier ones learnt."""


def examine(target: Target, checks: Sequence[Check] = CHECKS) -> Iterator[Verdict]:
    """Run them one after the other; a verdict comes as soon as it is known."""
    survey = Survey()
    for check in checks:
        yield from check(target, survey)
