"""What Ctrl-C leaves of a compilation: nothing."""

import signal
import subprocess
import sys
import time
from pathlib import Path

RUN = """
import sys
from pathlib import Path
from rack.cache import whole_or_nothing
from rack.kubernetes.compile import Compilers, _run_counted
class Counter:
    def count(self):
        print("counted", flush=True)
target = Path(sys.argv[1])
with whole_or_nothing(target) as work:
    script = "echo a/package; sleep 1000 & echo $! >pid; wait"
    paths = {"PATH": "/usr/bin:/bin"}
    _run_counted(["sh", "-c", script], work, paths, work / "log", Counter(), Compilers())
"""


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_its_compilers_end_and_nothing_half_made_stays(tmp_path: Path) -> None:
    target = tmp_path / "programs"
    command = subprocess.Popen(
        [sys.executable, "-c", RUN, str(target)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert command.stdout is not None
    assert command.stdout.readline() == b"counted\n"
    pid = tmp_path / "programs.partial" / "pid"
    end = time.monotonic() + 30
    while not (pid.exists() and pid.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.01)
    compiler = int(pid.read_text())
    command.send_signal(signal.SIGINT)
    command.wait(30)
    command.stdout.close()
    while not is_gone(compiler):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []
