"""`bootfarm serve` as systemd's unit runs it: what it tells, what it logs, and the unit itself."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.test_notify import Systemd
from tests.server.test_serve import Server

pytestmark = pytest.mark.integration

UNIT = Path(__file__).parents[2] / "docs" / "bootfarm.service"


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listener = Systemd(str(tmp_path / "notify"))
    yield listener
    listener.close()


def run(server: Server) -> "subprocess.Popen[str]":
    """Start it, without waiting for a line: with --log-format there is none on its output."""
    with (server.directory / "log").open("a") as log:
        return subprocess.Popen(server.argv, stdout=subprocess.DEVNULL, stderr=log, text=True)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_systemd_hears(
    farm: Path, systemd: Systemd, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.address)
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    server = Server(farm, ["--workers", workers, "--log-format", "journald"])
    process = run(server)
    try:
        assert systemd.hear() == "READY=1"
        assert server.get("/healthz")  # what is ready answers
        assert systemd.hear() == "STATUS=1 image, 0 nodes"
        assert systemd.hear() == systemd.hear() == "WATCHDOG=1"
        process.send_signal(signal.SIGHUP)
        heard = ""
        while not heard.startswith("RELOADING=1\nMONOTONIC_USEC="):
            heard = systemd.hear()
        while heard != "READY=1":
            heard = systemd.hear()
        process.send_signal(signal.SIGTERM)
        while heard != "STOPPING=1":
            heard = systemd.hear()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(20)
    lines = server.log.splitlines()
    assert all(re.match(r"<[2-7]>\S", line) for line in lines), server.log
    assert any(line.startswith("<6>bootfarm is ready on 127.0.0.1: tftp ") for line in lines)


def test_a_log_of_json(farm: Path) -> None:
    server = Server(farm, ["--log-format", "json", "--log-level", "debug"])
    process = run(server)
    try:
        while not (server.directory / "log").exists() or "is ready" not in server.log:
            assert process.poll() is None, server.log
        server.get("/ltsp/amd64/grub/grub.cfg")
        while '"source": "plan"' not in server.log:
            assert process.poll() is None, server.log
    finally:
        process.terminate()
        assert process.wait(20) == 0
    entries = [json.loads(line) for line in server.log.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(entries[0])
    plan = next(one for one in entries if one.get("about", {}).get("source") == "plan")
    assert plan["about"]["image"] == "amd64"
    assert "image=amd64" in plan["message"]


def test_the_error_of_a_start_is_an_entry(farm: Path) -> None:
    (farm / "farm.yaml").write_text("adress: 10.9.0.1\nhttp: {prot: 1}\n")
    server = Server(farm, ["--config", str(farm / "farm.yaml"), "--log-format", "journald"])
    lines = server.fails().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"<2>{farm}/farm.yaml:1: adress: unknown key; did you mean")
    assert lines[1].startswith(f"<2>{farm}/farm.yaml:2: http.prot: unknown key; ")


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@needs_systemd
def test_the_unit_is_one(tmp_path: Path) -> None:
    # The program's place is a matter of the machine.
    text = UNIT.read_text().replace("/opt/bootfarm/.venv/bin/bootfarm", "/bin/true")
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("file:/opt/bootfarm/docs/systemd.md", "man:systemd.service(5)"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_unit_is_closed(tmp_path: Path) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager"]
    done = subprocess.run([*argv, str(UNIT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:]


def test_the_unit_gives_what_serve_takes() -> None:
    from bootfarm import main

    lines = re.findall(r"^ExecStart(?:Pre)?=-?(.*)$", UNIT.read_text(), re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        program, command, *options = line.split()
        assert program.endswith("/bin/bootfarm")
        known = {name for one in main.commands[command].params for name in one.opts}
        assert {word for word in options if word.startswith("--")} <= known
