"""`bootfarm rack` as a person types it, and the process that stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rack.detach import Detach, run_detachable
from rack.server import BOOTFARM

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root")


class Person:
    """Types commands; the rack's state is in a directory of this test."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def types(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [*BOOTFARM, "rack", *words],
            env={**os.environ, "BOOTFARM_RACK": str(self.state)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    made = Person(tmp_path)
    yield made
    if (tmp_path / "state.json").exists():
        made.types("down")


def test_without_a_rack_each_command_says_so(person: Person) -> None:
    for words in (["status"], ["down"], ["boot", "x"], ["console", "x"], ["kubectl", "get"]):
        said = person.types(*words, code=1)
        assert said == "Error: no rack is up\n  hint: `bootfarm rack up` puts one up\n"


def test_up_without_an_image_says_how_to_build_one(person: Person, tmp_path: Path) -> None:
    said = person.types("up", "--store", str(tmp_path / "none"), code=1)
    assert "there is no store" in said
    assert "bootfarm build recipes/demo.yaml" in said


@pytest.mark.integration
@needs_root
def test_up_boot_look_around_down(person: Person) -> None:
    up = ["up", "--no-server", "--no-control-plane"]
    assert "the rack is up" in person.types(*up)
    assert "a rack is up already" in person.types(*up, code=1)
    assert "10.9.100.1" in person.types("boot", "n1", "--memory", "128")
    assert "has a node n1 already" in person.types("boot", "n1", code=1)
    status = person.types("status")
    assert "control plane:  none" in status
    assert [line.split()[:4] for line in status.splitlines() if line.startswith("n1")] == [
        ["n1", "running", "bios", "10.9.100.1"]
    ]
    assert "10.9.0.20/16" in person.types("run", "ip", "-brief", "address")
    assert "no control plane" in person.types("kubectl", "get", "nodes", code=1)
    assert person.types("power", "n1", "cut") == "n1: off\n"
    assert "n1 is off" in person.types("console", "n1")
    assert "it has: n1" in person.types("console", "n2", code=1)
    assert person.types("power", "n1", "on") == "n1: running\n"
    pid = json.loads((person.state / "state.json").read_text())["pid"]
    assert person.types("down") == "the rack is down\n"
    assert not (person.state / "state.json").exists()
    try:
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        pass


WORK = """
import sys, time
from pathlib import Path
from rack.detach import run_detachable
def work(detach):
    try:
        print("working", flush=True)
        time.sleep(1000)
    finally:
        Path(sys.argv[1]).write_text("cleaned up")
sys.exit(run_detachable(work))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_work_cleans_up_however_the_command_ends(tmp_path: Path, number: signal.Signals) -> None:
    mark = tmp_path / "mark"
    command = subprocess.Popen(
        [sys.executable, "-c", WORK, str(mark)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None
    assert command.stderr is not None
    assert command.stdout.readline() == b"working\n"
    command.send_signal(number)
    code = command.wait(20)
    assert code == (130 if number != signal.SIGKILL else -9)
    # The end of the pipe is the end of the child that did the work.
    assert command.stdout.read() == b""
    command.stdout.close()
    words = "the work; everything is torn down; what was built is kept in the cache"
    assert command.stderr.read().decode() == f"Interrupted: {words}\n"
    command.stderr.close()
    assert mark.read_text() == "cleaned up"


BUILDING = """
import sys
from pathlib import Path
import rack.demo
from rack.detach import run_detachable
rack.demo.BOOTFARM = (sys.executable, "-c", sys.argv[1], sys.argv[2])
sys.exit(run_detachable(lambda detach: rack.demo.build_image(Path("recipe"), Path("store"))))
"""
BUILDER = """
import pathlib, signal, sys, time
def end(*_):
    pathlib.Path(sys.argv[1]).write_text("work removed")
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("building", flush=True)
time.sleep(1000)
"""


def test_a_build_within_the_demo_removes_its_work_before_the_demo_ends(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = subprocess.Popen(
        [sys.executable, "-c", BUILDING, BUILDER, str(mark)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert command.stdout is not None
    assert command.stdout.readline() == b"building\n"
    command.send_signal(signal.SIGINT)
    assert command.wait(20) == 130
    assert mark.read_text() == "work removed"
    command.stdout.close()


def test_detached_work_goes_on_and_writes_to_its_log(tmp_path: Path) -> None:
    log, mark = tmp_path / "log", tmp_path / "mark"

    def work(detach: Detach) -> None:
        detach(log)
        os.write(1, b"still here")
        mark.write_text("done")

    assert run_detachable(work) == 0
    end = time.monotonic() + 20
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert mark.exists()
    assert "still here" in log.read_text()


def test_a_failure_becomes_the_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    from rack.errors import RackError

    def work(detach: Detach) -> None:
        raise RackError("no luck", hint="try again")

    assert run_detachable(work) == 1
    assert "Error: no luck\n  hint: try again" in capfd.readouterr().err
