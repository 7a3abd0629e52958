"""Runtime, CNI and kubelet: the files of the image, byte for byte where programs read them."""

import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagebuild.chroot import runtime
from imagebuild.errors import BuildError
from imagebuild.recipe.compatibility import Versions
from imagebuild.recipe.ingredients import ContainerRuntime, Kubernetes, Recipe

REPOSITORIES = """\
repositories:
  - {name: kubernetes, uri: "https://example.org/deb", suite: /, key: key.gpg}
"""
TRIXIE = "name: a\nrelease: trixie\nkernel: {package: linux-image-cloud-amd64}\n" + REPOSITORIES
K137 = "kubernetes: {version: '1.37.2', repository: kubernetes, cni: none}\n"
K120 = "kubernetes: {version: '1.20.2', repository: kubernetes}\n"
CRI_DOCKERD = (
    "container_runtime: {name: docker, packages: [docker.io, cri-dockerd],"
    " sandbox_image: registry.k8s.io/pause:3.10.2}\n"
)
CONTAINERD = (
    "container_runtime: {name: containerd, package: containerd.io,"
    " sandbox_image: registry.k8s.io/pause:3.10.2}\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for directory in ("etc", "usr/bin", "usr/lib/systemd/system"):
        (root / directory).mkdir(parents=True)
    return root


# What is installed


def test_debian_13s_docker_needs_the_command_and_debian_12s_has_it(
    recipe_of: Callable[..., Recipe],
) -> None:
    trixie = recipe_of(K137 + CRI_DOCKERD, TRIXIE)
    assert "docker-cli" in runtime.packages(trixie)
    assert "containernetworking-plugins" not in runtime.packages(trixie)
    bookworm = recipe_of(
        K120 + "container_runtime: {name: docker}\n", TRIXIE.replace("trixie", "bookworm")
    )
    assert "docker-cli" not in runtime.packages(bookworm)
    assert "containernetworking-plugins" in runtime.packages(bookworm)


def test_docker_of_another_repository_brings_its_own_command(
    recipe_of: Callable[..., Recipe],
) -> None:
    words = "container_runtime: {name: docker, package: docker-ce, packages: [cri-dockerd]}\n"
    names = runtime.packages(recipe_of(K137 + words, TRIXIE))
    assert names[:2] == ["docker-ce", "cri-dockerd"]
    assert "docker-cli" not in names


# What the node's own scripts are told


@pytest.mark.parametrize(
    ("words", "told", "units"),
    [
        (
            K137 + CRI_DOCKERD,
            "name=docker\ncri_socket=unix:///run/cri-dockerd.sock\n",
            ["docker.service", "cri-docker.service", "cri-docker.socket"],
        ),
        (
            K137 + CONTAINERD,
            "name=containerd\ncri_socket=unix:///run/containerd/containerd.sock\n",
            ["containerd.service"],
        ),
        (K120 + "container_runtime: {name: docker}\n", "name=docker\n", ["docker.service"]),
    ],
)
def test_the_recipe_says_what_runs_containers(
    recipe_of: Callable[..., Recipe], root: Path, words: str, told: str, units: list[str]
) -> None:
    recipe = recipe_of(words, TRIXIE)
    runtime.write_runtime_file(root, recipe)
    assert (root / "usr/share/bootfarm/runtime").read_text() == told
    assert runtime.units(recipe) == units
    crictl = root / "etc/crictl.yaml"
    socket = runtime.cri_socket(recipe)
    assert crictl.exists() is bool(socket)
    if socket:
        assert f"runtime-endpoint: {socket}\n" in crictl.read_text()


def test_registry_mirrors_are_words_of_registry_mirrors(
    recipe_of: Callable[..., Recipe], root: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.crt").write_text("PEM")
    words = (
        "container_runtime: {name: containerd, mirrors: {docker.io: 'http://m:5000',"
        " quay.io: {url: 'https://q', ca: own.crt}}}\n"
    )
    runtime.write_runtime_file(root, recipe_of(words, TRIXIE))
    assert (
        "registry_mirrors=docker.io=http://m:5000"
        " quay.io=https://q,ca=/usr/share/bootfarm/registry-ca/1.crt\n"
    ) in (root / "usr/share/bootfarm/runtime").read_text()
    assert (root / "usr/share/bootfarm/registry-ca/1.crt").read_text() == "PEM"


# Docker


DOCKER_UNIT = """\
[Service]
ExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS
ExecReload=/bin/kill -s HUP $MAINPID
"""


def test_docker_has_a_unit_that_the_articles_preinit_can_edit(root: Path) -> None:
    unit = root / "usr/lib/systemd/system/docker.service"
    unit.write_text(DOCKER_UNIT)
    runtime.configure_docker(root, ContainerRuntime("docker", (), ("--iptables=false", "--bip=x")))
    own = root / "etc/systemd/system/docker.service"
    assert not own.is_symlink()
    assert "ExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS --iptables=false --bip=x\n" in (
        own.read_text()
    )
    assert "ExecReload=/bin/kill -s HUP $MAINPID\n" in own.read_text()
    assert os.readlink(root / "usr/bin/dockerd") == "../sbin/dockerd"
    # And nothing else there: dockerd refuses what is in its command line too.
    assert json.loads((root / "etc/docker/daemon.json").read_text()) == {
        "exec-opts": ["native.cgroupdriver=systemd"]
    }


def test_docker_without_its_package(root: Path) -> None:
    with pytest.raises(BuildError, match=r"bring no docker\.service"):
        runtime.configure_docker(root, ContainerRuntime("docker", ()))


CRI_DOCKER_UNIT = """\
[Unit]
Requires=cri-docker.socket

[Service]
Type=notify
ExecStart=/usr/bin/cri-dockerd --container-runtime-endpoint fd://
ExecReload=/bin/kill -s HUP $MAINPID
"""


def test_cri_dockerd_keeps_its_own_command_line_and_gets_the_recipes_options(root: Path) -> None:
    unit = root / "usr/lib/systemd/system/cri-docker.service"
    unit.write_text(CRI_DOCKER_UNIT)
    chosen = ContainerRuntime("docker", (), (), "registry.k8s.io/pause:3.10.2")
    runtime.configure_cri_dockerd(root, chosen)
    drop_in = root / "etc/systemd/system/cri-docker.service.d/50-bootfarm.conf"
    assert drop_in.read_text() == (
        "[Unit]\nWants=docker.service\nAfter=docker.service\n\n[Service]\nExecStart=\n"
        "ExecStart=/usr/bin/cri-dockerd --container-runtime-endpoint fd:// --network-plugin=cni"
        " --pod-infra-container-image=registry.k8s.io/pause:3.10.2\n"
    )


@pytest.mark.parametrize("text", [None, "[Service]\nExecStart=/usr/bin/cri-dockerd \\\n  --x\n"])
def test_a_cri_dockerd_whose_command_line_is_not_found(root: Path, text: str | None) -> None:
    if text is not None:
        (root / "usr/lib/systemd/system/cri-docker.service").write_text(text)
    with pytest.raises(BuildError, match=r"brings no cri-docker\.service"):
        runtime.configure_cri_dockerd(root, ContainerRuntime("docker", ()))


# containerd


def table(config: Any, *keys: str) -> Any:
    for key in keys:
        config = config[key]
    return config


def test_containerd_1_has_format_2() -> None:
    config = tomllib.loads(runtime.render_containerd_config((1, 7), "pause:3.2"))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert config["version"] == 2
    assert cri["sandbox_image"] == "pause:3.2"
    assert cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is True
    assert cri["cni"] == {"bin_dir": "/opt/cni/bin", "conf_dir": "/etc/cni/net.d"}
    assert cri["registry"] == {"config_path": "/etc/containerd/certs.d"}


@pytest.mark.parametrize(
    ("version", "plugins"),
    [
        ((2, 0), {"bin_dir": "/opt/cni/bin"}),
        ((2, 1), {"bin_dirs": ["/opt/cni/bin"]}),
        ((2, 4), {"bin_dirs": ["/opt/cni/bin"]}),
    ],
)
def test_containerd_2_has_format_3(version: tuple[int, int], plugins: dict[str, Any]) -> None:
    config = tomllib.loads(runtime.render_containerd_config(version, "k/pause:3.10.2"))
    assert config["version"] == 3
    assert set(config["plugins"]) == {"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"}
    images = config["plugins"]["io.containerd.cri.v1.images"]
    assert images["pinned_images"] == {"sandbox": "k/pause:3.10.2"}
    assert images["registry"] == {"config_path": "/etc/containerd/certs.d"}
    cri = config["plugins"]["io.containerd.cri.v1.runtime"]
    assert cri["cni"] == {**plugins, "conf_dir": "/etc/cni/net.d"}
    runc = table(cri, "containerd", "runtimes", "runc")
    assert runc == {"runtime_type": "io.containerd.runc.v2", "options": {"SystemdCgroup": True}}


@pytest.mark.parametrize("version", [(1, 7), (2, 4)])
def test_containerd_keeps_its_own_sandbox_image_unless_told(version: tuple[int, int]) -> None:
    assert "sandbox" not in runtime.render_containerd_config(version, "")


def test_a_containerd_of_nobody_knows_which_version(root: Path) -> None:
    with pytest.raises(BuildError, match="no package of the image is known to bring containerd"):
        runtime.configure_containerd(root, ContainerRuntime("containerd", ()), Versions((1, 37)))


def test_a_package_that_turns_kubernetes_off_is_overruled(root: Path) -> None:
    """containerd.io's conffile has disabled_plugins = ["cri"]."""
    config = root / "etc/containerd/config.toml"
    config.parent.mkdir()
    config.write_text('disabled_plugins = ["cri"]\n')
    runtime.configure_containerd(root, ContainerRuntime("containerd", ()), Versions(None, (2, 4)))
    assert "disabled_plugins" not in tomllib.loads(config.read_text())


# CNI and kubelet


def test_no_plugins_is_an_error_and_not_a_node_that_never_runs_a_pod(root: Path) -> None:
    with pytest.raises(BuildError, match="no loopback in /opt/cni/bin"):
        runtime.configure_cni(root, Kubernetes("1.37", "k", ()))


def test_plugins_of_kubernetes_cni_stay_where_they_are(root: Path) -> None:
    for path in ("opt/cni/bin/loopback", "usr/lib/cni/loopback", "usr/lib/cni/dhcp"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    runtime.configure_cni(root, Kubernetes("1.37", "k", (), "none"))
    assert (root / "opt/cni/bin/loopback").read_text() == "opt/cni/bin/loopback"
    assert os.readlink(root / "opt/cni/bin/dhcp") == "/usr/lib/cni/dhcp"


@pytest.mark.parametrize("cni", ["bridge", "none"])
def test_cni_plugins_are_linked_and_a_bridge_only_if_wanted(root: Path, cni: str) -> None:
    (root / "usr/lib/cni").mkdir(parents=True)
    (root / "usr/lib/cni/loopback").write_text("")
    runtime.configure_cni(root, Kubernetes("1.20", "k", (), cni))
    assert os.readlink(root / "opt/cni/bin/loopback") == "/usr/lib/cni/loopback"
    conflist = root / "etc/cni/net.d/90-bootfarm.conflist"
    assert conflist.exists() is (cni == "bridge")
    if cni == "bridge":
        assert json.loads(conflist.read_text())["plugins"][0]["ipam"]["dataDir"].startswith("/run")


def test_kubelet_settings_are_a_drop_in(root: Path) -> None:
    settings = {"containerLogMaxSize": "10Mi", "systemReserved": {"cpu": "1"}, "failSwapOn": False}
    runtime.configure_kubelet(root, Kubernetes("1.37", "k", (), kubelet=settings))
    drop_in = json.loads((root / "etc/kubernetes/kubelet.conf.d/50-recipe.conf").read_text())
    assert drop_in == {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        **settings,
    }
    unit = root / "etc/systemd/system/kubelet.service.d/30-bootfarm-recipe.conf"
    assert (
        'Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml'
        ' --config-dir=/etc/kubernetes/kubelet.conf.d"\n'
    ) in unit.read_text()
    # The cluster admin's file stays the cluster admin's.
    assert not (root / "etc/default/kubelet").exists()


# Four lines of what kubelet 1.37.2 prints.
HELP_137 = """\
      --feature-gates mapStringBool             A set of key=value pairs. Options are:
                AllAlpha=true|false (ALPHA - default=false)
                kube:ExtendWebSocketsToKubelet=true|false (BETA - default=true)
                ImageVolume=true|false (BETA - default=true)
"""


@pytest.mark.parametrize(
    ("words", "help_text", "written"),
    [
        (CRI_DOCKERD, HELP_137, True),
        (CRI_DOCKERD, HELP_137.replace("ExtendWebSocketsToKubelet", "Other"), False),
        (CONTAINERD, HELP_137, False),
    ],
)
def test_a_kubelet_that_dials_the_runtime_itself_does_not_where_cri_dockerd_is(
    root: Path, recipe_of: Callable[..., Recipe], words: str, help_text: str, written: bool
) -> None:
    """Else no `kubectl exec` reaches a container of Docker (kubelet 1.36 and newer)."""
    recipe = recipe_of(K137 + words, TRIXIE)
    versions = Versions((1, 37), (2, 4))
    assert runtime.asks_for_gates(recipe, versions) is (words == CRI_DOCKERD)
    for path in ("opt/cni/bin/loopback", "usr/bin/dockerd"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    units = root / "usr/lib/systemd/system"
    (units / "docker.service").write_text("[Service]\nExecStart=/usr/bin/dockerd\n")
    (units / "cri-docker.service").write_text("[Service]\nExecStart=/usr/bin/cri-dockerd\n")
    runtime.configure(root, recipe, versions, runtime.parse_gates(help_text))
    drop_in = root / "etc/kubernetes/kubelet.conf.d/20-bootfarm.conf"
    assert drop_in.exists() is written
    unit = root / "etc/systemd/system/kubelet.service.d/30-bootfarm-recipe.conf"
    assert unit.exists() is written
    if written:
        gates = json.loads(drop_in.read_text())["featureGates"]
        assert gates == {"ExtendWebSocketsToKubelet": False}
        assert "--config-dir=/etc/kubernetes/kubelet.conf.d" in unit.read_text()


def test_an_old_kubelet_reads_no_drop_in(root: Path) -> None:
    with pytest.raises(BuildError, match=r"kubelet 1\.20 reads no drop-in"):
        runtime.configure_kubelet(root, Kubernetes("1.20", "k", (), kubelet={"a": 1}))
