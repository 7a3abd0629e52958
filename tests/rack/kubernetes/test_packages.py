import subprocess
from pathlib import Path

import pytest

from rack.kubernetes.packages import Package, build_package, kubernetes_packages, render_control
from rack.kubernetes.repository import publish, sources_line

PROGRAMS = (
    *("kubeadm", "kubelet", "kubectl"),
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    directory = tmp_path / "programs"
    directory.mkdir()
    for name in PROGRAMS:
        (directory / name).write_text(f"#!/bin/sh\necho {name}\n")
    return directory


def output_of(*argv: object) -> str:
    words = [str(word) for word in argv]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_packages_are_shaped_as_upstreams(programs: Path) -> None:
    packages = {package.name: package for package in kubernetes_packages(programs)}
    assert "lib/systemd/system/kubelet.service" in packages["kubelet"].files
    dropin = "etc/systemd/system/kubelet.service.d/10-kubeadm.conf"
    assert dropin in packages["kubeadm"].files
    assert packages["kubeadm"].conffiles == (f"/{dropin}",)
    assert packages["kubernetes-cni"].links == {"opt/cni/bin": "/usr/lib/cni"}
    assert set(PROGRAMS) < set(packages)
    assert packages["kubelet"].version.startswith("1.20.2-")


def test_control_file() -> None:
    package = Package("x", "1-1", "does x", depends=("a", "b (>= 2)"), architecture="all")
    lines = render_control(package, 7).splitlines()
    assert lines[:3] == ["Package: x", "Version: 1-1", "Architecture: all"]
    assert "Installed-Size: 7" in lines
    assert "Depends: a, b (>= 2)" in lines


@pytest.mark.integration
def test_debs_are_reproducible_and_owned_by_root(programs: Path, tmp_path: Path) -> None:
    kubelet = kubernetes_packages(programs)[0]
    one = build_package(kubelet, tmp_path / "w1", tmp_path / "a", 1_700_000_000)
    two = build_package(kubelet, tmp_path / "w2", tmp_path / "b", 1_700_000_000)
    assert one.read_bytes() == two.read_bytes()
    listing = output_of("dpkg-deb", "--contents", one)
    assert "-rwxr-xr-x root/root" in next(x for x in listing.splitlines() if "bin/kubelet" in x)
    scripts = tmp_path / "control"
    output_of("dpkg-deb", "--control", one, scripts)
    assert (scripts / "postinst").stat().st_mode & 0o777 == 0o755


@pytest.mark.integration
def test_apt_trusts_the_repository_and_no_changed_one(programs: Path, tmp_path: Path) -> None:
    repository = tmp_path / "apt"
    for package in kubernetes_packages(programs):
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
    assert "1.20.2" in output_of("apt-cache", *options, "policy", "kubeadm")
    release = repository / "dists" / "stable" / "InRelease"
    release.write_text(release.read_text().replace("Suite: stable", "Suite: stabel"))
    with pytest.raises(subprocess.CalledProcessError):
        output_of("apt-get", *options, "--error-on=any", "update")
