"""What was built: the repository for recipes, and the programs of the control plane."""

import os
from dataclasses import dataclass
from pathlib import Path

from rack.cache import checkout_directory


@dataclass(frozen=True)
class Packages:
    """A built Kubernetes.

    version: for example 1.37.2. directory: the repository (`apt`) and docker-archives
    to preload (`images`). programs: where kubeadm, kubectl and the control plane's
    programs are. etcd, busybox: programs of their own; busybox is static and runs in
    any initramfs and any container. pause_image: what holds a pod's namespaces.
    """

    version: str
    directory: Path
    programs: Path
    etcd: Path
    busybox: Path
    pause_image: str

    @property
    def apt(self) -> Path:
        """The apt repository."""
        return self.directory / "apt"

    @property
    def images(self) -> Path:
        """The directory of docker-archives to preload."""
        return self.directory / "images"

    @property
    def minor(self) -> tuple[int, int]:
        """(1, 37) of 1.37.2."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


def link_packages(packages: Packages, into: Path) -> None:
    """Link `apt` and `images` into a directory of the checkout, where recipes look."""
    into.mkdir(parents=True, exist_ok=True)
    for name, target in (("apt", packages.apt), ("images", packages.images)):
        fresh = into / f".{name}.{os.getpid()}"
        fresh.symlink_to(target)
        fresh.rename(into / name)


def rack_directory() -> Path:
    """`build/rack` of the checkout."""
    return checkout_directory() / "build" / "rack"
