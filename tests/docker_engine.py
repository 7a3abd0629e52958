"""A real Docker engine for the tests: Debian's own, unpacked and never installed.

It runs in mount and process namespaces of its own, so its mounts, shims and
containers end with it, however it ends. There is no bridge and no iptables
rule: builds and containers share the network that the engine was started in
(`network_mode="host"`).
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = ("docker.io", "containerd", "runc", "tini", "docker-registry", "libdevmapper1.02.1")
START_SECONDS = 60
STOP_SECONDS = 30
DISK_SIZE = 24 << 30
"""Bytes, as holes: of the disk for images where the file system cannot carry them."""
KEEP = "96h"
"""Images that were made longer ago are not kept from run to run."""
# Nothing outlives the shell: it is the first process of the process namespace.
_NAMESPACES = (
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("--propagation", "private", "--"),
)


class EngineError(RuntimeError):
    """The engine could not be had or did not start; says what it said last."""


def cache_directory() -> Path:
    """$BOOTFARM_CACHE, or ~/.cache/bootfarm."""
    return Path(os.environ.get("BOOTFARM_CACHE") or Path.home() / ".cache" / "bootfarm")


def unpack_programs() -> Path:
    """The directory with Debian's dockerd and all it needs, downloaded once."""
    policy = subprocess.run(
        ["apt-cache", "policy", *PACKAGES], capture_output=True, text=True, check=True
    ).stdout
    candidates = [line.strip() for line in policy.splitlines() if "Candidate:" in line]
    key = hashlib.sha256("\n".join(candidates).encode()).hexdigest()[:16]
    target = cache_directory() / "docker" / key
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        work = Path(scratch)
        os.chmod(work, 0o755)
        got = subprocess.run(
            ["apt-get", "download", "-q", *PACKAGES], cwd=work, capture_output=True, text=True
        )
        if got.returncode != 0:
            raise EngineError(f"apt-get download: {got.stderr.strip()}")
        for package in work.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, work / "root"], check=True)
        with contextlib.suppress(OSError):  # another test run was faster
            (work / "root").rename(target)
    return target


def program(name: str) -> Path:
    """One of the unpacked programs by name."""
    root = unpack_programs()
    for directory in ("usr/bin", "usr/sbin", "sbin", "bin"):
        if (root / directory / name).is_file():
            return root / directory / name
    raise EngineError(f"the packages {', '.join(PACKAGES)} have no {name}")


def environment() -> dict[str, str]:
    """The environment in which the unpacked programs find each other."""
    root = unpack_programs()
    path = f"{root}/usr/bin:{root}/usr/sbin:{os.environ['PATH']}:/usr/sbin:/sbin"
    libraries = f"{root}/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu"
    keep = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    return {**keep, "PATH": path, "LD_LIBRARY_PATH": libraries}


class Engine:
    """A running dockerd whose data lies in `directory`; `url` is what clients connect to.

    enter: a command prefix that leads into the network it shall work in.
    """

    def __init__(
        self,
        directory: Path,
        *,
        data: Path | None = None,
        enter: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        data = data or directory / "data"
        # A unix socket's path is short.
        self._run = Path(tempfile.mkdtemp(prefix="bootfarm-engine-"))
        self.socket = self._run / "docker.sock"
        self.url = f"unix://{self.socket}"
        self.log = directory / "dockerd.log"
        argv = [
            *enter,
            *_NAMESPACES,
            *_mount_disk(data),
            str(program("dockerd")),
            f"--host={self.url}",
            f"--data-root={data}",
            f"--exec-root={self._run / 'exec'}",
            f"--pidfile={self._run / 'docker.pid'}",
            *("--storage-driver=overlay2", "--bridge=none", "--iptables=false"),
            *("--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while self.docker("version", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > end:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
                raise EngineError(f"dockerd does not answer:\n{tail}")
            time.sleep(0.2)

    def docker(
        self,
        *words: str,
        check: bool = True,
        env: dict[str, str] | None = None,
        timeout: float = 1800,
    ) -> "subprocess.CompletedProcess[str]":
        """Run Docker's own client against this engine."""
        return subprocess.run(
            [str(program("docker")), "--host", self.url, *words],
            env={**environment(), "DOCKER_CONFIG": str(self._run), **(env or {})},
            capture_output=True,
            text=True,
            errors="replace",
            check=check,
            timeout=timeout,
        )

    def stop(self) -> None:
        """End the engine and everything that it runs; may be called twice."""
        if self._process.poll() is None:
            # nsenter and unshare forward nothing: the signal is for dockerd itself.
            for pid in _find_descendants(self._process.pid, "dockerd"):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._run, ignore_errors=True)


def _mount_disk(data: Path) -> list[str]:
    """A command prefix that gives overlay2 a disk of its own where the data lies on an overlay.

    The kernel stacks no overlay on another one's upper directory.
    """
    data.mkdir(parents=True, exist_ok=True)
    words = ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(data)]
    kind = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    if kind != "overlay":
        return []
    image = data.with_name(f"{data.name}.ext4")
    if not image.exists():
        beside = image.with_suffix(".new")
        with beside.open("wb") as disk:
            disk.truncate(DISK_SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(beside)], check=True)
        beside.rename(image)
    script = 'mount -o loop "$1" "$2" && shift 2 && exec "$@"'
    return ["sh", "-c", script, "sh", str(image), str(data)]


def _find_descendants(pid: int, name: str) -> list[int]:
    """The first processes of that name below a process."""
    try:
        if Path(f"/proc/{pid}/comm").read_text().strip() == name:
            return [pid]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [found for child in children for found in _find_descendants(int(child), name)]


@contextlib.contextmanager
def kept_engine(directory: Path, enter: Sequence[str] = ()) -> Iterator[Engine]:
    """The engine whose images are kept from run to run, so that what was built is not built again.

    One test run at a time; what was not used for some days goes.
    """
    data = cache_directory() / "docker" / "data"
    data.mkdir(parents=True, exist_ok=True)
    with (data.parent / "data.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = Engine(directory, data=data, enter=enter)
        try:
            _forget(engine)
            yield engine
        finally:
            _forget(engine)
            engine.stop()


def _forget(engine: Engine) -> None:
    """Remove containers and volumes, also of a run that was killed, and old images."""
    containers = engine.docker("ps", "--all", "--quiet").stdout.split()
    if containers:
        engine.docker("rm", "--force", "--volumes", *containers, check=False)
    engine.docker("volume", "prune", "--force", check=False)
    engine.docker("image", "prune", "--all", "--force", "--filter", f"until={KEEP}", check=False)
    engine.docker("builder", "prune", "--force", "--filter", f"until={KEEP}", check=False)


def import_base(engine: Engine, name: str = "bootfarm-base:bookworm") -> str:
    """A Debian image bootstrapped from this machine's own mirror, as the engine's image `name`.

    The same image for the same state of the archive: what was built on it is found again.
    """
    known = f"bootfarm-base:{package_state()}"
    if engine.docker("image", "inspect", known, check=False).returncode != 0:
        engine.docker("import", "--change", 'CMD ["/bin/sh"]', str(base_tarball()), known)
    engine.docker("tag", known, name)
    return name


def base_tarball() -> Path:
    """A minimal Debian 12 root file system with apt's sources; made once for a package state."""
    target = cache_directory() / "docker" / f"base-bookworm-{package_state()}.tar"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{os.getpid()}-{target.name}")
        argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar"]
        argv += ["--include=ca-certificates", '--aptopt=APT::Install-Recommends "false"']
        done = subprocess.run(
            [*argv, "bookworm", str(partial), "-"],
            input=_sources(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            partial.unlink(missing_ok=True)
            raise EngineError(f"mmdebstrap: {done.stderr.strip()[-800:]}")
        for old in target.parent.glob("base-bookworm-*.tar"):
            old.unlink(missing_ok=True)
        partial.rename(target)
    return target


@functools.cache
def package_state() -> str:
    """What tells one state of Debian's archive from another: a hash of its signed indexes."""
    from imagebuild.apt import machine_mirrors

    mirrors = machine_mirrors("debian")
    places = [
        f"{mirrors.archive}/dists/bookworm/InRelease",
        f"{mirrors.archive}/dists/bookworm-updates/InRelease",
        f"{mirrors.security}/dists/bookworm-security/InRelease",
    ]
    key = hashlib.sha256()
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)
        for place in places:
            file = Path(scratch) / "InRelease"
            got = subprocess.run(
                ["/usr/lib/apt/apt-helper", "download-file", place, file],
                capture_output=True,
                text=True,
            )
            if got.returncode != 0:
                raise EngineError(f"{place}: {got.stderr.strip() or got.stdout.strip()}")
            key.update(file.read_bytes())
            file.unlink()
    return key.hexdigest()[:16]


def _sources() -> str:
    from imagebuild.apt import machine_mirrors

    mirrors = machine_mirrors("debian")
    return (
        f"deb {mirrors.archive} bookworm main\n"
        f"deb {mirrors.archive} bookworm-updates main\n"
        f"deb {mirrors.security} bookworm-security main\n"
    )
