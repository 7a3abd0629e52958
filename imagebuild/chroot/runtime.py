"""Container runtime, CNI and kubelet, as the recipe wants them.

Each setting's reason stands beside it.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from imagebuild.chroot.configure import write_file
from imagebuild.errors import BuildError
from imagebuild.recipe.compatibility import DOCKERSHIM_END, Versions, uses_cri_dockerd
from imagebuild.recipe.ingredients import ContainerRuntime, Kubernetes, Recipe

# apparmor: without apparmor_parser every pod of docker fails on a kernel with apparmor;
# it is only a Recommends there. conntrack, ethtool, socat: kubeadm's preflight; curl, openssl:
# the wrapper that makes its join work again after a power cut.
RUNTIME_PACKAGES = ("apparmor", "iptables", "ca-certificates")
KUBERNETES_PACKAGES = (
    *("conntrack", "ethtool", "iptables", "socat", "mount", "util-linux", "curl", "openssl"),
)
CNI_PACKAGE = "containernetworking-plugins"
"""Debian's plugins: what serves kubelets before 1.24; later ones come with kubernetes-cni."""
_HAS_DOCKER_COMMAND = ("bookworm", "jammy", "noble")
"""Releases whose docker.io has `docker` itself; Debian 13 has it in docker-cli, a Recommends."""
RUNTIME_FILE = "usr/share/bootfarm/runtime"
REGISTRY_CAS = "usr/share/bootfarm/registry-ca"
CONTAINERD_SOCKET = "unix:///run/containerd/containerd.sock"
CRI_DOCKERD_SOCKET = "unix:///run/cri-dockerd.sock"
CERTS_DIRECTORY = "/etc/containerd/certs.d"
_DROP_IN_DIRECTORY = (1, 30)
KUBELET_SETTINGS = "etc/kubernetes/kubelet.conf.d"
WEBSOCKETS_GATE = "ExtendWebSocketsToKubelet"
"""Kubelet 1.36 and newer, on by default: it dials the runtime's exec URL itself and takes one
without a scheme for https. cri-dockerd 0.4's has none and is http: no `kubectl exec`, `attach`
or `cp` reached a container of Docker. Off, kubelet proxies as it did before, which works."""
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
        if "docker.io" in names and recipe.release not in _HAS_DOCKER_COMMAND:
            names.append("docker-cli")
    if recipe.kubernetes:
        names += [*KUBERNETES_PACKAGES, *recipe.kubernetes.packages]
        if recipe.kubernetes.minor < DOCKERSHIM_END:
            names.append(CNI_PACKAGE)
    return list(dict.fromkeys(names))


def cri_socket(recipe: Recipe) -> str:
    """The socket that kubelet is told; empty where the kubelet has its own way to Docker."""
    if recipe.container_runtime is None:
        return ""
    if recipe.container_runtime.name == "containerd":
        return CONTAINERD_SOCKET
    return CRI_DOCKERD_SOCKET if uses_cri_dockerd(recipe) else ""


def units(recipe: Recipe) -> list[str]:
    """Units that the image must have enabled, the first of them the runtime's."""
    if recipe.container_runtime is None:
        return []
    names = [f"{recipe.container_runtime.name}.service"]
    if uses_cri_dockerd(recipe):
        names += ["cri-docker.service", "cri-docker.socket"]
    return names


def asks_for_gates(recipe: Recipe, versions: Versions) -> bool:
    """Whether `configure` has to know the feature gates of the image's kubelet."""
    kubelet = versions.kubelet
    return uses_cri_dockerd(recipe) and kubelet is not None and kubelet >= _DROP_IN_DIRECTORY


def parse_gates(help_text: str) -> frozenset[str]:
    """Feature gates that may be set, out of `kubelet --help`: `Name=true|false (BETA - …)`."""
    return frozenset(re.findall(r"\b([A-Z]\w+)=true\|false \(", help_text))


def configure(root: Path, recipe: Recipe, versions: Versions, gates: Collection[str] = ()) -> None:
    """Write the configuration of each of these that the recipe has.

    gates: feature gates that the image's kubelet knows, where `asks_for_gates`.
    """
    runtime = recipe.container_runtime
    if runtime is not None:
        write_runtime_file(root, recipe)
        if runtime.name == "docker":
            configure_docker(root, runtime)
        else:
            configure_containerd(root, runtime, versions)
        if uses_cri_dockerd(recipe):
            configure_cri_dockerd(root, runtime)
    if recipe.kubernetes:
        configure_cni(root, recipe.kubernetes)
        ours = {}
        if uses_cri_dockerd(recipe) and WEBSOCKETS_GATE in gates:
            ours = {"featureGates": {WEBSOCKETS_GATE: False}}
        configure_kubelet(root, recipe.kubernetes, ours)


def write_runtime_file(root: Path, recipe: Recipe) -> None:
    """What this image runs containers with, for the node's own scripts (docs/contracts.md)."""
    runtime = recipe.container_runtime
    assert runtime is not None
    lines = [f"name={runtime.name}"]
    if socket := cri_socket(recipe):
        lines.append(f"cri_socket={socket}")
        write_file(
            root / "etc/crictl.yaml", f"runtime-endpoint: {socket}\nimage-endpoint: {socket}\n"
        )
    if runtime.mirrors:
        lines.append(f"registry_mirrors={' '.join(write_registry_mirrors(root, runtime))}")
    write_file(root / RUNTIME_FILE, "".join(f"{line}\n" for line in lines))


def write_registry_mirrors(root: Path, runtime: ContainerRuntime) -> list[str]:
    """Write the recipe's mirrors as words of REGISTRY_MIRRORS, and their CAs into the image.

    The node's own step writes what the runtime reads (init.d/registries.sh), from these or
    from lts.conf's.
    """
    words: list[str] = []
    for index, mirror in enumerate(runtime.mirrors):
        word = f"{mirror.registry}={mirror.url}"
        if mirror.ca:
            path = f"{REGISTRY_CAS}/{index}.crt"
            write_file(root / path, Path(mirror.ca).read_bytes())
            word += f",ca=/{path}"
        words.append(word)
    return words


def configure_docker(root: Path, runtime: ContainerRuntime) -> None:
    """A unit of its own in /etc, so that the article's PREINIT line finds what it edits.

    That line replaces the whole ExecStart: nothing that the node needs stands
    only there. The cgroup driver, without which kubeadm's join hangs, is in
    daemon.json, and nothing else is: dockerd refuses an option that is in both.
    """
    unit = _vendor_unit(root, "docker.service")
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


def _vendor_unit(root: Path, name: str) -> Path | None:
    """The text of a unit as its package brings it."""
    places = (root / "usr/lib/systemd/system" / name, root / "lib/systemd/system" / name)
    return next((path for path in places if path.is_file()), None)


def configure_cri_dockerd(root: Path, runtime: ContainerRuntime) -> None:
    """A drop-in with the options that the recipe wants, in the package's own command line.

    The socket stays systemd's: kubeadm's preflight then waits for Docker instead of failing.
    """
    unit = _vendor_unit(root, "cri-docker.service")
    command = re.search(r"(?m)^ExecStart=(\S+.*[^\\\n])$", unit.read_text()) if unit else None
    if command is None:
        raise BuildError(
            "container_runtime: the package cri-dockerd brings no cri-docker.service that"
            " starts it by one line",
            hint="upstream's package (github.com/Mirantis/cri-dockerd) does",
        )
    words = [command[1], "--network-plugin=cni"]
    if runtime.sandbox_image:
        words.append(f"--pod-infra-container-image={runtime.sandbox_image}")
    write_file(
        root / "etc/systemd/system/cri-docker.service.d/50-bootfarm.conf",
        "[Unit]\nWants=docker.service\nAfter=docker.service\n\n"
        f"[Service]\nExecStart=\nExecStart={' '.join(words)}\n",
    )


def configure_containerd(root: Path, runtime: ContainerRuntime, versions: Versions) -> None:
    """config.toml with systemd's cgroups; its data lies on the volume that the node mounts."""
    if versions.containerd is None:
        raise BuildError(
            "container_runtime: no package of the image is known to bring containerd, so its"
            " version is not known",
            hint="container_runtime.package: containerd (Debian's) or containerd.io",
        )
    text = render_containerd_config(versions.containerd, runtime.sandbox_image)
    write_file(root / "etc/containerd/config.toml", text)


def render_containerd_config(version: tuple[int, int], sandbox_image: str) -> str:
    """config.toml for a containerd of that version: format 2 for 1.x, 3 for 2.x.

    Debian's containerd looks for CNI plugins in /usr/lib/cni by itself, so the place is said.
    """
    top = 'root = "/var/lib/containerd"\nstate = "/run/containerd"\n'
    if version < (2, 0):
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        sandbox = f"sandbox_image = {json.dumps(sandbox_image)}\n" if sandbox_image else ""
        head = f"version = 2\n{top}\n[{cri}]\n{sandbox}"
        images, runtime = cri, cri
    else:
        images = 'plugins."io.containerd.cri.v1.images"'
        runtime = 'plugins."io.containerd.cri.v1.runtime"'
        sandbox = f"sandbox = {json.dumps(sandbox_image)}\n" if sandbox_image else ""
        head = f"version = 3\n{top}"
        head += f'\n[{images}]\nsnapshotter = "overlayfs"\n'
        head += f"\n[{images}.pinned_images]\n{sandbox}" if sandbox else ""
    # bin_dir became the list bin_dirs in 2.1; 2.4 knows the list only.
    plugins = 'bin_dirs = ["/opt/cni/bin"]' if version >= (2, 1) else 'bin_dir = "/opt/cni/bin"'
    snapshotter = 'snapshotter = "overlayfs"\n' if version < (2, 0) else ""
    return (
        f"{head}\n"
        f"[{images}.registry]\n"
        f'config_path = "{CERTS_DIRECTORY}"\n\n'
        f"[{runtime}.cni]\n"
        f"{plugins}\n"
        'conf_dir = "/etc/cni/net.d"\n\n'
        f"[{runtime}.containerd]\n"
        f'default_runtime_name = "runc"\n{snapshotter}\n'
        f"[{runtime}.containerd.runtimes.runc]\n"
        'runtime_type = "io.containerd.runc.v2"\n\n'
        f"[{runtime}.containerd.runtimes.runc.options]\n"
        "SystemdCgroup = true\n"
    )


def configure_cni(root: Path, kubernetes: Kubernetes) -> None:
    """Put plugins where kubelet looks, and a bridge, unless the cluster brings its own network.

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
    if not any((root / place / "loopback").exists() for place in ("opt/cni/bin", "usr/lib/cni")):
        raise BuildError(
            "kubernetes: the packages bring no CNI plugins: no loopback in /opt/cni/bin",
            hint=f"add kubernetes-cni or {CNI_PACKAGE} to kubernetes.packages",
        )
    if kubernetes.cni == "bridge":
        text = json.dumps(CONFLIST, indent=2) + "\n"
        write_file(root / "etc/cni/net.d/90-bootfarm.conflist", text)


def configure_kubelet(
    root: Path, kubernetes: Kubernetes, ours: Mapping[str, Any] | None = None
) -> None:
    """`kubernetes.kubelet` as a drop-in of KubeletConfiguration (kubelet 1.30 and newer).

    It is laid over what kubeadm writes at the join. ours: fields that the image's runtime
    needs, in a file of their own that the recipe's is laid over.
    """
    if kubernetes.kubelet and kubernetes.minor < _DROP_IN_DIRECTORY:
        raise BuildError(
            f"kubernetes.kubelet: kubelet {kubernetes.version} reads no drop-in files",
            hint="1.30 and newer do; set these in the cluster's kubelet-config instead",
        )
    files = {"20-bootfarm.conf": ours or {}, "50-recipe.conf": kubernetes.kubelet}
    for name, fields in files.items():
        if not fields:
            continue
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            **fields,
        }
        # JSON is YAML, and quotes what needs it.
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        write_file(root / KUBELET_SETTINGS / name, text)
    if not any(files.values()):
        return
    # Not in /etc/default/kubelet: that file is the cluster admin's, who may write it anew.
    write_file(
        root / "etc/systemd/system/kubelet.service.d/30-bootfarm-recipe.conf",
        "# What the image's runtime needs and kubernetes.kubelet of the recipe, laid over what\n"
        "# kubeadm writes at the join.\n"
        "[Service]\n"
        'Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml'
        f' --config-dir=/{KUBELET_SETTINGS}"\n',
    )
