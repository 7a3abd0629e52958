import os
from pathlib import Path

import pytest

from server.simulate.limits import Observer, Sample, is_local
from server.simulate.plan import Target

TARGET = Target("10.9.0.1")


def judge(
    *,
    crew: float = 1.0,
    server: float | None = 1.0,
    machine: float = 5.0,
    disk: int = 0,
    card: int | None = None,
    paced: bool = False,
    speed: Path = Path("/nothing"),
) -> tuple[str, str]:
    """Ten seconds on a machine of two cores; the arguments are what they came to."""
    observer = Observer(TARGET, sysfs=speed, cores=2)
    observer.pids = frozenset({7}) if server is not None else frozenset()
    observer.card = "eth0" if card is not None else ""
    for at, part in ((100.0, 0.0), (110.0, 1.0)):
        observer.samples.append(
            Sample(
                at,
                {1: part * crew, 2: part * crew / 2},
                {7: 50 + part * (server or 0.0)} if server is not None else {},
                (30 + part * machine, 200 + part * 20.0),
                int(part * disk),
                int(part * (card or 0)),
            )
        )
    limits = observer.judge(1_000_000, paced=paced)
    assert limits.client_busy == pytest.approx(crew / 10)
    return limits.verdict, limits.why


def test_the_client_is_said_to_be_the_limit_before_the_server() -> None:
    verdict, why = judge(crew=9.5, server=9.9, machine=19.0)
    assert verdict == "this client"
    assert "95%" in why
    assert "--processes" in why
    assert judge(server=None, machine=19.0)[0] == "this client"


def test_each_limit() -> None:
    assert judge(server=9.9)[0] == "server CPU"
    assert judge(server=5.0, machine=19.0)[0] == "this machine"
    assert judge(disk=500_000)[0] == "page cache"
    assert judge(disk=50_000)[0] == "round trips"
    assert judge(paced=True)[0] == "the pace"
    assert judge(server=None)[0] == "unknown"


def test_the_card(tmp_path: Path) -> None:
    (tmp_path / "eth0").mkdir()
    (tmp_path / "eth0/speed").write_text("1000\n")
    assert judge(server=None, card=1_200_000_000, speed=tmp_path)[0] == "network card"
    assert judge(server=None, card=600_000_000, speed=tmp_path)[0] == "unknown"
    (tmp_path / "eth0/speed").write_text("-1\n")
    assert judge(server=None, card=1_200_000_000, speed=tmp_path)[0] == "unknown"


def test_what_is_read_from_the_kernel(tmp_path: Path) -> None:
    own = os.getpid()
    observer = Observer(Target("127.0.0.1"))
    observer.pids = frozenset({own})
    observer.sample([own])
    for _ in range(200_000):
        pass
    observer.sample([own])
    first, last = observer.samples
    assert last.crew[own] >= first.crew[own] > 0
    assert last.machine[1] >= first.machine[1] > 0
    assert is_local("127.0.0.1")
    assert not is_local("192.0.2.1")
    route = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
    route += "eth0\t00000000\t0100090A\t3\t0\t0\t0\t00000000\n"
    route += "eth1\t0000090A\t00000000\t1\t0\t0\t0\t0000FFFF\n"
    (tmp_path / "net").mkdir()
    (tmp_path / "net/route").write_text(route)
    for host, card in (("192.0.2.1", "eth0"), ("10.9.0.1", "eth1")):
        if host == "10.9.0.1" and is_local(host):
            continue
        observer = Observer(Target(host), proc=tmp_path)
        observer.find()
        assert observer.card == card
