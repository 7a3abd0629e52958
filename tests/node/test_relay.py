"""nbdroot's relay and scout, compiled as they are: servers die under reads, and the reads go on."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rack.namespace import Namespace
from tests.node.nbdservers import NAME, WRITE, Driver, FakeNbd, QemuNbd, Reply, free_port, pieces

SOURCES = Path(__file__).resolve().parents[2] / "imagebuild/rootfs/usr/src/bootfarm"
MAIN = """
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "log.h"
#include "relay.h"
#include "scout.h"

/* KERNEL_FD HOME_SECONDS STATE NAME SERVER...: the first of which is attached. */
int main(int argc, char **argv)
{
	static struct farm farm;
	struct target target = {.name = argv[4], .silence_ms = LINK_SILENCE_MS};
	int pair[2], fd;

	farm.home_seconds = atoi(argv[2]);
	farm.state = open(argv[3], O_RDONLY | O_DIRECTORY);
	farm.name = argv[4];
	for (int i = 5; i < argc; i++)
		if (add_server(&farm, argv[i]) < 0)
			return 2;
	target.server = farm.servers[0].name;
	target.address = farm.servers[0].address;
	fd = open_export(&target, &farm.export);
	if (fd < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
		return 3;
	if (start_scout(&farm, pair[1], 0) < 0)
		return 4;
	relay(atoi(argv[1]), pair[0], fd, 0, farm.count);
	return 0;
}
"""
SIZE = 3 * 1024 * 1024 + 4096


def compile_relay(folder: Path, *flags: str) -> Path:
    (folder / "main.c").write_text(MAIN)
    names = ("clock.c", "handshake.c", "log.c", "relay.c", "scout.c")
    sources = [folder / "main.c", *(SOURCES / name for name in names)]
    words = ["-O1", "-g", "-Wall", "-fsanitize=address,undefined", "-I", str(SOURCES)]
    subprocess.run(["gcc", *words, *flags, "-o", folder / "relay", *sources], check=True)
    return folder / "relay"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that is less patient than the node's."""
    quick = ("-DSILENT_MS=400", "-DLOOK_MS=20", "-DCONNECT_MS=300")
    return compile_relay(tmp_path_factory.mktemp("relay"), *quick)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "image"
    file.write_bytes(os.urandom(SIZE))
    return file


class Relay:
    """The program under test, its driver, and what it says and writes."""

    def __init__(
        self, argv: list[str], folder: Path, servers: list[tuple[str, int]], home: int = 0
    ) -> None:
        ours, its = socket.socketpair()
        self.state = folder / "state"
        self.state.mkdir()
        self.log = folder / "log"
        named = [f"{ip}:{8000 + number}:{port}" for number, (ip, port) in enumerate(servers)]
        words = [str(its.fileno()), str(home), str(self.state), NAME, *named]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, *words], pass_fds=[its.fileno()], stderr=log, stdout=log
            )
        its.close()
        self.driver = Driver(ours)
        self.driver.ask(0, 512)
        self.driver.take()  # it is attached

    def said(self) -> str:
        return self.log.read_text()

    def wait_said(self, words: str) -> None:
        self.wait(lambda: words in self.said())

    def wait(self, is_so: Callable[[], bool]) -> None:
        """Until it is so; the test's own time limit ends it, or the program's end."""
        while not is_so():
            assert self.process.poll() is None, self.said()
            time.sleep(0.01)

    def server(self) -> int:
        """Which of its servers the rest of the system is told, by its port of HTTP."""
        with contextlib.suppress(OSError):
            return int((self.state / "http").read_text()) - 8000
        return 0

    def end(self) -> None:
        self.driver.close()
        assert self.process.wait(30) == 0, self.said()


@pytest.fixture
def start(program: Path, tmp_path: Path) -> Iterator[Callable[..., Relay]]:
    started: list[Relay] = []

    def start(*ports: int, home: int = 0) -> Relay:
        servers = [("127.0.0.1", port) for port in ports]
        started.append(Relay([str(program)], tmp_path, servers, home))
        return started[-1]

    yield start
    for relay in started:
        if relay.process.poll() is None:
            relay.end()
        assert "Sanitizer" not in relay.said()


@pytest.fixture
def qemu(image: Path) -> Iterator[Callable[..., QemuNbd]]:
    started: list[QemuNbd] = []

    def start(file: Path = image, name: str = NAME) -> QemuNbd:
        started.append(QemuNbd(file, name).start())
        return started[-1]

    yield start
    for server in started:
        server.kill()


def read_all(relay: Relay, data: bytes, count: int = 300, depth: int = 40) -> None:
    """Read all over the file with `depth` reads under way; each has the right bytes."""
    for offset, length in pieces(len(data), count):
        relay.driver.ask(offset, length)
        while relay.driver.pending() >= depth:
            take_one(relay, data)
    while relay.driver.pending():
        take_one(relay, data)


def take_one(relay: Relay, data: bytes) -> None:
    _, error, offset, found = relay.driver.take()
    assert error == 0
    assert found == data[offset : offset + len(found)]


def test_reads_go_through_and_the_end_is_clean(start: Callable[..., Relay], image: Path) -> None:
    data = image.read_bytes()
    server = FakeNbd(data)
    relay = start(server.port, free_port())
    read_all(relay, data)
    handle = relay.driver.ask(0, 4096, WRITE, bytes(4096))
    assert relay.driver.take()[:2] == (handle, errno.EPERM)
    read_all(relay, data, 10)
    relay.end()
    assert relay.said() == ""
    while server.left == 0:  # its NBD_CMD_DISC is on its way
        time.sleep(0.01)
    server.close()


def test_a_server_is_killed_under_reads(
    start: Callable[..., Relay], qemu: Callable[..., QemuNbd], image: Path
) -> None:
    data = image.read_bytes()
    first, second = qemu(), qemu()
    relay = start(first.port, second.port)
    read_all(relay, data, 50)
    for offset, length in pieces(SIZE, 60):
        relay.driver.ask(offset, length)
    first.kill()
    while relay.driver.pending():
        take_one(relay, data)
    read_all(relay, data)
    relay.wait(lambda: relay.server() == 1)
    relay.wait_said("127.0.0.1 serves the root now, after ")
    assert "lost 127.0.0.1 (" in relay.said()
    assert (relay.state / "nbd").read_text() == f"{second.port}\n"
    moved = (relay.state / "root-moved").read_text().split(" ", 3)
    assert moved[:2] == ["127.0.0.1:8001", "127.0.0.1:8000"]
    assert int(moved[2]) >= 0


def test_the_rest_of_a_reply_comes_from_another_server(
    start: Callable[..., Relay], qemu: Callable[..., QemuNbd], image: Path
) -> None:
    """The driver has had the head and some bytes: only those that are missing may follow."""
    data = image.read_bytes()
    cuts = iter([16 + 1000, 16, 3, 16 + 50_000])
    servers = [
        FakeNbd(data, lambda offset, length: Reply(cut=next(cuts)) if length > 4096 else None)
        for _ in range(4)
    ]
    relay = start(*(server.port for server in servers), qemu().port)
    relay.driver.ask(8192, 100_000)
    relay.driver.ask(0, 4096)
    relay.driver.ask(500_000, 100_000)
    for _ in range(3):
        take_one(relay, data)
    relay.wait(lambda: relay.server() == 4)
    read_all(relay, data)
    for server in servers:
        server.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_servers_that_break_off_anywhere(
    start: Callable[..., Relay], image: Path, seed: int
) -> None:
    """Each of three hangs up within every tenth reply, wherever that is; and errors go by."""
    data, dice = image.read_bytes(), random.Random(seed)

    def misbehave(offset: int, length: int) -> Reply | None:
        if length <= 4096:  # as the handshake reads
            return None
        if dice.random() < 0.01:
            return Reply(error=errno.EIO)
        return Reply(cut=dice.randrange(16 + length)) if dice.random() < 0.1 else None

    servers = [FakeNbd(data, misbehave) for _ in range(3)]
    relay = start(*(server.port for server in servers))
    for offset, length in pieces(SIZE, 400):
        relay.driver.ask(offset, length)
        while relay.driver.pending() >= 30:
            take_what_comes(relay, data)
    while relay.driver.pending():
        take_what_comes(relay, data)
    assert relay.said().count("lost") > 10
    for server in servers:
        server.close()


def take_what_comes(relay: Relay, data: bytes) -> None:
    """An error only after each of three servers had one for that read."""
    _, error, offset, found = relay.driver.take()
    assert error in (0, errno.EIO)
    assert found == data[offset : offset + len(found)]


def test_a_server_that_falls_silent_is_left(
    start: Callable[..., Relay], qemu: Callable[..., QemuNbd], image: Path
) -> None:
    data = image.read_bytes()
    server = FakeNbd(data, lambda offset, length: Reply(silent=True) if offset == 8192 else None)
    relay = start(server.port, qemu().port)
    relay.driver.ask(8192, 4096)
    take_one(relay, data)
    relay.wait_said("serves the root now")
    server.close()


def test_servers_that_are_of_no_use_are_passed_over(
    start: Callable[..., Relay], qemu: Callable[..., QemuNbd], image: Path, tmp_path: Path
) -> None:
    data = image.read_bytes()
    longer, other = tmp_path / "longer", tmp_path / "other"
    longer.write_bytes(data + bytes(4096))
    other.write_bytes(os.urandom(SIZE))
    mute = FakeNbd(data, mute=True)
    first = qemu()
    ports = [free_port(), mute.port, qemu(longer).port, qemu(other).port, qemu(name="else").port]
    relay = start(first.port, *ports, qemu().port)
    first.kill()
    read_all(relay, data)
    relay.wait(lambda: relay.server() == 6)
    assert relay.said().count("gives another image") == 2
    assert f"({SIZE + 4096} bytes, not {SIZE})" in relay.said()
    assert "has no export" in relay.said()
    mute.close()


def test_reads_wait_until_one_of_all_is_back(
    start: Callable[..., Relay], qemu: Callable[..., QemuNbd], image: Path
) -> None:
    data = image.read_bytes()
    first, second = qemu(), qemu()
    relay = start(first.port, second.port)
    read_all(relay, data, 5)
    second.kill()
    first.kill()
    relay.driver.ask(4096, 4096)
    relay.wait_said("none of 2 servers gives")
    assert relay.driver.pending() == 1
    first.start()
    take_one(relay, data)
    relay.wait_said("serves the root now")
    assert relay.server() == 0


def test_what_one_server_cannot_read_another_one_may(
    start: Callable[..., Relay], qemu: Callable[..., QemuNbd], image: Path
) -> None:
    data = image.read_bytes()

    def fail(offset: int, length: int) -> Reply | None:
        return Reply(error=errno.EIO) if offset == 8192 else None

    broken = [FakeNbd(data, fail) for _ in range(2)]
    relay = start(broken[0].port, qemu().port)
    relay.driver.ask(8192, 4096)
    take_one(relay, data)
    assert f"lost 127.0.0.1 ({os.strerror(errno.EIO)})" in relay.said()
    relay.end()
    (relay.state).rename(relay.state.with_name("before"))
    relay = start(*(server.port for server in broken))
    handle = relay.driver.ask(8192, 4096)
    assert relay.driver.take()[:2] == (handle, errno.EIO)
    read_all(relay, data, 20)
    for server in broken:
        server.close()


def test_it_goes_home_and_reads_go_on(
    start: Callable[..., Relay], qemu: Callable[..., QemuNbd], image: Path
) -> None:
    data = image.read_bytes()
    first, second = qemu(), qemu()
    relay = start(first.port, second.port, home=1)
    first.kill()
    read_all(relay, data, 20)
    relay.wait(lambda: relay.server() == 1)
    first.start()
    while relay.server() == 1:
        read_all(relay, data, 20)
    relay.wait_said("back with 127.0.0.1")
    assert (relay.state / "root-elsewhere").read_text() == "127.0.0.1:8001 127.0.0.1:8000\n"
    (relay.state / "root-elsewhere").unlink()
    second.kill()
    read_all(relay, data)
    assert relay.said().count("lost") == 1
    second.start()
    relay.wait((relay.state / "root-elsewhere").exists)
    assert (relay.state / "root-elsewhere").read_text() == "127.0.0.1:8000 127.0.0.1:8001\n"


def test_it_stays_where_it_is_when_it_is_told_to(
    start: Callable[..., Relay], qemu: Callable[..., QemuNbd], image: Path
) -> None:
    data = image.read_bytes()
    first, second = FakeNbd(data), qemu()
    relay = start(first.port, second.port)
    first.close()
    relay.wait(lambda: relay.server() == 1)
    back = FakeNbd(data, port=first.port)
    relay.wait(lambda: back.asked > 50)
    assert back.opened == 0
    assert relay.server() == 1
    back.close()


def test_a_machine_of_another_image_is_no_home(
    start: Callable[..., Relay], qemu: Callable[..., QemuNbd], image: Path
) -> None:
    data = image.read_bytes()
    first, second = FakeNbd(data), qemu()
    relay = start(first.port, second.port, home=1)
    first.close()
    relay.wait(lambda: relay.server() == 1)
    back = FakeNbd(os.urandom(SIZE), port=first.port)
    relay.wait_said("gives another image")
    assert relay.server() == 1
    read_all(relay, data)
    back.close()


@pytest.mark.integration
def test_black_holes(image: Path, tmp_path: Path) -> None:
    """Real ones: packets of the first server are dropped under reads; SYNs of the second always
    were. The third one serves."""
    data, port = image.read_bytes(), 10809
    with contextlib.closing(Namespace()) as inside:
        inside.run(["ip", "link", "set", "lo", "up"])
        for ip in ("127.0.0.2", "127.0.0.4"):
            words = ["--read-only", "--persistent", "--shared=0", "--format=raw", f"--bind={ip}"]
            words += [f"--port={port}", f"--export-name={NAME}", str(image)]
            inside.start(ip, ["qemu-nbd", *words], tmp_path / "qemu-nbd")
            connect_to(inside, ip, port)
        drop(inside, "127.0.0.3")
        servers = [(f"127.0.0.{number}", port) for number in (2, 3, 4)]
        relay = Relay(inside.enter_argv([compile_relay(tmp_path)]), tmp_path, servers)
        read_all(relay, data, 20)
        drop(inside, "127.0.0.2")
        began = time.monotonic()
        relay.driver.ask(4096, 4096)
        take_one(relay, data)
        print(f"a read waited {time.monotonic() - began:.2f} s for the third server")
        read_all(relay, data)
        relay.wait(lambda: relay.server() == 2)
        assert f"lost 127.0.0.2 ({os.strerror(errno.ETIMEDOUT)})" in relay.said()
        relay.end()


def drop(inside: Namespace, ip: str) -> None:
    """No packet from or to that address any more, and no word of it."""
    for end in ("-s", "-d"):
        inside.run(["iptables", "-A", "INPUT", end, ip, "-j", "DROP"])


def connect_to(inside: Namespace, ip: str, port: int) -> None:
    """Wait until something listens there."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            inside.connect(ip, port).close()
            return
        time.sleep(0.01)


@pytest.mark.parametrize("words", [["x", "127.0.0.1:1"], ["127.0.0.1:0:1"], ["127.0.0.1:1:2"] * 18])
def test_what_names_no_server_is_refused(program: Path, tmp_path: Path, words: list[str]) -> None:
    assert subprocess.run([program, "0", "0", tmp_path, NAME, *words]).returncode == 2
