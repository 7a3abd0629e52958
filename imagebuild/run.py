"""The one door to subprocess, and the chroot.

A command in a chroot runs in mount, process and host name namespaces of its
own, where the namespaces can be had: no package learns the name of the machine
that builds (it is localhost), its `/proc`, `/sys` and `/dev` and every process
that it started are gone when it ends, whatever ended it, and the machine's
own mount table never changes. Where they cannot be had (`docker build`), the
command runs in a plain chroot.
"""

import contextlib
import os
import selectors
import shlex
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from imagebuild.architecture import ARCHITECTURES, machine_architecture
from imagebuild.errors import BuildError

TAIL = 15
"""Lines of a failed command's output that its error shows."""

_MOUNT_SCRIPT = """\
set -e
echo localhost >/proc/sys/kernel/hostname
root=$1; shift
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
shift
mkdir -p "$root/proc" "$root/sys" "$root/dev"
mount -t proc -o nosuid,noexec,nodev proc "$root/proc"
mount -t sysfs -o ro,nosuid,noexec,nodev sysfs "$root/sys" 2>/dev/null || :
mount -t tmpfs -o mode=0755,nosuid,size=4m tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
if [ -s /etc/resolv.conf ] && [ -f "$root/etc/resolv.conf" ]; then
    mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
fi
exec chroot "$root" "$@"
"""

# setpriv: the namespaces end with this process even when SIGKILL ends it.
NAMESPACES = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--mount",
    "--uts",
    "--pid",
    "--fork",
    "--kill-child",
    "--propagation",
    "private",
    "--",
)

CHROOT_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
}


def check_tools(tools: Mapping[str, str]) -> None:
    """Refuse before any work when a program is missing.

    `tools` maps each program to the Debian package that has it.
    """
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = {
        tool: package for tool, package in tools.items() if not shutil.which(tool, path=path)
    }
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise BuildError(
            f"missing programs: {', '.join(sorted(missing))}", hint=f"apt-get install {packages}"
        )


def check_emulation(architecture: str) -> None:
    """Refuse before any work when this machine runs no programs of `architecture`."""
    if architecture == machine_architecture():
        return
    check_tools({"arch-test": "arch-test"})
    if ask(["arch-test", architecture]).status != 0:
        machine = ARCHITECTURES[architecture].machine
        raise BuildError(
            f"architecture: {architecture}: this machine ({machine_architecture()}) does not run"
            f" {architecture} programs",
            hint="apt-get install qemu-user-static binfmt-support; where no systemd runs, also:"
            " mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc;"
            f" update-binfmts --enable qemu-{machine}",
        )


@dataclass
class Log:
    """Where commands' output goes: a file, and a listener that gets each line.

    Both are optional. The file is opened for each command, so a log can be
    moved or read at any time.
    """

    path: Path | None = None
    line: Callable[[str], None] | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Callable[[str], None]]:
        """Yield a function that takes one line without its newline."""
        stream: IO[str] | None = None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stream = self.path.open("a", encoding="utf-8", errors="replace")

        def write(text: str) -> None:
            if stream is not None:
                stream.write(text + "\n")
                stream.flush()
            if self.line is not None:
                self.line(text)

        try:
            yield write
        finally:
            if stream is not None:
                stream.close()


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    log: Log | None = None,
    what: str = "",
    hint: str = "",
    shown: str = "",
) -> str:
    """Run a command and return its standard output.

    Output (and standard error, which goes to the log only) is logged line by
    line, after the command itself (or `shown`). BuildError when it cannot
    start or exits with anything but 0: `what` (default: the command) says
    what failed, and the last lines that it wrote
    follow. An exception here, a signal's included, kills the command.
    """
    command = [str(word) for word in argv]
    what = what or " ".join(command[:6])
    tail: deque[str] = deque(maxlen=TAIL)
    output: list[str] = []
    log = log or Log()
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise BuildError(f"{what}: cannot run {command[0]}: {error.strerror}", hint=hint) from None
    with _killed_on_exception(process), log.opened() as write:
        write(f"+ {shown or shlex.join(command)}")
        for is_output, line in _lines(process, stdin):
            write(line)
            tail.append(line)
            if is_output:
                output.append(line)
        status = process.wait()
    if status != 0:
        reason = f"exit status {status}" if status > 0 else f"killed by signal {-status}"
        shown = "".join(f"\n    {line}" for line in tail if line.strip())
        where = f"\n  log: {log.path}" if log.path else ""
        raise BuildError(f"{what}: {reason}{shown}{where}", hint=hint)
    return "".join(line + "\n" for line in output)


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit status."""

    status: int
    output: str
    errors: str


def ask(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Answer:
    """Run a command that only answers a question.

    Nothing of it is logged, and an exit status other than 0 is an answer, too. BuildError when
    it cannot start.
    """
    try:
        done = subprocess.run(
            argv,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise BuildError(f"cannot run {argv[0]}: {error.strerror}") from None
    return Answer(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def _killed_on_exception(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _lines(process: subprocess.Popen[str], stdin: str | None) -> Iterator[tuple[bool, str]]:
    """(is standard output, line) of both outputs, as they come. The input is fed meanwhile."""
    assert process.stdout is not None
    assert process.stderr is not None
    pending = b"" if stdin is None else stdin.encode()
    with selectors.DefaultSelector() as selector:
        rests = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
        for fd in rests:
            selector.register(fd, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin.fileno(), selectors.EVENT_WRITE)
        while rests:
            for key, _ in selector.select():
                fd = key.fd
                if fd not in rests:
                    assert process.stdin is not None
                    try:
                        pending = pending[os.write(fd, pending) :] if pending else b""
                    except BrokenPipeError:
                        pending = b""
                    if not pending:
                        selector.unregister(fd)
                        process.stdin.close()
                    continue
                data = os.read(fd, 65536)
                is_output = fd == process.stdout.fileno()
                if not data:
                    selector.unregister(fd)
                    rest = rests.pop(fd)
                    if rest:
                        yield is_output, rest.decode(errors="replace")
                    continue
                *lines, rests[fd] = (rests[fd] + data).split(b"\n")
                for line in lines:
                    yield is_output, line.decode(errors="replace")


def can_isolate() -> bool:
    """Whether this process may make mount and process namespaces and mount in them."""
    if os.geteuid() != 0:
        return False
    probe = [*NAMESPACES, "mount", "-t", "proc", "proc", "/proc"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@dataclass(frozen=True)
class Chroot:
    """Runs commands with `root` as their root directory.

    `binds` (directory of the machine, path in the root) are mounted for each
    command when isolated, and ignored in a plain chroot. The environment is
    CHROOT_ENVIRONMENT and what the call adds; nothing of ours leaks in.
    """

    root: Path
    isolate: bool = True
    binds: tuple[tuple[Path, str], ...] = ()
    log: Log = field(default_factory=Log)

    def argv(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` in the root."""
        words = [str(word) for word in command]
        if not self.isolate:
            return ["chroot", str(self.root), *words]
        binds = [word for source, target in self.binds for word in (str(source), target)]
        script = ["/bin/sh", "-c", _MOUNT_SCRIPT, "bootfarm-chroot"]
        return [*NAMESPACES, *script, str(self.root), *binds, "--", *words]

    def run(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        what: str = "",
        hint: str = "",
    ) -> str:
        """Run `command` in the root and return its standard output; see `run`."""
        return run(
            self.argv(command),
            env={**CHROOT_ENVIRONMENT, **(env or {})},
            stdin=stdin,
            log=self.log,
            what=what or " ".join(str(word) for word in command[:6]),
            hint=hint,
            shown=f"chroot {shlex.join(str(word) for word in command)}",
        )

    def shell(
        self, script: str, *, env: Mapping[str, str] | None = None, what: str = "", hint: str = ""
    ) -> str:
        """Run a POSIX shell script in the root, with -e; its text is passed as an argument."""
        first = script.strip().splitlines()[0] if script.strip() else ""
        return self.run(["/bin/sh", "-ec", script], env=env, what=what or first, hint=hint)
