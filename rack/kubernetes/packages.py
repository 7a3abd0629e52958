"""The .deb files, shaped as upstream's packages of Kubernetes are."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rack.cache import run

KUBERNETES = "1.20.2"
REVISION = "0bootfarm1"
CNI = "0.8.7"
FILES = Path(__file__).parent / "files"
MAINTAINER = "bootfarm's virtual rack <bootfarm@example.org>"


@dataclass(frozen=True)
class Package:
    """What one .deb holds.

    files: path in the package -> (source file, mode). links: path -> target.
    scripts: maintainer script -> source file.
    """

    name: str
    version: str
    summary: str
    depends: tuple[str, ...] = ()
    architecture: str = "amd64"
    files: Mapping[str, tuple[Path, int]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, Path] = field(default_factory=dict)
    conffiles: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        return f"{self.name}_{self.version}_{self.architecture}.deb"


def kubernetes_packages(programs: Path) -> list[Package]:
    """The packages made of the compiled programs in the directory `programs`."""
    version = f"{KUBERNETES}-{REVISION}"

    def program(name: str) -> dict[str, tuple[Path, int]]:
        return {f"usr/bin/{name}": (programs / name, 0o755)}

    control_plane = [
        Package(name, version, f"Kubernetes control plane: {name}", files=program(name))
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    ]
    return [
        Package(
            "kubelet",
            version,
            "Kubernetes node agent",
            depends=(
                "init-system-helpers",
                "iptables (>= 1.4.21)",
                f"kubernetes-cni (>= {CNI})",
                "iproute2",
                "socat",
                "util-linux",
                "mount",
                "ebtables",
                "ethtool",
                "conntrack",
            ),
            files={
                **program("kubelet"),
                "lib/systemd/system/kubelet.service": (FILES / "kubelet.service", 0o644),
            },
            scripts={name: FILES / f"kubelet.{name}" for name in ("postinst", "prerm", "postrm")},
        ),
        Package(
            "kubeadm",
            version,
            "Kubernetes cluster bootstrapping",
            # Upstream's also depends on cri-tools, which Debian 12 has not.
            depends=(
                "kubelet (>= 1.13.0)",
                "kubectl (>= 1.13.0)",
                f"kubernetes-cni (>= {CNI})",
            ),
            files={
                **program("kubeadm"),
                "etc/systemd/system/kubelet.service.d/10-kubeadm.conf": (
                    FILES / "10-kubeadm.conf",
                    0o644,
                ),
            },
            conffiles=("/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",),
        ),
        Package("kubectl", version, "Kubernetes command line", files=program("kubectl")),
        Package(
            "kubernetes-cni",
            f"{CNI}-{REVISION}",
            "Debian's CNI plugins where Kubernetes looks for them",
            depends=("containernetworking-plugins",),
            architecture="all",
            links={"opt/cni/bin": "/usr/lib/cni"},
        ),
        *control_plane,
    ]


def render_control(package: Package, installed_kib: int) -> str:
    """The control file (Debian policy, section 5.3)."""
    lines = [
        f"Package: {package.name}",
        f"Version: {package.version}",
        f"Architecture: {package.architecture}",
        f"Maintainer: {MAINTAINER}",
        "Section: admin",
        "Priority: optional",
        f"Installed-Size: {installed_kib}",
    ]
    if package.depends:
        lines.append(f"Depends: {', '.join(package.depends)}")
    lines += [
        "Homepage: https://kubernetes.io/",
        f"Description: {package.summary}",
        " Compiled from Debian's source package kubernetes for bootfarm's virtual",
        " rack; shaped as the Kubernetes project's own packages are.",
    ]
    return "\n".join(lines) + "\n"


def build_package(package: Package, work: Path, into: Path, epoch: int) -> Path:
    """Lay the package out below `work` and build it; the path of the .deb.

    `epoch` (seconds) stands in for every time stamp: the same files give the
    same bytes.
    """
    tree = work / package.name
    control = tree / "DEBIAN"
    control.mkdir(parents=True, mode=0o755)
    size = 0
    for path, (source, mode) in package.files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(mode)
        size += source.stat().st_size
    for path, goal in package.links.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(goal)
    for name, source in package.scripts.items():
        shutil.copyfile(source, control / name)
        (control / name).chmod(0o755)
    if package.conffiles:
        (control / "conffiles").write_text("".join(f"{path}\n" for path in package.conffiles))
    (control / "control").write_text(render_control(package, (size + 1023) // 1024))
    for directory, _, _ in os.walk(tree):
        Path(directory).chmod(0o755)
    into.mkdir(parents=True, exist_ok=True)
    deb = into / package.filename
    run(
        ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z9", "--build", tree, deb],
        env={"SOURCE_DATE_EPOCH": str(epoch)},
        timeout=300,
    )
    shutil.rmtree(tree)
    return deb
