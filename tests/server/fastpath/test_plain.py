"""What stands in where the C was not compiled: the same numbers, and epoll as it is."""

import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from server.fastpath import COMPILED, _fastpath, plain
from server.fastpath.plain import Poller

HOUSE = Path(__file__).resolve().parents[3]
NUMBERS = [name for name in dir(_fastpath) if name.isupper()]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_the_c(name: str) -> None:
    assert len(NUMBERS) == 10
    assert getattr(plain, name) == getattr(_fastpath, name)


def test_here_it_is_compiled() -> None:
    assert COMPILED


def test_tells_what_epoll_tells() -> None:
    poller = Poller(1.0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = ours.fileno()
        poller.register(fd, select.EPOLLIN | select.EPOLLOUT)
        before = poller.now
        assert poller.poll(1.0) == [(fd, select.EPOLLOUT)]
        assert poller.now > before
        theirs.send(b"x")
        poller.modify(fd, select.EPOLLIN)
        assert poller.poll(-1) == [(fd, select.EPOLLIN)]
        with pytest.raises(FileExistsError):
            poller.register(fd, select.EPOLLIN)
        poller.unregister(fd)
        assert poller.poll(0) == []
    poller.close()


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_services_pass_their_tests_without_the_c(tmp_path: Path) -> None:
    """All of them but those of what the lanes alone promise."""
    for package in ("imagebuild", "netboot-config", "server", "tests"):
        for path in (HOUSE / package).rglob("*"):
            target = tmp_path / path.relative_to(HOUSE)
            if path.is_file() and "rootfs" not in path.parts and path.suffix not in (".so", ".pyc"):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\naddopts = --import-mode=importlib -p no:cacheprovider\n"
        "markers =\n  integration\n  e2e\n"
    )
    of_lanes = "single_client_is_answered_without or looking_in_vain or never_comes_to_python"
    files = ("hotloop", "nbd", "outbox", "tftp", "tftp_clients", "nbd_clients")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-k", f"not ({of_lanes})"),
            *(str(tmp_path / f"tests/server/services/test_{name}.py") for name in files),
        ],
        cwd=tmp_path,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "deselected" in done.stdout
