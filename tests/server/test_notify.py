"""What systemd is told, read from a socket as systemd's."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.notify import STATUS_MAX, Notifier


class Systemd:
    """The socket that $NOTIFY_SOCKET names."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(20)

    def hear(self) -> str:
        """The next datagram."""
        return self._socket.recv(4096).decode()

    def hear_all(self) -> list[str]:
        """What has come so far."""
        self._socket.setblocking(False)
        found = []
        try:
            while True:
                found.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    abstract = request.param == "abstract"
    listener = Systemd(f"@bootfarm-{os.getpid()}" if abstract else str(tmp_path / "notify"))
    yield listener
    listener.close()


def test_what_is_told(systemd: Systemd) -> None:
    notifier = Notifier(systemd.address)
    notifier.ready()
    notifier.status("1 image, 0 nodes")
    notifier.status("1 image, 0 nodes")
    notifier.reloading()
    notifier.ready()
    notifier.alive()
    notifier.stopping()
    told = systemd.hear_all()
    reloading, usec = told.pop(2).split("\n")
    assert reloading == "RELOADING=1"
    assert usec.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert told == ["READY=1", "STATUS=1 image, 0 nodes", "READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_a_status_is_one_line(systemd: Systemd) -> None:
    Notifier(systemd.address).status("words\nREADY=0" + "x" * 1000)
    (told,) = systemd.hear_all()
    assert "\n" not in told
    assert len(told) == STATUS_MAX + len("STATUS=")


def test_the_environment_is_taken_and_not_handed_on() -> None:
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", "PATH": "/bin"}
    assert Notifier.take(environ).watchdog == 30.0
    assert environ == {"PATH": "/bin"}
    assert Notifier.take(environ).watchdog is None
    other = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}
    assert Notifier.take(other).watchdog is None
    ours = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier.take(ours).watchdog == 5e-6
    assert Notifier.take({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"}).watchdog is None


def test_nobody_listens(tmp_path: Path) -> None:
    Notifier().ready()
    Notifier(str(tmp_path / "nothing")).ready()
