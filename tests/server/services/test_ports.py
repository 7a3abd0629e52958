"""Binding ports, and saying who has them."""

import os
import socket
from pathlib import Path

import pytest

from server.errors import ServerError
from server.services.ports import avoid_pacing, bind_port, find_owner, raise_file_limit


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_taken_port_names_its_owner(kind: str) -> None:
    assert kind in ("tcp", "udp")
    first = bind_port("nbd", "tcp" if kind == "tcp" else "udp", "127.0.0.1", 0)
    port = first.getsockname()[1]
    with first, pytest.raises(ServerError) as caught:
        bind_port("tftp", "tcp" if kind == "tcp" else "udp", "0.0.0.0", port)
    message = caught.value.message
    assert message.startswith(f"tftp cannot bind {kind.upper()} 0.0.0.0:{port}: ")
    assert f"(pid {os.getpid()})" in message
    assert f"127.0.0.1:{port}" in message
    assert caught.value.hint


def test_reuse_port_shares() -> None:
    first = bind_port("tftp", "udp", "127.0.0.1", 0, reuse_port=True)
    with first, bind_port("tftp", "udp", "127.0.0.1", first.getsockname()[1], reuse_port=True):
        pass


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(ServerError, match=r"192\.0\.2\.1:0: no interface") as caught:
        bind_port("nbd", "tcp", "192.0.2.1", 0)
    assert "ip address" in caught.value.hint


def test_nonsense_is_an_error_too() -> None:
    with pytest.raises(ServerError, match=r"nbd cannot bind TCP 127\.0\.0\.1:70000"):
        bind_port("nbd", "tcp", "127.0.0.1", 70000)
    with pytest.raises(ServerError, match="nbd cannot bind TCP not-an-address:1"):
        bind_port("nbd", "tcp", "not-an-address", 1)


def test_a_low_port_without_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    class Unprivileged(socket.socket):
        bind = refuse

    monkeypatch.setattr(socket, "socket", Unprivileged)
    with pytest.raises(ServerError, match=r"UDP 0\.0\.0\.0:69: permission") as caught:
        bind_port("tftp", "udp", "0.0.0.0", 69)
    for word in ("CAP_NET_BIND_SERVICE", "setcap", "root"):
        assert word in caught.value.hint


HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with one listening nginx, one established connection, one socket that is hidden."""
    (tmp_path / "net").mkdir()
    lines = [
        HEADER,
        "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1",
        "   1: 0100007F:2A39 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 222 1",
        "   2: 0200007F:2A39 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 333 1",
    ]
    (tmp_path / "net" / "tcp").write_text("\n".join(lines) + "\n")
    sixes = "00000000000000000000000000000000:0045"
    (tmp_path / "net" / "udp6").write_text(
        f"{HEADER}\n 0: {sixes} {sixes} 07 00000000:00000000 00:00000000 00000000 0 0 444 2\n"
    )
    (tmp_path / "77" / "fd").mkdir(parents=True)
    (tmp_path / "77" / "fd" / "5").symlink_to("socket:[111]")
    (tmp_path / "77" / "fd" / "6").symlink_to("socket:[444]")
    (tmp_path / "77" / "cmdline").write_bytes(b"nginx: master process\0")
    (tmp_path / "self").symlink_to("77")
    return tmp_path


def test_find_owner(proc: Path) -> None:
    owner = find_owner("tcp", "127.0.0.1", 8080, proc=proc)
    assert str(owner) == "0.0.0.0:8080, held by nginx: master process (pid 77)"
    assert find_owner("tcp", "127.0.0.1", 10809, proc=proc) is None  # only a connection's
    hidden = find_owner("tcp", "0.0.0.0", 10809, proc=proc)
    assert str(hidden) == "127.0.0.2:10809, held by a process that this user may not look at"
    both = find_owner("udp", "10.0.0.1", 69, proc=proc)
    assert str(both) == "[::]:69, held by nginx: master process (pid 77)"
    assert find_owner("udp", "10.0.0.1", 70, proc=proc) is None


def test_file_limit_is_raised() -> None:
    import resource

    assert raise_file_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Congested:
    """A socket of a machine whose default is `name`, and which has but `allowed`."""

    def __init__(self, name: bytes, allowed: tuple[bytes, ...]) -> None:
        self.name, self.allowed = name, allowed

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_CONGESTION)
        return self.name.ljust(size, b"\0")

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_CONGESTION)
        if value not in self.allowed:
            raise PermissionError(1, "Operation not permitted")
        self.name = value


@pytest.mark.parametrize(
    ("default", "allowed", "used"),
    [
        (b"bbr", (b"cubic", b"reno"), b"cubic"),
        (b"bbr2", (b"reno",), b"reno"),
        (b"bbr", (), b"bbr"),
        (b"dctcp", (b"cubic", b"reno"), b"dctcp"),
        (b"cubic", (b"cubic", b"reno"), b"cubic"),
    ],
)
def test_of_congestion_controls_only_bbr_is_avoided(
    default: bytes, allowed: tuple[bytes, ...], used: bytes
) -> None:
    sock = Congested(default, allowed)
    avoid_pacing(sock)  # type: ignore[arg-type]
    assert sock.name == used


def test_the_kernel_takes_another_congestion_control() -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        assert (
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"
        )
