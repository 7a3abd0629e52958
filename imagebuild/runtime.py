"""Container runtime, CNI and kubelet, as the recipe wants them; FACTS of each in the comments."""

import json
import re
from pathlib import Path

from imagebuild.configure import write_file
from imagebuild.errors import BuildError
from imagebuild.ingredients import ContainerRuntime, Kubernetes, Recipe

# apparmor: without apparmor_parser every pod of docker fails on a kernel with apparmor;
# it is only a Recommends there. conntrack, ethtool, socat: kubeadm's preflight; curl, openssl:
# the wrapper that makes its join work again after a power cut.
RUNTIME_PACKAGES = ("apparmor", "iptables", "ca-certificates")
KUBERNETES_PACKAGES = (
    "conntrack",
    "ethtool",
    "iptables",
    "socat",
    "mount",
    "util-linux",
    "containernetworking-plugins",
    "curl",
    "openssl",
)
_DROP_IN_DIRECTORY = (1, 30)
POD_SUBNET = "10.88.0.0/16"

CONFLIST = {
    "cniVersion": "0.3.1",
    "name": "bootfarm",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": POD_SUBNET}]],
                "dataDir": "/run/cni/networks",
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def packages(recipe: Recipe) -> list[str]:
    """Packages of the runtime and of Kubernetes."""
    names: list[str] = []
    if recipe.container_runtime:
        names += [*recipe.container_runtime.packages, *RUNTIME_PACKAGES]
    if recipe.kubernetes:
        names += [*KUBERNETES_PACKAGES, *recipe.kubernetes.packages]
    return list(dict.fromkeys(names))


def configure(root: Path, recipe: Recipe) -> None:
    """Write the configuration of whatever the recipe has of these."""
    runtime = recipe.container_runtime
    if runtime and runtime.name == "docker":
        configure_docker(root, runtime)
    if runtime and runtime.name == "containerd":
        configure_containerd(root, runtime)
    if recipe.kubernetes:
        configure_cni(root, recipe.kubernetes)
        configure_kubelet(root, recipe.kubernetes)


def configure_docker(root: Path, runtime: ContainerRuntime) -> None:
    """A unit of its own in /etc, so that the article's PREINIT line finds what it edits.

    That line replaces the whole ExecStart: nothing that the node needs stands
    only there. The cgroup driver, without which kubeadm's join hangs, is in
    daemon.json, and nothing else is: dockerd refuses an option that is in both.
    """
    unit = next(
        (
            path
            for path in (
                root / "usr/lib/systemd/system/docker.service",
                root / "lib/systemd/system/docker.service",
            )
            if path.is_file()
        ),
        None,
    )
    if unit is None:
        raise BuildError(
            "container_runtime: the packages bring no docker.service",
            hint="container_runtime.packages: [docker.io] is Debian's",
        )
    options = "".join(f" {option}" for option in runtime.options)
    text = re.sub(r"(?m)^(ExecStart=.*[^\\\n])$", lambda m: m[1] + options, unit.read_text())
    write_file(root / "etc/systemd/system/docker.service", text)
    if not (root / "usr/bin/dockerd").exists() and not (root / "usr/bin/dockerd").is_symlink():
        (root / "usr/bin/dockerd").symlink_to("../sbin/dockerd")
    daemon = {"exec-opts": ["native.cgroupdriver=systemd"]}
    write_file(root / "etc/docker/daemon.json", json.dumps(daemon) + "\n")


def configure_containerd(root: Path, runtime: ContainerRuntime) -> None:
    """config.toml with systemd's cgroups; its data lies on the volume that the node mounts."""
    sandbox = f'  sandbox_image = "{runtime.sandbox_image}"\n' if runtime.sandbox_image else ""
    write_file(
        root / "etc/containerd/config.toml",
        "version = 2\n"
        'root = "/var/lib/containerd"\n'
        'state = "/run/containerd"\n'
        '[plugins."io.containerd.grpc.v1.cri"]\n'
        f"{sandbox}"
        '  [plugins."io.containerd.grpc.v1.cri".cni]\n'
        '    bin_dir = "/opt/cni/bin"\n'
        '    conf_dir = "/etc/cni/net.d"\n'
        '  [plugins."io.containerd.grpc.v1.cri".containerd]\n'
        '    default_runtime_name = "runc"\n'
        '    snapshotter = "overlayfs"\n'
        '    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\n'
        '      runtime_type = "io.containerd.runc.v2"\n'
        '      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]\n'
        "        SystemdCgroup = true\n",
    )
    write_file(
        root / "etc/crictl.yaml",
        "runtime-endpoint: unix:///run/containerd/containerd.sock\n"
        "image-endpoint: unix:///run/containerd/containerd.sock\n",
    )


def configure_cni(root: Path, kubernetes: Kubernetes) -> None:
    """Plugins where kubelet looks; a bridge, unless the cluster brings its own network.

    With one that the cluster replaces, its file must sort before
    `90-bootfarm.conflist`; with none baked, Ready waits for the cluster's.
    """
    plugins = root / "usr/lib/cni"
    directory = root / "opt/cni/bin"
    if not directory.is_symlink():  # else all of it leads to /usr/lib/cni already
        directory.mkdir(parents=True, exist_ok=True)
        for plugin in sorted(plugins.iterdir()) if plugins.is_dir() else ():
            if not (directory / plugin.name).exists():
                (directory / plugin.name).symlink_to(f"/usr/lib/cni/{plugin.name}")
    if kubernetes.cni == "bridge":
        text = json.dumps(CONFLIST, indent=2) + "\n"
        write_file(root / "etc/cni/net.d/90-bootfarm.conflist", text)


def configure_kubelet(root: Path, kubernetes: Kubernetes) -> None:
    """`kubernetes.kubelet` as a drop-in of KubeletConfiguration (kubelet 1.30 and newer).

    It is laid over what kubeadm writes at the join.
    """
    if not kubernetes.kubelet:
        return
    if kubernetes.minor < _DROP_IN_DIRECTORY:
        raise BuildError(
            f"kubernetes.kubelet: kubelet {kubernetes.version} reads no drop-in files",
            hint="1.30 and newer do; set these in the cluster's kubelet-config instead",
        )
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        **kubernetes.kubelet,
    }
    # JSON is YAML, and quotes what needs it.
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    write_file(root / "etc/kubernetes/kubelet.conf.d/50-recipe.conf", text)
    write_file(
        root / "etc/default/kubelet",
        "KUBELET_EXTRA_ARGS=--config-dir=/etc/kubernetes/kubelet.conf.d\n",
    )
