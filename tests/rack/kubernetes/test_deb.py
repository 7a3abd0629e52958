import subprocess
from pathlib import Path

import pytest

from rack.kubernetes.compile import KEPT_FILES, Built
from rack.kubernetes.deb import Package, build_package, render_control
from rack.kubernetes.debian.packages import kubernetes_packages
from rack.kubernetes.families import KUBERNETES, NODE_FAMILIES
from rack.kubernetes.packages import node_packages
from rack.kubernetes.repository import publish, sources_line

OLD_PROGRAMS = (
    *("kubeadm", "kubelet", "kubectl"),
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
)
CONTAINERD_UNIT = "[Service]\nExecStart=/usr/local/bin/containerd\n"


@pytest.fixture
def built(tmp_path: Path) -> dict[str, Built]:
    """Each family with programs of one line, named as its go.mod names them."""
    made = {}
    for family in NODE_FAMILIES:
        directory = tmp_path / "built" / family.name
        (directory / "bin").mkdir(parents=True)
        (directory / "files").mkdir()
        tools = (family.directory / "go.mod").read_text().partition("\ntool ")[2]
        for path in tools.strip("(\n )").split():
            name = family.renamed.get(path.rpartition("/")[2], path.rpartition("/")[2])
            (directory / "bin" / name).write_text(f"#!/bin/sh\necho {name}\n")
        for path in KEPT_FILES.get(family.name, ()):
            (directory / "files" / path.replace("/", "_")).write_text(CONTAINERD_UNIT)
        made[family.name] = Built(family, directory, 1_700_000_000)
    return made


def output_of(*argv: object) -> str:
    words = [str(word) for word in argv]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_packages_are_shaped_as_upstreams(built: dict[str, Built]) -> None:
    packages = {package.name: package for package in node_packages(built)}
    assert list(packages) == [
        *("kubelet", "kubeadm", "kubectl", "kubernetes-cni", "cri-tools"),
        *("containerd.io", "cri-dockerd"),
    ]
    units = "usr/lib/systemd/system"
    kubelet = packages["kubelet"]
    assert f"{units}/kubelet.service" in kubelet.files
    assert "kubernetes-cni (>= 1.2.0)" in kubelet.depends
    assert kubelet.conffiles == ("/etc/default/kubelet",)
    assert kubelet.version.startswith(f"{KUBERNETES.version}-")
    assert f"{units}/kubelet.service.d/10-kubeadm.conf" in packages["kubeadm"].files
    assert {"opt/cni/bin/bridge", "opt/cni/bin/loopback"} <= set(packages["kubernetes-cni"].files)
    containerd = packages["containerd.io"]
    assert containerd.provides == containerd.conflicts == ("containerd", "runc")
    assert {f"usr/bin/{name}" for name in ("containerd", "ctr", "runc")} <= set(containerd.files)
    assert containerd.conffiles == ("/etc/containerd/config.toml",)
    unit, _ = containerd.files[f"{units}/containerd.service"]
    assert unit == CONTAINERD_UNIT.replace("/usr/local", "/usr").encode()
    assert b"cri-docker.service cri-docker.socket" in packages["cri-dockerd"].scripts["postinst"]


def test_the_old_packages_are_shaped_as_upstreams_were(tmp_path: Path) -> None:
    packages = {package.name: package for package in kubernetes_packages(tmp_path)}
    dropin = "etc/systemd/system/kubelet.service.d/10-kubeadm.conf"
    assert packages["kubeadm"].conffiles == (f"/{dropin}",)
    assert packages["kubernetes-cni"].links == {"opt/cni/bin": "/usr/lib/cni"}
    assert set(OLD_PROGRAMS) < set(packages)
    assert packages["kubelet"].version.startswith("1.20.2-")


def test_control_file() -> None:
    package = Package(
        "x", "1-1", "does x", "Made up.", depends=("a", "b (>= 2)"), architecture="all"
    )
    lines = render_control(package, 7).splitlines()
    assert lines[:3] == ["Package: x", "Version: 1-1", "Architecture: all"]
    assert "Installed-Size: 7" in lines
    assert "Depends: a, b (>= 2)" in lines
    assert not any(line.startswith(("Conflicts", "Provides")) for line in lines)
    assert " Made up. For bootfarm's virtual rack; shaped as upstream's own package is." in lines


@pytest.mark.integration
def test_debs_are_reproducible_and_owned_by_root(built: dict[str, Built], tmp_path: Path) -> None:
    kubelet = node_packages(built)[0]
    one = build_package(kubelet, tmp_path / "w1", tmp_path / "a", 1_700_000_000)
    two = build_package(kubelet, tmp_path / "w2", tmp_path / "b", 1_700_000_000)
    assert one.read_bytes() == two.read_bytes()
    listing = output_of("dpkg-deb", "--contents", one)
    assert "-rwxr-xr-x root/root" in next(x for x in listing.splitlines() if "bin/kubelet" in x)
    assert "./etc/kubernetes/manifests/" in listing
    scripts = tmp_path / "control"
    output_of("dpkg-deb", "--control", one, scripts)
    assert (scripts / "postinst").stat().st_mode & 0o777 == 0o755
    for script in ("postinst", "prerm", "postrm"):
        output_of("sh", "-n", scripts / script)
        assert "@UNITS@" not in (scripts / script).read_text()


@pytest.mark.integration
def test_apt_trusts_the_repository_and_no_changed_one(
    built: dict[str, Built], tmp_path: Path
) -> None:
    repository = tmp_path / "apt"
    for package in node_packages(built):
        pool = repository / "pool" / "main" / package.name
        build_package(package, tmp_path / "work", pool, 1_700_000_000)
    publish(repository, "Sun, 08 Jun 2025 22:40:27 GMT")
    for name in ("lists/partial", "cache/archives/partial"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sources.list").write_text(sources_line(repository) + "\n")
    options = [
        f"-oDir::Etc::sourcelist={tmp_path / 'sources.list'}",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State::lists={tmp_path / 'lists'}",
        f"-oDir::Cache={tmp_path / 'cache'}",
        "-oAPT::Sandbox::User=root",
    ]
    output_of("apt-get", *options, "--error-on=any", "update")
    assert KUBERNETES.version in output_of("apt-cache", *options, "policy", "kubeadm")
    release = repository / "dists" / "stable" / "InRelease"
    release.write_text(release.read_text().replace("Suite: stable", "Suite: stabel"))
    with pytest.raises(subprocess.CalledProcessError):
        output_of("apt-get", *options, "--error-on=any", "update")
