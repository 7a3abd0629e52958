import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from imagebuild.errors import BuildError
from imagebuild.run import NAMESPACES, Answer, Chroot, Log, ask, check_emulation, check_tools, run

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_output_is_returned_and_both_are_logged(tmp_path: Path) -> None:
    lines: list[str] = []
    log = Log(tmp_path / "logs/x.log", lines.append)
    output = run(["sh", "-c", "echo out; echo err >&2; printf last"], log=log)
    assert output == "out\nlast\n"
    assert set(lines[1:]) == {"out", "err", "last"}
    assert lines[0] == "+ sh -c 'echo out; echo err >&2; printf last'"
    assert (tmp_path / "logs/x.log").read_text().splitlines() == lines


def test_a_failure_says_what_status_and_the_last_lines(tmp_path: Path) -> None:
    log = Log(tmp_path / "x.log")
    with pytest.raises(BuildError) as caught:
        run(["sh", "-c", "seq 1 100; exit 3"], what="counting", hint="count less", log=log)
    message = caught.value.message
    assert message.startswith("counting: exit status 3\n")
    assert "    100" in message
    assert "    86" in message
    assert "    85" not in message
    assert str(tmp_path / "x.log") in message
    assert caught.value.hint == "count less"


def test_killed_by_a_signal() -> None:
    with pytest.raises(BuildError, match="killed by signal 9"):
        run(["sh", "-c", "kill -9 $$"])


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(BuildError, match="cannot run /no/such: No such file"):
        run(["/no/such"])


def test_a_question_may_be_answered_by_any_exit_status() -> None:
    assert ask(["sh", "-c", "echo $A; echo no >&2; exit 3"], env={"A": "out"}) == Answer(
        3, "out\n", "no\n"
    )
    with pytest.raises(BuildError, match="cannot run no-such-program: No such file"):
        ask(["no-such-program"])


def test_input_larger_than_a_pipe() -> None:
    text = "x" * 99 + "\n"
    assert run(["cat"], stdin=text * 20_000) == text * 20_000


def test_input_that_nobody_reads() -> None:
    assert run(["true"], stdin="x" * 1_000_000) == ""


def test_words_are_never_parsed_by_a_shell() -> None:
    assert run(["printf", "%s", "$(id) `id` ; id"]) == "$(id) `id` ; id\n"


def test_an_exception_in_a_listener_kills_the_command(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def interrupt(line: str) -> None:
        if line == "go":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", f"echo $$ >{pid}; echo go; exec sleep 1000"], log=Log(line=interrupt))
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_missing_tools_are_told_together_with_their_packages() -> None:
    check_tools({"sh": "dash"})
    with pytest.raises(BuildError, match="missing programs: no-such-a, no-such-b") as caught:
        check_tools({"no-such-b": "pkg-b", "no-such-a": "pkg-a", "sh": "dash"})
    assert caught.value.hint == "apt-get install pkg-a pkg-b"


def test_programs_of_another_architecture_want_an_emulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagebuild.run.machine_architecture", lambda: "amd64")
    monkeypatch.setenv("PATH", str(tmp_path))
    check_emulation("amd64")
    tool = tmp_path / "arch-test"
    tool.write_text("#!/bin/sh\n[ $1 != arm64 ]\n")
    tool.chmod(0o755)
    with pytest.raises(BuildError, match="does not run arm64 programs") as caught:
        check_emulation("arm64")
    assert "apt-get install qemu-user-static binfmt-support" in caught.value.hint
    assert "update-binfmts --enable qemu-aarch64" in caught.value.hint
    tool.write_text("#!/bin/sh\n[ $1 = arm64 ]\n")
    check_emulation("arm64")


def test_chroot_command_lines(tmp_path: Path) -> None:
    plain = Chroot(tmp_path, isolate=False, binds=((Path("/cache"), "/var/cache"),))
    assert plain.argv(["ls", "/"]) == ["chroot", str(tmp_path), "ls", "/"]
    isolated = Chroot(tmp_path, binds=((Path("/cache"), "/var/cache"),)).argv(["ls", "/"])
    assert isolated[: len(NAMESPACES)] == list(NAMESPACES)
    assert isolated[len(NAMESPACES) : len(NAMESPACES) + 2] == ["/bin/sh", "-c"]
    assert isolated[-6:] == [str(tmp_path), "/cache", "/var/cache", "--", "ls", "/"]


@pytest.fixture
def small_root(tmp_path: Path) -> Path:
    """A root with busybox as its every program."""
    root = tmp_path / "root"
    for directory in ("bin", "proc", "sys", "dev", "etc"):
        (root / directory).mkdir(parents=True)
    busybox = Path("/bin/busybox").read_bytes()
    for name in ("sh", "cat", "ls", "sleep", "env", "grep"):
        (root / "bin" / name).write_bytes(busybox)
        (root / "bin" / name).chmod(0o755)
    linked = subprocess.run(["ldd", "/bin/busybox"], capture_output=True, text=True, check=False)
    for library in re.findall(r"(/\S+) \(0x", linked.stdout):
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    return root


def mounts(root: Path) -> list[str]:
    """What is mounted below `root`; other tests mount elsewhere meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split()[4].startswith(f"{root}/")]


@as_root
def test_a_command_in_a_chroot_has_proc_dev_and_binds_and_leaves_none(
    small_root: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "file").write_text("cached")
    before = mounts(small_root)
    chroot = Chroot(small_root, binds=((cache, "/var/cache"),))
    script = (
        "cat /var/cache/file; echo; ls /dev; grep -c processor /proc/cpuinfo; echo x >/dev/null"
    )
    output = chroot.shell(script)
    assert output.startswith("cached")
    assert {"pts", "random", "shm", "tty"} <= set(output.split())
    assert mounts(small_root) == before
    assert list((small_root / "dev").iterdir()) == []
    assert list((small_root / "proc").iterdir()) == []


@as_root
def test_nothing_of_our_environment_leaks_in(
    small_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "1")
    output = Chroot(small_root).run(["/bin/env"], env={"MORE": "2"})
    assert "SECRET" not in output
    assert "MORE=2\n" in output
    assert "DEBIAN_FRONTEND=noninteractive\n" in output


@as_root
def test_what_a_command_starts_ends_with_it(small_root: Path) -> None:
    Chroot(small_root).shell("sleep 4567 >/dev/null 2>&1 &\necho done")
    running = subprocess.run(["pgrep", "-f", "^sleep 4567"], capture_output=True, check=False)
    assert running.returncode == 1


@as_root
def test_a_killed_builder_leaves_no_process_and_no_mount(small_root: Path) -> None:
    before = mounts(small_root)
    program = f"""
        from pathlib import Path
        from imagebuild.run import Chroot, Log
        show = Log(line=lambda line: print(line, flush=True))
        Chroot(Path({str(small_root)!r}), log=show).shell("echo ready; exec sleep 7654")
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        assert "ready\n" in iter(builder.stdout.readline, "")
        os.kill(builder.pid, signal.SIGKILL)
        # End of file: nobody holds the pipe any more, so every process of the chroot is gone.
        builder.stdout.read()
    while subprocess.run(["pgrep", "-f", "^sleep 7654"], check=False, stdout=-3).returncode == 0:
        pass
    assert mounts(small_root) == before
