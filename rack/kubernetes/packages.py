"""The present stack's .deb files, shaped as upstream's own are.

Kubernetes' (kubelet, kubeadm, kubectl, kubernetes-cni, cri-tools) as pkgs.k8s.io has
them, containerd.io as Docker's repository has it, cri-dockerd as Mirantis releases it.
"""

from collections.abc import Mapping
from pathlib import Path

from rack.kubernetes.compile import Built
from rack.kubernetes.deb import REVISION, Package

FILES = Path(__file__).parent / "files"
CONTAINERD_CONFIG = b"""\
# The CRI plugin is off, as in Docker's own package; kubelet wants it on.
disabled_plugins = ["cri"]
"""
UNITS = "usr/lib/systemd/system"


def service_scripts(*units: str) -> dict[str, bytes]:
    """Maintainer scripts that enable, start, stop and forget systemd units."""
    names = " ".join(units)
    return {
        script: (FILES / f"service.{script}").read_bytes().replace(b"@UNITS@", names.encode())
        for script in ("postinst", "prerm", "postrm")
    }


def _program(built: Built, name: str) -> dict[str, tuple[Path | bytes, int]]:
    return {f"usr/bin/{name}": (built.program(name), 0o755)}


def _origin(*built: Built) -> str:
    modules = " and ".join(f"{one.family.module} {one.family.tag}" for one in built)
    return f"Compiled from the Go module{'s'[: len(built) - 1]} {modules}."


def _version(built: Built) -> str:
    return f"{built.family.version}-{REVISION}"


def node_packages(built: Mapping[str, Built]) -> list[Package]:
    """The packages of the families that nodes need, by the families' names."""
    return [
        *_kubernetes(built["kubernetes"]),
        _cni(built["cni"]),
        _cri_tools(built["cri-tools"]),
        _containerd(built["containerd"], built["runc"]),
        _cri_dockerd(built["cri-dockerd"]),
    ]


def _kubernetes(kubernetes: Built) -> list[Package]:
    version, origin = _version(kubernetes), _origin(kubernetes)
    unit = FILES / "kubelet.service"
    return [
        Package(
            "kubelet",
            version,
            "Node agent for Kubernetes clusters",
            origin,
            depends=("init-system-helpers", "kubernetes-cni (>= 1.2.0)", "mount", "util-linux"),
            recommends=("iptables (>= 1.8.4)",),
            files={
                **_program(kubernetes, "kubelet"),
                f"{UNITS}/kubelet.service": (unit, 0o644),
                "etc/default/kubelet": (b"KUBELET_EXTRA_ARGS=\n", 0o644),
            },
            directories=("etc/kubernetes/manifests", "var/lib/kubelet"),
            conffiles=("/etc/default/kubelet",),
            scripts=service_scripts("kubelet.service"),
        ),
        Package(
            "kubeadm",
            version,
            "Command-line utility for administering a Kubernetes cluster",
            origin,
            files={
                **_program(kubernetes, "kubeadm"),
                f"{UNITS}/kubelet.service.d/10-kubeadm.conf": (FILES / "10-kubeadm.conf", 0o644),
            },
        ),
        Package(
            "kubectl",
            version,
            "Command-line utility for interacting with a Kubernetes cluster",
            origin,
            files=_program(kubernetes, "kubectl"),
        ),
    ]


def _cni(cni: Built) -> Package:
    programs = sorted((cni.directory / "bin").iterdir())
    return Package(
        "kubernetes-cni",
        _version(cni),
        "Binaries required to provision Kubernetes container networking",
        _origin(cni),
        files={f"opt/cni/bin/{path.name}": (path, 0o755) for path in programs},
        directories=("etc/cni/net.d",),
    )


def _cri_tools(cri_tools: Built) -> Package:
    return Package(
        "cri-tools",
        _version(cri_tools),
        "Command-line utility for interacting with a container runtime",
        _origin(cri_tools),
        files=_program(cri_tools, "crictl"),
    )


def _containerd(containerd: Built, runc: Built) -> Package:
    unit = containerd.file("containerd.service").replace(b"/usr/local/bin/", b"/usr/bin/")
    programs: dict[str, tuple[Path | bytes, int]] = {}
    for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
        programs |= _program(containerd, name)
    return Package(
        "containerd.io",
        _version(containerd),
        "An open and reliable container runtime",
        _origin(containerd, runc),
        depends=("init-system-helpers",),
        provides=("containerd", "runc"),
        conflicts=("containerd", "runc"),
        replaces=("containerd", "runc"),
        files={
            **programs,
            **_program(runc, "runc"),
            f"{UNITS}/containerd.service": (unit, 0o644),
            "etc/containerd/config.toml": (CONTAINERD_CONFIG, 0o644),
        },
        conffiles=("/etc/containerd/config.toml",),
        scripts=service_scripts("containerd.service"),
    )


def _cri_dockerd(cri_dockerd: Built) -> Package:
    units = ("cri-docker.service", "cri-docker.socket")
    return Package(
        "cri-dockerd",
        _version(cri_dockerd),
        "CRI interface for the Docker container engine",
        _origin(cri_dockerd),
        depends=("init-system-helpers",),
        files={
            **_program(cri_dockerd, "cri-dockerd"),
            **{
                f"{UNITS}/{unit}": (cri_dockerd.file(f"packaging/systemd/{unit}"), 0o644)
                for unit in units
            },
        },
        scripts=service_scripts(*units),
    )
