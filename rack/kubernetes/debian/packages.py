"""Kubernetes 1.20's .deb files, shaped as upstream's of that time were."""

from pathlib import Path

from rack.kubernetes.deb import REVISION, Package
from rack.kubernetes.packages import FILES, service_scripts

KUBERNETES = "1.20.2"
CNI = "0.8.7"
PAUSE_IMAGE = "k8s.gcr.io/pause:3.2"
ORIGIN = "Compiled from Debian's source package kubernetes."


def kubernetes_packages(programs: Path) -> list[Package]:
    """The packages made of the compiled programs in the directory `programs`."""
    version = f"{KUBERNETES}-{REVISION}"

    def program(name: str) -> dict[str, tuple[Path | bytes, int]]:
        return {f"usr/bin/{name}": (programs / name, 0o755)}

    control_plane = [
        Package(name, version, f"Kubernetes control plane: {name}", ORIGIN, files=program(name))
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    ]
    return [
        Package(
            "kubelet",
            version,
            "Kubernetes node agent",
            ORIGIN,
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
            scripts=service_scripts("kubelet.service"),
        ),
        Package(
            "kubeadm",
            version,
            "Kubernetes cluster bootstrapping",
            ORIGIN,
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
        Package("kubectl", version, "Kubernetes command line", ORIGIN, files=program("kubectl")),
        Package(
            "kubernetes-cni",
            f"{CNI}-{REVISION}",
            "Debian's CNI plugins where Kubernetes looks for them",
            ORIGIN,
            depends=("containernetworking-plugins",),
            architecture="all",
            links={"opt/cni/bin": "/usr/lib/cni"},
        ),
        *control_plane,
    ]
