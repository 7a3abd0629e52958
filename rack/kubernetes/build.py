"""From Go modules to a local apt repository, each family of programs cached by content."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from email.utils import formatdate
from pathlib import Path

from rack.cache import cache_directory, content_key, locked, need_tools, run, whole_or_nothing
from rack.errors import RackError
from rack.kubernetes.compile import Built, Compilers, cached_directory, compile_family
from rack.kubernetes.deb import build_package
from rack.kubernetes.families import KUBERNETES, NODE_FAMILIES, Family
from rack.kubernetes.images import write_images
from rack.kubernetes.packages import node_packages
from rack.kubernetes.privateapt import PrivateApt, debian_mirror
from rack.kubernetes.repository import publish
from rack.kubernetes.stack import Packages, link_packages, rack_directory
from rack.kubernetes.toolchain import Toolchain, find_toolchain
from rack.progress import Progress

HERE = Path(__file__).parent
AT_ONCE = 2
"""Families that are compiled side by side: while one is fetched or linked, on one core, the other
has the rest of them."""
CODE = ("build.py", "deb.py", "images.py", "packages.py", "repository.py")
"""What decides how the packages look, beside the programs."""


def build(progress: Progress) -> Packages:
    """Build what is missing of the present stack and link it into `build/rack`.

    Minutes when nothing is cached (the compiler), and says so first; else at once.
    Each step is said to `progress`.
    """
    need_tools("apt-ftparchive", "dpkg-deb", "gcc", "gpg", "pkg-config")
    toolchain = find_toolchain(progress)
    built = compile_families(NODE_FAMILIES, toolchain, progress)
    files = sorted((HERE / "files").iterdir())
    names = [one.directory.name for one in built.values()]
    key = content_key(*names, *(HERE / name for name in CODE), *files)
    directory = cache_directory() / "kubernetes" / f"packages-{KUBERNETES.version}-{key}"
    with locked(directory):
        if not directory.is_dir():
            with whole_or_nothing(directory) as work:
                _pack(work, built, progress)
    kubernetes = built[KUBERNETES.name]
    packages = Packages(
        version=KUBERNETES.version,
        directory=directory,
        programs=kubernetes.directory / "bin",
        etcd=built["etcd"].program("etcd"),
        busybox=directory / "root" / "bin" / "busybox",
        pause_image=(directory / "pause-image").read_text().strip(),
    )
    link_packages(packages, rack_directory())
    return packages


def compile_families(
    families: Iterable[Family], toolchain: Toolchain, progress: Progress
) -> dict[str, Built]:
    """The families by name, compiled if need be; what is missing and its minutes come first."""
    families = tuple(families)
    missing = [one for one in families if not cached_directory(one, toolchain).is_dir()]
    if missing:
        progress(forecast(missing, toolchain.version, os.cpu_count() or 1))
    compilers = Compilers()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [
            pool.submit(compile_family, family, toolchain, progress, compilers)
            for family in families
        ]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()  # the error of the one that failed
            return {
                one.name: future.result() for one, future in zip(families, futures, strict=True)
            }
        finally:
            for future in futures:
                future.cancel()
            compilers.end()


def forecast(missing: Iterable[Family], go: str, cores: int) -> str:
    """One sentence: what will be compiled, and about how many minutes that takes."""
    missing = tuple(missing)
    minutes = max(1, round(sum(family.cpu_seconds for family in missing) / cores / 60))
    names = ", ".join(f"{family.name} {family.version}" for family in missing)
    return (
        f"compiling {names} with {go}: about {minutes} min on {cores} "
        f"core{'s'[: cores - 1]}, once; then it is cached"
    )


def pause_image_of(kubeadm: Path, version: str) -> str:
    """The sandbox image that this kubeadm names, for example registry.k8s.io/pause:3.10.2."""
    said = run([kubeadm, "config", "images", "list", f"--kubernetes-version=v{version}"])
    found = re.search(r"^\S+/pause:\S+$", said, re.M)
    if found is None:
        raise RackError(f"{kubeadm} names no pause image: {said.strip()!r}")
    return found.group()


def _pack(work: Path, built: Mapping[str, Built], progress: Progress) -> None:
    kubernetes = built[KUBERNETES.name]
    repository = work / "apt"
    for package in node_packages(built):
        progress(f"packing {package.filename}")
        pool = repository / "pool" / "main" / package.name[:1] / package.name
        build_package(package, work / "tree", pool, kubernetes.epoch)
    progress("indexing and signing the repository")
    publish(repository, formatdate(kubernetes.epoch, usegmt=True))
    progress("fetching Debian's busybox-static (unpacked, not installed)")
    apt = PrivateApt(work / "debian", debian_mirror())
    apt.update()
    deb = apt.fetch_package("busybox-static", work / "debian")
    run(["dpkg-deb", "--extract", deb, work / "root"])
    progress("compiling pause, writing its image and the test image")
    image = pause_image_of(kubernetes.program("kubeadm"), KUBERNETES.version)
    (work / "pause-image").write_text(f"{image}\n")
    source = work / "tree" / "pause.c"
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(kubernetes.file("build/pause/linux/pause.c"))
    pause = work / "tree" / "pause"
    tag = image.rpartition(":")[2]
    run(["gcc", "-Os", "-static", "-s", f"-DVERSION=v{tag}", "-o", pause, source])
    write_images(work / "images", image, pause, work / "root" / "bin" / "busybox")
    for leftover in ("tree", "debian"):
        shutil.rmtree(work / leftover)
