"""Servers that follow each other: real ones, on loopback."""

import functools
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from imagebuild.store.images import INCOMING, Store
from imagebuild.store.inuse import DIRECTORY, read_in_use
from imagebuild.store.peer import Peer, PeerError
from tests.server.farm import FILES, GOOD, publish
from tests.server.test_serve import Server, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


class Farm:
    """Servers whose farm.yaml names each other."""

    def __init__(self, base: Path, stack: ExitStack) -> None:
        self.base, self._stack = base, stack
        self.servers: list[Server] = []

    def add(self, *peers: Server, more: str = "") -> Server:
        directory = self.base / f"server{len(self.servers)}"
        directory.mkdir()
        (directory / "lts.conf").write_text(GOOD)
        server = Server(directory, ["--config", str(directory / "farm.yaml"), "--workers", "0"])
        self.servers.append(server)
        self.name(server, *peers, more=more)
        self._stack.callback(lambda: server.process and server.stop(signal.SIGKILL))
        return server

    def name(self, server: Server, *peers: Server, more: str = "") -> None:
        urls = [f"http://127.0.0.1:{peer.http}" for peer in peers]
        text = json.dumps({"peers": urls, "fetch": {"every": 1}})
        (server.directory / "farm.yaml").write_text(f"{text[:-1]}{more}}}\n")


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with ExitStack() as stack:
        yield Farm(tmp_path, stack)


def overview(server: Server) -> list[dict[str, Any]]:
    peers = server.json("/api/overview")["peers"]
    assert isinstance(peers, list)
    return peers


def tells(server: Server, words: str) -> bool:
    return words in " ".join(server.json("/healthz")["problems"])


def is_silent_of(server: Server, words: str) -> bool:
    return not tells(server, words)


def test_two_servers_follow_each_other_tell_a_conflict_and_who_is_away(farm: Farm) -> None:
    one, two = farm.add(), farm.add()
    farm.name(one, one, two)
    farm.name(two, one, two)
    first = publish(one.directory / "store")
    old = publish(one.directory / "store", kernel="5.1")  # current now; first is previous
    one.start()
    two.start()  # with no store at all
    there = Store(two.directory / "store")
    assert eventually(
        lambda: set(there.all_moves()) == {("amd64", "current"), ("amd64", "previous")}
    )
    assert there.all_moves() == Store(one.directory / "store").all_moves()
    assert there.get("amd64").digest == old.digest
    for image in there.images():
        there.verify(image)
    assert eventually(lambda: two.get("/ltsp/amd64/vmlinuz") == FILES["vmlinuz"])
    # Each knows itself and the other.
    assert eventually(lambda: [peer["state"] for peer in overview(two)] == ["here", "self"])
    assert overview(two)[0]["differs"] == []
    assert two.json("/healthz")["status"] == "ok"
    # A tag that moves at the one moves at the other, and so does one that is removed.
    there.tag("amd64", first.digest, "canary")
    assert eventually(lambda: "canary" in Store(one.directory / "store").moves("amd64"))
    there.remove("amd64", "canary")
    here = Store(one.directory / "store")
    assert eventually(lambda: here.moves("amd64")["canary"].digest == "")
    # Moved on both while they do not hear of each other.
    assert two.stop() == 0
    assert eventually(lambda: [peer["state"] for peer in overview(one)] == ["self", "away"])
    assert "is away since" in " ".join(one.json("/healthz")["problems"])
    assert b"<strong>is away</strong>" in one.get("/")
    there.tag("amd64", first.digest, "current")
    newer = publish(one.directory / "store", kernel="7.1")
    two.start()
    assert eventually(lambda: there.get("amd64").digest == newer.digest)
    for server in (one, two):
        assert eventually(
            functools.partial(tells, server, "amd64:current was moved on two servers")
        )
    # A person decides, and it is over.
    there.tag("amd64", first.digest, "current")
    assert eventually(lambda: here.get("amd64").digest == first.digest)
    for server in (one, two):
        assert eventually(functools.partial(is_silent_of, server, "two servers"))


def test_what_differs_is_told_and_what_the_others_nodes_read_is_spared(farm: Farm) -> None:
    one = farm.add()
    image = publish(one.directory / "store")
    two = farm.add(one, more=', "collect_after": 1, "on_error": "reboot"')
    farm.name(one, two)
    (two.directory / "lts.conf").write_text("[default]\nGREETING = two\n")
    state = one.directory / "state" / DIRECTORY
    state.mkdir(parents=True)
    record = {"format": 1, "connected": [image.digest], "left": {}}
    one.start()
    (state / "beside.json").write_text(json.dumps(record))  # as a process for NBD beside it
    two.start()
    there = Store(two.directory / "store")
    assert eventually(lambda: there.images() != [])
    assert eventually(lambda: overview(two)[0]["differs"] == ["lts.conf", "on_error"])
    assert eventually(lambda: read_in_use(two.directory / "state").connected == {image.digest})
    # Without a tag it stays, for nodes of the other read it; then it goes on both.
    Store(one.directory / "store").remove("amd64", "current")
    assert eventually(lambda: there.get("amd64", image.digest).tags == ())
    assert not eventually_soon(lambda: there.images() == [])


def eventually_soon(what: Any) -> bool:
    """Whether it comes to be true within ten turns of the collection's clock; few seconds."""
    end = threading.Event()
    for _ in range(60):
        if what():
            return True
        end.wait(0.1)
    return False


def test_a_new_server_with_one_command(farm: Farm) -> None:
    one = farm.add()
    image = publish(one.directory / "store")
    one.start()
    directory = farm.base / "new"
    directory.mkdir()
    (directory / "lts.conf").write_text(GOOD)
    new = Server(directory, ["--peer", f"http://127.0.0.1:{one.http}", "--workers", "0"])
    new.start()
    try:
        assert eventually(lambda: new.json("/healthz")["status"] == "ok")
        assert new.json("/healthz")["images"] == {"amd64": {"current": image.digest}}
    finally:
        new.stop(signal.SIGKILL)


@contextmanager
def cut_off(port: int, after: int) -> Iterator[tuple[int, list[bytes]]]:
    """A way to a server's port that ends, at first, after so many bytes of replies to a GET of
    the squashfs. Its own port, and the heads of all requests."""
    heads: list[bytes] = []
    cut = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            while head := client.recv(65536):
                heads.append(head)
                server.sendall(head)
                sent, limit = 0, after if b"squashfs" in head and not cut.is_set() else 1 << 40
                server.settimeout(0.5)
                try:
                    while data := server.recv(min(65536, limit - sent)):
                        client.sendall(data)
                        sent += len(data)
                        if sent == limit:
                            cut.set()
                            return
                except TimeoutError:
                    pass

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], heads
    finally:
        listener.close()


def test_a_pull_that_breaks_off_goes_on_where_it_was(farm: Farm, tmp_path: Path) -> None:
    one = farm.add()
    files = {**FILES, "rootfs.squashfs": b"hsqs" + os.urandom(200_000)}
    image = publish(one.directory / "store", files=files)
    one.start()
    store = Store(tmp_path / "copy")
    with cut_off(one.http, 100_000) as (port, heads):
        peer = Peer(f"http://127.0.0.1:{port}")
        with pytest.raises(PeerError, match=r"broke off at byte|does not answer"):
            peer.pull(store, "amd64", image.digest)
        have = (store.path / INCOMING / f"amd64@{image.digest}/rootfs.squashfs").stat().st_size
        assert 50_000 < have < 100_000
        assert store.images() == []
        assert peer.pull(store, "amd64", image.digest, tags=("current",)).digest == image.digest
    assert any(b"squashfs" in head and f"bytes={have}-".encode() in head for head in heads)
    store.verify(store.get("amd64"))


def test_a_damaged_file_is_never_published(farm: Farm, tmp_path: Path) -> None:
    one = farm.add()
    image = publish(one.directory / "store")
    kernel = image.path / "vmlinuz"
    kernel.write_bytes(FILES["vmlinuz"][:-1] + b"!")
    one.start()
    peer = Peer(f"http://127.0.0.1:{one.http}")
    with pytest.raises(PeerError, match="vmlinuz, and it is not what its digest says"):
        peer.pull(Store(tmp_path / "copy"), "amd64", image.digest)
    two = farm.add(one)
    two.start()
    words = f"amd64@{image.digest[:12]} cannot be fetched from http://127.0.0.1:{one.http}"
    assert eventually(lambda: words in " ".join(two.json("/healthz")["problems"]))
    assert Store(two.directory / "store").images() == []
    # Mended there, it comes with the next try; what nobody offers any more is no problem.
    kernel.write_bytes(FILES["vmlinuz"])
    peer.pull(Store(tmp_path / "copy"), "amd64", image.digest)
    Store(one.directory / "store").remove("amd64", image.digest, force=True)
    assert eventually(functools.partial(is_silent_of, two, "cannot be fetched"))


def test_a_server_that_is_silent_costs_only_its_own_seconds() -> None:
    """A black hole: the connection is there, and nothing ever comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(PeerError, match=f"{url} does not answer: it is silent"):
            Peer(url, seconds=0.2).index()
