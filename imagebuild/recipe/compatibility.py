"""Which kubelet works with which container runtime; pure, and in words.

Asked three times: when the recipe is read, when apt has resolved the versions (before the
first stage runs), and in the stage, of what is installed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from imagebuild.recipe.ingredients import Recipe

Version = tuple[int, int]
"""Major and minor."""

CRI_DOCKERD = "cri-dockerd"
DOCKERSHIM_END: Version = (1, 24)
"""The first kubelet that reaches Docker by cri-dockerd only."""
_CONTAINERD_PACKAGES = ("containerd.io", "containerd", "containerd-app")
_CONTAINERD_OF_RELEASE = {"bookworm": (1, 6), "trixie": (1, 7), "jammy": (1, 7), "noble": (1, 7)}
_NEEDS_CONTAINERD_2: Version = (1, 38)
"""Kubernetes' changelog of 1.37 puts the end of containerd 1.7 off to this one."""
_SPEAKS_CRI_V1: Version = (1, 23)
"""containerd 2 and cri-dockerd have no CRI v1alpha2, the only one of older kubelets."""
_REFUSES_CGROUP_V1: Version = (1, 35)
_CONTAINERD_2_HINT = (
    "container_runtime: {name: containerd, package: containerd.io} of a repository that has"
    " containerd 2, as recipes/production.yaml"
)


@dataclass(frozen=True)
class Versions:
    """Versions of what is in the image, or would be; None where a version is not known."""

    kubelet: Version | None = None
    containerd: Version | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a recipe cannot work: the key path that is to blame, what is wrong, and the remedy."""

    key: str
    what: str
    hint: str


def parse_version(text: str) -> Version | None:
    """Major and minor of a Debian version; None where it has none."""
    match = re.match(r"(?:\d+:)?v?(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def packaged_versions(packages: Mapping[str, str]) -> Versions:
    """Versions out of package names and Debian versions."""
    containerd = next((packages[name] for name in _CONTAINERD_PACKAGES if name in packages), "")
    return Versions(parse_version(packages.get("kubelet", "")), parse_version(containerd))


def expected_versions(recipe: Recipe) -> Versions:
    """The versions that the recipe alone tells: the kubelet that it names, the containerd of its
    release."""
    runtime = recipe.container_runtime
    pinned = [
        parse_version(f"{repository.pin[name].rstrip('.')}.0")
        for repository in recipe.repositories
        for name in (runtime.packages if runtime else ())
        if name in _CONTAINERD_PACKAGES and name in repository.pin
    ]
    release = None
    if runtime and "containerd" in runtime.packages:
        release = _CONTAINERD_OF_RELEASE.get(recipe.release)
    kubelet = recipe.kubernetes.minor if recipe.kubernetes else None
    return Versions(kubelet, pinned[0] if pinned else release)


def uses_cri_dockerd(recipe: Recipe) -> bool:
    """Whether kubelet reaches Docker by cri-dockerd."""
    runtime = recipe.container_runtime
    return (
        runtime is not None
        and runtime.name == "docker"
        and CRI_DOCKERD in (*runtime.packages, *recipe.packages)
    )


def find_refusal(recipe: Recipe, versions: Versions) -> Refusal | None:
    """Why this recipe with these versions cannot work, or None."""
    kubelet = versions.kubelet
    if recipe.container_runtime is None or recipe.kubernetes is None or kubelet is None:
        return None
    checks = (_refuse_docker, _refuse_containerd, _refuse_cgroups)
    found = (check(recipe, kubelet, versions.containerd) for check in checks)
    return next((refusal for refusal in found if refusal is not None), None)


def _refuse_docker(recipe: Recipe, kubelet: Version, _: Version | None) -> Refusal | None:
    runtime = recipe.container_runtime
    if runtime is None or runtime.name != "docker":
        return None
    has_shim = uses_cri_dockerd(recipe)
    if kubelet >= DOCKERSHIM_END and not has_shim:
        return Refusal(
            "container_runtime.name",
            f"kubelet {_dotted(kubelet)} cannot use docker (that ended with 1.24)",
            "add the package cri-dockerd to container_runtime.packages,"
            " or container_runtime: {name: containerd}",
        )
    if kubelet < DOCKERSHIM_END and has_shim:
        return Refusal(
            "container_runtime.packages",
            f"kubelet {_dotted(kubelet)} has its own way to Docker and none to cri-dockerd",
            "leave the package cri-dockerd out, or take Kubernetes 1.24 or newer",
        )
    return None


def _refuse_containerd(
    recipe: Recipe, kubelet: Version, containerd: Version | None
) -> Refusal | None:
    runtime = recipe.container_runtime
    if runtime is None or runtime.name != "containerd" or containerd is None:
        return None
    if containerd < (2, 0) and kubelet >= _NEEDS_CONTAINERD_2:
        return Refusal(
            "container_runtime",
            f"kubelet {_dotted(kubelet)} cannot use containerd {_dotted(containerd)}"
            " (from 1.38 on it wants containerd 2)",
            _CONTAINERD_2_HINT,
        )
    if containerd >= (2, 0) and kubelet < _SPEAKS_CRI_V1:
        return Refusal(
            "container_runtime",
            f"kubelet {_dotted(kubelet)} cannot use containerd {_dotted(containerd)}"
            " (containerd 2 has no CRI v1alpha2, and kubelet before 1.23 nothing else)",
            "containerd 1.x, as Debian 12 has it, or a newer Kubernetes",
        )
    return None


def _refuse_cgroups(recipe: Recipe, kubelet: Version, _: Version | None) -> Refusal | None:
    assert recipe.kubernetes is not None
    settings = recipe.kubernetes.kubelet
    driver = settings.get("cgroupDriver", "systemd")
    if driver != "systemd":
        return Refusal(
            "kubernetes.kubelet.cgroupDriver",
            f"{driver!r}: the runtime of the image uses systemd's cgroups, and kubelet must agree",
            "leave it out: it is systemd on every node",
        )
    unified = [
        word.partition("=")[2]
        for word in recipe.cmdline
        if word.startswith("systemd.unified_cgroup_hierarchy=")
    ]
    is_v1 = bool(unified) and unified[-1].lower() in ("0", "no", "n", "false", "f", "off")
    if is_v1 and kubelet >= _REFUSES_CGROUP_V1 and settings.get("failCgroupV1") is not False:
        return Refusal(
            "cmdline",
            f"systemd.unified_cgroup_hierarchy={unified[-1]}: kubelet {_dotted(kubelet)} does not"
            " start on cgroup v1",
            "leave the word out, or kubernetes.kubelet: {failCgroupV1: false}",
        )
    return None


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
