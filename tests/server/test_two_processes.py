"""`--services tftp,http` and `--services nbd` over one store and one state directory."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuild.store.images import Store
from imagebuild.store.inuse import DIRECTORY, read_in_use
from tests.server.test_serve import Server, eventually, replace

pytestmark = pytest.mark.integration


@pytest.fixture
def pair(farm: Path) -> Iterator[tuple[Server, Server]]:
    """As the two containers of k8s/overlays/two-containers."""
    pair = Server(farm, ["--services", "tftp,http"]), Server(farm, ["--services", "nbd"])
    for server in pair:
        server.start()
    yield pair
    for server in pair:
        if server.process is not None:
            server.stop(signal.SIGKILL)


def test_what_nodes_read_is_known_to_both_and_each_keeps_its_own(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    files, blocks = pair
    digest = Store(tmp_path / "store").get("amd64").digest
    files.get("/ltsp/amd64/grub/grub.cfg")
    uri = f"nbd://127.0.0.1:{blocks.nbd}//opt/ltsp/amd64"
    node = subprocess.Popen(
        ["/usr/bin/python3", "-m", "nbd", "-u", uri, "-c", "import sys; sys.stdin.read()"], stdin=-1
    )
    try:
        assert eventually(lambda: read_in_use(tmp_path / "state").connected == {digest})
        assert eventually(lambda: (tmp_path / "state/nodes").is_dir())
        # The one ends and comes back: what it did not write is as it was.
        before = files.json("/api/nodes/127.0.0.1")
        files.stop()
        assert read_in_use(tmp_path / "state").connected == {digest}
        files.start()
        assert files.json("/api/nodes/127.0.0.1") == before
        # The other is killed and comes back: its record is taken over.
        blocks.stop(signal.SIGKILL)
        blocks.start()
        assert eventually(lambda: digest in read_in_use(tmp_path / "state").left)
        assert len(list((tmp_path / "state" / DIRECTORY).glob("*.json"))) == 1
    finally:
        node.kill()
        node.wait()


def test_an_edit_reaches_both_and_the_last_good_text_is_whole(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    for number in range(20):
        replace(tmp_path / "lts.conf", f"[default]\nGREETING = {number}\n")
        assert f'GREETING="{number}"'.encode() in pair[0].get("/ltsp/amd64/lts.conf")
        json.loads((tmp_path / "state/lts.conf.json").read_bytes())
    assert eventually(lambda: pair[1].log.count("the new text is in force") > 0)
    # given.json is written after a while, and by then the loop above may be through or not.
    left = {path.name for path in (tmp_path / "state").iterdir() if path.is_file()}
    assert left - {"given.json"} == {"given.key", "lts.conf.json", "serve.lock"}


def test_a_second_server_on_one_state_directory_is_refused(tmp_path: Path, farm: Path) -> None:
    first, second = Server(farm), Server(farm)
    first.start()
    assert first.process is not None
    try:
        said = second.fails()
        assert f"--state {tmp_path}/state: another server keeps its timelines there" in said
        assert f"(pid {first.process.pid})" in said
        # Its workers, which live on for a moment, hold nothing.
        first.stop(signal.SIGKILL)
        second.start()
    finally:
        for server in (first, second):
            if server.process is not None:
                server.stop(signal.SIGKILL)
