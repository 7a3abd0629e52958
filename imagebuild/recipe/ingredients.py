"""A recipe's parts as frozen data; imagebuild.recipe.read reads them from YAML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Mirrors:
    """Base URIs of the distribution's archive and its security archive."""

    archive: str
    security: str


@dataclass(frozen=True)
class Repository:
    """One more apt repository.

    `uri` is absolute (a relative `file:` is resolved against the recipe).
    `key` is a file, or an https URL; `key_sha256` pins its bytes, `key_fingerprint` its
    primary key. `pin` maps packages to
    a version prefix. A `file:` repository is never left in the image.
    """

    name: str
    uri: str
    suite: str
    components: tuple[str, ...]
    key: str
    key_sha256: str = ""
    key_fingerprint: str = ""
    pin: Mapping[str, str] = field(default_factory=dict)
    missing_hint: str = ""

    @property
    def directory(self) -> Path | None:
        """The directory of a `file:` repository."""
        return Path(self.uri.removeprefix("file:")) if self.uri.startswith("file:") else None


@dataclass(frozen=True)
class Build:
    """Something built in the builder stage: a -dkms package, or a script over a source.

    `commands` run in `/usr/src/bootfarm-build/<name>` of the builder;
    `outputs` are glob patterns of absolute paths that leave it.
    """

    name: str
    dkms: str = ""
    url: str = ""
    file: Path | None = None
    sha256: str = ""
    packages: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class RegistryMirror:
    """Where images of `registry` are asked for first; `*` is every registry without its own.

    `url` is https:// or, said so, http://; `ca` a file with the CA that signs it, or empty.
    """

    registry: str
    url: str
    ca: str = ""


@dataclass(frozen=True)
class ContainerRuntime:
    """`docker` or `containerd`; options go to its command line (docker) or are not allowed.

    `sandbox_image` is the pause image of containerd or cri-dockerd; empty: the program's own.
    """

    name: str
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()
    sandbox_image: str = ""
    mirrors: tuple[RegistryMirror, ...] = ()


@dataclass(frozen=True)
class Kubernetes:
    """Which Kubernetes: packages out of a repository at a version (prefix).

    `kubelet`: fields of KubeletConfiguration, as JSON has them.
    """

    version: str
    repository: str
    packages: tuple[str, ...]
    cni: str = "bridge"
    kubelet: Mapping[str, Any] = field(default_factory=dict)

    @property
    def minor(self) -> tuple[int, int]:
        """(1, 37) of a version 1.37.2."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)


@dataclass(frozen=True)
class AddedFile:
    """A file of the image: `content`, or what `source` (a file, or a glob into a directory) has."""

    path: str
    content: str | None
    source: str
    mode: int
    owner: str
    optional: bool = False


@dataclass(frozen=True)
class PatchSeries:
    """A directory with a `series` file, applied below `directory` of the image, with no fuzz."""

    series: Path
    directory: str
    strip: int = 1


@dataclass(frozen=True)
class Services:
    """Units to enable, disable and mask."""

    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()


@dataclass(frozen=True)
class Initramfs:
    """Modules to add, and whether every network driver and its firmware comes along."""

    modules: tuple[str, ...] = ()
    network_drivers: str = "listed"


@dataclass(frozen=True)
class Console:
    """Root's way in: a crypt(3) hash and SSH keys; neither means locked."""

    password_hash: str = ""
    ssh_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Squashfs:
    """mksquashfs: zstd at `level` (1 to 22)."""

    level: int = 15


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. `file` is where it was read from; relative paths are resolved already.

    `verity`: the root file system gets a hash tree, and nodes check each block that they read.
    """

    file: Path
    name: str
    distribution: str
    release: str
    architecture: str
    mirrors: Mirrors | None
    components: tuple[str, ...]
    packages: tuple[str, ...]
    repositories: tuple[Repository, ...]
    kernel_package: str
    builds: tuple[Build, ...]
    container_runtime: ContainerRuntime | None
    kubernetes: Kubernetes | None
    cmdline: tuple[str, ...]
    services: Services
    files: tuple[AddedFile, ...]
    patches: tuple[PatchSeries, ...]
    initramfs: Initramfs
    lts_defaults: Mapping[str, str]
    console: Console
    skip_maintainer_scripts: Mapping[str, tuple[str, ...]]
    squashfs: Squashfs
    verity: bool = False

    def repository(self, name: str) -> Repository | None:
        """The further repository of that name."""
        return next((item for item in self.repositories if item.name == name), None)
