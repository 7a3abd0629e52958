"""Kubernetes 1.20 from Debian 12's own source package: no Go proxy is needed.

What `--kubernetes debian` builds, for machines that reach a Debian mirror alone.
"""

import os
import shutil
from email.utils import formatdate
from pathlib import Path

from rack.cache import (
    cache_directory,
    content_key,
    locked,
    need_tools,
    run,
    whole_or_nothing,
)
from rack.errors import RackError
from rack.kubernetes.deb import build_package
from rack.kubernetes.debian.packages import KUBERNETES, PAUSE_IMAGE, kubernetes_packages
from rack.kubernetes.images import write_images
from rack.kubernetes.privateapt import SUITE, PrivateApt, debian_mirror
from rack.kubernetes.repository import publish
from rack.kubernetes.stack import Packages, link_packages, rack_directory
from rack.progress import Progress

SOURCE_VERSION = "1.20.5+really1.20.2-1.1+deb12u1"
GO = "golang-1.19-go"
BUILD_PACKAGES = (
    *(GO, "golang-go", "golang-github-modern-go-reflect2-dev"),
    *("make", "rsync", "gcc", "libc6-dev"),
)
CONTROL_PLANE = (
    *("kubeadm", "kubectl"),
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
)

HERE = Path(__file__).parent


def _programs_key() -> str:
    return content_key(SOURCE_VERSION, GO, KUBERNETES, HERE / "compile.sh")


def _packages_key() -> str:
    shared = HERE.parent
    files = sorted((shared / "files").iterdir())
    code = [shared / name for name in ("deb.py", "repository.py", "images.py")]
    return content_key(_programs_key(), HERE / "packages.py", *code, *files)


def build(progress: Progress) -> Packages:
    """Build what is missing and link it into `build/rack/debian`.

    Minutes when nothing is cached (the compiler), else at once. Says each step
    to `progress`. Needs root: the compiler runs in a chroot of its own.
    """
    home = cache_directory() / "kubernetes"
    directory = home / f"debian-{_packages_key()}"
    with locked(directory):
        if not directory.is_dir():
            need_tools("apt-ftparchive", "dpkg-deb", "dpkg-source", "gpg", "mmdebstrap", "unshare")
            if os.geteuid() != 0:
                raise RackError(
                    "building Kubernetes' packages needs root (mmdebstrap, chroot)",
                    hint="run the command as root",
                )
            _build_packages(directory, _built_programs(home, progress), progress)
    packages = Packages(
        version=KUBERNETES,
        directory=directory,
        programs=directory / "root" / "usr" / "bin",
        etcd=directory / "root" / "usr" / "bin" / "etcd",
        busybox=directory / "root" / "bin" / "busybox",
        pause_image=PAUSE_IMAGE,
    )
    link_packages(packages, rack_directory() / "debian")
    return packages


def _built_programs(home: Path, progress: Progress) -> Path:
    """The directory of the compiled programs (bin/*, epoch); compiled if need be."""
    programs = home / f"debian-programs-{_programs_key()}"
    with locked(programs):
        if programs.is_dir():
            return programs
        with whole_or_nothing(programs) as work:
            # The log must outlive a failure, and the next try.
            _compile(work, home / f"{programs.name}.log", progress)
    return programs


def _compile(work: Path, log: Path, progress: Progress) -> None:
    log.write_bytes(b"")
    mirror = debian_mirror()
    apt = PrivateApt(work / "apt", mirror)
    progress(f"fetching Debian's source package kubernetes {SOURCE_VERSION} from {mirror}")
    apt.update()
    dsc = apt.fetch_source("kubernetes", SOURCE_VERSION, work / "source")
    root = work / "root"
    progress("making a build root with Go 1.19 (mmdebstrap)")
    # In namespaces of their own, so that no mount outlives them, come what may.
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    run(
        [
            *(*alone, "mmdebstrap", "--mode=root", "--variant=apt", "--quiet"),
            '--aptopt=APT::Install-Recommends "0"',
            f"--include={','.join(BUILD_PACKAGES)}",
            *(SUITE, root, mirror),
        ],
        log=log,
    )
    (root / "build").mkdir()
    run(["dpkg-source", "--extract", dsc, root / "build" / "source"], log=log)
    changelog = root / "build" / "source" / "debian" / "changelog"
    epoch = run(["dpkg-parsechangelog", "--file", changelog, "--show-field", "Timestamp"]).strip()
    shutil.copy(HERE / "compile.sh", root / "build" / "compile.sh")
    progress(f"compiling Kubernetes v{KUBERNETES}: 7 minutes on two cores; log {log}")
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" sh /build/compile.sh "$1" "$2"'
    run([*alone, "sh", "-c", script, root, f"v{KUBERNETES}", epoch], log=log)
    shutil.copytree(root / "build" / "bin", work / "bin")
    (work / "epoch").write_text(f"{epoch}\n")
    (work / "go").write_text(
        run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Version}\n", GO])
    )
    for leftover in (root, work / "apt", work / "source"):
        shutil.rmtree(leftover)


def _build_packages(directory: Path, programs: Path, progress: Progress) -> None:
    epoch = int((programs / "epoch").read_text())
    with whole_or_nothing(directory) as work:
        repository = work / "apt"
        for package in kubernetes_packages(programs / "bin"):
            progress(f"packing {package.filename}")
            initial = package.name[:1]
            pool = repository / "pool" / "main" / initial / package.name
            deb = build_package(package, work / "tree", pool, epoch)
            if package.name in CONTROL_PLANE:
                run(["dpkg-deb", "--extract", deb, work / "root"])
        progress("indexing and signing the repository")
        publish(repository, formatdate(epoch, usegmt=True))
        apt = PrivateApt(work / "debian", debian_mirror())
        progress("fetching Debian's etcd-server and busybox-static (unpacked, not installed)")
        apt.update()
        for name in ("etcd-server", "busybox-static"):
            deb = apt.fetch_package(name, work / "debian")
            run(["dpkg-deb", "--extract", deb, work / "root"])
        progress("writing the pause and the test image")
        pause, busybox = programs / "bin" / "pause", work / "root" / "bin" / "busybox"
        write_images(work / "images", PAUSE_IMAGE, pause, busybox)
        for leftover in ("tree", "debian"):
            shutil.rmtree(work / leftover, ignore_errors=True)
