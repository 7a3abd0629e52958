import json
from pathlib import Path
from typing import Any

import pytest

from server.errors import ServerError
from server.events import Event
from server.nodes.timelines import Nodes
from server.observe import recording
from server.observe.recording import Recorder
from server.protocols.nbd_tap import pack_reads

NODE = "10.9.0.11"
CORE = "/ltsp/amd64/grub/i386-pc/core.0"


class Site:
    """A recorder beside timelines, as the server has them."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.directory = directory
        self.nodes = Nodes()
        self.recorder = Recorder(directory, lambda: self.now)

    def event(self, source: str, phase: str, node: str = NODE, **detail: Any) -> None:
        event = Event(self.now, node, source, phase, detail)
        if phase == "reads":
            self.recorder.take(event, None)
        else:
            self.recorder.take(event, self.nodes.record(event))

    def fetch(self, path: str, node: str = NODE, **detail: Any) -> None:
        self.event("tftp", "transfer", node, path=path, status="start", bytes=0, seconds=0.0)
        self.now += 1.0
        given = {"path": path, "status": "ok", "bytes": 5, "seconds": 1.0, "retries": 0}
        self.event("tftp", "transfer", node, **{**given, **detail})

    def read(self, *reads: tuple[float, int, int]) -> None:
        zero = reads[0][0]
        self.event(
            "nbd",
            "reads",
            export="/opt/ltsp/amd64@ab",
            size=999,
            connection=7,
            zero=zero,
            reads=pack_reads(list(reads), zero),
        )

    def written(self) -> list[list[dict[str, Any]]]:
        return [
            [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted(self.directory.glob("*.jsonl"))
        ]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "boots")


def test_one_boot(site: Site) -> None:
    site.fetch(CORE, options="tsize=0", status="stop", bytes=0)
    site.fetch(CORE, options="blksize=1456")
    site.event("http", "transfer", file="/ltsp/amd64/lts.conf", status="ok", bytes=70, seconds=0.5)
    site.event("nbd", "attach", export="/opt/ltsp/amd64@ab", digest="ab", bytes=0)
    site.read((1003.0, 0, 4096), (1003.00025, 4096, 131_072))
    site.event("beacon", "ready", status="ok")
    site.recorder.poll()
    assert site.written() == []
    site.now += 6
    site.recorder.poll()
    ((head, probe, core, conf, reads),) = site.written()
    assert head == {"format": 1, "node": NODE, "started": 1000.0}
    assert (probe["stopped"], probe["options"]) == (True, "tsize=0")
    assert (core["t"], core["via"], core["path"], core["bytes"]) == (1.0, "tftp", CORE, 5)
    assert (conf["via"], conf["path"], conf["t"]) == ("http", "/ltsp/amd64/lts.conf", 1.5)
    assert (reads["size"], reads["connection"]) == (999, 7)
    assert reads["reads"] == [[3_000_000, 0, 4096], [3_000_250, 4096, 131_072]]
    site.read((site.now, 0, 4096))  # the running node reads on
    site.recorder.close()
    assert len(site.written()) == 1


def test_a_reset_begins_another_file(site: Site) -> None:
    for _ in range(2):
        site.fetch(CORE)
        site.fetch("/ltsp/amd64/grub/grub.cfg")
        site.fetch("/ltsp/amd64/vmlinuz")
        site.now += 20
    site.recorder.close()
    assert [len(boot) for boot in site.written()] == [4, 4]


def test_a_node_that_goes_silent(site: Site) -> None:
    site.fetch(CORE)
    site.now += recording.SILENT_SECONDS + 1
    site.recorder.poll()
    assert len(site.written()) == 1


def test_what_began_before_the_server_is_not_recorded(site: Site) -> None:
    site.read((site.now, 0, 4096))
    site.recorder.close()
    assert site.written() == []


def test_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_OPEN", 2)
    monkeypatch.setattr(recording, "MAX_LINES", 3)
    monkeypatch.setattr(recording, "MAX_READS", 2)
    for number in range(4):
        site.fetch(CORE, f"10.9.0.{number}")
    for _ in range(5):
        site.fetch("/ltsp/amd64/vmlinuz", "10.9.0.0")
    site.event("beacon", "join", "10.9.0.1")
    site.recorder.close()
    assert [len(boot) for boot in site.written()] == [3, 2]


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ServerError, match="--record-boot"):
        Recorder(tmp_path / "file" / "x")
