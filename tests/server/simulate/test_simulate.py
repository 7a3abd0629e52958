"""`bootfarm simulate` against `bootfarm serve`, both as processes on loopback."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.simulate.crew import Crew, play_first
from server.simulate.plan import Expected, Plan, Target, loopback_sources
from server.simulate.profile import load_profile
from tests.server.farm import FILES, publish
from tests.server.test_serve import Server

pytestmark = pytest.mark.integration

RANDOM = random.Random(11)
IMAGE = {
    **FILES,
    "rootfs.squashfs": b"hsqs" + RANDOM.randbytes(3_000_000),
    "vmlinuz": RANDOM.randbytes(300_000),
    "initrd.img": RANDOM.randbytes(500_000),
}
SIMULATE = (sys.executable, "-c", "from bootfarm import main; main()", "simulate")
OLD = "@" + "ab" * 32


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    publish(tmp_path / "store", files=IMAGE)
    (tmp_path / "lts.conf").write_text("[default]\nGREETING = one\n")
    server = Server(tmp_path, ["--record-boot", str(tmp_path / "boots"), *request.param])
    server.start()
    yield server
    if server.process is not None:
        assert server.stop() == 0


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """A boot of another image, larger than the one that is served."""
    fetches: list[tuple[str, str, dict[str, Any]]] = [
        ("tftp", "/ltsp/amd64/grub/i386-pc/core.0", {"options": "tsize=0", "stopped": True}),
        ("tftp", "/ltsp/amd64/grub/i386-pc/core.0", {"options": "blksize=1456"}),
        ("tftp", "/ltsp/amd64/grub/grub.cfg", {"options": "tsize=0 blksize=1024"}),
        ("tftp", f"/ltsp/amd64/{OLD}/vmlinuz", {"options": "tsize=0 blksize=1428 windowsize=16"}),
        ("tftp", f"/ltsp/amd64/{OLD}/initrd.img", {"options": "tsize=0 blksize=1428"}),
        ("http", "/ltsp/amd64/lts.conf", {}),
    ]
    lines: list[dict[str, Any]] = [{"format": 1, "node": "10.9.0.11", "started": 1.0}]
    for number, (via, path, more) in enumerate(fetches):
        lines.append({"t": number / 10, "via": via, "path": path, "bytes": 9, **more})
    draw = random.Random(3)
    reads = [
        [1_000_000 + n // 4 * 900, draw.randrange(0, 9000) * 512, draw.choice((512, 65_536))]
        for n in range(120)
    ]
    export = f"/opt/ltsp/amd64{OLD}"
    nbd = {"t": 1.0, "via": "nbd", "export": export, "size": 5_000_000, "connection": 1}
    lines.append({**nbd, "reads": reads})
    boot = tmp_path / "boot.jsonl"
    boot.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return boot


def simulate(server: Server, *options: str) -> subprocess.CompletedProcess[str]:
    target = f"127.0.0.1:tftp={server.tftp},nbd={server.nbd},http={server.http}"
    argv = [*SIMULATE, "--target", target, "--json", "-", *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize("server", [[], ["--workers", "2"]], indirect=True, ids=["one", "workers"])
def test_a_storm_is_played_checked_and_recorded_again(
    server: Server, profile: Path, tmp_path: Path
) -> None:
    done = simulate(server, "--nodes", "40", "--profile", str(profile), "--processes", "2")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["done"], report["failed"]) == (40, {})
    assert report["image"]["digest"] != "ab" * 32, "what the target boots now"
    assert report["checked"]["nbd_reads"] == 40 * 8
    assert report["checked"]["files"] == 5 * 3, "of nodes 0, 16 and 32"
    assert report["limits"]["server_cpu"] > 0
    assert list(report["phases"]) == ["loader", "menu", "kernel", "initrd", "ltsconf", "root"]
    files = len(IMAGE["vmlinuz"]) + len(IMAGE["initrd.img"])
    reads = sum(step.size for step in load_profile(profile).steps if step.phase == "root")
    assert report["bytes"] > 40 * (files + reads)
    for words in ("seconds waiting", "reads beyond its end", "limited by", "40 of 40 nodes"):
        assert words in done.stderr
    # What the server has recorded of it is a profile that plays the same.
    server.stop()
    recorded = sorted((tmp_path / "boots").glob("*.jsonl"))
    assert len(recorded) >= 40
    last = load_profile(recorded[-1])
    assert last.phases == tuple(report["phases"])
    assert last.export_size == len(IMAGE["rootfs.squashfs"])
    assert sum(step.size for step in last.steps if step.phase == "root") == reads


@pytest.mark.parametrize("server", [[]], indirect=True)
def test_ctrl_c_tells_what_was_seen_and_is_no_success(server: Server, profile: Path) -> None:
    target = f"127.0.0.1:tftp={server.tftp},nbd={server.nbd},http={server.http}"
    argv = [*SIMULATE, "--target", target, "--profile", str(profile), "--nodes", "20"]
    argv += ["--ramp", "1000", "--no-first-node", "--processes", "1"]
    storm = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert storm.stderr is not None
    for line in storm.stderr:
        if "waiting" in line:  # the table's head: it runs
            break
    storm.send_signal(signal.SIGINT)
    out, error = storm.communicate(timeout=50)
    assert storm.returncode == 130
    assert "Interrupted: bootfarm simulate: what was seen up to now" in error
    assert "of 20 nodes" in out
    assert "Traceback" not in error


def make_plan(server: Server, profile: Path, **more: Any) -> Plan:
    return Plan(
        Target("127.0.0.1", server.tftp, server.nbd, server.http),
        load_profile(profile).fitted(len(IMAGE["rootfs.squashfs"])),
        "amd64",
        publish_digest(server),
        "/opt/ltsp/amd64",
        sources=loopback_sources("127.0.0.1", 8),
        **more,
    )


def publish_digest(server: Server) -> str:
    return str(server.json("/healthz")["images"]["amd64"]["current"])


def play(plan: Plan, nodes: int = 3) -> list[str]:
    crew = Crew(plan, nodes, 1, 0.0)
    crew.start()
    while crew.poll(1.0):
        pass
    crew.stop()
    return sorted(result.error for result in crew.total().results)


@pytest.mark.parametrize("server", [[]], indirect=True)
def test_other_bytes_are_found_out(server: Server, profile: Path) -> None:
    plan = make_plan(server, profile)
    expected, alone = play_first(plan)
    assert alone.error == ""
    assert expected.files[3][0] == len(IMAGE["vmlinuz"])
    assert 2 not in expected.files, "each node has a menu of its own"
    assert play(make_plan(server, profile, expected=expected)) == ["", "", ""]
    longer = {**expected.files, 4: (7, expected.files[4][1])}
    errors = play(make_plan(server, profile, expected=Expected(longer, expected.reads)))
    assert all("initrd.img: 500000 bytes, not 7 than the first" in error for error in errors)
    other = {**expected.files, 3: (expected.files[3][0], "0" * 64)}
    errors = play(make_plan(server, profile, expected=Expected(other, expected.reads)))
    assert [bool(error) for error in errors] == [False, False, True], "one of 16 is hashed"
    assert "vmlinuz: other bytes than the first node got" in errors[2]
    errors = play(
        make_plan(server, profile, expected=Expected({}, {**expected.reads, 16: "0" * 64}))
    )
    assert errors == ["NBD read 16 gave other bytes than the first node got"] * 3


@pytest.mark.parametrize("server", [[]], indirect=True)
def test_failures_are_counted_by_reason(server: Server, profile: Path) -> None:
    options = ["--nodes", "3", "--profile", str(profile), "--no-first-node", "--export", "nothing"]
    done = simulate(server, *options)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["done"] == 0
    ((reason, count),) = report["failed"].items()
    assert count == 3
    assert reason.startswith("root: export nothing: no export")
    assert "3 failed: root: export nothing" in done.stderr


@pytest.mark.parametrize("server", [[]], indirect=True)
def test_the_pace_of_the_recording(server: Server, profile: Path) -> None:
    done = simulate(server, "--nodes", "2", "--profile", str(profile), "--pace", "0.5")
    report = json.loads(done.stdout)
    assert report["done"] == 2
    assert report["seconds"] >= 2.0, "its reads began after one second"
    assert report["limits"]["verdict"] in ("the pace", "this machine", "this client")


def test_nobody_there(profile: Path) -> None:
    argv = [*SIMULATE, "--target", "127.0.0.1:tftp=1,nbd=1,http=1", "--nodes", "1"]
    done = subprocess.run(
        [*argv, "--profile", str(profile), "--patience", "1"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "a first node did not come up: loader: tftp" in done.stderr
    assert "hint:" in done.stderr
