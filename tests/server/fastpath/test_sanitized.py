"""The C under AddressSanitizer and UndefinedBehaviorSanitizer: the other tests of this folder,
hypothesis's inputs included, in a process whose module is compiled with them."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[3]
TESTS = ("test_download.py", "test_lockstep.py", "test_poller.py", "test_reads.py")


def library(name: str) -> str:
    done = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_nothing_is_read_or_written_beside_its_place(tmp_path: Path) -> None:
    for package in ("server", "server/fastpath", "server/protocols", "tests/server/fastpath"):
        (tmp_path / package).mkdir(parents=True)
        for path in (HOUSE / package).glob("*.py"):
            (tmp_path / package / path.name).symlink_to(path)
    (tmp_path / "tests/cold.py").symlink_to(HOUSE / "tests/cold.py")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\naddopts = --import-mode=importlib -p no:cacheprovider\n"
    )
    sources = sorted((HOUSE / "server/fastpath").glob("*.c"))
    module = tmp_path / "server/fastpath/_fastpath.so"
    flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fPIC", "-shared"]
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run(
        ["gcc", *flags, include, "-fno-sanitize-recover=all", "-o", module, *sources], check=True
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-k", "not compile"),
            *(str(tmp_path / "tests/server/fastpath" / name) for name in TESTS),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "LD_PRELOAD": library("libasan.so"),
            "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own, at its end
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "passed" in done.stdout
    assert "failed" not in done.stdout
